import assert from "node:assert/strict";
import { test } from "node:test";
import {
  nanoUsdPerMtokOf,
  PROVIDER_NAMES_MAX,
  parseProviderPreferences,
} from "../../src/dialects/provider-preferences.ts";

test("parseProviderPreferences() reads every preference", () => {
  const verdict = parseProviderPreferences({
    order: ["a", "b"],
    only: ["a"],
    ignore: ["c"],
    allow_fallbacks: false,
    sort: { by: "latency", partition: "none" },
    max_price: { prompt: "0.5", completion: 2, request: 0 },
    require_parameters: true,
    data_collection: "allow",
    zdr: false,
    preferred_max_latency: { p50: 1 },
    preferred_min_throughput: 20,
    enforce_distillable_text: false,
    quantizations: [],
  });
  assert(verdict.ok);
  assert.deepEqual(verdict.preferences, {
    order: ["a", "b"],
    only: ["a"],
    ignore: ["c"],
    allowFallbacks: false,
    sort: "latency",
    maxPrice: { prompt: 500_000_000n, completion: 2_000_000_000n },
  });
});

test("parseProviderPreferences() takes null and empty lists for absent", () => {
  const verdict = parseProviderPreferences({ order: [], only: null, sort: null, max_price: null });
  assert(verdict.ok);
  assert.deepEqual(verdict.preferences, { allowFallbacks: true });
  assert.deepEqual(parseProviderPreferences(null), {
    ok: true,
    preferences: { allowFallbacks: true },
  });
});

for (const { json, expected } of [
  { json: [], expected: "invalid_request provider" },
  { json: "x", expected: "invalid_request provider" },
  { json: { order: "a" }, expected: "invalid_request provider.order" },
  { json: { only: [1] }, expected: "invalid_request provider.only" },
  { json: { ignore: ["a".repeat(101)] }, expected: "invalid_request provider.ignore" },
  {
    json: { order: Array.from({ length: PROVIDER_NAMES_MAX + 1 }, () => "a") },
    expected: "invalid_request provider.order",
  },
  { json: { allow_fallbacks: "no" }, expected: "invalid_request provider.allow_fallbacks" },
  { json: { sort: "exacto" }, expected: "invalid_request provider.sort" },
  { json: { sort: { by: "price", x: 1 } }, expected: "invalid_request provider.sort" },
  { json: { max_price: 3 }, expected: "invalid_request provider.max_price" },
  { json: { max_price: { prompt: -1 } }, expected: "invalid_request provider.max_price" },
  { json: { max_price: { prompt: "free" } }, expected: "invalid_request provider.max_price" },
  { json: { max_price: { image: 1 } }, expected: "unsupported_parameter provider.max_price" },
  { json: { zdr: true }, expected: "unsupported_parameter provider.zdr" },
  { json: { zdr: 1 }, expected: "invalid_request provider.zdr" },
  { json: { data_collection: "deny" }, expected: "unsupported_parameter provider.data_collection" },
  { json: { data_collection: "x" }, expected: "invalid_request provider.data_collection" },
  { json: { quantizations: ["fp8"] }, expected: "unsupported_parameter provider.quantizations" },
  {
    json: { enforce_distillable_text: true },
    expected: "unsupported_parameter provider.enforce_distillable_text",
  },
  { json: { require_parameters: "x" }, expected: "invalid_request provider.require_parameters" },
  { json: { nonsense: 1 }, expected: "unsupported_parameter provider.nonsense" },
  {
    json: JSON.parse('{"__proto__":{"a":1}}') as unknown,
    expected: "unsupported_parameter provider.__proto__",
  },
  { json: { constructor: 1 }, expected: "unsupported_parameter provider.constructor" },
]) {
  test(`parseProviderPreferences() refuses ${JSON.stringify(json).slice(0, 60)}`, () => {
    const verdict = parseProviderPreferences(json);
    assert.equal(verdict.ok ? "accepted" : `${verdict.code} ${verdict.param}`, expected);
  });
}

for (const { price, expected } of [
  { price: "3", expected: 3_000_000_000n },
  { price: 0.15, expected: 150_000_000n },
  { price: "0.0000000019", expected: 1n },
  { price: 1e-7, expected: 100n },
  { price: "1e3", expected: 1_000_000_000_000n },
  { price: 1e21, expected: undefined },
  { price: "", expected: undefined },
  { price: " 1", expected: undefined },
  { price: "0x10", expected: undefined },
  { price: Number.NaN, expected: undefined },
  { price: Number.POSITIVE_INFINITY, expected: undefined },
  { price: null, expected: undefined },
]) {
  test(`nanoUsdPerMtokOf() reads ${JSON.stringify(price)} of type ${typeof price}`, () => {
    assert.equal(nanoUsdPerMtokOf(price), expected);
  });
}
