import { parseNano } from "../core/money.ts";
import { integer, type Setting, type SettingsOf, text } from "../runtime/settings.ts";

/** Longest time between two blocks, in milliseconds. */
const BLOCK_MS_MAX = 600_000;
const TEMPO_MAX = 65_535;
const FINALITY_LAG_MAX = 200;

/** Balances at the beginning: `{"<ss58 address>": "<TAO, decimal>"}`. */
function endowments(value: string): readonly { readonly address: string; readonly rao: bigint }[] {
  const problem = new Error('JSON such as {"5Grw…": "1000.5"}, an amount of TAO by ss58 address');
  let json: unknown;
  try {
    json = JSON.parse(value);
  } catch {
    throw problem;
  }
  if (typeof json !== "object" || json === null || Array.isArray(json)) throw problem;
  return Object.entries(json).map(([address, tao]: [string, unknown]) => {
    const rao = typeof tao === "string" ? parseNano(tao) : undefined;
    if (rao === undefined) throw problem;
    return { address, rao };
  });
}

/** Settings of `daybreak devchain`. */
export const devchainSettings = {
  host: {
    env: "DAYBREAK_DEVCHAIN_HOST",
    help: "address that the chain listens on",
    default: "127.0.0.1",
    parse: text,
  },
  port: {
    env: "DAYBREAK_DEVCHAIN_PORT",
    help: "port of its JSON-RPC, WebSocket and HTTP; 0 picks a free one",
    default: "9944",
    parse: integer(0, 65_535),
  },
  data: {
    env: "DAYBREAK_DEVCHAIN_DATA",
    help: "folder that keeps the chain; without one it is gone when the process ends",
    optional: true,
    parse: text,
  },
  snapshot: {
    env: "DAYBREAK_DEVCHAIN_SNAPSHOT",
    help: "JSON file, as dev_snapshot gives it, that a new chain begins with",
    optional: true,
    parse: text,
  },
  blockMs: {
    env: "DAYBREAK_DEVCHAIN_BLOCK_MS",
    help: "milliseconds between blocks; a transaction gets its block at once",
    default: "1000",
    parse: integer(10, BLOCK_MS_MAX),
  },
  tempo: {
    env: "DAYBREAK_DEVCHAIN_TEMPO",
    help: "blocks per epoch, also of subnets that exist",
    default: "360",
    parse: integer(2, TEMPO_MAX),
  },
  finalityLagBlocks: {
    env: "DAYBREAK_DEVCHAIN_FINALITY_LAG_BLOCKS",
    help: "blocks between the newest block and the newest final one",
    default: "2",
    parse: integer(0, FINALITY_LAG_MAX),
  },
  endowed: {
    env: "DAYBREAK_DEVCHAIN_ENDOWED",
    help: "JSON object of TAO amounts by ss58 address that a new chain begins with; the first one gets the sudo key",
    default: "{}",
    parse: endowments,
  },
} as const satisfies Record<string, Setting<unknown>>;

export type DevchainConfig = SettingsOf<typeof devchainSettings>;
