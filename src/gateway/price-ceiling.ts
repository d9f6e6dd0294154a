import assert from "node:assert/strict";
import { ceilDiv, type NanoUsd, nanoUsd } from "../core/money.ts";
import type { Dimension, Price } from "../core/pricing.ts";

/** Size of a request, as far as its price depends on it. */
export interface RequestSize {
  readonly bodyBytes: number;
  readonly messages: number;
  readonly tools: number;
  /** Images, files, audio and server tools: their tokens do not follow from their bytes. */
  readonly attachments: number;
  /** Whether it may write a prompt cache, which costs more than plain input. */
  readonly cacheWrites: boolean;
  /** Alternative answers asked for. */
  readonly choices: number;
  /** The client's own bound on the output of one choice, tokens. */
  readonly maxOutputTokens?: number;
}

/** What a model allows, tokens. */
export interface ModelLimits {
  readonly contextTokens: number;
  readonly outputTokensMax: number;
}

/** Most output tokens per choice that are held for when the client gives no bound. */
export const IMPLICIT_OUTPUT_TOKENS_MAX = 16_384;
/** Fewest output tokens per choice that are worth serving. */
export const OUTPUT_TOKENS_FLOOR = 256;
/**
 * Bytes per token at which input is held for, times ten: the densest text that was measured, Amharic and base64. Prose has
 * three times as many, so most of such a hold comes back; a looser estimate would leave the miner with the difference.
 */
const HOLD_BYTES_PER_TEN_TOKENS = 14;
/** What chat templates and a provider's own instructions for tool use may add, tokens. */
const TEMPLATE_TOKENS = 1_024;
const TEMPLATE_TOKENS_PER_MESSAGE = 16;
/** A provider's built-in tool is named in a few bytes and described in hundreds of tokens. */
const TEMPLATE_TOKENS_PER_TOOL = 1_024;
/** What one image or file is held for, tokens. */
const ATTACHMENT_TOKENS = 2_000;

const TOKENS_PER_MTOK = 1_000_000n;
const BASIS_POINTS = 10_000n;
const INPUT_DIMENSIONS: readonly Dimension[] = ["input", "audio_input", "image_input"];
const CACHE_WRITE_DIMENSIONS: readonly Dimension[] = ["cache_write_5m", "cache_write_1h"];
const OUTPUT_DIMENSIONS: readonly Dimension[] = [
  "output",
  "reasoning",
  "audio_output",
  "image_output",
];

/**
 * The most input tokens that a receipt may claim.
 *
 * A byte-level tokenizer makes at most one token of a byte, so the bytes of the body, which are more than those of the
 * prompt, plus what a template adds, are a strict bound for text. For attachments there is no bound but the model's
 * context. It is not what is held: nobody's prompt has one token per byte. A receipt between the hold's estimate and this bound is settled, clipped to the hold.
 */
export function inputTokensMaxOf(size: RequestSize, limits: ModelLimits): number {
  if (size.attachments > 0) return Math.max(limits.contextTokens, size.bodyBytes);
  return size.bodyBytes + templateTokensOf(size);
}

/** What the input is expected to be at most, tokens: by the densest text there is, an amount per attachment, the template. */
export function inputTokensHeldOf(size: RequestSize, limits: ModelLimits): number {
  const estimate =
    Math.ceil((size.bodyBytes * 10) / HOLD_BYTES_PER_TEN_TOKENS) +
    size.attachments * ATTACHMENT_TOKENS +
    size.messages * TEMPLATE_TOKENS_PER_MESSAGE;
  return Math.min(estimate, limits.contextTokens);
}

function templateTokensOf({ messages, tools }: RequestSize): number {
  return (
    TEMPLATE_TOKENS + messages * TEMPLATE_TOKENS_PER_MESSAGE + tools * TEMPLATE_TOKENS_PER_TOOL
  );
}

/** A request that an account can pay for. */
export interface Ceiling {
  readonly ok: true;
  /** What to hold. */
  readonly hold: NanoUsd;
  /** Most output tokens of all choices together that are paid for. */
  readonly maxOutputTokens: number;
  /** Most output tokens of one choice. */
  readonly maxOutputTokensPerChoice: number;
  /** Most input tokens that a receipt may claim. */
  readonly inputTokensMax: number;
}

/** A request that it cannot pay for. */
export interface Unaffordable {
  readonly ok: false;
  readonly neededNusd: bigint;
  readonly availableNusd: bigint;
  /** The largest `max_tokens` that would be accepted now; 0 when the input alone is too dear. */
  readonly affordableMaxTokens: number;
}

/**
 * The most a request can cost, at the dearest of `prices`: any of those miners may end up serving it.
 *
 * An explicit output bound is held for in full (up to what the model can do). Without one the output is bounded by the
 * smallest of the model's maximum, IMPLICIT_OUTPUT_TOKENS_MAX and what the account can pay, but not below
 * OUTPUT_TOKENS_FLOOR: an account with cents is not refused a "hello" because the model could write a book.
 *
 * @param prices of the miners that may serve it; at least one.
 * @param available what the account can spend, nano-USD; undefined when that is not known yet.
 */
export function priceCeilingOf(
  size: RequestSize,
  limits: ModelLimits,
  prices: readonly Price[],
  markupBps: number,
  available: bigint | undefined,
): Ceiling | Unaffordable {
  assert(prices.length > 0, "somebody must be able to serve the request");
  const rates = ratesOf(size, limits, prices, markupBps);
  const affordable =
    available === undefined ? undefined : affordablePerChoice(rates, size.choices, available);
  const wanted = outputTokensWanted(size, limits, affordable);
  const hold = holdOf(rates, wanted * size.choices);
  if (available !== undefined && hold > available)
    return {
      ok: false,
      neededNusd: hold,
      availableNusd: available,
      affordableMaxTokens: Math.min(affordable ?? 0, limits.outputTokensMax),
    };
  return {
    ok: true,
    hold: nanoUsd(hold),
    maxOutputTokens: wanted * size.choices,
    maxOutputTokensPerChoice: wanted,
    inputTokensMax: inputTokensMaxOf(size, limits),
  };
}

function outputTokensWanted(
  size: RequestSize,
  limits: ModelLimits,
  affordable: number | undefined,
): number {
  if (size.maxOutputTokens !== undefined)
    return Math.min(size.maxOutputTokens, limits.outputTokensMax);
  const most = Math.min(limits.outputTokensMax, IMPLICIT_OUTPUT_TOKENS_MAX);
  return affordable === undefined
    ? most
    : Math.min(most, Math.max(affordable, OUTPUT_TOKENS_FLOOR));
}

/** What one miner's price comes to, in the unit of `scale`: nano-USD × 10¹⁰. */
interface Rate {
  readonly input: bigint;
  readonly perOutputToken: bigint;
}

const SCALE = TOKENS_PER_MTOK * BASIS_POINTS;

function ratesOf(
  size: RequestSize,
  limits: ModelLimits,
  prices: readonly Price[],
  markupBps: number,
): readonly Rate[] {
  const factor = BASIS_POINTS + BigInt(markupBps);
  const inputTokens = BigInt(inputTokensHeldOf(size, limits));
  const dimensions = size.cacheWrites
    ? [...INPUT_DIMENSIONS, ...CACHE_WRITE_DIMENSIONS]
    : INPUT_DIMENSIONS;
  return prices.map((price) => ({
    input: inputTokens * dearestOf(price, dimensions) * factor,
    perOutputToken: dearestOf(price, OUTPUT_DIMENSIONS) * factor,
  }));
}

function dearestOf(price: Price, dimensions: readonly Dimension[]): bigint {
  return dimensions.reduce((most, dimension) => {
    const rate = price[dimension] ?? 0n;
    return rate > most ? rate : most;
  }, 0n);
}

function holdOf(rates: readonly Rate[], outputTokens: number): bigint {
  return rates.reduce((most, { input, perOutputToken }) => {
    const cost = ceilDiv(input + perOutputToken * BigInt(outputTokens), SCALE);
    return cost > most ? cost : most;
  }, 0n);
}

function affordablePerChoice(rates: readonly Rate[], choices: number, available: bigint): number {
  let least = Number.MAX_SAFE_INTEGER;
  for (const { input, perOutputToken } of rates) {
    const left = available * SCALE - input;
    if (left < 0n) return 0;
    if (perOutputToken === 0n) continue;
    const tokens = left / (perOutputToken * BigInt(choices));
    if (tokens < BigInt(least)) least = Number(tokens);
  }
  return least;
}
