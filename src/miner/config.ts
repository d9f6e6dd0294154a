import { integer, type Setting, type SettingsOf, text, url, urls } from "../runtime/settings.ts";
import { upstreamList } from "./upstreams.ts";

/** Settings of `daybreak miner`. */
export const minerSettings = {
  host: {
    env: "DAYBREAK_MINER_HOST",
    help: "address the relay listens on",
    default: "127.0.0.1",
    parse: text,
  },
  port: {
    env: "DAYBREAK_MINER_PORT",
    help: "port of the relay (TLS); 0 takes a free one",
    default: "8443",
    parse: integer(0, 65_535),
  },
  publicUrl: {
    env: "DAYBREAK_MINER_PUBLIC_URL",
    help: "URL at which gateways reach this relay, as announced on the chain; default: host and port",
    optional: true,
    parse: url("https:"),
  },
  chain: {
    env: "DAYBREAK_MINER_CHAIN",
    help: "WebSocket URL of a Subtensor node; several of one chain, separated by commas, take over from each other",
    parse: urls("ws:", "wss:"),
  },
  netuid: {
    env: "DAYBREAK_MINER_NETUID",
    help: "number of the subnet",
    parse: integer(0, 65_535),
  },
  hotkeyFile: {
    env: "DAYBREAK_MINER_HOTKEY_FILE",
    help: "file with the secret of the miner's hotkey: 0x and 64 hex digits, a mnemonic or a URI",
    parse: text,
  },
  data: {
    env: "DAYBREAK_MINER_DATA",
    help: "folder for receipts and the quote counter",
    default: ".daybreak-miner",
    parse: text,
  },
  simTeeKeyFile: {
    env: "DAYBREAK_MINER_SIM_TEE_KEY_FILE",
    help: "local networks only: PKCS#8 PEM of the Ed25519 key that signs simulated evidence, which protects nothing",
    parse: text,
  },
  worker: {
    env: "DAYBREAK_MINER_WORKER",
    help: "name of this relay among the miner's: letters, digits, dot, dash, underscore",
    default: "w1",
    parse: workerName,
  },
  discountBps: {
    env: "DAYBREAK_MINER_DISCOUNT_BPS",
    help: "floor price: basis points off the list price of every model",
    default: "1500",
    // A floor below one thousandth of the list price is refused by every gateway.
    parse: integer(0, 9_989),
  },
  upstreams: {
    env: "DAYBREAK_UPSTREAMS",
    help: "providers behind the miners, a JSON list of {name, kind: openai|anthropic|gemini, base_url, api_key, models}",
    optional: true,
    secret: true,
    parse: upstreamList,
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
  drainMs: {
    env: "DAYBREAK_MINER_DRAIN_MS",
    help: "how long running requests may take to end at shutdown, in milliseconds",
    default: "20000",
    parse: integer(0, 600_000),
  },
} as const satisfies Record<string, Setting<unknown>>;

export type MinerConfig = SettingsOf<typeof minerSettings>;

function workerName(value: string): string {
  if (!/^[\w.-]{1,64}$/.test(value)) throw new Error("1 to 64 letters, digits, dots or dashes");
  return value;
}
