import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { decidePrice, type NoPrice, type PriceReading } from "../../src/billing/decide-price.ts";

const NOW = 1_785_492_000_000;
/** Dollars with three decimals, in thousandths, as nano-USD. */
const usd = (thousandths: number): bigint => BigInt(thousandths) * 1_000_000n;

const QUOTE = { kraken: "USD", coingecko: "USD", mexc: "USDT", binance: "USDT" } as const;
type Name = keyof typeof QUOTE;

function readings(
  prices: Partial<Record<Name, number>>,
  agesMs: Partial<Record<Name, number>> = {},
): PriceReading[] {
  return Object.entries(prices).map(([name, thousandths]) => ({
    source: name,
    quote: QUOTE[name as Name],
    nanoUsdPerTao: usd(thousandths),
    atMs: NOW - (agesMs[name as Name] ?? 1_000),
  }));
}

const cases: readonly {
  name: string;
  prices: Partial<Record<Name, number>>;
  ages?: Partial<Record<Name, number>>;
  recent?: number;
  /** Thousandths of a dollar, or why there is no price. */
  expected: number | NoPrice;
  used?: readonly Name[];
}[] = [
  {
    name: "the lower of the two in the middle of four",
    prices: { kraken: 400_100, coingecko: 400_300, mexc: 400_200, binance: 400_400 },
    expected: 400_200,
    used: ["kraken", "coingecko", "mexc", "binance"],
  },
  { name: "the lower of two", prices: { kraken: 401_000, coingecko: 400_000 }, expected: 400_000 },
  {
    name: "a price without a source 2 % and a bit from the median",
    prices: { kraken: 400_000, coingecko: 408_103, mexc: 400_100 },
    expected: 400_000,
    used: ["kraken", "mexc"],
  },
  {
    name: "a price with a source exactly 2 % from the median",
    prices: { kraken: 400_000, coingecko: 408_000 },
    expected: 400_000,
    used: ["kraken", "coingecko"],
  },
  { name: "too_few_sources of one", prices: { kraken: 400_000 }, expected: "too_few_sources" },
  { name: "too_few_sources of none", prices: {}, expected: "too_few_sources" },
  {
    name: "a price of answers that are 90 s old",
    prices: { kraken: 400_000, coingecko: 400_000 },
    ages: { kraken: 90_000, coingecko: 90_000 },
    expected: 400_000,
  },
  {
    name: "too_few_sources of answers that are older",
    prices: { kraken: 400_000, coingecko: 400_000 },
    ages: { coingecko: 90_001 },
    expected: "too_few_sources",
  },
  {
    name: "sources_disagree of two more than 2 % apart, rather than the lower one",
    prices: { kraken: 300_000, coingecko: 400_000 },
    expected: "sources_disagree",
  },
  {
    name: "too_few_sources of USDT pairs alone: nothing says that USDT is a dollar",
    prices: { mexc: 400_000, binance: 400_000 },
    expected: "too_few_sources",
  },
  {
    name: "a price of USDT pairs exactly 1 % from a USD pair",
    prices: { kraken: 400_000, mexc: 404_000 },
    expected: 400_000,
    used: ["kraken", "mexc"],
  },
  {
    name: "a price without USDT pairs further away",
    prices: { kraken: 400_000, coingecko: 400_010, mexc: 404_011, binance: 395_999 },
    expected: 400_000,
    used: ["kraken", "coingecko"],
  },
  {
    name: "a price of one USD pair and USDT pairs near it while the other USD pair lies",
    prices: { kraken: 200_000, coingecko: 400_000, mexc: 400_100, binance: 400_200 },
    expected: 400_100,
    used: ["coingecko", "mexc", "binance"],
  },
  {
    name: "a price exactly 10 % from the recent one, of two",
    prices: { kraken: 440_000, coingecko: 440_000 },
    recent: 400_000,
    expected: 440_000,
  },
  {
    name: "jump of two further up",
    prices: { kraken: 440_001, coingecko: 440_001 },
    recent: 400_000,
    expected: "jump",
  },
  {
    name: "jump of two further down",
    prices: { kraken: 359_999, coingecko: 359_999 },
    recent: 400_000,
    expected: "jump",
  },
  {
    name: "a price that jumped when three agree",
    prices: { kraken: 300_000, coingecko: 300_100, binance: 300_200 },
    recent: 400_000,
    expected: 300_100,
  },
  {
    name: "jump when the third does not agree",
    prices: { kraken: 300_000, coingecko: 300_100, binance: 400_200 },
    recent: 400_000,
    expected: "jump",
  },
];

for (const { name, prices, ages, recent, expected, used } of cases) {
  test(`decidePrice() gives ${name}`, () => {
    const decision = decidePrice(
      readings(prices, ages),
      recent === undefined ? undefined : usd(recent),
      NOW,
    );
    assert.deepEqual(
      decision.ok ? decision.nanoUsdPerTao : decision.reason,
      typeof expected === "number" ? usd(expected) : expected,
    );
    if (used !== undefined)
      assert.deepEqual(
        decision.used.map(({ source }) => source),
        used,
      );
  });
}

test("decidePrice() lets no single source move the price by more than its tolerance", () => {
  const reached = new Map<string, number>();
  const reach = (what: string): void => {
    reached.set(what, (reached.get(what) ?? 0) + 1);
  };
  const names = Object.keys(QUOTE) as Name[];
  const world = fc.record({
    base: fc.integer({ min: 1_000, max: 1_000_000 }),
    /** Honest sources differ by up to 0.4 %, in parts per 10,000. */
    noise: fc.array(fc.integer({ min: -20, max: 20 }), { minLength: 4, maxLength: 4 }),
    ages: fc.array(fc.constantFrom(0, 30_000, 90_000, 90_001), { minLength: 4, maxLength: 4 }),
    liar: fc.constantFrom(-1, 0, 1, 2, 3),
    lie: fc.oneof(
      fc.integer({ min: -400, max: 400 }),
      fc.constantFrom(-9_900, -5_000, 1_000, 50_000),
    ),
    move: fc.constantFrom(undefined, 0, 500, 1_100, -1_100, 3_000),
  });
  fc.assert(
    fc.property(world, ({ base, noise, ages, liar, lie, move }) => {
      const all: PriceReading[] = names.map((source, i) => ({
        source,
        quote: QUOTE[source],
        nanoUsdPerTao:
          BigInt(base) * BigInt(10_000 + (i === liar ? lie : (noise[i] ?? 0))) * 1_000n,
        atMs: NOW - (ages[i] ?? 0),
      }));
      const honest = all.filter((_, i) => i !== liar).map(({ nanoUsdPerTao }) => nanoUsdPerTao);
      const recent = move === undefined ? undefined : BigInt(base) * BigInt(10_000 + move) * 1_000n;
      const decision = decidePrice(all, recent, NOW);
      reach(decision.ok ? "ok" : decision.reason);
      assert.equal(
        decision.used.length + decision.left.length,
        ages.filter((age) => age <= 90_000).length,
      );
      if (!decision.ok) return;
      const price = decision.nanoUsdPerTao;
      assert.ok(decision.used.length >= 2);
      assert.ok(decision.used.every(({ atMs }) => NOW - atMs <= 90_000));
      assert.ok(decision.used.some(({ nanoUsdPerTao }) => nanoUsdPerTao === price));
      const low = honest.reduce((a, b) => (b < a ? b : a));
      const high = honest.reduce((a, b) => (b > a ? b : a));
      assert.ok(price * 100n >= low * 98n, `${price} is far below ${low}`);
      assert.ok(price * 98n <= high * 100n, `${price} is far above ${high}`);
      const isFar =
        recent !== undefined && (price * 10n < recent * 9n || price * 10n > recent * 11n);
      if (isFar) {
        assert.ok(decision.used.length >= 3);
        reach("ok after a jump");
      }
      if (decision.left.some(({ quote }) => quote === "USDT")) reach("ok without a USDT pair");
      if (decision.left.some(({ quote }) => quote === "USD")) reach("ok without a USD pair");
    }),
    { numRuns: 2_000 },
  );
  assert.deepEqual([...reached.keys()].sort(), [
    "jump",
    "ok",
    "ok after a jump",
    "ok without a USD pair",
    "ok without a USDT pair",
    "sources_disagree",
    "too_few_sources",
  ]);
  assert.ok(
    [...reached.values()].every((count) => count >= 10),
    JSON.stringify([...reached]),
  );
});
