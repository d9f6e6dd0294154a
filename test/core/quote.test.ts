import assert from "node:assert/strict";
import { test } from "node:test";
import { MODELS, modelOf } from "../../src/core/models.ts";
import { discounted, type Price, priceToJson } from "../../src/core/pricing.ts";
import {
  type PriceQuote,
  parseQuote,
  quoteChangeRefusalOf,
  quoteRefusalOf,
} from "../../src/core/quote.ts";

const retail: Price = { input: 1_000_000n, output: 8_000_000n };
const text = JSON.stringify({
  v: 1,
  hk: "5GrwvaEF5zXb26Fz9rcQpDWS57CtERHpNehXCPcNoHGKutQY",
  ek: "e".repeat(43),
  prod: "openai/gpt-5-mini",
  route: "direct",
  price: priceToJson(discounted(retail, 2_000)),
  cap: { rpm: 600, tpm: 1_000_000, inflight: 64 },
  nbf: 1_000,
  exp: 4_600,
  seq: 3,
  min_payout_bps: 0,
});
const quote = parseQuote(text);
assert(quote !== undefined);

test("parseQuote() refuses a quote with any one member missing or of another type", () => {
  const json = JSON.parse(text) as Record<string, unknown>;
  for (const key of Object.keys(json)) {
    assert.equal(parseQuote(JSON.stringify({ ...json, [key]: undefined })), undefined, key);
    assert.equal(parseQuote(JSON.stringify({ ...json, [key]: ["x"] })), undefined, key);
  }
  assert.equal(parseQuote("{"), undefined);
  assert.equal(parseQuote(text.padEnd(2_001)), undefined);
});

for (const { name, change, at = 2_000, refusal } of [
  { name: "valid at its first second", change: {}, at: 1_000, refusal: undefined },
  { name: "valid at its last second", change: {}, at: 4_600, refusal: undefined },
  { name: "not valid before", change: {}, at: 999, refusal: "not_yet_valid" },
  { name: "not valid after", change: {}, at: 4_601, refusal: "expired" },
  { name: "not for longer than an hour", change: { exp: 4_601 }, refusal: "lives_too_long" },
  {
    name: "not above retail",
    change: { price: { input: 1_000_001n, output: 8_000_000n } },
    refusal: "above_retail",
  },
  { name: "exactly at retail", change: { price: retail }, refusal: undefined },
  {
    name: "at one thousandth of retail",
    change: { price: { input: 1_000n, output: 8_000n } },
    refusal: undefined,
  },
  {
    name: "not below one thousandth",
    change: { price: { input: 999n, output: 8_000n } },
    refusal: "below_minimum",
  },
  {
    name: "not without a dimension",
    change: { price: { input: 1_000n } },
    refusal: "missing_dimension",
  },
  {
    name: "not with a dimension that has no retail price",
    change: { price: { ...retail, audio_input: 1n } },
    refusal: "above_retail",
  },
] satisfies {
  name: string;
  change: Partial<PriceQuote>;
  at?: number;
  refusal: string | undefined;
}[]) {
  test(`a quote is ${name}`, () => {
    assert.equal(quoteRefusalOf({ ...quote, ...change }, retail, at), refusal);
  });
}

test("a price may change at most every minute, by half within ten minutes, with a rising sequence", () => {
  const at = (nbf: number, seq: number, input: bigint): PriceQuote => ({
    ...quote,
    nbf,
    seq,
    price: { input, output: 8_000_000n },
  });
  const first = at(1_000, 3, 800_000n);
  assert.equal(
    quoteChangeRefusalOf(at(1_001, 4, 800_000n), [first]),
    undefined,
    "renewal at the same price",
  );
  assert.equal(quoteChangeRefusalOf(at(1_001, 3, 800_000n), [first]), "sequence_not_rising");
  assert.equal(quoteChangeRefusalOf(at(1_059, 4, 700_000n), [first]), "changed_too_soon");
  assert.equal(quoteChangeRefusalOf(at(1_060, 4, 700_000n), [first]), undefined);
  assert.equal(quoteChangeRefusalOf(at(1_060, 4, 399_999n), [first]), "changed_too_much");
  const second = at(1_100, 4, 500_000n);
  assert.equal(
    quoteChangeRefusalOf(at(1_200, 5, 300_000n), [first, second]),
    "changed_too_much",
    "measured against both",
  );
  assert.equal(
    quoteChangeRefusalOf(at(1_700, 5, 300_000n), [first, second]),
    "changed_too_much",
    "the first was in force until 1100",
  );
  assert.equal(quoteChangeRefusalOf(at(1_701, 5, 300_000n), [first, second]), undefined);
  assert.equal(
    quoteChangeRefusalOf(at(4_000, 4, 300_000n), [first]),
    "changed_too_much",
    "in force for the whole of the last ten minutes",
  );
});

test("every model is found by its id and by its bare name, and every price is positive", () => {
  for (const model of MODELS) {
    assert.equal(modelOf(model.id), model);
    assert.equal(modelOf(model.id.split("/")[1] ?? ""), model);
    for (const price of Object.values(model.retail)) assert(price > 0n);
    assert(
      model.retail.input !== undefined &&
        model.retail.output !== undefined &&
        model.retail.reasoning !== undefined,
    );
  }
  assert.equal(new Set(MODELS.map((m) => m.id)).size, MODELS.length);
});
