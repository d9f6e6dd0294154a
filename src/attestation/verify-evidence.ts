import type { EnclaveId } from "../core/ids.ts";
import { type VerifyingKey, verifyingKey } from "../core/jws.ts";
import { enclaveIdOf, type Statement } from "../core/statement.ts";
import { EvidenceError, parseEvidence, type ReasonCode } from "./evidence.ts";
import { isPolicy, type LocalPolicy, type Policy } from "./policy.ts";
import { freshnessDigestOf, hotkeyCounterSignBytes, statementDigestOf } from "./report-data.ts";
import { type SimulatedClaims, verifySimulatedToken } from "./simulated/verify.ts";

/** Longest life of a statement, in seconds: a relay makes a new one before. */
export const STATEMENT_LIFE_SECONDS_MAX = 86_400;
/** How far a relay's clock may run ahead of ours, in seconds. */
const CLOCK_SKEW_SECONDS = 60;
/** How long a verdict stands before the peer is asked again, in milliseconds. */
const VERDICT_LIFE_MS = 600_000;

/** Genesis of finney, the public Bittensor network: no simulated TEE is accepted there under any policy. */
export const FINNEY_GENESIS = "0x2f0555cc76fc2840a25a6ea3b9637146806f1f44b090c175ffde2a7e5ab36c03";

declare const verified: unique symbol;

/** Evidence that passed every check. Only `verifyEvidence` makes one. */
export interface VerifiedEvidence {
  readonly [verified]: true;
  readonly statement: Statement;
  readonly statementBytes: Buffer;
  readonly enclave: EnclaveId;
  /** The key that signs this enclave's receipts. */
  readonly receiptKey: VerifyingKey;
  readonly kind: "sim";
  readonly security: "simulated" | "hardware";
  /** The block that dates the evidence. */
  readonly block: number;
  /** Unix milliseconds: until then no request needs new evidence. At most ten minutes ahead. */
  readonly expiresMs: number;
  /** The evidence in its one canonical JSON form, for the log's side files. */
  readonly evidenceJson: string;
}

/** What the verifier knows from elsewhere. Nothing here is optional: what is not expected is refused. */
export interface Expected {
  /** Genesis hash of the chain, `0x` and 64 hex digits. */
  readonly net: string;
  readonly netuid: number;
  /** Public key of the hotkey that owns the neuron, 64 hex digits. */
  readonly hotkeyPublicKeyHex: string;
  /**
   * Base64url SHA-256 of the DER SubjectPublicKeyInfo that the peer showed on this very connection; null only for who
   * audits evidence of a connection that someone else made.
   */
  readonly tlsSpki: string | null;
}

export interface VerifyOptions {
  readonly policy: Policy;
  readonly expected: Expected;
  /** The challenge sent with the request for evidence, 64 hex digits; absent when only the block has to date it. */
  readonly nonce?: string;
  /** Hash of the chain's block of that number, `0x` and 64 hex digits; undefined when it is not known. */
  blockHashOf(number: number): string | undefined;
  readonly headBlock: number;
  readonly nowMs: number;
  /** sr25519 over the raw bytes. */
  verifyHotkeySignature(message: Uint8Array, signature: Uint8Array, publicKeyHex: string): boolean;
}

/**
 * Checks evidence that a relay sent, from its form to the policy. No network, no clock: everything is handed in.
 *
 * The order is parse, policy on the kind, signature, binding, freshness, policy on the content: nothing is read from
 * an unsigned part before the signature that covers it was checked.
 *
 * @param wire JSON text, its bytes, or the parsed value.
 * @throws EvidenceError, with the first reason found.
 */
export function verifyEvidence(wire: unknown, options: VerifyOptions): VerifiedEvidence {
  const { policy, expected, nowMs } = options;
  const { evidence, statement, statementBytes } = parseEvidence(wire);
  const claims = verifySimulatedToken(
    evidence.body.token,
    simulatedRootOf(policy, expected).simRoot,
  );

  const statementDigest = statementDigestOf(evidence.kind, statementBytes);
  const freshnessDigest = freshnessDigestOf(evidence.fresh);
  refuseUnless(claims.reportData.subarray(0, 32).equals(statementDigest), "binding/statement");
  refuseUnless(claims.reportData.subarray(32).equals(freshnessDigest), "binding/freshness");
  checkBinding(statement, claims, expected);
  refuseUnless(
    options.verifyHotkeySignature(
      hotkeyCounterSignBytes(statementBytes),
      Buffer.from(evidence.hotkey_sig, "hex"),
      expected.hotkeyPublicKeyHex,
    ),
    "binding/hotkey-signature",
  );

  const nonceFits =
    options.nonce === undefined ||
    (evidence.fresh.mode === 0 && evidence.fresh.nonce === options.nonce);
  refuseUnless(nonceFits, "fresh/challenge");
  const { block, block_hash } = evidence.fresh;
  refuseUnless(block <= options.headBlock, "fresh/block-ahead");
  refuseUnless(options.headBlock - block <= policy.maxAgeBlocks, "fresh/block-old");
  refuseUnless(options.blockHashOf(block) === block_hash, "fresh/block-unknown");
  const nowSeconds = nowMs / 1_000;
  refuseUnless(claims.iat <= nowSeconds + CLOCK_SKEW_SECONDS, "crypto/not-yet-valid");
  refuseUnless(claims.exp > nowSeconds, "crypto/expired");
  refuseUnless(statement.iat <= nowSeconds + CLOCK_SKEW_SECONDS, "fresh/statement-not-yet-valid");
  refuseUnless(statement.exp > nowSeconds, "fresh/statement-expired");

  refuseUnless(statement.exp - statement.iat <= STATEMENT_LIFE_SECONDS_MAX, "policy/life");
  refuseUnless(policy.images.has(statement.image), "policy/image");

  const receiptKey = verifyingKey(statement.receipt_jwk);
  if (receiptKey === undefined) throw new EvidenceError("parse/statement");
  return {
    statement,
    statementBytes,
    enclave: enclaveIdOf(statementBytes),
    receiptKey,
    kind: evidence.kind,
    security: "simulated",
    block,
    expiresMs: Math.min(nowMs + VERDICT_LIFE_MS, claims.exp * 1_000, statement.exp * 1_000),
    evidenceJson: JSON.stringify(evidence),
  } as VerifiedEvidence;
}

/** The only door to the simulated kind: a policy that was made for a local network, on a chain that is not public. */
function simulatedRootOf(policy: Policy, expected: Expected): LocalPolicy {
  refuseUnless(isPolicy(policy), "policy/unknown");
  if (policy.network !== "local") throw new EvidenceError("policy/kind");
  refuseUnless(expected.net !== FINNEY_GENESIS, "policy/public-network");
  return policy;
}

function checkBinding(statement: Statement, claims: SimulatedClaims, expected: Expected): void {
  refuseUnless(statement.kind === "sim", "binding/kind");
  refuseUnless(statement.image === claims.image, "binding/image");
  refuseUnless(statement.config === claims.config, "binding/config");
  refuseUnless(statement.net === expected.net, "binding/net");
  refuseUnless(statement.netuid === expected.netuid, "binding/netuid");
  refuseUnless(statement.hotkey === expected.hotkeyPublicKeyHex, "binding/hotkey");
  refuseUnless(
    expected.tlsSpki === null || statement.tls_spki === expected.tlsSpki,
    "binding/tls-key",
  );
}

function refuseUnless(condition: boolean, code: ReasonCode): void {
  if (!condition) throw new EvidenceError(code);
}
