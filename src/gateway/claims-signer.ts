import type { SigningKey } from "../core/jws.ts";
import {
  BATCH_CLAIMS_MAX,
  type ClaimsType,
  encodeClaims,
  signClaims,
} from "../core/signed-claims.ts";
import { turnBatch } from "../runtime/turn-batch.ts";

/** A signed token, and the hash by which other claims name it. */
export interface SignedClaims {
  readonly token: string;
  /** `claimsHashOf` the token. */
  readonly hash: string;
}

/** Signs claims of one type; what is asked for within one turn of the event loop shares a signature. */
export type ClaimsSigner<Claims extends object> = (claims: Claims) => Promise<SignedClaims>;

export function claimsSigner<Claims extends object>(
  type: ClaimsType,
  key: SigningKey,
): ClaimsSigner<Claims> {
  return turnBatch(BATCH_CLAIMS_MAX, (batch: readonly Claims[]) => {
    const encoded = batch.map(encodeClaims);
    const tokens = signClaims(type, encoded, key);
    return encoded.map(({ hash }, i) => ({
      token: tokens[i] ?? "",
      hash,
    }));
  });
}
