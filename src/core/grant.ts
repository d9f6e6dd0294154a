import { type EnclaveId, type Hotkey, hotkeyOf, type RequestId, requestIdOf } from "./ids.ts";
import type { VerifyingKey } from "./jws.ts";
import type { UnverifiedClaims } from "./signed-claims.ts";
import { isSurface, type Surface } from "./surface.ts";

/** Seconds a grant may live: longer than a slow hand-over, shorter than anything worth stealing. */
export const GRANT_LIFE_SECONDS_MAX = 60;

/**
 * Permission for one request to one enclave: signed by the gateway, spent once by the relay.
 * `req` ties it to the exact body, so a stolen grant buys nothing else.
 */
export interface Grant {
  readonly v: 1;
  /** Hotkey of the gateway's operator. */
  readonly iss: Hotkey;
  readonly aud: EnclaveId;
  readonly rid: RequestId;
  readonly iat: number;
  readonly exp: number;
  /** Index of the epoch that will pay for this request. */
  readonly e: number;
  readonly surface: Surface;
  /** Product id, such as `openai/gpt-5-mini`. */
  readonly model: string;
  /** Most output tokens, of all kinds together, that are paid for. */
  readonly max_out: number;
  /** Base64url SHA-256 of the signed price quote that applies. */
  readonly quote: string;
  /** Base64url SHA-256 of the request body. */
  readonly req: string;
  readonly sealed_by: "gateway";
}

export type GrantRefusal =
  | "malformed"
  | "unknown_signer"
  | "bad_signature"
  | "not_for_this_enclave"
  | "expired"
  | "lives_too_long";

/**
 * Checks everything about a grant that does not need the request or memory of earlier grants.
 *
 * @param claims a `grant` token taken apart by `decodeClaims`.
 * @param keyOf the gateway's key of that id, when it is one the relay serves.
 */
export function checkGrant(
  claims: UnverifiedClaims | undefined,
  enclave: EnclaveId,
  keyOf: (kid: string) => VerifyingKey | undefined,
  nowSeconds: number,
): { ok: true; grant: Grant } | { ok: false; refusal: GrantRefusal } {
  if (claims === undefined) return { ok: false, refusal: "malformed" };
  const key = keyOf(claims.kid);
  if (key === undefined) return { ok: false, refusal: "unknown_signer" };
  if (!claims.isSigned("grant", key)) return { ok: false, refusal: "bad_signature" };
  const grant = grantFromJson(claims.payload);
  if (grant === undefined) return { ok: false, refusal: "malformed" };
  if (grant.aud !== enclave) return { ok: false, refusal: "not_for_this_enclave" };
  if (grant.exp <= nowSeconds || grant.iat > nowSeconds + GRANT_LIFE_SECONDS_MAX)
    return { ok: false, refusal: "expired" };
  if (grant.exp - grant.iat > GRANT_LIFE_SECONDS_MAX)
    return { ok: false, refusal: "lives_too_long" };
  return { ok: true, grant };
}

function grantFromJson(json: Readonly<Record<string, unknown>>): Grant | undefined {
  const iss = hotkeyOf(json["iss"]);
  const rid = requestIdOf(json["rid"]);
  const { v, aud, iat, exp, e, surface, model, max_out, quote, req, sealed_by } = json;
  if (
    v !== 1 ||
    iss === undefined ||
    rid === undefined ||
    !isSurface(surface) ||
    sealed_by !== "gateway"
  )
    return undefined;
  if (!isHash(aud) || !isHash(quote) || !isHash(req)) return undefined;
  if (typeof model !== "string" || model.length > 200) return undefined;
  if (!isCount(iat) || !isCount(exp) || !isCount(e) || !isCount(max_out)) return undefined;
  return {
    v,
    iss,
    aud: aud as EnclaveId,
    rid,
    iat,
    exp,
    e,
    surface,
    model,
    max_out,
    quote,
    req,
    sealed_by,
  };
}

function isHash(value: unknown): value is string {
  return typeof value === "string" && /^[\w-]{43}$/.test(value);
}

function isCount(value: unknown): value is number {
  return Number.isSafeInteger(value) && (value as number) >= 0;
}
