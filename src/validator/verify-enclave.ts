import { EvidenceError, parseEvidence } from "../attestation/evidence.ts";
import type { Policy } from "../attestation/policy.ts";
import { verifyEvidence } from "../attestation/verify-evidence.ts";
import { type EnclaveId, hotkeyOf } from "../core/ids.ts";
import { decodeJws } from "../core/jws.ts";
import type { Logger } from "../runtime/logger.ts";
import type { VerifiedEnclave } from "./audit-epoch.ts";

/** Enclaves whose verdict is remembered; a relay makes a new one at every start. */
const REMEMBERED_MAX = 10_000;

interface VerifyEnclaveOptions {
  readonly policy: Policy;
  /** Genesis hash of the chain. */
  readonly net: string;
  readonly netuid: number;
  readonly blockHash: (number: number) => Promise<string | undefined>;
  readonly addressOf: (publicKeyHex: string) => string;
  /** sr25519 over the raw bytes. */
  readonly verifyHotkeySignature: (
    message: Uint8Array,
    signature: Uint8Array,
    publicKeyHex: string,
  ) => boolean;
  readonly log: Logger;
}

/**
 * Verifies evidence that a gateway kept, as of the time it was made: it was fresh then, for a block of this chain.
 * Until when it counts is in the statement; the caller compares that with each receipt.
 *
 * The TLS key is not compared with anything: only the gateway saw that connection.
 *
 * @returns a function from enclave id and evidence to the enclave, undefined if the evidence is refused.
 */
export function enclaveVerifier(
  options: VerifyEnclaveOptions,
): (id: EnclaveId, evidence: string) => Promise<VerifiedEnclave | undefined> {
  const remembered = new Map<EnclaveId, VerifiedEnclave>();
  return async (id, evidence) => {
    const known = remembered.get(id);
    if (known !== undefined) return known;
    const enclave = await verified(id, evidence, options);
    if (enclave === undefined) return undefined;
    if (remembered.size >= REMEMBERED_MAX) remembered.clear();
    remembered.set(id, enclave);
    return enclave;
  };
}

async function verified(
  id: EnclaveId,
  text: string,
  options: VerifyEnclaveOptions,
): Promise<VerifiedEnclave | undefined> {
  try {
    const { evidence, statement } = parseEvidence(text);
    const { block } = evidence.fresh;
    const hash = await options.blockHash(block);
    // Signed by the root like the rest of the token; verifyEvidence checks that.
    const tokenIat = Number(decodeJws(evidence.body.token)?.payload["iat"]);
    const { enclave, receiptKey } = verifyEvidence(text, {
      policy: options.policy,
      expected: {
        net: options.net,
        netuid: options.netuid,
        hotkeyPublicKeyHex: statement.hotkey,
        tlsSpki: null,
      },
      blockHashOf: (number) => (number === block ? hash : undefined),
      headBlock: block,
      nowMs: Math.max(tokenIat, statement.iat) * 1_000,
      verifyHotkeySignature: options.verifyHotkeySignature,
    });
    const hotkey = hotkeyOf(options.addressOf(statement.hotkey));
    if (enclave !== id || hotkey === undefined) return undefined;
    return { hotkey, receiptKey, iat: statement.iat, exp: statement.exp };
  } catch (error) {
    if (!(error instanceof EvidenceError)) throw error;
    options.log.warn({ enclave: id, code: error.code }, "enclave.refused");
    return undefined;
  }
}
