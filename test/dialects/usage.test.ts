import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { inputTokensOf, outputTokensOf } from "../../src/core/pricing.ts";
import type { Surface } from "../../src/core/surface.ts";
import { asSold, usageOf } from "../../src/dialects/usage.ts";

for (const { name, surface, usage, expected } of [
  {
    name: "takes cached input and reasoning out of OpenAI's totals",
    surface: "chat",
    usage: {
      prompt_tokens: 2006,
      completion_tokens: 300,
      total_tokens: 2306,
      prompt_tokens_details: { cached_tokens: 1920, audio_tokens: 0 },
      completion_tokens_details: {
        reasoning_tokens: 256,
        audio_tokens: 0,
        accepted_prediction_tokens: 0,
        rejected_prediction_tokens: 0,
      },
    },
    expected: { input: 86, cache_read: 1920, output: 44, reasoning: 256 },
  },
  {
    name: "reads a chat without details",
    surface: "chat",
    usage: { prompt_tokens: 5, completion_tokens: 2, total_tokens: 7 },
    expected: { input: 5, output: 2 },
  },
  {
    name: "reads null details",
    surface: "chat",
    usage: {
      prompt_tokens: 5,
      completion_tokens: 0,
      prompt_tokens_details: null,
      completion_tokens_details: { reasoning_tokens: null },
    },
    expected: { input: 5 },
  },
  {
    name: "splits audio, images and cache writes of a chat",
    surface: "chat",
    usage: {
      prompt_tokens: 100,
      completion_tokens: 50,
      prompt_tokens_details: {
        cached_tokens: 10,
        cache_write_tokens: 20,
        audio_tokens: 30,
        image_tokens: 15,
      },
      completion_tokens_details: { audio_tokens: 40 },
    },
    expected: {
      input: 25,
      cache_read: 10,
      cache_write_5m: 20,
      audio_input: 30,
      image_input: 15,
      output: 10,
      audio_output: 40,
    },
  },
  {
    name: "adds nothing to Anthropic's separate counts",
    surface: "messages",
    usage: {
      input_tokens: 3,
      cache_read_input_tokens: 1_000,
      cache_creation_input_tokens: 300,
      cache_creation: { ephemeral_5m_input_tokens: 100, ephemeral_1h_input_tokens: 200 },
      output_tokens: 7,
      service_tier: "standard",
    },
    expected: {
      input: 3,
      cache_read: 1_000,
      cache_write_5m: 100,
      cache_write_1h: 200,
      output: 7,
    },
  },
  {
    name: "takes cache writes without a split for the short kind",
    surface: "messages",
    usage: { input_tokens: 3, cache_creation_input_tokens: 300, output_tokens: 7 },
    expected: { input: 3, cache_write_5m: 300, output: 7 },
  },
  {
    name: "reads Anthropic's nulls",
    surface: "messages",
    usage: {
      input_tokens: 3,
      output_tokens: 0,
      cache_read_input_tokens: null,
      cache_creation: null,
    },
    expected: { input: 3 },
  },
  { name: "needs totals", surface: "chat", usage: { prompt_tokens: 5 }, expected: undefined },
  { name: "needs totals", surface: "messages", usage: { output_tokens: 5 }, expected: undefined },
  {
    name: "refuses parts larger than their total",
    surface: "chat",
    usage: {
      prompt_tokens: 5,
      completion_tokens: 2,
      prompt_tokens_details: { cached_tokens: 6 },
    },
    expected: undefined,
  },
  {
    name: "refuses negative counts",
    surface: "chat",
    usage: { prompt_tokens: -5, completion_tokens: 2 },
    expected: undefined,
  },
  {
    name: "refuses fractions",
    surface: "messages",
    usage: { input_tokens: 1.5, output_tokens: 2 },
    expected: undefined,
  },
  {
    name: "refuses texts",
    surface: "messages",
    usage: { input_tokens: "1", output_tokens: 2 },
    expected: undefined,
  },
  { name: "refuses null", surface: "chat", usage: null, expected: undefined },
  { name: "refuses a list", surface: "chat", usage: [], expected: undefined },
  {
    name: "refuses details that are no object",
    surface: "chat",
    usage: { prompt_tokens: 5, completion_tokens: 2, prompt_tokens_details: 1 },
    expected: undefined,
  },
] as const satisfies readonly { surface: Surface; [key: string]: unknown }[]) {
  test(`usageOf(${surface}) ${name}`, () => {
    assert.deepEqual(usageOf(surface, usage), expected);
  });
}

test("usageOf() loses no token and invents none", () => {
  const count = fc.nat(1_000);
  fc.assert(
    fc.property(
      fc.record({ cached: count, audio: count, plain: count, reasoning: count, text: count }),
      ({ cached, audio, plain, reasoning, text }) => {
        const usage = usageOf("chat", {
          prompt_tokens: cached + audio + plain,
          completion_tokens: reasoning + text,
          prompt_tokens_details: { cached_tokens: cached, audio_tokens: audio },
          completion_tokens_details: { reasoning_tokens: reasoning },
        });
        assert(usage !== undefined);
        assert.equal(inputTokensOf(usage), cached + audio + plain);
        assert.equal(outputTokensOf(usage), reasoning + text);
        const sold = asSold(usage, { input: 1n, output: 1n });
        assert.equal(sold.input ?? 0, cached + audio + plain);
        assert.equal(sold.output ?? 0, reasoning + text);
      },
    ),
  );
});

test("asSold() folds only what has no price of its own", () => {
  const usage = { input: 1, cache_read: 2, cache_write_1h: 4, output: 8, reasoning: 16 };
  assert.deepEqual(asSold(usage, { input: 1n, cache_read: 1n, output: 1n }), {
    input: 5,
    cache_read: 2,
    output: 24,
  });
});
