import { FIXED_PRICE_FORM, parseFixedPrice } from "../core/tao-price.ts";
import { gatewaySettings } from "../gateway/config.ts";
import { minerSettings } from "../miner/config.ts";
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
    parse: fixedPriceText,
  },
  simulatorLatencyMs: {
    env: "DAYBREAK_SIMULATOR_LATENCY_MS",
    help: "milliseconds between two streamed pieces of the provider simulator",
    default: "5",
    parse: integer(0, 10_000),
  },
  upstreams: minerSettings.upstreams,
  openaiApiKey: minerSettings.openaiApiKey,
  anthropicApiKey: minerSettings.anthropicApiKey,
  geminiApiKey: minerSettings.geminiApiKey,
  databaseUrl: gatewaySettings.databaseUrl,
} as const satisfies Record<string, Setting<unknown>>;

export type LocalConfig = SettingsOf<typeof localSettings> & SettingsOf<typeof processSettings>;

/** Checked here; gateway and validators read it themselves. */
function fixedPriceText(value: string): string {
  if (parseFixedPrice(value) === undefined) throw new Error(FIXED_PRICE_FORM);
  return value;
}
