import assert from "node:assert/strict";
import { test } from "node:test";
import { lowerMedianOf } from "../../src/core/median.ts";

for (const { name, values, expected } of [
  { name: "the middle one of three", values: [9n, 1n, 5n], expected: 5n },
  { name: "the lower of the middle two", values: [4n, 1n, 3n, 2n], expected: 2n },
  { name: "the only one", values: [7n], expected: 7n },
  { name: "nothing of nothing", values: [], expected: undefined },
  { name: "numeric order, not that of the digits", values: [100n, 20n, 3n], expected: 20n },
]) {
  test(`lowerMedianOf() gives ${name}`, () => assert.equal(lowerMedianOf(values), expected));
}
