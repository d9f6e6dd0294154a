/**
 * The 64 bytes that a TEE signs, and what the hotkey signs beside it.
 *
 *   0..31   SHA-256("sealed-relay/statement/v1\0" ‖ u8 len(kind) ‖ kind ‖ u32be len(S) ‖ S)
 *   32..63  SHA-256("sealed-relay/fresh/v1\0" ‖ u8 mode ‖ nonce[32] ‖ u64be block ‖ blockHash[32])
 *
 * S is the statement exactly as it was transmitted. The first half is the same for a whole boot; the second dates it.
 *
 * @module
 */
import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import type { Freshness } from "./evidence.ts";

const STATEMENT_DOMAIN = "sealed-relay/statement/v1\0";
const FRESHNESS_DOMAIN = "sealed-relay/fresh/v1\0";
const HOTKEY_DOMAIN = "sealed-relay/hotkey/v1\0";

/** Length of the report data, in bytes. */
export const REPORT_DATA_BYTES = 64;

/** The 64 bytes that tie evidence to a statement and to a moment. */
export function reportDataOf(kind: string, statement: Uint8Array, fresh: Freshness): Buffer {
  return Buffer.concat([statementDigestOf(kind, statement), freshnessDigestOf(fresh)]);
}

/** Bytes 0..31 of the report data. */
export function statementDigestOf(kind: string, statement: Uint8Array): Buffer {
  const kindBytes = Buffer.from(kind);
  assert(kindBytes.length <= 255, "a kind's name is at most 255 bytes");
  const statementLength = Buffer.alloc(4);
  statementLength.writeUInt32BE(statement.length);
  return createHash("sha256")
    .update(STATEMENT_DOMAIN)
    .update(Uint8Array.of(kindBytes.length))
    .update(kindBytes)
    .update(statementLength)
    .update(statement)
    .digest();
}

/** Bytes 32..63 of the report data. */
export function freshnessDigestOf({ mode, nonce, block, block_hash }: Freshness): Buffer {
  const nonceBytes = Buffer.from(nonce, "hex");
  const blockHash = Buffer.from(block_hash.slice(2), "hex");
  assert(nonceBytes.length === 32 && blockHash.length === 32, "nonce and block hash are 32 bytes");
  const blockNumber = Buffer.alloc(8);
  blockNumber.writeBigUInt64BE(BigInt(block));
  return createHash("sha256")
    .update(FRESHNESS_DOMAIN)
    .update(Uint8Array.of(mode))
    .update(nonceBytes)
    .update(blockNumber)
    .update(blockHash)
    .digest();
}

/** What the hotkey signs outside the enclave: the enclave names the hotkey, and so the hotkey names the enclave. */
export function hotkeyCounterSignBytes(statement: Uint8Array): Buffer {
  return Buffer.concat([
    Buffer.from(HOTKEY_DOMAIN),
    createHash("sha256").update(statement).digest(),
  ]);
}
