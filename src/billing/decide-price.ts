import { lowerMedianOf } from "../core/median.ts";

/** A source's answer is used for this long after it was true, in milliseconds. */
export const FRESH_MS = 90_000;
const SOURCES_MIN = 2;
/** Sources that must agree on a price which has jumped. */
const JUMP_SOURCES_MIN = 3;
/** A source further from the median than this is left out, in basis points. */
const SPREAD_BPS_MAX = 200n;
/** A USDT pair further from every USD pair than this is left out, in basis points: then USDT is not a dollar. */
const USDT_BPS_MAX = 100n;
/** A price further than this from the recent one has jumped, in basis points. */
const JUMP_BPS = 1_000n;
const BASIS_POINTS = 10_000n;

/** The last answer of one source. */
export interface PriceReading {
  readonly source: string;
  readonly quote: "USD" | "USDT";
  readonly nanoUsdPerTao: bigint;
  /** When it was true, Unix milliseconds. */
  readonly atMs: number;
}

/** too_few_sources: fewer than two are fresh. sources_disagree: no two are near the median. jump: two agree on a price far from the recent one. */
export type NoPrice = "too_few_sources" | "sources_disagree" | "jump";

/** The price that the sources agree on; `used` and `left` are the fresh ones that made it and that did not. */
export type PriceDecision = (
  | { readonly ok: true; readonly nanoUsdPerTao: bigint }
  | { readonly ok: false; readonly reason: NoPrice }
) & { readonly used: readonly PriceReading[]; readonly left: readonly PriceReading[] };

/**
 * What TAO is worth, from what the sources said: the lower median of those within 2 % of the median of all, of which
 * there must be two, or three when it is more than 10 % away from the recent price. No single source decides it.
 *
 * @param recentNanoUsdPerTao median of the last minutes in which there was a price; undefined when there never was one.
 */
export function decidePrice(
  readings: readonly PriceReading[],
  recentNanoUsdPerTao: bigint | undefined,
  nowMs: number,
): PriceDecision {
  const fresh = readings.filter(({ atMs }) => nowMs - atMs <= FRESH_MS);
  const dollars = fresh.filter(({ quote }) => quote === "USD");
  const usable = fresh.filter(
    (reading) =>
      reading.quote === "USD" ||
      dollars.some((dollar) => isWithin(reading, dollar.nanoUsdPerTao, USDT_BPS_MAX)),
  );
  const medianOf = (some: readonly PriceReading[]): bigint | undefined =>
    lowerMedianOf(some.map(({ nanoUsdPerTao }) => nanoUsdPerTao));
  const median = medianOf(usable);
  const used =
    median === undefined
      ? []
      : usable.filter((reading) => isWithin(reading, median, SPREAD_BPS_MAX));
  const left = fresh.filter((reading) => !used.includes(reading));
  const price = medianOf(used);
  if (usable.length < SOURCES_MIN) return { ok: false, reason: "too_few_sources", used, left };
  if (price === undefined || used.length < SOURCES_MIN)
    return { ok: false, reason: "sources_disagree", used, left };
  const hasJumped =
    recentNanoUsdPerTao !== undefined &&
    !isWithin({ nanoUsdPerTao: price }, recentNanoUsdPerTao, JUMP_BPS);
  if (hasJumped && used.length < JUMP_SOURCES_MIN) return { ok: false, reason: "jump", used, left };
  return { ok: true, nanoUsdPerTao: price, used, left };
}

function isWithin(
  { nanoUsdPerTao }: { readonly nanoUsdPerTao: bigint },
  reference: bigint,
  bps: bigint,
): boolean {
  const distance =
    nanoUsdPerTao > reference ? nanoUsdPerTao - reference : reference - nanoUsdPerTao;
  return distance * BASIS_POINTS <= reference * bps;
}
