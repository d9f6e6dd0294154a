import { createHash, randomBytes } from "node:crypto";
import { type Evidence, type Freshness, NO_NONCE } from "../attestation/evidence.ts";
import { hotkeyCounterSignBytes } from "../attestation/report-data.ts";
import {
  type SelfSignedCertificate,
  selfSignedCertificate,
} from "../attestation/self-signed-certificate.ts";
import { SIMULATED_IMAGE } from "../attestation/simulated/image.ts";
import { buildStatement, produceEvidence } from "../attestation/simulated/produce.ts";
import { STATEMENT_LIFE_SECONDS_MAX } from "../attestation/verify-evidence.ts";
import type { EnclaveId } from "../core/ids.ts";
import { type SigningKey, signingKey } from "../core/jws.ts";
import { enclaveIdOf } from "../core/statement.ts";

/** Statements are made anew half way through their life; the old one keeps its requests until it expires. */
const STATEMENT_RENEW_SECONDS = STATEMENT_LIFE_SECONDS_MAX / 2;
/** A certificate is not what is trusted; it only has to outlive every process. */
const CERTIFICATE_LIFE_MS = 10 * 365 * 86_400_000;

export interface EnclaveOptions {
  /** The network's simulated TEE: stands where hardware would sign. */
  readonly simulatedTee: SigningKey;
  /** Genesis hash of the chain. */
  readonly net: string;
  readonly netuid: number;
  readonly hotkeyPublicKeyHex: string;
  /** sr25519 by the hotkey, over the raw bytes. */
  signWithHotkey(message: Uint8Array): Uint8Array;
  readonly worker: string;
  /** DNS name or address in the certificate. */
  readonly host: string;
  /** host:port of every upstream. */
  readonly upstreams: readonly string[];
  /** Everything that changes what the relay does with a prompt, in a fixed order; hashed into the statement. */
  readonly measuredConfig: unknown;
  nowMs(): number;
}

/** The enclave of a running relay: keys that exist in memory only, and statements about them. */
export interface Enclave {
  readonly kind: "sim";
  readonly security: "simulated";
  readonly tls: SelfSignedCertificate;
  readonly receiptKey: SigningKey;
  /** Id of the newest statement. */
  id(): EnclaveId;
  /** Ids of the statements that have not expired, the newest first. */
  ids(): readonly EnclaveId[];
  /** Evidence for the newest statement. @param nonce 64 hex digits; without one the block alone dates it. */
  evidence(block: { readonly number: number; readonly hash: string }, nonce?: string): Evidence;
}

interface SignedStatement {
  readonly id: EnclaveId;
  readonly bytes: Buffer;
  readonly hotkeySignature: Uint8Array;
  readonly madeAtSeconds: number;
}

/** Makes a new boot: new TLS key, new receipt key, new statement. */
export function bootEnclave(options: EnclaveOptions): Enclave {
  const receiptKey = signingKey();
  const tls = selfSignedCertificate({
    name: options.host,
    notBeforeMs: options.nowMs() - 86_400_000,
    notAfterMs: options.nowMs() + CERTIFICATE_LIFE_MS,
  });
  const boot = randomBytes(16).toString("base64url");
  const config = createHash("sha256")
    .update(JSON.stringify(options.measuredConfig))
    .digest("base64url");

  const makeStatement = (): SignedStatement => {
    const madeAtSeconds = Math.floor(options.nowMs() / 1_000);
    const bytes = buildStatement({
      net: options.net,
      netuid: options.netuid,
      hotkey: options.hotkeyPublicKeyHex,
      worker: options.worker,
      boot,
      iat: madeAtSeconds,
      exp: madeAtSeconds + STATEMENT_LIFE_SECONDS_MAX,
      receipt_jwk: receiptKey.jwk,
      tls_spki: tls.spkiSha256,
      image: SIMULATED_IMAGE,
      config,
      upstreams: options.upstreams,
    });
    const hotkeySignature = options.signWithHotkey(hotkeyCounterSignBytes(bytes));
    return { id: enclaveIdOf(bytes), bytes, hotkeySignature, madeAtSeconds };
  };

  let statements = [makeStatement()];
  let ids = statements.map(({ id }) => id);
  const newest = (): SignedStatement => {
    const now = Math.floor(options.nowMs() / 1_000);
    const [first] = statements;
    if (first !== undefined && now < first.madeAtSeconds + STATEMENT_RENEW_SECONDS) return first;
    const next = makeStatement();
    const live = statements.filter((old) => old.madeAtSeconds + STATEMENT_LIFE_SECONDS_MAX > now);
    statements = [next, ...live];
    ids = statements.map(({ id }) => id);
    return next;
  };

  return {
    kind: "sim",
    security: "simulated",
    tls,
    receiptKey,
    id: () => newest().id,
    ids: () => {
      newest();
      return ids;
    },
    evidence: (block, nonce) => {
      const { bytes, hotkeySignature } = newest();
      const fresh: Freshness = {
        mode: nonce === undefined ? 2 : 0,
        nonce: nonce ?? NO_NONCE,
        block: block.number,
        block_hash: block.hash,
      };
      return produceEvidence(options.simulatedTee, bytes, fresh, hotkeySignature, options.nowMs());
    },
  };
}
