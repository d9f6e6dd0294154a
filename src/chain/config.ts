import { parseNano } from "../core/money.ts";
import { integer, type Setting, type SettingsOf, text, urls } from "../runtime/settings.ts";

/** Settings of `daybreak register`. */
export const registerSettings = {
  chain: {
    env: "DAYBREAK_REGISTER_CHAIN",
    help: "WebSocket URL of a Subtensor node; several of one chain, separated by commas, take over from each other",
    parse: urls("ws:", "wss:"),
  },
  netuid: {
    env: "DAYBREAK_REGISTER_NETUID",
    help: "number of the subnet",
    parse: integer(0, 65_535),
  },
  hotkeyFile: {
    env: "DAYBREAK_REGISTER_HOTKEY_FILE",
    help: "file with the hotkey's secret; made with a new secret when it does not exist",
    parse: text,
  },
  coldkeyFile: {
    env: "DAYBREAK_REGISTER_COLDKEY_FILE",
    help: "file with the secret of the coldkey that pays and will own the hotkey; //Alice is one on a local chain",
    parse: text,
  },
  stakeTao: {
    env: "DAYBREAK_REGISTER_STAKE_TAO",
    help: "TAO to stake on the hotkey as well; a validator needs some",
    default: "0",
    parse: amount,
  },
} as const satisfies Record<string, Setting<unknown>>;

/** Settings of `daybreak treasury sweep`. */
export const sweepSettings = {
  chain: {
    env: "DAYBREAK_SWEEP_CHAIN",
    help: "WebSocket URL of a Subtensor node; several of one chain, separated by commas, take over from each other",
    parse: urls("ws:", "wss:"),
  },
  treasuryFile: {
    env: "DAYBREAK_SWEEP_TREASURY_FILE",
    help: "file with the treasury's secret: 0x and 64 hex digits, a mnemonic or a URI",
    parse: text,
  },
  to: {
    env: "DAYBREAK_SWEEP_TO",
    help: "ss58 address that gets what the deposit addresses have: the cold wallet",
    parse: text,
  },
  accounts: {
    env: "DAYBREAK_SWEEP_ACCOUNTS",
    help: "number of the last account whose address is swept",
    parse: integer(0, 10_000_000),
  },
  minimumTao: {
    env: "DAYBREAK_SWEEP_MINIMUM_TAO",
    help: "least TAO that is worth a sweep's fee",
    default: "0.1",
    parse: amount,
  },
} as const satisfies Record<string, Setting<unknown>>;

export type SweepConfig = SettingsOf<typeof sweepSettings>;

export type RegisterConfig = SettingsOf<typeof registerSettings>;

/** TAO as a decimal → rao. */
function amount(value: string): bigint {
  const parsed = parseNano(value);
  if (parsed === undefined) throw new Error("an amount with at most 9 decimals");
  return parsed;
}
