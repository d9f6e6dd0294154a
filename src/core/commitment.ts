/**
 * What neurons publish on the chain with `Commitments.set_commitment`: at most three fields of at most 512 bytes.
 *
 *   relay      field 1: JSON {v, kind:"relay", url}
 *   validator  field 1: JSON {v, kind:"validator", url}
 *   gateway    field 1: JSON {v, kind:"gateway", url, log, key}    field 2: the log root of the last closed epoch
 *
 * @module
 */
import assert from "node:assert/strict";
import { type Ed25519Jwk, verifyingKey } from "./jws.ts";

export type Announcement =
  | { readonly kind: "relay"; readonly url: string }
  | { readonly kind: "validator"; readonly url: string }
  | {
      readonly kind: "gateway";
      readonly url: string;
      readonly log: string;
      readonly key: Ed25519Jwk;
    };

const URL_CHARS_MAX = 200;

/** Field 1 of a neuron's commitment. */
export function encodeAnnouncement(announcement: Announcement): Buffer {
  const { kind, ...rest } = announcement;
  const bytes = Buffer.from(JSON.stringify({ v: 1, kind, ...rest }));
  assert(bytes.length <= 512, "a commitment field holds at most 512 bytes");
  return bytes;
}

/** @returns undefined if the bytes are not an announcement of ours; other software shares the pallet. */
export function parseAnnouncement(field: Uint8Array): Announcement | undefined {
  let json: unknown;
  try {
    json = JSON.parse(Buffer.from(field).toString("utf8"));
  } catch {
    return undefined;
  }
  if (typeof json !== "object" || json === null) return undefined;
  const { v, kind, url, log, key } = json as Record<string, unknown>;
  if (v !== 1 || !isUrl(url)) return undefined;
  if (kind === "relay" || kind === "validator") return { kind, url };
  const jwk = verifyingKey(key)?.jwk;
  return kind === "gateway" && isUrl(log) && jwk !== undefined
    ? { kind, url, log, key: jwk }
    : undefined;
}

function isUrl(value: unknown): value is string {
  return typeof value === "string" && value.length <= URL_CHARS_MAX && URL.canParse(value);
}

/** The state of the usage log when an epoch closed. */
export interface LogRoot {
  readonly epoch: number;
  readonly size: bigint;
  /** 32 bytes: RFC 6962 root of the first `size` leaves. */
  readonly root: Uint8Array;
  /** 32 bytes: SHA-256 of the epoch file. */
  readonly sums: Uint8Array;
}

const LOG_ROOT_MAGIC = Buffer.from("dblr");
const LOG_ROOT_VERSION = 1;
const LOG_ROOT_BYTES = 81;

/** magic[4] ‖ version u8 ‖ epoch u32 BE ‖ size u64 BE ‖ root[32] ‖ sums[32] = 81 bytes. */
export function encodeLogRoot({ epoch, size, root, sums }: LogRoot): Buffer {
  assert(root.length === 32 && sums.length === 32);
  const bytes = Buffer.alloc(LOG_ROOT_BYTES);
  LOG_ROOT_MAGIC.copy(bytes, 0);
  bytes.writeUInt8(LOG_ROOT_VERSION, 4);
  bytes.writeUInt32BE(epoch, 5);
  bytes.writeBigUInt64BE(size, 9);
  bytes.set(root, 17);
  bytes.set(sums, 49);
  return bytes;
}

/** @returns undefined unless the bytes are exactly a log root of this version. */
export function parseLogRoot(field: Uint8Array): LogRoot | undefined {
  const bytes = Buffer.from(field);
  if (bytes.length !== LOG_ROOT_BYTES || !bytes.subarray(0, 4).equals(LOG_ROOT_MAGIC))
    return undefined;
  if (bytes.readUInt8(4) !== LOG_ROOT_VERSION) return undefined;
  return {
    epoch: bytes.readUInt32BE(5),
    size: bytes.readBigUInt64BE(9),
    root: Uint8Array.from(bytes.subarray(17, 49)),
    sums: Uint8Array.from(bytes.subarray(49, 81)),
  };
}
