import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import {
  ceilDiv,
  formatNano,
  nanoUsd,
  nanoUsdOfRao,
  parseNano,
  rao,
} from "../../src/core/money.ts";

for (const [text, nano] of [
  ["0", 0n],
  ["400", 400_000_000_000n],
  ["0.000000001", 1n],
  ["1.5", 1_500_000_000n],
  ["999999999999999999.999999999", 999_999_999_999_999_999_999_999_999n],
] as const) {
  test(`parseNano() and formatNano() agree on ${text}`, () => {
    assert.equal(parseNano(text), nano);
    assert.equal(formatNano(nano), text);
  });
}

for (const text of [
  "",
  "-1",
  "+1",
  "1e9",
  "1.",
  ".5",
  "0.0000000001",
  " 1",
  "1 ",
  "0x10",
  "1234567890123456789",
  "NaN",
]) {
  test(`parseNano() refuses ${JSON.stringify(text)}`, () => {
    assert.equal(parseNano(text), undefined);
  });
}

test("formatNano() is undone by parseNano() for every amount", () => {
  fc.assert(
    fc.property(fc.bigInt(0n, 10n ** 26n), (n) => {
      assert.equal(parseNano(formatNano(n)), n);
    }),
  );
});

test("formatNano() keeps the sign", () => {
  assert.equal(formatNano(-1n), "-0.000000001");
});

test("ceilDiv() rounds up and only up", () => {
  assert.equal(ceilDiv(0n, 3n), 0n);
  assert.equal(ceilDiv(6n, 3n), 2n);
  assert.equal(ceilDiv(7n, 3n), 3n);
});

test("money cannot be negative", () => {
  assert.throws(() => nanoUsd(-1n));
  assert.throws(() => rao(-1n));
  assert.throws(() => ceilDiv(-1n, 2n));
});

test("nanoUsdOfRao() rounds down: 1 rao at 399.999999999 USD per TAO is 399 nano-USD", () => {
  assert.equal(nanoUsdOfRao(rao(1n), 399_999_999_999n), 399n);
  assert.equal(nanoUsdOfRao(rao(1_000_000_000n), 400_000_000_000n), 400_000_000_000n);
});
