import { type EnclaveId, type Hotkey, hotkeyOf, type RequestId, requestIdOf } from "./ids.ts";
import { type Usage, usageFromJson } from "./pricing.ts";

export const RECEIPT_STATUSES = [
  "complete",
  "client_abort",
  "upstream_error",
  "truncated",
] as const;
export type ReceiptStatus = (typeof RECEIPT_STATUSES)[number];

/**
 * What one request used, signed by the key in the relay's attested statement and chained to the
 * relay's previous receipt. Everything in it is public; hashes of bodies are salted.
 */
export interface Receipt {
  readonly v: 1;
  /** The miner's hotkey. */
  readonly iss: Hotkey;
  /** Key id of the gateway that granted the request. */
  readonly aud: string;
  /** Unix milliseconds at the end of the request. */
  readonly ts: number;
  readonly rid: RequestId;
  /** Epoch named by the grant. */
  readonly e: number;
  /** `claimsHashOf` the grant. */
  readonly grant: string;
  /** The enclave: base64url SHA-256 of its statement. */
  readonly att: EnclaveId;
  readonly kind: string;
  readonly security: "hardware" | "simulated";
  readonly sealed_by: "gateway";
  readonly model: string;
  /** Model name as the upstream reported it; empty when it never answered. */
  readonly upm: string;
  /** Upstream host. */
  readonly uph: string;
  /** Base64url SHA-256 of the upstream's response id; empty when there was none. */
  readonly upid: string;
  /** Base64url SHA-256 of the price quote. */
  readonly quote: string;
  readonly use: Usage;
  /** Whether the upstream reported the usage or the relay counted it (after an abort). */
  readonly src: "provider" | "counted";
  readonly status: ReceiptStatus;
  /** Base64url SHA-256 of salt ‖ request body, and of salt ‖ response body; the salt travels beside the receipt. */
  readonly req: string;
  readonly res: string;
  readonly bytes: { readonly in: number; readonly out: number };
  /** Milliseconds to the first response byte and to the last. */
  readonly t: { readonly ttft: number; readonly dur: number };
  /** Position in this enclave's chain, from 0, and `claimsHashOf` the receipt before (empty at 0). */
  readonly seq: number;
  readonly prev: string;
}

/** Checks the shape of a verified receipt payload. @returns undefined if any field is missing or out of range. */
export function receiptFromJson(json: Readonly<Record<string, unknown>>): Receipt | undefined {
  const iss = hotkeyOf(json["iss"]);
  const rid = requestIdOf(json["rid"]);
  const use = usageFromJson(json["use"]);
  const bytes = counts(json["bytes"], ["in", "out"]);
  const t = counts(json["t"], ["ttft", "dur"]);
  const {
    v,
    aud,
    ts,
    e,
    grant,
    att,
    kind,
    security,
    sealed_by,
    model,
    upm,
    uph,
    upid,
    quote,
    src,
    status,
    req,
    res,
    seq,
    prev,
  } = json;
  if (
    v !== 1 ||
    iss === undefined ||
    rid === undefined ||
    use === undefined ||
    bytes === undefined ||
    t === undefined
  )
    return undefined;
  if (
    !isHash(aud) ||
    !isHash(grant) ||
    !isHash(att) ||
    !isHash(quote) ||
    !isHash(req) ||
    !isHash(res)
  )
    return undefined;
  if (!(upid === "" || isHash(upid)) || !(prev === "" || isHash(prev))) return undefined;
  if (!isText(kind) || !isText(model) || !isText(upm) || !isText(uph)) return undefined;
  if (security !== "hardware" && security !== "simulated") return undefined;
  if (sealed_by !== "gateway" || (src !== "provider" && src !== "counted")) return undefined;
  if (!(RECEIPT_STATUSES as readonly unknown[]).includes(status)) return undefined;
  if (!isCount(ts) || !isCount(e) || !isCount(seq)) return undefined;
  return {
    v,
    iss,
    aud,
    ts,
    rid,
    e,
    grant,
    att: att as EnclaveId,
    kind,
    security,
    sealed_by,
    model,
    upm,
    uph,
    upid,
    quote,
    use,
    src,
    status: status as ReceiptStatus,
    req,
    res,
    bytes: { in: bytes["in"] ?? 0, out: bytes["out"] ?? 0 },
    t: { ttft: t["ttft"] ?? 0, dur: t["dur"] ?? 0 },
    seq,
    prev,
  };
}

/**
 * What the gateway adds when it appends a receipt to the log. A leaf of the log is the receipt token, a newline, and
 * this, signed as `countersign`.
 */
export interface Countersignature {
  readonly v: 1;
  /** `claimsHashOf` the receipt. */
  readonly receipt: string;
  /** The miner's amount, nano-USD, decimal. */
  readonly amt: string;
  /** Keyed hash of the account: groups one payer's requests within an epoch without naming the payer. */
  readonly payer_tag: string;
  /** Whether free credit paid; such usage earns nothing. */
  readonly promo: boolean;
}

/** @returns undefined if any field is missing or malformed. */
export function countersignatureFromJson(
  json: Readonly<Record<string, unknown>>,
): Countersignature | undefined {
  const { v, receipt, amt, payer_tag, promo } = json;
  if (v !== 1 || !isHash(receipt) || typeof amt !== "string" || !/^\d{1,18}$/.test(amt))
    return undefined;
  if (!isText(payer_tag) || typeof promo !== "boolean") return undefined;
  return { v, receipt, amt, payer_tag, promo };
}

function isHash(value: unknown): value is string {
  return typeof value === "string" && /^[\w-]{43}$/.test(value);
}

function isText(value: unknown): value is string {
  return typeof value === "string" && value.length <= 200;
}

function isCount(value: unknown): value is number {
  return Number.isSafeInteger(value) && (value as number) >= 0;
}

function counts(value: unknown, names: readonly string[]): Record<string, number> | undefined {
  if (typeof value !== "object" || value === null) return undefined;
  const out: Record<string, number> = {};
  for (const name of names) {
    const count: unknown = (value as Record<string, unknown>)[name];
    if (!isCount(count)) return undefined;
    out[name] = count;
  }
  return out;
}
