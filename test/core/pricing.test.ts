import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import {
  chargeOf,
  DIMENSIONS,
  discounted,
  inputTokensOf,
  minerAmountOf,
  outputTokensOf,
  type Price,
  priceFromJson,
  priceToJson,
  type Usage,
  usageFromJson,
} from "../../src/core/pricing.ts";

const usageArbitrary: fc.Arbitrary<Usage> = fc.record(
  Object.fromEntries(DIMENSIONS.map((d) => [d, fc.nat(1_000_000)])),
  { requiredKeys: [] },
);
const priceArbitrary: fc.Arbitrary<Price> = fc.record(
  Object.fromEntries(DIMENSIONS.map((d) => [d, fc.bigInt(0n, 10n ** 12n)])),
);

for (const { name, usage, markupBps, miner, charge } of [
  {
    name: "half a nano-USD: the miner gets 0, the customer pays 1",
    usage: { input: 1 },
    markupBps: 0,
    miner: 0n,
    charge: 1n,
  },
  {
    name: "both dimensions are summed before the one division",
    usage: { input: 1, output: 1 },
    markupBps: 0,
    miner: 1n,
    charge: 1n,
  },
  {
    name: "the markup is 5 %",
    usage: { input: 2_000_000 },
    markupBps: 500,
    miner: 1_000_000n,
    charge: 1_050_000n,
  },
  { name: "nothing used costs nothing", usage: {}, markupBps: 500, miner: 0n, charge: 0n },
]) {
  test(`minerAmountOf() and chargeOf(): ${name}`, () => {
    const price: Price = { input: 500_000n, output: 500_000n };
    assert.equal(minerAmountOf(usage, price), miner);
    assert.equal(chargeOf(usage, price, markupBps), charge);
  });
}

test("usage in a dimension that is not for sale has no price", () => {
  assert.equal(minerAmountOf({ audio_output: 1 }, { input: 1n }), undefined);
  assert.equal(chargeOf({ audio_output: 1 }, { input: 1n }, 0), undefined);
});

test("the charge is never less than the miner's amount, and at most the exact price plus one nano-USD", () => {
  fc.assert(
    fc.property(usageArbitrary, priceArbitrary, fc.nat(2_000), (usage, price, markupBps) => {
      const charge = chargeOf(usage, price, markupBps) ?? 0n;
      assert((minerAmountOf(usage, price) ?? 0n) <= charge);
      let exact = 0n;
      for (const d of DIMENSIONS)
        exact += BigInt(usage[d] ?? 0) * (price[d] ?? 0n) * BigInt(10_000 + markupBps);
      assert(charge * 10n ** 10n >= exact && charge * 10n ** 10n < exact + 10n ** 10n);
    }),
  );
});

test("discounted() rounds every dimension down", () => {
  assert.deepEqual(discounted({ input: 999n, output: 10_000n }, 1_000), {
    input: 899n,
    output: 9_000n,
  });
});

test("prices and usage survive JSON, and malformed ones are refused", () => {
  fc.assert(
    fc.property(priceArbitrary, usageArbitrary, (price, usage) => {
      assert.deepEqual(priceFromJson(JSON.parse(JSON.stringify(priceToJson(price)))), { ...price });
      assert.deepEqual(usageFromJson(JSON.parse(JSON.stringify(usage))), { ...usage });
    }),
  );
  for (const bad of [
    null,
    [],
    "x",
    { input: 1 },
    { input: "-1" },
    { input: "1.5" },
    { tokens: "1" },
    { input: "9".repeat(19) },
  ]) {
    assert.equal(priceFromJson(bad), undefined);
  }
  for (const bad of [
    null,
    [],
    { input: -1 },
    { input: 1.5 },
    { input: "1" },
    { tokens: 1 },
    { input: 1e10 },
  ]) {
    assert.equal(usageFromJson(bad), undefined);
  }
});

test("totals put every dimension on one side", () => {
  const all = Object.fromEntries(DIMENSIONS.map((d, i) => [d, 10 ** i])) as Usage;
  assert.equal(inputTokensOf(all) + outputTokensOf(all), 1_111_111_111);
  assert.equal(outputTokensOf({ output: 1, reasoning: 2, input: 4 }), 3);
});
