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

export type RegisterConfig = SettingsOf<typeof registerSettings>;

/** TAO as a decimal → rao. */
function amount(value: string): bigint {
  const parsed = parseNano(value);
  if (parsed === undefined) throw new Error("an amount with at most 9 decimals");
  return parsed;
}
