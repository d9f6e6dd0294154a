import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import type { Coldkey, Hotkey } from "../../src/core/ids.ts";
import type { ProviderPreferences } from "../../src/dialects/provider-preferences.ts";
import type { MinerHealth } from "../../src/gateway/miner-health.ts";
import {
  EXCLUSIONS,
  type Offer,
  type Selection,
  type SelectionOptions,
  selectMiners,
} from "../../src/gateway/select-miner.ts";

const HEALTHY: MinerHealth = {
  ttftMs: 400,
  failRate: 0,
  tokensPerSecond: 50,
  inflight: 0,
  capacity: 8,
};

function offer(name: string, price: bigint, change: Partial<Offer> = {}): Offer {
  return {
    hotkey: `5${name}` as Hotkey,
    coldkey: `cold-${name}` as Coldkey,
    names: [name],
    price: { input: price, output: 4n * price },
    minPayoutBps: 0,
    health: HEALTHY,
    ejected: false,
    ...change,
  };
}

/** Numbers in [0, 1) that look random and are the same in every run. */
function mulberry(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

const OPTIONS: SelectionOptions = {
  preferences: { allowFallbacks: true },
  expected: { input: 1_000, output: 200 },
  markupBps: 500,
  payoutBps: 10_000,
  count: 3,
  random: mulberry(1),
};

function select(
  offers: readonly Offer[],
  preferences: Partial<ProviderPreferences> = {},
  options: Partial<SelectionOptions> = {},
): Selection<Offer> {
  return selectMiners(offers, {
    ...OPTIONS,
    ...options,
    preferences: { allowFallbacks: true, ...preferences },
  });
}

function namesOf(selection: Selection<Offer>): string[] {
  return selection.ok ? selection.miners.map(({ names }) => names[0] ?? "") : [];
}

/** How often each miner is the first choice. */
function sharesOf(offers: readonly Offer[], runs = 4_000): Map<string, number> {
  const random = mulberry(7);
  const counts = new Map<string, number>();
  for (let run = 0; run < runs; run++) {
    const [first = ""] = namesOf(select(offers, {}, { random }));
    counts.set(first, (counts.get(first) ?? 0) + 1);
  }
  return new Map([...counts].map(([name, count]) => [name, count / runs]));
}

test("selectMiners() counts every reason why nobody is left", () => {
  const offers = [
    offer("a", 100n, { unavailable: "not_attested" }),
    offer("b", 100n, { unavailable: "no_valid_quote" }),
    offer("c", 100n),
    offer("d", 100n),
    offer("e", 1_000n),
    offer("f", 100n, { minPayoutBps: 9_000 }),
    offer("g", 100n, { ejected: true }),
    offer("h", 100n, { health: { ...HEALTHY, inflight: 8 } }),
    offer("i", 100n),
  ];
  const selection = select(
    offers,
    {
      ignore: ["c"],
      only: ["5e", "f", "g", "h", "i"],
      order: ["e", "f", "g", "h"],
      allowFallbacks: false,
      maxPrice: { prompt: 105n },
    },
    { payoutBps: 8_999 },
  );
  assert.equal(selection.ok, false);
  assert.deepEqual(selection.excluded, {
    not_attested: 1,
    no_valid_quote: 1,
    ignored: 1,
    not_in_only: 1,
    not_in_order: 1,
    over_max_price: 1,
    payout_too_low: 1,
    ejected: 1,
    at_capacity: 1,
  });
  assert.deepEqual(Object.keys(selection.excluded).sort(), [...EXCLUSIONS].sort());
});

test("selectMiners() compares max_price with what the customer pays", () => {
  const at = (limit: bigint): boolean =>
    select([offer("a", 100n)], { maxPrice: { prompt: limit } }).ok;
  assert.equal(at(105n), true);
  assert.equal(at(104n), false);
  const output = (limit: bigint): boolean =>
    select([offer("a", 100n)], { maxPrice: { completion: limit } }).ok;
  assert.equal(output(420n), true);
  assert.equal(output(419n), false);
});

test("selectMiners() stays within three percent of the best effective cost", () => {
  const shares = sharesOf([offer("a", 1_000n), offer("b", 1_029n), offer("c", 1_040n)]);
  assert.deepEqual([...shares.keys()].sort(), ["a", "b"]);
});

test("selectMiners() shares by capacity within the band", () => {
  const of = (name: string, capacity: number): Offer =>
    offer(name, 1_000n, { health: { ...HEALTHY, ttftMs: 10, capacity } });
  // Two draws and the better of them: with equal latency per slot the larger wins whenever it is drawn.
  const shares = sharesOf([of("big", 30), of("small", 10)]);
  assert((shares.get("big") ?? 0) > 0.9);
});

test("selectMiners() prefers the less loaded of two", () => {
  const busy = offer("busy", 1_000n, { health: { ...HEALTHY, ttftMs: 100, inflight: 7 } });
  const idle = offer("idle", 1_000n, { health: { ...HEALTHY, ttftMs: 100, inflight: 0 } });
  assert.equal(sharesOf([busy, idle]).get("idle"), 1);
});

test("selectMiners() counts at most half of the band for one owner of three", () => {
  const many = Array.from({ length: 8 }, (_, i) =>
    offer(`m${i}`, 1_000n, { coldkey: "cold-m" as Coldkey }),
  );
  const shares = sharesOf([...many, offer("x", 1_000n), offer("y", 1_000n)]);
  const owner = many.reduce((sum, { names }) => sum + (shares.get(names[0] ?? "") ?? 0), 0);
  assert(owner < 0.8, `${owner} of 0.8 without the rule`);
  assert(owner > 0.4);
});

for (const { name, health, wins, loses } of [
  { name: "faults by up to 30 %", health: { failRate: 0.5 }, wins: 1_262n, loses: 1_340n },
  {
    name: "a few faults by twice their rate",
    health: { failRate: 0.05 },
    wins: 1_067n,
    loses: 1_134n,
  },
  { name: "latency by up to 10 %", health: { ttftMs: 60_000 }, wins: 1_067n, loses: 1_134n },
] as const) {
  test(`selectMiners() outweighs ${name}`, () => {
    const bad = offer("bad", 1_000n, { health: { ...HEALTHY, ...health } });
    assert.equal(sharesOf([bad, offer("good", wins)]).get("good"), 1);
    assert.equal(sharesOf([bad, offer("good", loses)]).get("bad"), 1);
  });
}

test("selectMiners() gives a miner without history a chance, not all traffic", () => {
  const fresh = offer("new", 1_000n, { health: { ...HEALTHY, ttftMs: undefined } });
  const share = sharesOf([fresh, offer("a", 1_000n), offer("b", 1_000n)]).get("new") ?? 0;
  assert(share > 0.01 && share < 0.5, `${share}`);
});

test("selectMiners() follows order and falls back to the rest", () => {
  const offers = [offer("a", 1n), offer("b", 2n), offer("c", 3n)];
  assert.deepEqual(namesOf(select(offers, { order: ["c", "B"] })), ["c", "b", "a"]);
  assert.deepEqual(namesOf(select(offers, { order: ["c", "b"], allowFallbacks: false })), [
    "c",
    "b",
  ]);
  assert.deepEqual(namesOf(select(offers, { order: ["5c"] }))[0], "c");
  assert.deepEqual(namesOf(select(offers, { order: ["nobody"] })), ["a", "b", "c"]);
});

test("selectMiners() gives one miner when fallbacks are off", () => {
  assert.deepEqual(namesOf(select([offer("a", 1n), offer("b", 2n)], { allowFallbacks: false })), [
    "a",
  ]);
});

test("selectMiners() honours only and ignore by hotkey and by name, whatever the case", () => {
  const offers = [offer("a", 1n), offer("b", 2n), offer("c", 3n)];
  assert.deepEqual(namesOf(select(offers, { only: ["B", "5c"] })), ["b", "c"]);
  assert.deepEqual(namesOf(select(offers, { ignore: ["5a", "C"] })), ["b"]);
});

test("selectMiners() sorts strictly when asked to", () => {
  const offers = [
    offer("cheap", 1_000n, { health: { ...HEALTHY, ttftMs: 900, tokensPerSecond: 10 } }),
    offer("quick", 1_010n, { health: { ...HEALTHY, ttftMs: 100, tokensPerSecond: undefined } }),
    offer("fast", 1_020n, { health: { ...HEALTHY, ttftMs: 500, tokensPerSecond: 90 } }),
  ];
  assert.deepEqual(namesOf(select(offers, { sort: "price" })), ["cheap", "quick", "fast"]);
  assert.deepEqual(namesOf(select(offers, { sort: "latency" })), ["quick", "fast", "cheap"]);
  assert.deepEqual(namesOf(select(offers, { sort: "throughput" })), ["fast", "cheap", "quick"]);
});

test("selectMiners() never gives an ineligible miner or one twice, whatever is asked", () => {
  const names = ["a", "b", "c", "d", "e", "f"];
  const anOffer = (name: string) =>
    fc
      .record({
        price: fc.bigInt(1n, 2_000n),
        unavailable: fc.constantFrom(undefined, undefined, "not_attested" as const),
        ejected: fc.boolean(),
        inflight: fc.nat(9),
        failRate: fc.double({ min: 0, max: 1, noNaN: true }),
      })
      .map(({ price, unavailable, ejected, inflight, failRate }) =>
        offer(name, price, {
          ...(unavailable === undefined ? {} : { unavailable }),
          ejected,
          health: { ...HEALTHY, inflight, failRate },
        }),
      );
  const list = fc.option(fc.subarray(names), { nil: undefined });
  const preferences = fc.record(
    {
      order: list,
      only: list,
      ignore: list,
      allowFallbacks: fc.boolean(),
      sort: fc.constantFrom("price" as const, "latency" as const, "throughput" as const),
      maxPrice: fc.record({ prompt: fc.bigInt(1n, 2_000n) }),
    },
    { requiredKeys: ["allowFallbacks"] },
  );
  const reached = new Set<string>();
  fc.assert(
    fc.property(
      fc.tuple(...names.map(anOffer)),
      preferences,
      fc.integer(),
      (offers, asked, seed) => {
        const wanted = Object.fromEntries(
          Object.entries(asked).filter(([, value]) => value !== undefined),
        ) as unknown as ProviderPreferences;
        const selection = select(offers, wanted, { random: mulberry(seed) });
        reached.add(`${selection.ok}`);
        const chosen = selection.ok ? selection.miners : [];
        assert.equal(new Set(chosen).size, chosen.length);
        assert(chosen.length <= 3);
        for (const { unavailable, ejected, health, names: own, price } of chosen) {
          assert(unavailable === undefined && !ejected && health.inflight < health.capacity);
          const [name = ""] = own;
          assert(wanted.only?.includes(name) ?? true);
          assert(!(wanted.ignore?.includes(name) ?? false));
          if (!wanted.allowFallbacks) assert(wanted.order?.includes(name) ?? true);
          const limit = wanted.maxPrice?.prompt;
          if (limit !== undefined) assert((price.input ?? 0n) * 105n <= limit * 100n);
        }
        const left = Object.values(selection.excluded).reduce((sum, n) => sum + n, 0);
        assert(left <= offers.length && (selection.ok || left === offers.length));
      },
    ),
    { numRuns: 500 },
  );
  assert.deepEqual(reached, new Set(["true", "false"]));
});
