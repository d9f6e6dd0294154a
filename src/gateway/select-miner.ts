import type { Coldkey, Hotkey } from "../core/ids.ts";
import { type Dimension, type Price, type Usage } from "../core/pricing.ts";
import type { MinerSort, ProviderPreferences } from "../dialects/provider-preferences.ts";
import { type MinerHealth, TTFT_PRIOR_MS } from "./miner-health.ts";

/** One miner's offer of the product that is asked for. */
export interface Offer {
  readonly hotkey: Hotkey;
  readonly coldkey: Coldkey;
  /** Other names by which a customer may mean this miner. */
  readonly names: readonly string[];
  /** Why it cannot be asked at all: without fresh evidence or a valid quote nothing else about it counts. */
  readonly unavailable?: "not_attested" | "no_valid_quote" | undefined;
  readonly price: Price;
  /** Least share of the claimed pay for which it serves, basis points. */
  readonly minPayoutBps: number;
  readonly health: MinerHealth;
  readonly ejected: boolean;
}

/** Why a miner was left out; the first reason that holds, in this order. */
export const EXCLUSIONS = [
  "not_attested",
  "no_valid_quote",
  "ignored",
  "not_in_only",
  "not_in_order",
  "over_max_price",
  "payout_too_low",
  "ejected",
  "at_capacity",
] as const;
export type Exclusion = (typeof EXCLUSIONS)[number];

export interface SelectionOptions {
  readonly preferences: ProviderPreferences;
  /** What the request is expected to use. */
  readonly expected: Usage;
  /** What customers pay on top of a miner's price, basis points; `max_price` is about what they pay. */
  readonly markupBps: number;
  /** Share of the claimed pay that miners get at present, basis points. */
  readonly payoutBps: number;
  /** How many miners to give: the one to ask and those to fall back to. */
  readonly count: number;
  /** Uniform in [0, 1). */
  readonly random: () => number;
}

export type Selection<O extends Offer> =
  | { readonly ok: true; readonly miners: readonly [O, ...O[]]; readonly excluded: ExclusionCounts }
  | { readonly ok: false; readonly excluded: ExclusionCounts };

/** How many miners each filter removed: what a customer needs to know when none is left. */
export type ExclusionCounts = Readonly<Partial<Record<Exclusion, number>>>;

/** Effective costs up to this factor above the best share the traffic. */
const BAND = 1.03;
const LATENCY_PENALTY_MAX = 0.1;
const LATENCY_PENALTY_SLOPE = 0.05;
/** Time to first content at a quarter of the capacity that is not penalised, milliseconds. */
const LATENCY_GOOD_MS = 1_000;
const FAIL_PENALTY_MAX = 0.3;
const FAIL_PENALTY_SLOPE = 2;
/** Largest share of the band's capacity that counts for one owner, when there are enough owners. */
const OWNER_SHARE_MAX = 0.5;
const OWNERS_FOR_SHARE = 3;

/**
 * Chooses who serves a request, and who comes next if that fails.
 *
 * Among the eligible: the effective cost is the expected cost, raised by up to 10 % for latency and up to 30 % for
 * faults; those within 3 % of the best are equals; of two drawn from them in proportion to capacity the less loaded one
 * serves. `order` comes before that, `sort` replaces it. Nothing a customer asks for makes an ineligible miner eligible.
 */
export function selectMiners<O extends Offer>(
  offers: readonly O[],
  options: SelectionOptions,
): Selection<O> {
  const { preferences } = options;
  const excluded: Partial<Record<Exclusion, number>> = {};
  const eligible = offers.filter((offer) => {
    const reason = exclusionOf(offer, options);
    if (reason !== undefined) excluded[reason] = (excluded[reason] ?? 0) + 1;
    return reason === undefined;
  });
  const { order, sort } = preferences;
  const listed = new Set(
    order?.flatMap((name) => eligible.filter((offer) => isNamed(offer, name))),
  );
  const others = listed.size === 0 ? eligible : eligible.filter((offer) => !listed.has(offer));
  const view: View = { ...options, typicalTtftMs: typicalTtftOf(eligible) };
  const rest = sort === undefined ? byDraw(others, view) : bySort(others, sort, view);
  // Without fallbacks the customer's own list may still be tried; it has no backup beyond it.
  const alone = !preferences.allowFallbacks && order === undefined;
  const [first, ...more] = [...listed, ...rest].slice(0, alone ? 1 : options.count);
  return first === undefined
    ? { ok: false, excluded }
    : { ok: true, miners: [first, ...more], excluded };
}

/** The options, and what is taken for the latency of a miner that has not answered yet. */
interface View extends SelectionOptions {
  readonly typicalTtftMs: number;
}

/** The median: a newcomer is neither flooded nor starved. It is only looked for when there is a newcomer. */
function typicalTtftOf(offers: readonly Offer[]): number {
  if (offers.every(({ health }) => health.ttftMs !== undefined)) return TTFT_PRIOR_MS;
  const known = offers
    .flatMap(({ health }) => (health.ttftMs === undefined ? [] : [health.ttftMs]))
    .sort((a, b) => a - b);
  return known[Math.floor(known.length / 2)] ?? TTFT_PRIOR_MS;
}

function bySort<O extends Offer>(
  candidates: readonly O[],
  sort: MinerSort,
  view: View,
): readonly O[] {
  const keyOf: Readonly<Record<MinerSort, (offer: O) => number>> = {
    price: (offer) => costOf(offer, view.expected),
    latency: ({ health }) => health.ttftMs ?? view.typicalTtftMs,
    throughput: ({ health }) => -(health.tokensPerSecond ?? 0),
  };
  const key = keyOf[sort];
  return candidates.toSorted((a, b) => key(a) - key(b) || loadOf(a, view) - loadOf(b, view));
}

function exclusionOf(offer: Offer, options: SelectionOptions): Exclusion | undefined {
  const { order, only, ignore, allowFallbacks, maxPrice } = options.preferences;
  if (offer.unavailable !== undefined) return offer.unavailable;
  if (ignore !== undefined && isIn(offer, ignore)) return "ignored";
  if (only !== undefined && !isIn(offer, only)) return "not_in_only";
  if (order !== undefined && !allowFallbacks && !isIn(offer, order)) return "not_in_order";
  if (maxPrice !== undefined && exceeds(offer.price, maxPrice, options.markupBps))
    return "over_max_price";
  if (offer.minPayoutBps > options.payoutBps) return "payout_too_low";
  if (offer.ejected) return "ejected";
  if (offer.health.inflight >= offer.health.capacity) return "at_capacity";
  return undefined;
}

function isIn(offer: Offer, names: readonly string[]): boolean {
  return names.some((name) => isNamed(offer, name));
}

function isNamed(offer: Offer, name: string): boolean {
  return (
    offer.hotkey === name || offer.names.some((own) => own.toLowerCase() === name.toLowerCase())
  );
}

function exceeds(
  price: Price,
  limits: NonNullable<ProviderPreferences["maxPrice"]>,
  markupBps: number,
): boolean {
  const over = (dimension: Dimension, limit: bigint | undefined): boolean =>
    limit !== undefined && (price[dimension] ?? 0n) * BigInt(10_000 + markupBps) > limit * 10_000n;
  return (
    over("input", limits.prompt) ||
    over("output", limits.completion) ||
    over("reasoning", limits.completion)
  );
}

/** Ranks by repeated draws: the first is the choice, the next the choice had it not been there, and so on. */
function byDraw<O extends Offer>(candidates: readonly O[], view: View): readonly O[] {
  const ranked: O[] = [];
  let left = candidates.map((offer) => ({ offer, cost: effectiveCostOf(offer, view) }));
  while (left.length > 0 && ranked.length < view.count) {
    const most = BAND * left.reduce((best, { cost }) => Math.min(best, cost), Infinity);
    const next = powerOfTwo(
      left.filter(({ cost }) => cost <= most).map(({ offer }) => offer),
      view,
    );
    if (next === undefined) break;
    ranked.push(next);
    left = left.filter(({ offer }) => offer !== next);
  }
  return ranked;
}

function powerOfTwo<O extends Offer>(band: readonly O[], view: View): O | undefined {
  const weights = weightsOf(band);
  const at = draw(weights, view.random);
  const first = band[at];
  if (first === undefined || band.length === 1) return first;
  weights[at] = 0;
  const second = band[draw(weights, view.random)] ?? first;
  return loadOf(second, view) < loadOf(first, view) ? second : first;
}

/** Free capacity, with no owner above half of the whole when there are three or more. */
function weightsOf(band: readonly Offer[]): number[] {
  const byOwner = new Map<Coldkey, number>();
  let total = 0;
  for (const { coldkey, health } of band) {
    byOwner.set(coldkey, (byOwner.get(coldkey) ?? 0) + health.capacity);
    total += health.capacity;
  }
  const ownerMax = byOwner.size >= OWNERS_FOR_SHARE ? total * OWNER_SHARE_MAX : total;
  return band.map(({ coldkey, health }) => {
    const own = byOwner.get(coldkey) ?? 0;
    return health.capacity * (own > ownerMax ? ownerMax / own : 1);
  });
}

/** @returns an index, drawn in proportion to its weight; the last one that has any when rounding left nothing. */
function draw(weights: readonly number[], random: () => number): number {
  let at = random() * weights.reduce((sum, weight) => sum + weight, 0);
  let last = -1;
  for (const [index, weight] of weights.entries()) {
    if (weight === 0) continue;
    at -= weight;
    if (at < 0) return index;
    last = index;
  }
  return last;
}

/** Latency that a further request would meet. */
function loadOf({ health }: Offer, { typicalTtftMs }: View): number {
  return ((health.ttftMs ?? typicalTtftMs) * (health.inflight + 1)) / health.capacity;
}

/** A comparison value, not an amount: floating point is exact enough to rank by. */
function costOf({ price }: Offer, expected: Usage): number {
  let cost = 0;
  for (const dimension in expected)
    cost += Number(price[dimension as Dimension] ?? 0n) * (expected[dimension as Dimension] ?? 0);
  return cost;
}

function effectiveCostOf(offer: Offer, view: View): number {
  const latency = (loadOf(offer, view) * 4) / LATENCY_GOOD_MS - 1;
  const latencyPenalty = Math.min(
    LATENCY_PENALTY_MAX,
    LATENCY_PENALTY_SLOPE * Math.max(0, latency),
  );
  const failPenalty = Math.min(FAIL_PENALTY_MAX, FAIL_PENALTY_SLOPE * offer.health.failRate);
  return costOf(offer, view.expected) * (1 + latencyPenalty + failPenalty);
}
