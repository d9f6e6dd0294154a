import { hash } from "node:crypto";
import { checkGrant, type Grant, type GrantRefusal } from "../core/grant.ts";
import type { EnclaveId, RequestId } from "../core/ids.ts";
import type { VerifyingKey } from "../core/jws.ts";
import type { Model } from "../core/models.ts";
import { decodeClaims } from "../core/signed-claims.ts";
import type { Surface } from "../core/surface.ts";

/** Why a request may not use the upstream. Sent to the gateway as `error.refusal`. */
export type RelayGrantRefusal =
  | GrantRefusal
  | "missing"
  | "other_surface"
  | "other_body"
  | "other_model"
  | "unknown_quote"
  | "too_long"
  | "already_spent";

export type GrantVerdict =
  | { readonly ok: true; readonly grant: Grant; readonly signer: string }
  | { readonly ok: false; readonly refusal: RelayGrantRefusal };

/**
 * The part of the check that needs no body: done before a single byte of the body is read, so that a stranger cannot
 * make the relay hold anything.
 *
 * @param enclaves the enclave ids that this process has attested and that have not expired; the newest first.
 */
export function checkGrantHeader(
  token: string | undefined,
  surface: Surface,
  enclaves: readonly EnclaveId[],
  keyOf: (kid: string) => VerifyingKey | undefined,
  nowSeconds: number,
): GrantVerdict {
  if (token === undefined) return { ok: false, refusal: "missing" };
  const unverified = decodeClaims(token);
  if (unverified === undefined) return { ok: false, refusal: "malformed" };
  const named = enclaves.find((enclave) => enclave === unverified.payload["aud"]);
  const enclave = named ?? enclaves[0];
  if (enclave === undefined) return { ok: false, refusal: "not_for_this_enclave" };
  const checked = checkGrant(unverified, enclave, keyOf, nowSeconds);
  if (!checked.ok) return checked;
  if (checked.grant.surface !== surface) return { ok: false, refusal: "other_surface" };
  return { ok: true, grant: checked.grant, signer: unverified.kid };
}

/** What the relay read from a body, as far as a grant limits it. */
export interface RequestedWork {
  readonly model: Model | undefined;
  /** The client's own bound on output tokens per choice. */
  readonly maxOutputTokens: number | undefined;
  readonly choices: number;
}

/** Whether the grant was given for exactly these bytes. Asked before the body is parsed. */
export function isGrantedBody(grant: Grant, body: Uint8Array): boolean {
  return hash("sha256", body, "base64url") === grant.req;
}

/**
 * Whether the grant covers what the body asks for.
 *
 * @returns the bound per choice to write into the request when the client gave none.
 */
export function checkGrantedWork(
  grant: Grant,
  work: RequestedWork,
): { ok: true; bound: number | undefined } | { ok: false; refusal: RelayGrantRefusal } {
  if (work.model === undefined || work.model.id !== grant.model)
    return { ok: false, refusal: "other_model" };
  if (work.maxOutputTokens !== undefined) {
    return work.maxOutputTokens * work.choices <= grant.max_out
      ? { ok: true, bound: undefined }
      : { ok: false, refusal: "too_long" };
  }
  const bound = Math.floor(grant.max_out / work.choices);
  return bound >= 1 ? { ok: true, bound } : { ok: false, refusal: "too_long" };
}

/** Most grants remembered as spent. They live at most two minutes, so this is a thousand and more a second. */
export const SPENT_GRANTS_MAX = 200_000;

/** Remembers spent grants until they expire, so that each is spent once. */
export interface SpentGrants {
  /** @returns `full` when too many live grants are remembered: then nothing more may be spent. */
  spend(rid: RequestId, expSeconds: number, nowSeconds: number): "spent" | "already_spent" | "full";
  readonly size: number;
}

/** @param max most grants remembered at once. */
export function spentGrants(max: number = SPENT_GRANTS_MAX): SpentGrants {
  const expiries = new Map<RequestId, number>();
  let nextSweepSeconds = 0;
  return {
    spend: (rid, expSeconds, nowSeconds) => {
      if (nowSeconds >= nextSweepSeconds) {
        // A full memory is swept every second, since it refuses work until something expires.
        nextSweepSeconds = nowSeconds + (expiries.size >= max ? 1 : SWEEP_SECONDS);
        for (const [old, exp] of expiries) if (exp <= nowSeconds) expiries.delete(old);
      }
      if (expiries.has(rid)) return "already_spent";
      if (expiries.size >= max) return "full";
      expiries.set(rid, expSeconds);
      return "spent";
    },
    get size() {
      return expiries.size;
    },
  };
}

const SWEEP_SECONDS = 10;
