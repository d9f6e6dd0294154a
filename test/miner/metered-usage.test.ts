import assert from "node:assert/strict";
import { test } from "node:test";
import { outputTokensOf, type Usage } from "../../src/core/pricing.ts";
import { meteredUsage } from "../../src/miner/metered-usage.ts";

for (const { name, usage, complete, events, bytes, expected, src } of [
  {
    name: "takes what the upstream reported of a complete answer",
    usage: { input: 10, output: 20, reasoning: 5 },
    complete: true,
    events: 90,
    bytes: 900,
    expected: { input: 10, output: 20, reasoning: 5 },
    src: "provider",
  },
  {
    name: "caps what the upstream reported above the grant, plain output first",
    usage: { input: 10, output: 90, reasoning: 50 },
    complete: true,
    events: 0,
    bytes: 0,
    expected: { input: 10, reasoning: 50, output: 50 },
    src: "provider",
  },
  {
    name: "caps reasoning when that alone is above the grant",
    usage: { output: 90, reasoning: 150 },
    complete: true,
    events: 0,
    bytes: 0,
    expected: { reasoning: 100 },
    src: "provider",
  },
  {
    name: "counts a complete answer without usage",
    usage: undefined,
    complete: true,
    events: 1,
    bytes: 41,
    expected: { input: 25, output: 11 },
    src: "counted",
  },
  {
    name: "counts events when they are more than a quarter of the bytes",
    usage: undefined,
    complete: false,
    events: 12,
    bytes: 41,
    expected: { input: 25, output: 12 },
    src: "counted",
  },
  {
    name: "keeps the reported input of a cut answer and counts its output",
    usage: { input: 10, cache_read: 7, output: 1 },
    complete: false,
    events: 3,
    bytes: 80,
    expected: { input: 10, cache_read: 7, output: 20 },
    src: "counted",
  },
  {
    name: "keeps a reported output above the count",
    usage: { input: 10, output: 30, reasoning: 4 },
    complete: false,
    events: 3,
    bytes: 8,
    expected: { input: 10, output: 30, reasoning: 4 },
    src: "counted",
  },
  {
    name: "caps the count at the grant",
    usage: undefined,
    complete: false,
    events: 5_000,
    bytes: 0,
    expected: { input: 25, output: 100 },
    src: "counted",
  },
  {
    name: "claims the input alone when nothing came",
    usage: undefined,
    complete: false,
    events: 0,
    bytes: 0,
    expected: { input: 25 },
    src: "counted",
  },
] as const) {
  test(`meteredUsage() ${name}`, () => {
    const metered = { complete, contentEvents: events, visibleBytes: bytes };
    const given: Usage | undefined = usage;
    const result = meteredUsage(
      given === undefined ? metered : { ...metered, usage: given },
      99,
      100,
    );
    assert.deepEqual(result, { use: expected, src });
    assert(outputTokensOf(result.use) <= 100);
  });
}
