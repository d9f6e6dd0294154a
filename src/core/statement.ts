import { createHash } from "node:crypto";
import type { EnclaveId } from "./ids.ts";
import type { Ed25519Jwk } from "./jws.ts";

/**
 * What a relay's enclave says about itself. Signed, hashed and compared as the exact bytes that were
 * transmitted; it is never re-serialised.
 *
 * Field names follow the sealed-relay statement, version 1.
 */
export interface Statement {
  readonly v: 1;
  /** Genesis hash of the chain, `0x` and 64 hex digits. */
  readonly net: string;
  readonly netuid: number;
  /** Public key of the miner's hotkey, 64 hex digits. */
  readonly hotkey: string;
  readonly worker: string;
  readonly kind: string;
  /** 16 random bytes, base64url: a new one at every start of the enclave. */
  readonly boot: string;
  /** Unix seconds. */
  readonly iat: number;
  readonly exp: number;
  readonly receipt_jwk: Ed25519Jwk;
  /** Base64url SHA-256 of the DER SubjectPublicKeyInfo of the relay's TLS key. */
  readonly tls_spki: string;
  /** Digest of the enclave's image, `sha256:` and 64 hex digits. */
  readonly image: string;
  /** Base64url SHA-256 of the measured configuration. */
  readonly config: string;
  /** host:port of every upstream the relay may call. */
  readonly upstreams: readonly string[];
}

/** The name of one boot of one relay: base64url SHA-256 of the statement bytes. */
export function enclaveIdOf(statement: Uint8Array): EnclaveId {
  return createHash("sha256").update(statement).digest("base64url") as EnclaveId;
}
