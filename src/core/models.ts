import type { Price } from "./pricing.ts";
import type { Surface } from "./surface.ts";

/** A model that miners may offer, with the list price that caps every quote. */
export interface Model {
  /** `author/slug`, as OpenRouter writes it. */
  readonly id: string;
  readonly name: string;
  /** The one surface on which it is served without translation. */
  readonly surface: Surface;
  /** Release date, Unix seconds. */
  readonly createdSeconds: number;
  readonly contextTokens: number;
  readonly outputTokensMax: number;
  readonly inputModalities: readonly string[];
  /** The provider's list price, nano-USD per million tokens. */
  readonly retail: Price;
}

/** Public list prices of mid-2026. A quote is between one thousandth of these and these. */
export const MODELS: readonly Model[] = [
  {
    id: "openai/gpt-4.1-mini",
    name: "GPT-4.1 mini",
    surface: "chat",
    createdSeconds: 1_744_588_800,
    contextTokens: 1_047_576,
    outputTokensMax: 32_768,
    inputModalities: ["text", "image", "file"],
    retail: {
      input: 400_000_000n,
      cache_read: 100_000_000n,
      output: 1_600_000_000n,
      reasoning: 1_600_000_000n,
    },
  },
  {
    id: "openai/gpt-4o-mini",
    name: "GPT-4o mini",
    surface: "chat",
    createdSeconds: 1_721_260_800,
    contextTokens: 128_000,
    outputTokensMax: 16_384,
    inputModalities: ["text", "image", "file"],
    retail: {
      input: 150_000_000n,
      cache_read: 75_000_000n,
      output: 600_000_000n,
      reasoning: 600_000_000n,
    },
  },
  {
    id: "openai/gpt-5-nano",
    name: "GPT-5 Nano",
    surface: "chat",
    createdSeconds: 1_754_524_800,
    contextTokens: 400_000,
    outputTokensMax: 128_000,
    inputModalities: ["text", "image"],
    retail: {
      input: 50_000_000n,
      cache_read: 5_000_000n,
      output: 400_000_000n,
      reasoning: 400_000_000n,
    },
  },
  {
    id: "openai/gpt-5-mini",
    name: "GPT-5 Mini",
    surface: "chat",
    createdSeconds: 1_754_524_800,
    contextTokens: 400_000,
    outputTokensMax: 128_000,
    inputModalities: ["text", "image"],
    retail: {
      input: 250_000_000n,
      cache_read: 25_000_000n,
      output: 2_000_000_000n,
      reasoning: 2_000_000_000n,
    },
  },
  {
    id: "openai/gpt-5.4-mini",
    name: "GPT-5.4 mini",
    surface: "chat",
    createdSeconds: 1_773_705_600,
    contextTokens: 400_000,
    outputTokensMax: 128_000,
    inputModalities: ["text", "image"],
    retail: {
      input: 750_000_000n,
      cache_read: 75_000_000n,
      output: 4_500_000_000n,
      reasoning: 4_500_000_000n,
    },
  },
  {
    id: "openai/gpt-5.4",
    name: "GPT-5.4",
    surface: "chat",
    createdSeconds: 1_772_668_800,
    contextTokens: 1_050_000,
    outputTokensMax: 128_000,
    inputModalities: ["text", "image", "file"],
    retail: {
      input: 2_500_000_000n,
      cache_read: 250_000_000n,
      output: 15_000_000_000n,
      reasoning: 15_000_000_000n,
    },
  },
  {
    id: "openai/gpt-5.5",
    name: "GPT-5.5",
    surface: "chat",
    createdSeconds: 1_776_902_400,
    contextTokens: 1_050_000,
    outputTokensMax: 128_000,
    inputModalities: ["text", "image", "file"],
    retail: {
      input: 5_000_000_000n,
      cache_read: 500_000_000n,
      output: 30_000_000_000n,
      reasoning: 30_000_000_000n,
    },
  },
  {
    id: "anthropic/claude-haiku-4-5",
    name: "Claude Haiku 4.5",
    surface: "messages",
    createdSeconds: 1_760_486_400,
    contextTokens: 200_000,
    outputTokensMax: 64_000,
    inputModalities: ["text", "image", "file"],
    retail: {
      input: 1_000_000_000n,
      cache_read: 100_000_000n,
      cache_write_5m: 1_250_000_000n,
      cache_write_1h: 2_000_000_000n,
      output: 5_000_000_000n,
      reasoning: 5_000_000_000n,
    },
  },
  {
    id: "anthropic/claude-sonnet-4-6",
    name: "Claude Sonnet 4.6",
    surface: "messages",
    createdSeconds: 1_771_286_400,
    contextTokens: 1_000_000,
    outputTokensMax: 64_000,
    inputModalities: ["text", "image", "file"],
    retail: {
      input: 3_000_000_000n,
      cache_read: 300_000_000n,
      cache_write_5m: 3_750_000_000n,
      cache_write_1h: 6_000_000_000n,
      output: 15_000_000_000n,
      reasoning: 15_000_000_000n,
    },
  },
  {
    id: "anthropic/claude-sonnet-5",
    name: "Claude Sonnet 5",
    surface: "messages",
    createdSeconds: 1_782_777_600,
    contextTokens: 1_000_000,
    outputTokensMax: 128_000,
    inputModalities: ["text", "image", "file"],
    retail: {
      input: 2_000_000_000n,
      cache_read: 200_000_000n,
      cache_write_5m: 2_500_000_000n,
      cache_write_1h: 4_000_000_000n,
      output: 10_000_000_000n,
      reasoning: 10_000_000_000n,
    },
  },
  {
    id: "anthropic/claude-opus-4-8",
    name: "Claude Opus 4.8",
    surface: "messages",
    createdSeconds: 1_779_926_400,
    contextTokens: 1_000_000,
    outputTokensMax: 128_000,
    inputModalities: ["text", "image", "file"],
    retail: {
      input: 5_000_000_000n,
      cache_read: 500_000_000n,
      cache_write_5m: 6_250_000_000n,
      cache_write_1h: 10_000_000_000n,
      output: 25_000_000_000n,
      reasoning: 25_000_000_000n,
    },
  },
  {
    id: "google/gemini-2.5-flash",
    name: "Gemini 2.5 Flash",
    surface: "chat",
    createdSeconds: 1_750_118_400,
    contextTokens: 1_048_576,
    outputTokensMax: 65_536,
    inputModalities: ["text", "image", "audio", "video", "file"],
    retail: {
      input: 300_000_000n,
      cache_read: 30_000_000n,
      output: 2_500_000_000n,
      reasoning: 2_500_000_000n,
    },
  },
  {
    id: "google/gemini-2.5-pro",
    name: "Gemini 2.5 Pro",
    surface: "chat",
    createdSeconds: 1_750_118_400,
    contextTokens: 1_048_576,
    outputTokensMax: 65_536,
    inputModalities: ["text", "image", "audio", "video", "file"],
    retail: {
      input: 1_250_000_000n,
      cache_read: 125_000_000n,
      output: 10_000_000_000n,
      reasoning: 10_000_000_000n,
    },
  },
  {
    id: "google/gemini-3.5-flash",
    name: "Gemini 3.5 Flash",
    surface: "chat",
    createdSeconds: 1_779_148_800,
    contextTokens: 1_048_576,
    outputTokensMax: 65_536,
    inputModalities: ["text", "image", "video", "audio", "file"],
    retail: {
      input: 1_500_000_000n,
      cache_read: 150_000_000n,
      output: 9_000_000_000n,
      reasoning: 9_000_000_000n,
    },
  },
];

/** Changes whenever a price or a model above does; receipts and log epochs name it. */
export const CATALOGUE_VERSION = "2026-07-1";

const byName = new Map<string, Model>();
for (const model of MODELS) {
  byName.set(model.id, model);
  byName.set(slugOf(model), model);
}

/** Finds a model by `author/slug` or by the bare slug that the provider's own SDK uses. */
export function modelOf(name: string): Model | undefined {
  return byName.get(name);
}

/** The name the provider itself uses: the part after the author. */
export function slugOf(model: Model): string {
  return model.id.slice(model.id.indexOf("/") + 1);
}
