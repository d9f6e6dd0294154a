import type { processSettings } from "../runtime/logger.ts";
import { flag, integer, type Setting, type SettingsOf, text } from "../runtime/settings.ts";

/** Settings of `daybreak local`, a whole network in one process. */
export const localSettings = {
  port: {
    env: "DAYBREAK_PORT",
    help: "port of the API; 0 takes a free one",
    default: "8080",
    parse: integer(0, 65_535),
  },
  host: {
    env: "DAYBREAK_HOST",
    help: "address the API listens on",
    default: "127.0.0.1",
    parse: text,
  },
  data: {
    env: "DAYBREAK_DATA",
    help: "folder for keys, chain, ledger and logs",
    default: ".daybreak",
    parse: text,
  },
  miners: { env: "DAYBREAK_MINERS", help: "number of miners", default: "3", parse: integer(0, 32) },
  validators: {
    env: "DAYBREAK_VALIDATORS",
    help: "number of validators",
    default: "2",
    parse: integer(0, 16),
  },
  tempo: {
    env: "DAYBREAK_TEMPO",
    help: "blocks in an epoch",
    default: "20",
    parse: integer(4, 10_000),
  },
  blockMs: {
    env: "DAYBREAK_BLOCK_MS",
    help: "milliseconds between blocks",
    default: "1000",
    parse: integer(50, 60_000),
  },
  readyFile: {
    env: "DAYBREAK_READY_FILE",
    help: "file written with the addresses and keys once everything is ready",
    optional: true,
    parse: text,
  },
  ephemeral: {
    env: "DAYBREAK_EPHEMERAL",
    help: "keep the data in a temporary folder that is removed at exit",
    default: "false",
    parse: flag,
  },
  taoUsd: {
    env: "DAYBREAK_TAO_USD",
    help: "US dollars per TAO, as fixed:AMOUNT",
    default: "fixed:400.00",
    parse: text,
  },
  simulatorLatencyMs: {
    env: "DAYBREAK_SIMULATOR_LATENCY_MS",
    help: "milliseconds between two streamed pieces of the provider simulator",
    default: "5",
    parse: integer(0, 10_000),
  },
  upstreams: {
    env: "DAYBREAK_UPSTREAMS",
    help: "providers behind the miners, a JSON list of {name, kind: openai|anthropic|gemini, base_url, api_key, models}",
    optional: true,
    secret: true,
    parse: text,
  },
  openaiApiKey: {
    env: "OPENAI_API_KEY",
    help: "key for OpenAI models",
    optional: true,
    secret: true,
    parse: text,
  },
  anthropicApiKey: {
    env: "ANTHROPIC_API_KEY",
    help: "key for Anthropic models",
    optional: true,
    secret: true,
    parse: text,
  },
  geminiApiKey: {
    env: "GEMINI_API_KEY",
    help: "key for Gemini models",
    optional: true,
    secret: true,
    parse: text,
  },
  databaseUrl: {
    env: "DATABASE_URL",
    help: "Postgres 15 or newer to use instead of the embedded database",
    optional: true,
    secret: true,
    parse: text,
  },
} as const satisfies Record<string, Setting<unknown>>;

export type LocalConfig = SettingsOf<typeof localSettings> & SettingsOf<typeof processSettings>;
