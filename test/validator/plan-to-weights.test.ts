import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import type { Uid } from "../../src/core/ids.ts";
import { planToWeights } from "../../src/validator/plan-to-weights.ts";

const BURN = 0 as Uid;

/** The chain's `vec_max_upscale_to_u16` (pallets/subtensor/src/epoch/math.rs), in integers. */
function maxUpscale(weights: readonly number[]): number[] {
  const max = BigInt(Math.max(...weights));
  return max === 0n ? [...weights] : weights.map((w) => Number((BigInt(w) * 65_535n) / max));
}

/** A pool and shares that fit into it: some tiny, some nearly all of it. */
const plans = fc
  .record({
    pool: fc.oneof(fc.bigInt({ min: 1n, max: 1_000n }), fc.bigInt({ min: 1n, max: 10n ** 15n })),
    parts: fc.array(
      fc.oneof(
        fc.constant(0n),
        fc.bigInt({ min: 1n, max: 1_000n }),
        fc.bigInt({ min: 1n, max: 10n ** 9n }),
      ),
      { maxLength: 40 },
    ),
    slack: fc.oneof(fc.constant(0n), fc.bigInt({ min: 1n, max: 10n ** 10n })),
  })
  .map(({ pool, parts, slack }) => {
    const whole = parts.reduce((a, b) => a + b, 0n) + slack;
    return { pool, shares: parts.map((part) => (whole === 0n ? 0n : (part * pool) / whole)) };
  });

const weighed = (pool: bigint, shares: readonly bigint[]) =>
  planToWeights({
    n: shares.length + 3,
    burnUid: BURN,
    pool,
    shares: new Map(shares.map((share, i) => [(i + 1) as Uid, share])),
  });

const sum = (values: readonly bigint[]) => values.reduce((a, b) => a + b, 0n);

test("P1: the largest entry is 65535, the entries add up to T, and the chain's upscale changes nothing", () => {
  const reached = new Set<string>();
  fc.assert(
    fc.property(plans, ({ pool, shares }) => {
      const { weights, total } = weighed(pool, shares);
      assert.equal(weights.length, shares.length + 3);
      assert.equal(Math.max(...weights), 65_535);
      assert(weights.every((w) => Number.isInteger(w) && w >= 0));
      assert.equal(
        weights.reduce((a, b) => a + b, 0),
        Number(total),
      );
      assert.deepEqual(maxUpscale(weights), weights);
      reached.add(
        sum(shares) === 0n ? "empty" : weights[0] === 65_535 ? "mostly burned" : "mostly paid",
      );
    }),
    { numRuns: 2_000 },
  );
  assert.deepEqual(
    [...reached].sort((a, b) => a.localeCompare(b)),
    ["empty", "mostly burned", "mostly paid"],
  );
});

test("P2 and P5: nobody is paid above plan, nor less than it by more than one step", () => {
  fc.assert(
    fc.property(plans, ({ pool, shares }) => {
      const { weights, total } = weighed(pool, shares);
      for (const [i, share] of shares.entries()) {
        const weight = BigInt(weights[i + 1] ?? 0);
        assert(weight * pool <= share * total, "w / T ≤ q / E");
        if (sum(shares) > 0n) assert((weight + 1n) * pool > share * total, "within 1 / T");
      }
    }),
    { numRuns: 2_000 },
  );
});

test("P3: a larger share never gets a smaller weight", () => {
  fc.assert(
    fc.property(plans, ({ pool, shares }) => {
      const { weights } = weighed(pool, shares);
      for (const [i, a] of shares.entries())
        for (const [j, b] of shares.entries())
          if (a <= b) assert((weights[i + 1] ?? 0) <= (weights[j + 1] ?? 0));
    }),
    { numRuns: 500 },
  );
});

test("P4: splitting a miner into parts never raises what the parts get together", () => {
  let splits = 0;
  fc.assert(
    fc.property(plans, fc.integer({ min: 1, max: 5 }), ({ pool, shares }, parts) => {
      const [first = 0n, ...rest] = shares;
      const piece = first / BigInt(parts);
      const pieces = Array.from({ length: parts }, (_, i) =>
        i === 0 ? first - piece * BigInt(parts - 1) : piece,
      );
      const split = weighed(pool, [...pieces, ...rest]);
      const got = split.weights.slice(1, 1 + parts).reduce((a, b) => a + b, 0);
      assert(BigInt(got) * pool <= first * split.total);
      if (parts > 1 && first > 1n) splits += 1;
    }),
    { numRuns: 1_000 },
  );
  assert(splits > 100);
});

test("P6: the burned part is what was not planned, up to m / T", () => {
  fc.assert(
    fc.property(plans, ({ pool, shares }) => {
      const m = shares.filter((share) => share > 0n).length;
      if (m === 0) return;
      const { weights, total } = weighed(pool, shares);
      const excess = BigInt(weights[BURN] ?? 0) * pool - (pool - sum(shares)) * total;
      assert(excess >= 0n && excess < BigInt(m) * pool);
    }),
    { numRuns: 2_000 },
  );
});

test("P12: the order of the shares does not matter", () => {
  fc.assert(
    fc.property(plans, ({ pool, shares }) => {
      const pairs = shares.map((share, i) => [(i + 1) as Uid, share] as const);
      const n = shares.length + 1;
      const forward = planToWeights({ n, burnUid: BURN, pool, shares: new Map(pairs) });
      const backward = planToWeights({ n, burnUid: BURN, pool, shares: new Map(pairs.reverse()) });
      assert.deepEqual(forward, backward);
    }),
    { numRuns: 300 },
  );
});

test("planToWeights() refuses a plan that spends more than its pool, or pays the burn UID", () => {
  const plan = { n: 3, burnUid: BURN, pool: 10n };
  assert.throws(() => planToWeights({ ...plan, shares: new Map([[1 as Uid, 11n]]) }), /at most/);
  assert.throws(() => planToWeights({ ...plan, shares: new Map([[BURN, 1n]]) }), /cannot earn/);
  assert.throws(() => planToWeights({ ...plan, shares: new Map([[3 as Uid, 1n]]) }), /cannot earn/);
  assert.throws(() => planToWeights({ ...plan, n: 0, shares: new Map() }), /burn UID/);
});
