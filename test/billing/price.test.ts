import assert from "node:assert/strict";
import { test } from "node:test";
import { fixedRate } from "../../src/billing/price.ts";
import { ConfigError } from "../../src/runtime/settings.ts";

const LOCAL = `0x${"11".repeat(32)}`;
const FINNEY = "0x2f0555cc76fc2840a25a6ea3b9637146806f1f44b090c175ffde2a7e5ab36c03";

test("fixedRate() gives nano-USD per TAO at any time", () => {
  assert.equal(fixedRate("fixed:400.00", LOCAL)(0), 400_000_000_000n);
  assert.equal(fixedRate("fixed:0.000000001", LOCAL)(Date.now()), 1n);
  assert.equal(fixedRate("fixed:1000000", LOCAL)(0), 1_000_000_000_000_000n);
});

for (const text of [
  "400",
  "fixed:",
  "fixed:0",
  "fixed:-1",
  "fixed:1e3",
  "fixed:1000000.1",
  "kraken",
]) {
  test(`fixedRate() refuses ${JSON.stringify(text)}`, () => {
    assert.throws(() => fixedRate(text, LOCAL), ConfigError);
  });
}

test("fixedRate() refuses Bittensor's main network", () => {
  assert.throws(() => fixedRate("fixed:400", FINNEY), ConfigError);
});
