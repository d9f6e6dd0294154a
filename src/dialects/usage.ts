import type { Dimension, Price, Usage } from "../core/pricing.ts";
import { TOKENS_MAX } from "../core/pricing.ts";
import type { Surface } from "../core/surface.ts";

/**
 * The one place where a provider's usage object becomes token counts per priced dimension.
 *
 *   chat      `prompt_tokens` includes cached, cache-writing, audio and image input; `completion_tokens` includes reasoning
 *   messages  `input_tokens` excludes cache reads and writes; `cache_creation` splits writes by lifetime;
 *             `output_tokens` includes thinking, which is not reported apart
 *
 * Dimensions without tokens are absent from the result.
 *
 * @returns undefined if the object lacks its totals, or holds anything but counts that add up.
 */
export function usageOf(surface: Surface, usage: unknown): Usage | undefined {
  if (!isObject(usage)) return undefined;
  return surface === "chat" ? chatUsageOf(usage) : messagesUsageOf(usage);
}

/**
 * The same tokens in the dimensions that `price` sells: a class that a provider does not price apart is billed as plain
 * input or output.
 */
export function asSold(usage: Usage, price: Price): Usage {
  const sold: Partial<Record<Dimension, number>> = {};
  for (const [name, count] of Object.entries(usage) as [Dimension, number][]) {
    const dimension = price[name] === undefined ? PLAIN[name] : name;
    if (count > 0) sold[dimension] = (sold[dimension] ?? 0) + count;
  }
  return sold;
}

/** The dimension by which each one is billed when it has no price of its own. */
const PLAIN: Readonly<Record<Dimension, Dimension>> = {
  input: "input",
  cache_read: "input",
  cache_write_5m: "input",
  cache_write_1h: "input",
  audio_input: "input",
  image_input: "input",
  output: "output",
  reasoning: "output",
  audio_output: "output",
  image_output: "output",
};

function chatUsageOf(usage: Readonly<Record<string, unknown>>): Usage | undefined {
  const prompt = detailsOf(usage["prompt_tokens_details"]);
  const completion = detailsOf(usage["completion_tokens_details"]);
  if (prompt === undefined || completion === undefined) return undefined;
  return build({
    total: [usage["prompt_tokens"], usage["completion_tokens"]],
    input: {
      cache_read: prompt["cached_tokens"],
      cache_write_5m: prompt["cache_write_tokens"],
      audio_input: prompt["audio_tokens"],
      image_input: prompt["image_tokens"],
    },
    output: {
      reasoning: completion["reasoning_tokens"],
      audio_output: completion["audio_tokens"],
      image_output: completion["image_tokens"],
    },
  });
}

/** Splits totals into their parts; what remains of a total is plain text. */
function build({
  total: [inputTotal, outputTotal],
  input,
  output,
}: {
  total: readonly [unknown, unknown];
  input: Partial<Record<Dimension, unknown>>;
  output: Partial<Record<Dimension, unknown>>;
}): Usage | undefined {
  const usage: Partial<Record<Dimension, number>> = {};
  for (const [plain, total, parts] of [
    ["input", inputTotal, input],
    ["output", outputTotal, output],
  ] as const) {
    if (!isCount(total)) return undefined;
    let rest = total;
    for (const [dimension, part] of Object.entries(parts)) {
      const count = part ?? 0;
      if (!isCount(count)) return undefined;
      rest -= count;
      if (count > 0) usage[dimension as Dimension] = count;
    }
    if (rest < 0) return undefined;
    if (rest > 0) usage[plain] = rest;
  }
  return usage;
}

function messagesUsageOf(usage: Readonly<Record<string, unknown>>): Usage | undefined {
  const split = detailsOf(usage["cache_creation"]);
  const counts = {
    input: usage["input_tokens"],
    cache_read: usage["cache_read_input_tokens"] ?? 0,
    written: usage["cache_creation_input_tokens"] ?? 0,
    cache_write_1h: split?.["ephemeral_1h_input_tokens"] ?? 0,
    short: split?.["ephemeral_5m_input_tokens"] ?? 0,
    output: usage["output_tokens"],
  };
  if (split === undefined || !Object.values(counts).every(isCount)) return undefined;
  const { written, short, ...rest } = counts as Record<keyof typeof counts, number>;
  // The total without a split, as older API versions send it, is all of the short lifetime.
  const cache_write_5m = Math.max(short, written - rest.cache_write_1h);
  const all = { ...rest, cache_write_5m };
  return Object.fromEntries(Object.entries(all).filter(([, count]) => count > 0));
}

/** An optional object of counts. @returns undefined if it is something else. */
function detailsOf(value: unknown): Readonly<Record<string, unknown>> | undefined {
  if (value === undefined || value === null) return {};
  return isObject(value) ? value : undefined;
}

function isObject(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function isCount(value: unknown): value is number {
  return Number.isSafeInteger(value) && (value as number) >= 0 && (value as number) <= TOKENS_MAX;
}
