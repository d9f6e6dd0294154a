import { simulatedTeeImages, simulatedTeeRoot } from "../attestation/simulated/settings.ts";
import { FIXED_PRICE_FORM, parseFixedPrice } from "../core/tao-price.ts";
import { integer, type Setting, type SettingsOf, text, url, urls } from "../runtime/settings.ts";

/** Settings of `daybreak validator`. */
export const validatorSettings = {
  host: {
    env: "DAYBREAK_VALIDATOR_HOST",
    help: "address the report is served on",
    default: "127.0.0.1",
    parse: text,
  },
  port: {
    env: "DAYBREAK_VALIDATOR_PORT",
    help: "port of the report; 0 takes a free one",
    default: "8090",
    parse: integer(0, 65_535),
  },
  publicUrl: {
    env: "DAYBREAK_VALIDATOR_PUBLIC_URL",
    help: "URL at which others reach the report, as announced on the chain; default: host and port",
    optional: true,
    parse: url("http:", "https:"),
  },
  data: {
    env: "DAYBREAK_VALIDATOR_DATA",
    help: "folder for the miner-pay ledger and the reports",
    default: ".daybreak-validator",
    parse: text,
  },
  chain: {
    env: "DAYBREAK_VALIDATOR_CHAIN",
    help: "WebSocket URL of a Subtensor node; several of one chain, separated by commas, take over from each other",
    parse: urls("ws:", "wss:"),
  },
  netuid: {
    env: "DAYBREAK_VALIDATOR_NETUID",
    help: "number of the subnet",
    parse: integer(0, 65_535),
  },
  hotkeyFile: {
    env: "DAYBREAK_VALIDATOR_HOTKEY_FILE",
    help: "file with the secret of the validator's hotkey: 0x and 64 hex digits, a mnemonic or a URI",
    parse: text,
  },
  taoUsd: {
    env: "DAYBREAK_VALIDATOR_TAO_USD",
    help: "US dollars per TAO, as fixed:AMOUNT; the same for all validators of a subnet, or their weights differ",
    default: "fixed:400.00",
    parse: fixedPrice,
  },
  gatewayUrl: {
    env: "DAYBREAK_VALIDATOR_GATEWAY_URL",
    help: "URL of the gateway where probes are bought; default: the one announced on the chain",
    optional: true,
    parse: url("http:", "https:"),
  },
  apiKey: {
    env: "DAYBREAK_VALIDATOR_API_KEY",
    help: "ordinary API key of the gateway that pays for probes; without one nothing is probed",
    optional: true,
    secret: true,
    parse: text,
  },
  apiKeyFile: {
    env: "DAYBREAK_VALIDATOR_API_KEY_FILE",
    help: "file with that key",
    optional: true,
    parse: text,
  },
  simTeeRoot: {
    env: "DAYBREAK_VALIDATOR_SIM_TEE_ROOT",
    help: "local networks only: JWK of the Ed25519 key that signs simulated evidence, which protects nothing",
    optional: true,
    parse: simulatedTeeRoot,
  },
  simTeeImages: {
    env: "DAYBREAK_VALIDATOR_SIM_TEE_IMAGES",
    help: "local networks only: accepted image digests, sha256:HEX, separated by commas; default: the simulated one",
    default: "",
    parse: simulatedTeeImages,
  },
} as const satisfies Record<string, Setting<unknown>>;

export type ValidatorConfig = SettingsOf<typeof validatorSettings>;

/** `fixed:400.00` → nano-USD per TAO. */
function fixedPrice(value: string): bigint {
  const price = parseFixedPrice(value);
  if (price === undefined) throw new Error(FIXED_PRICE_FORM);
  return price;
}
