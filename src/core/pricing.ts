import assert from "node:assert/strict";
import { ceilDiv, type NanoUsd, nanoUsd } from "./money.ts";

/**
 * The ten classes of usage that are priced. A token is in exactly one of them:
 * `input` excludes cached input, `output` excludes reasoning.
 */
export const DIMENSIONS = [
  "input",
  "cache_read",
  "cache_write_5m",
  "cache_write_1h",
  "output",
  "reasoning",
  "audio_input",
  "audio_output",
  "image_input",
  "image_output",
] as const;
export type Dimension = (typeof DIMENSIONS)[number];

/** Tokens per dimension; a dimension that is absent was not used. */
export type Usage = Readonly<Partial<Record<Dimension, number>>>;

/** Nano-USD per million tokens, per dimension; a dimension that is absent is not for sale. */
export type Price = Readonly<Partial<Record<Dimension, bigint>>>;

const TOKENS_PER_MTOK = 1_000_000n;
const BASIS_POINTS = 10_000n;
/** More tokens than any request can carry; larger counts are refused by the parsers. */
export const TOKENS_MAX = 1_000_000_000;

/**
 * What the miner earns: floor(Σ tokens × price ÷ 10⁶) nano-USD, one sum and one division.
 *
 * @returns undefined if `usage` has tokens in a dimension that `price` does not sell.
 * @throws AssertionError if a count is not an integer in 0…TOKENS_MAX; parsers check it earlier.
 */
export function minerAmountOf(usage: Usage, price: Price): NanoUsd | undefined {
  const scaled = scaledCostOf(usage, price);
  return scaled === undefined ? undefined : nanoUsd(scaled / TOKENS_PER_MTOK);
}

/**
 * What the customer pays: ceil(Σ tokens × price × (10000 + markup) ÷ 10¹⁰) nano-USD.
 * Never less than the miner's amount for the same usage, since it rounds up and the markup is not negative.
 *
 * @param markupBps basis points on top of the miner's quoted price.
 */
export function chargeOf(usage: Usage, price: Price, markupBps: number): NanoUsd | undefined {
  assert(Number.isSafeInteger(markupBps) && markupBps >= 0, `not a markup: ${markupBps}`);
  const scaled = scaledCostOf(usage, price);
  if (scaled === undefined) return undefined;
  return nanoUsd(
    ceilDiv(scaled * (BASIS_POINTS + BigInt(markupBps)), TOKENS_PER_MTOK * BASIS_POINTS),
  );
}

function scaledCostOf(usage: Usage, price: Price): bigint | undefined {
  let scaled = 0n;
  for (const dimension of DIMENSIONS) {
    const count = usage[dimension] ?? 0;
    assert(
      Number.isSafeInteger(count) && count >= 0 && count <= TOKENS_MAX,
      `not a token count: ${count}`,
    );
    if (count === 0) continue;
    const perMtok = price[dimension];
    if (perMtok === undefined) return undefined;
    scaled += BigInt(count) * perMtok;
  }
  return scaled;
}

/** A price with `discountBps` off every dimension, rounded down: floor(retail × (10000 − bps) ÷ 10000). */
export function discounted(retail: Price, discountBps: number): Price {
  assert(Number.isSafeInteger(discountBps) && discountBps >= 0 && discountBps < 10_000);
  const price: Partial<Record<Dimension, bigint>> = {};
  for (const dimension of DIMENSIONS) {
    const perMtok = retail[dimension];
    if (perMtok !== undefined)
      price[dimension] = (perMtok * (BASIS_POINTS - BigInt(discountBps))) / BASIS_POINTS;
  }
  return price;
}

/** Every kind of input together: what providers call prompt tokens. */
export function inputTokensOf(usage: Usage): number {
  return sum(usage, [
    "input",
    "cache_read",
    "cache_write_5m",
    "cache_write_1h",
    "audio_input",
    "image_input",
  ]);
}

/** Every kind of output together: what providers call completion tokens. */
export function outputTokensOf(usage: Usage): number {
  return sum(usage, ["output", "reasoning", "audio_output", "image_output"]);
}

function sum(usage: Usage, dimensions: readonly Dimension[]): number {
  return dimensions.reduce((total, dimension) => total + (usage[dimension] ?? 0), 0);
}

/** JSON form of a price: decimal strings of nano-USD per million tokens, in the order of DIMENSIONS. */
export function priceToJson(price: Price): Partial<Record<Dimension, string>> {
  const json: Partial<Record<Dimension, string>> = {};
  for (const dimension of DIMENSIONS) {
    const perMtok = price[dimension];
    if (perMtok !== undefined) json[dimension] = perMtok.toString();
  }
  return json;
}

/** Inverse of `priceToJson`. @returns undefined for unknown dimensions or anything but 1–18 digit strings. */
export function priceFromJson(json: unknown): Price | undefined {
  if (typeof json !== "object" || json === null || Array.isArray(json)) return undefined;
  const price: Partial<Record<Dimension, bigint>> = {};
  for (const [key, value] of Object.entries(json)) {
    if (!isDimension(key) || typeof value !== "string" || !/^\d{1,18}$/.test(value))
      return undefined;
    price[key] = BigInt(value);
  }
  return price;
}

/** Checks token counts that came over the wire. @returns undefined for unknown dimensions or bad counts. */
export function usageFromJson(json: unknown): Usage | undefined {
  if (typeof json !== "object" || json === null || Array.isArray(json)) return undefined;
  const usage: Partial<Record<Dimension, number>> = {};
  for (const [key, value] of Object.entries(json)) {
    if (!isDimension(key) || typeof value !== "number") return undefined;
    if (!Number.isSafeInteger(value) || value < 0 || value > TOKENS_MAX) return undefined;
    usage[key] = value;
  }
  return usage;
}

function isDimension(key: string): key is Dimension {
  return (DIMENSIONS as readonly string[]).includes(key);
}
