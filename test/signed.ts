import type { Grant } from "../src/core/grant.ts";
import type { SigningKey } from "../src/core/jws.ts";
import type { Countersignature, Receipt } from "../src/core/receipt.ts";
import { type ClaimsType, encodeClaims, signClaims } from "../src/core/signed-claims.ts";

/** Claims signed alone. */
export function signAlone(type: ClaimsType, claims: object, key: SigningKey): string {
  const [token] = signClaims(type, [encodeClaims(claims)], key);
  if (token === undefined) throw new Error("no token");
  return token;
}

export const signGrant = (grant: Grant, key: SigningKey): string => signAlone("grant", grant, key);

export const signReceipt = (receipt: Receipt, key: SigningKey): string =>
  signAlone("usage-receipt", receipt, key);

export const signCountersignature = (claims: Countersignature, key: SigningKey): string =>
  signAlone("countersign", claims, key);
