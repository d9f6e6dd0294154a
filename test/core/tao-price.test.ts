import assert from "node:assert/strict";
import { test } from "node:test";
import { allowsFixedPrice, parseFixedPrice, parseTaoPrice } from "../../src/core/tao-price.ts";

const FINNEY = "0x2f0555cc76fc2840a25a6ea3b9637146806f1f44b090c175ffde2a7e5ab36c03";

for (const [text, expected] of [
  ["fixed:400.00", 400_000_000_000n],
  ["fixed:0.000000001", 1n],
  ["fixed:1000000", 1_000_000_000_000_000n],
  ["400", undefined],
  ["fixed:", undefined],
  ["fixed:0", undefined],
  ["fixed:-1", undefined],
  ["fixed:1e3", undefined],
  ["fixed:0.0000000001", undefined],
  ["fixed:1000000.1", undefined],
  ["exchanges", undefined],
] as const) {
  test(`parseFixedPrice() gives ${expected} for ${JSON.stringify(text)}`, () => {
    assert.equal(parseFixedPrice(text), expected);
  });
}

test("parseTaoPrice() takes a decimal without a prefix", () => {
  assert.equal(parseTaoPrice("412.345678901"), 412_345_678_901n);
  assert.equal(parseTaoPrice("fixed:412"), undefined);
});

test("allowsFixedPrice() refuses Bittensor's main network alone", () => {
  assert.equal(allowsFixedPrice(FINNEY), false);
  assert.equal(allowsFixedPrice(`0x${FINNEY.slice(2).toUpperCase()}`), false);
  assert.equal(allowsFixedPrice(`0x${"11".repeat(32)}`), true);
});
