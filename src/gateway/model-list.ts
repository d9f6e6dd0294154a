import { type Model, slugOf } from "../core/models.ts";
import type { Dimension, Price } from "../core/pricing.ts";
import type { Surface } from "../core/surface.ts";

/** A model and what it costs now. */
export interface ListedModel {
  readonly model: Model;
  /** Price of the cheapest miner that serves it now; undefined when none does, and then retail is shown. */
  readonly price: Price | undefined;
  /** Miners that serve it now. */
  readonly miners: number;
}

/** Parameters that pass to the upstream of each surface, in OpenRouter's words. */
const SUPPORTED_PARAMETERS: Readonly<Record<Surface, readonly string[]>> = {
  chat: [
    "temperature",
    "top_p",
    "frequency_penalty",
    "presence_penalty",
    "logit_bias",
    "logprobs",
    "top_logprobs",
    "max_tokens",
    "max_completion_tokens",
    "seed",
    "stop",
    "response_format",
    "structured_outputs",
    "tools",
    "tool_choice",
    "parallel_tool_calls",
    "reasoning_effort",
    "verbosity",
  ],
  messages: ["temperature", "top_p", "top_k", "max_tokens", "stop", "tools", "tool_choice"],
};

/** OpenRouter's names of the priced dimensions. */
const PRICING_NAMES: readonly (readonly [string, Dimension])[] = [
  ["prompt", "input"],
  ["completion", "output"],
  ["input_cache_read", "cache_read"],
  ["input_cache_write", "cache_write_5m"],
  ["input_cache_write_1h", "cache_write_1h"],
  ["internal_reasoning", "reasoning"],
  ["audio", "audio_input"],
  ["audio_output", "audio_output"],
  ["image_token", "image_input"],
  ["image_output", "image_output"],
];

/** Names of the surfaces in model lists of other gateways. */
const API_SHAPES: Readonly<Record<Surface, string>> = {
  chat: "chat.completions",
  messages: "messages",
};

/**
 * The body of `GET /models`: what OpenRouter's client requires of a model, with the fields of OpenAI's list beside it.
 *
 * @param markupBps what customers pay on top of a miner's price, basis points; it is part of the prices shown.
 */
export function modelList(listed: readonly ListedModel[], markupBps: number) {
  return {
    object: "list" as const,
    data: listed.map((entry) => modelJson(entry, markupBps)),
    total_count: listed.length,
    links: { next: null },
  };
}

function modelJson({ model, price, miners }: ListedModel, markupBps: number) {
  const [author = ""] = model.id.split("/");
  return {
    id: model.id,
    object: "model" as const,
    owned_by: author,
    canonical_slug: model.id,
    hugging_face_id: null,
    name: model.name,
    created: model.createdSeconds,
    description: `${model.name}, served on ${API_SHAPES[model.surface]} as ${slugOf(model)}.`,
    context_length: model.contextTokens,
    architecture: {
      modality: `${model.inputModalities.join("+")}->text`,
      input_modalities: model.inputModalities,
      output_modalities: ["text"],
      tokenizer: "Other",
      instruct_type: null,
    },
    pricing: pricingJson(price ?? model.retail, markupBps),
    top_provider: {
      context_length: model.contextTokens,
      max_completion_tokens: model.outputTokensMax,
      is_moderated: false,
    },
    per_request_limits: null,
    supported_parameters: SUPPORTED_PARAMETERS[model.surface],
    default_parameters: null,
    supported_voices: null,
    knowledge_cutoff: null,
    expiration_date: null,
    links: { details: `/api/v1/models/${model.id}/endpoints` },
    api_shapes: [API_SHAPES[model.surface]],
    available: miners > 0,
    miners,
  };
}

function pricingJson(price: Price, markupBps: number): Readonly<Record<string, string>> {
  const pricing: Record<string, string> = { request: "0" };
  for (const [name, dimension] of PRICING_NAMES) {
    const perMtok = price[dimension];
    if (perMtok !== undefined) pricing[name] = usdPerTokenOf(perMtok, markupBps);
  }
  return pricing;
}

/** 10⁹ nano-USD × 10⁶ tokens × 10⁴ basis points. */
const USD_PER_TOKEN_DIGITS = 19;

/** What a customer pays for one token, in USD, as an exact decimal. */
export function usdPerTokenOf(nanoUsdPerMtok: bigint, markupBps: number): string {
  const scaled = nanoUsdPerMtok * BigInt(10_000 + markupBps);
  const digits = scaled.toString().padStart(USD_PER_TOKEN_DIGITS + 1, "0");
  const whole = digits.slice(0, -USD_PER_TOKEN_DIGITS);
  const fraction = digits.slice(-USD_PER_TOKEN_DIGITS).replace(/0+$/, "");
  return fraction === "" ? whole : `${whole}.${fraction}`;
}
