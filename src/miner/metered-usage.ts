import {
  type Dimension,
  inputTokensOf,
  outputTokensOf,
  TOKENS_MAX,
  type Usage,
} from "../core/pricing.ts";

/** Bytes of English text per token: what is assumed when the upstream did not count. */
const BYTES_PER_TOKEN = 4;

/** What the meter saw of one answer. */
export interface Metered {
  /** The upstream's last word on usage, if it said any. */
  readonly usage?: Usage;
  readonly complete: boolean;
  readonly contentEvents: number;
  readonly visibleBytes: number;
}

/**
 * What one request used, for its receipt.
 *
 * Of a complete answer it is what the upstream reported. Of one that was cut off, or that came without usage, the input
 * is what the upstream reported, else a quarter of the request's bytes, and the output is counted from what arrived:
 * the larger of content events and a quarter of the visible bytes.
 *
 * No output beyond `maxOutputTokens` is claimed: the grant pays for no more, whatever the upstream did.
 */
export function meteredUsage(
  metered: Metered,
  requestBytes: number,
  maxOutputTokens: number,
): { readonly use: Usage; readonly src: "provider" | "counted" } {
  const { usage } = metered;
  if (metered.complete && usage !== undefined)
    return { use: cappedOutput(usage, maxOutputTokens), src: "provider" };
  const counted = Math.max(
    metered.contentEvents,
    Math.ceil(metered.visibleBytes / BYTES_PER_TOKEN),
  );
  const reported = usage ?? {};
  const use: Partial<Record<Dimension, number>> = { ...reported };
  if (inputTokensOf(reported) === 0)
    use.input = Math.min(TOKENS_MAX, Math.ceil(requestBytes / BYTES_PER_TOKEN));
  const missing = counted - outputTokensOf(reported);
  if (missing > 0) use.output = Math.min(TOKENS_MAX, (use.output ?? 0) + missing);
  return { use: cappedOutput(use, maxOutputTokens), src: "counted" };
}

/** Least dear first, so that a cap takes from plain output before it takes from what was reported apart. */
const OUTPUT_DIMENSIONS = ["output", "reasoning", "audio_output", "image_output"] as const;

function cappedOutput(usage: Usage, maxOutputTokens: number): Usage {
  let excess = outputTokensOf(usage) - maxOutputTokens;
  if (excess <= 0) return usage;
  const capped: Partial<Record<Dimension, number>> = { ...usage };
  for (const dimension of OUTPUT_DIMENSIONS) {
    const taken = Math.min(excess, capped[dimension] ?? 0);
    if (taken === 0) continue;
    excess -= taken;
    const left = (capped[dimension] ?? 0) - taken;
    if (left > 0) capped[dimension] = left;
    else delete capped[dimension];
  }
  return capped;
}
