import { createHash } from "node:crypto";
import { type EnclaveId, type Hotkey, hotkeyOf } from "./ids.ts";
import { DIMENSIONS, type Price, priceFromJson } from "./pricing.ts";

/**
 * A miner's floor price for one product, signed by its hotkey. `quote` on the wire is the exact JSON text that was
 * signed; it is hashed and compared as bytes.
 *
 * @see docs/PROTOCOL.md#price-quotes
 */
export interface PriceQuote {
  readonly v: 1;
  readonly hk: Hotkey;
  /** The enclave that will serve at this price. */
  readonly ek: EnclaveId;
  /** Product id, such as `openai/gpt-5-mini`. */
  readonly prod: string;
  readonly route: "direct" | "resale";
  readonly price: Price;
  readonly cap: { readonly rpm: number; readonly tpm: number; readonly inflight: number };
  /** Unix seconds: valid while nbf ≤ t ≤ exp. */
  readonly nbf: number;
  readonly exp: number;
  /** Rises with every quote of this hotkey and product. */
  readonly seq: number;
  readonly min_payout_bps: number;
}

/** A quote as it travels. */
export interface SignedQuote {
  readonly quote: string;
  /** sr25519 signature by the hotkey over `QUOTE_DOMAIN ‖ quote`, hex. */
  readonly sig: string;
}

export const QUOTE_DOMAIN = "daybreak/quote/v1\0";
export const QUOTE_LIFE_SECONDS_MAX = 3_600;
/** Longest quote text, in characters. */
export const QUOTE_CHARS_MAX = 2_000;
/** Least time between two different prices of one miner and product. */
export const QUOTE_CHANGE_SECONDS_MIN = 60;
/** Largest change of any dimension within ten minutes, in basis points of the older price. */
export const QUOTE_CHANGE_BPS_MAX = 5_000;
export const QUOTE_CHANGE_WINDOW_SECONDS = 600;
/** A floor may not be below this fraction of retail: one thousandth. */
const RETAIL_DIVISOR_MAX = 1_000n;

/** Base64url SHA-256 of the quote text: how a grant and a receipt name it. */
export function quoteHashOf(quote: string): string {
  return createHash("sha256").update(quote).digest("base64url");
}

/** The bytes a hotkey signs. */
export function quoteSigningBytes(quote: string): Buffer {
  return Buffer.from(QUOTE_DOMAIN + quote);
}

/** Parses a quote text. @returns undefined if it is not a well-formed quote. */
export function parseQuote(text: string): PriceQuote | undefined {
  if (text.length > QUOTE_CHARS_MAX) return undefined;
  let json: Record<string, unknown>;
  try {
    const value: unknown = JSON.parse(text);
    if (typeof value !== "object" || value === null) return undefined;
    json = value as Record<string, unknown>;
  } catch {
    return undefined;
  }
  const hk = hotkeyOf(json["hk"]);
  const price = priceFromJson(json["price"]);
  const { v, ek, prod, route, cap, nbf, exp, seq, min_payout_bps } = json;
  if (v !== 1 || hk === undefined || price === undefined || typeof cap !== "object" || cap === null)
    return undefined;
  if (
    typeof ek !== "string" ||
    !/^[\w-]{43}$/.test(ek) ||
    typeof prod !== "string" ||
    prod.length > 200
  )
    return undefined;
  if (route !== "direct" && route !== "resale") return undefined;
  const { rpm, tpm, inflight } = cap as Record<string, unknown>;
  if (!isCount(rpm) || !isCount(tpm) || !isCount(inflight)) return undefined;
  if (!isCount(nbf) || !isCount(exp) || !isCount(seq) || !isCount(min_payout_bps)) return undefined;
  return {
    v,
    hk,
    ek: ek as EnclaveId,
    prod,
    route,
    price,
    cap: { rpm, tpm, inflight },
    nbf,
    exp,
    seq,
    min_payout_bps,
  };
}

export type QuoteRefusal =
  | "not_yet_valid"
  | "expired"
  | "lives_too_long"
  | "missing_dimension"
  | "above_retail"
  | "below_minimum";

/**
 * Whether a quote is valid at a time, against the retail price of its product. The signature is the caller's to check.
 *
 * @returns undefined when it is valid.
 */
export function quoteRefusalOf(
  quote: PriceQuote,
  retail: Price,
  nowSeconds: number,
): QuoteRefusal | undefined {
  if (quote.nbf > nowSeconds) return "not_yet_valid";
  if (quote.exp < nowSeconds) return "expired";
  if (quote.exp - quote.nbf > QUOTE_LIFE_SECONDS_MAX) return "lives_too_long";
  for (const dimension of DIMENSIONS) {
    const floor = quote.price[dimension];
    const ceiling = retail[dimension];
    if (ceiling === undefined) {
      if (floor !== undefined) return "above_retail";
      continue;
    }
    if (floor === undefined) return "missing_dimension";
    if (floor > ceiling) return "above_retail";
    if (floor * RETAIL_DIVISOR_MAX < ceiling) return "below_minimum";
  }
  return undefined;
}

export type QuoteChangeRefusal = "sequence_not_rising" | "changed_too_soon" | "changed_too_much";

/**
 * Whether `next` may follow the quotes of the same hotkey and product that were in force in the last ten minutes (oldest
 * first).
 * A renewal at the same price is always allowed.
 *
 * @returns undefined when it may.
 */
export function quoteChangeRefusalOf(
  next: PriceQuote,
  recent: readonly PriceQuote[],
): QuoteChangeRefusal | undefined {
  const last = recent.at(-1);
  if (last === undefined) return undefined;
  if (next.seq <= last.seq) return "sequence_not_rising";
  if (!samePrice(next.price, last.price) && next.nbf - last.nbf < QUOTE_CHANGE_SECONDS_MIN)
    return "changed_too_soon";
  for (const [index, earlier] of recent.entries()) {
    // A price counts for as long as it was the one in force, not only at the moment when it was made.
    const inForceUntil = Math.min(earlier.exp, recent[index + 1]?.nbf ?? next.nbf);
    if (next.nbf - inForceUntil > QUOTE_CHANGE_WINDOW_SECONDS) continue;
    for (const dimension of DIMENSIONS) {
      const before = earlier.price[dimension] ?? 0n;
      const after = next.price[dimension] ?? 0n;
      const change = after > before ? after - before : before - after;
      if (change * 10_000n > before * BigInt(QUOTE_CHANGE_BPS_MAX)) return "changed_too_much";
    }
  }
  return undefined;
}

/** Whether two prices are equal in every dimension. */
export function samePrice(a: Price, b: Price): boolean {
  return DIMENSIONS.every((dimension) => a[dimension] === b[dimension]);
}

function isCount(value: unknown): value is number {
  return Number.isSafeInteger(value) && (value as number) >= 0;
}
