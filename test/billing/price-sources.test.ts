/**
 * The answers here follow the documentation of each interface, with TAO in place of its example:
 * https://docs.kraken.com/api/docs/rest-api/get-ticker-information, https://docs.coingecko.com/reference/simple-price,
 * https://github.com/binance/binance-spot-api-docs/blob/master/rest-api.md#symbol-price-ticker and
 * https://mexcdevelop.github.io/apidocs/spot_v3_en/#symbol-price-ticker, which is the same format.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { PRICE_SOURCES, type PriceSource } from "../../src/billing/price-sources.ts";

const KRAKEN = `{"error":[],"result":{"TAOUSD":{"a":["412.51000","3","3.000"],"b":["412.30000","1","1.000"],"c":["412.34000","0.67643000"],"v":["4083.67001100","4412.73601799"],"p":["410.77771","409.89132"],"t":[3461,3890],"l":["398.68300","398.68300"],"h":["416.31000","416.31000"],"o":"402.80000"}}}`;
const COINGECKO = `{"bittensor":{"usd":412.345678901,"last_updated_at":1785492001}}`;
const MEXC = `{"symbol":"TAOUSDT","price":"412.4"}`;
const BINANCE = `{"symbol":"TAOUSDT","price":"412.30000000"}`;

/** What could make another JSON text of an answer. */
const LETTERS = Array.from('019.e-+[]{},:"nx');

function source(name: string): PriceSource {
  const found = PRICE_SOURCES.find((one) => one.name === name);
  assert.ok(found !== undefined, name);
  return found;
}

for (const { name, answer, expected } of [
  { name: "kraken", answer: KRAKEN, expected: { nanoUsdPerTao: 412_340_000_000n } },
  {
    name: "coingecko",
    answer: COINGECKO,
    expected: { nanoUsdPerTao: 412_345_678_901n, sourceMs: 1_785_492_001_000 },
  },
  { name: "mexc", answer: MEXC, expected: { nanoUsdPerTao: 412_400_000_000n } },
  { name: "binance", answer: BINANCE, expected: { nanoUsdPerTao: 412_300_000_000n } },
]) {
  test(`the ${name} adapter reads an answer as documented`, () => {
    assert.deepEqual(source(name).read(answer), expected);
  });

  test(`the ${name} adapter refuses an answer that is cut short or has other bytes, or gives a price`, () => {
    for (let length = 0; length < answer.length; length += 1)
      assert.throws(() => source(name).read(answer.slice(0, length)), `${length} characters`);
    const mutation = fc.tuple(fc.nat(answer.length - 1), fc.constantFrom(...LETTERS));
    let refused = 0;
    let read = 0;
    fc.assert(
      fc.property(mutation, ([at, letter]) => {
        const changed = answer.slice(0, at) + letter + answer.slice(at + 1);
        try {
          const { nanoUsdPerTao } = source(name).read(changed);
          assert.ok(nanoUsdPerTao > 0n && nanoUsdPerTao <= 10n ** 15n);
          read += 1;
        } catch (error) {
          assert.ok(error instanceof Error && !(error instanceof assert.AssertionError));
          refused += 1;
        }
      }),
      { numRuns: 300 },
    );
    assert.ok(refused > 10 && read > 0, `${refused} refused, ${read} read`);
  });
}

test("the coingecko adapter keeps digits that a double does not have", () => {
  const answer = `{"bittensor":{"usd":999999.123456789,"last_updated_at":1785492001}}`;
  assert.equal(source("coingecko").read(answer).nanoUsdPerTao, 999_999_123_456_789n);
  const long = `{"bittensor":{"usd":100000.000000001,"last_updated_at":1785492001}}`;
  assert.equal(source("coingecko").read(long).nanoUsdPerTao, 100_000_000_000_001n);
});

for (const { name, what, answer } of [
  { name: "kraken", what: "an error", answer: `{"error":["EQuery:Unknown asset pair"]}` },
  {
    name: "kraken",
    what: "an error beside a price",
    answer: KRAKEN.replace("[]", `["EService:Unavailable"]`),
  },
  { name: "kraken", what: "no pair", answer: `{"error":[],"result":{}}` },
  {
    name: "kraken",
    what: "two pairs",
    answer: `{"error":[],"result":{"A":{"c":["1","1"]},"B":{"c":["2","1"]}}}`,
  },
  { name: "kraken", what: "no last trade", answer: `{"error":[],"result":{"TAOUSD":{"c":[]}}}` },
  { name: "coingecko", what: "an unknown coin", answer: "{}" },
  { name: "coingecko", what: "no price", answer: `{"bittensor":{}}` },
  {
    name: "coingecko",
    what: "a price that is null",
    answer: `{"bittensor":{"usd":null,"last_updated_at":1785492001}}`,
  },
  {
    name: "coingecko",
    what: "an exponent",
    answer: `{"bittensor":{"usd":4.1e2,"last_updated_at":1785492001}}`,
  },
  { name: "coingecko", what: "no time", answer: `{"bittensor":{"usd":412.3}}` },
  {
    name: "coingecko",
    what: "its rate limit",
    answer: `{"status":{"error_code":429,"error_message":"You've exceeded the Rate Limit."}}`,
  },
  { name: "mexc", what: "an error", answer: `{"code":-1121,"msg":"Invalid symbol."}` },
  { name: "binance", what: "another pair", answer: `{"symbol":"TAOBTC","price":"0.00412"}` },
  { name: "binance", what: "zero", answer: `{"symbol":"TAOUSDT","price":"0.00000000"}` },
  { name: "binance", what: "a negative price", answer: `{"symbol":"TAOUSDT","price":"-1.0"}` },
  {
    name: "binance",
    what: "more than a million dollars",
    answer: `{"symbol":"TAOUSDT","price":"1000000.1"}`,
  },
  { name: "binance", what: "a page", answer: "<html></html>" },
  { name: "binance", what: "deep nesting", answer: "[".repeat(10_000) },
]) {
  test(`the ${name} adapter refuses ${what}`, () => {
    assert.throws(() => source(name).read(answer), Error);
  });
}

test("every source is asked over HTTPS, and two pairs are in dollars", () => {
  assert.ok(PRICE_SOURCES.every(({ url }) => url.startsWith("https://")));
  assert.equal(PRICE_SOURCES.filter(({ quote }) => quote === "USD").length, 2);
  assert.equal(new Set(PRICE_SOURCES.map(({ name }) => name)).size, 4);
});
