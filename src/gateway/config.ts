import { simulatedTeeImages, simulatedTeeRoot } from "../attestation/simulated/settings.ts";
import { parseNano } from "../core/money.ts";
import { FIXED_PRICE_FORM, parseFixedPrice } from "../core/tao-price.ts";
import { LOG_LEVELS } from "../runtime/logger.ts";
import {
  flag,
  integer,
  oneOf,
  type Setting,
  type SettingsOf,
  text,
  url,
  urls,
} from "../runtime/settings.ts";

/** Settings of `daybreak gateway`. */
export const gatewaySettings = {
  host: {
    env: "DAYBREAK_GATEWAY_HOST",
    help: "address the API listens on",
    default: "127.0.0.1",
    parse: text,
  },
  port: {
    env: "DAYBREAK_GATEWAY_PORT",
    help: "port of the API; 0 takes a free one",
    default: "8080",
    parse: integer(0, 65_535),
  },
  publicUrl: {
    env: "DAYBREAK_GATEWAY_PUBLIC_URL",
    help: "URL at which others reach this gateway, as announced on the chain; default: host and port",
    optional: true,
    parse: url("http:", "https:"),
  },
  data: {
    env: "DAYBREAK_GATEWAY_DATA",
    help: "folder for the signing key, the embedded database and the usage log",
    default: ".daybreak-gateway",
    parse: text,
  },
  databaseUrl: {
    env: "DATABASE_URL",
    help: "Postgres 15 or newer to use instead of the embedded database",
    optional: true,
    secret: true,
    parse: text,
  },
  redisUrl: {
    env: "REDIS_URL",
    help: "Redis that several gateways share for rate limits and jobs, redis://… or rediss://…",
    optional: true,
    secret: true,
    parse: text,
  },
  chain: {
    env: "DAYBREAK_GATEWAY_CHAIN",
    help: "WebSocket URL of a Subtensor node; several of one chain, separated by commas, take over from each other",
    parse: urls("ws:", "wss:"),
  },
  netuid: {
    env: "DAYBREAK_GATEWAY_NETUID",
    help: "number of the subnet",
    parse: integer(0, 65_535),
  },
  hotkeyFile: {
    env: "DAYBREAK_GATEWAY_HOTKEY_FILE",
    help: "file with the secret of the subnet owner's hotkey: 0x and 64 hex digits, a mnemonic or a URI",
    parse: text,
  },
  signingKeyFile: {
    env: "DAYBREAK_GATEWAY_SIGNING_KEY_FILE",
    help: "PKCS#8 PEM of the Ed25519 key that signs grants and the log; default: made once in the data folder",
    optional: true,
    parse: text,
  },
  adminKey: {
    env: "DAYBREAK_GATEWAY_ADMIN_KEY",
    help: "the operator's key for creating accounts; default: the admin key file",
    optional: true,
    secret: true,
    parse: adminKey,
  },
  adminKeyFile: {
    env: "DAYBREAK_GATEWAY_ADMIN_KEY_FILE",
    help: "file with the operator's key; default: made once in the data folder",
    optional: true,
    parse: text,
  },
  treasury: {
    env: "DAYBREAK_GATEWAY_TREASURY",
    help: "public key under which deposit addresses are derived: an ss58 address or 64 hex digits",
    parse: treasury,
  },
  hotWallet: {
    env: "DAYBREAK_GATEWAY_HOT_WALLET",
    help: "ss58 address that pays withdrawals; the gateway watches it and has no key of it",
    optional: true,
    parse: walletAddress,
  },
  coldWallet: {
    env: "DAYBREAK_GATEWAY_COLD_WALLET",
    help: "ss58 address that deposits are swept to; the gateway watches it and has no key of it",
    optional: true,
    parse: walletAddress,
  },
  taoUsd: {
    env: "DAYBREAK_GATEWAY_TAO_USD",
    help: "where the TAO price comes from: exchanges, or fixed:AMOUNT in US dollars on local networks",
    default: "exchanges",
    parse: taoPrice,
  },
  depositMinimumTao: {
    env: "DAYBREAK_GATEWAY_DEPOSIT_MINIMUM_TAO",
    help: "smallest deposit that is credited, in TAO",
    default: "0.01",
    parse: amount,
  },
  markupBps: {
    env: "DAYBREAK_GATEWAY_MARKUP_BPS",
    help: "what the customer pays on top of the miner's quote, in basis points",
    default: "500",
    parse: integer(0, 10_000),
  },
  simTeeRoot: {
    env: "DAYBREAK_GATEWAY_SIM_TEE_ROOT",
    help: "local networks only: JWK of the Ed25519 key that signs simulated evidence, which protects nothing",
    optional: true,
    parse: simulatedTeeRoot,
  },
  simTeeImages: {
    env: "DAYBREAK_GATEWAY_SIM_TEE_IMAGES",
    help: "local networks only: accepted image digests, sha256:HEX, separated by commas",
    default: "",
    parse: simulatedTeeImages,
  },
  allowPrivateRelays: {
    env: "DAYBREAK_GATEWAY_ALLOW_PRIVATE_RELAYS",
    help: "call miners and validators that announce addresses which are not public",
    default: "false",
    parse: flag,
  },
  bodyBytesMax: {
    env: "DAYBREAK_GATEWAY_BODY_BYTES_MAX",
    help: "longest request body, in bytes",
    default: "33554432",
    parse: integer(1_024, 268_435_456),
  },
  headerBytesMax: {
    env: "DAYBREAK_GATEWAY_HEADER_BYTES_MAX",
    help: "longest request head, in bytes",
    default: "32768",
    parse: integer(1_024, 262_144),
  },
  requestsMax: {
    env: "DAYBREAK_GATEWAY_REQUESTS_MAX",
    help: "most inference requests under way at once",
    default: "2000",
    parse: integer(1, 100_000),
  },
  bodyBytesInFlightMax: {
    env: "DAYBREAK_GATEWAY_BODY_BYTES_IN_FLIGHT_MAX",
    help: "most bytes of request and answer bodies held at once",
    default: "536870912",
    parse: integer(1_048_576, 68_719_476_736),
  },
  requestsPerMinute: {
    env: "DAYBREAK_GATEWAY_REQUESTS_PER_MINUTE",
    help: "most requests per minute of one API key",
    default: "60000",
    parse: integer(1, 10_000_000),
  },
  drainMs: {
    env: "DAYBREAK_GATEWAY_DRAIN_MS",
    help: "how long running requests may take to end at shutdown, in milliseconds",
    default: "20000",
    parse: integer(0, 600_000),
  },
  logLevel: {
    env: "DAYBREAK_LOG_LEVEL",
    help: "least severe level that is logged",
    default: "info",
    parse: oneOf(...LOG_LEVELS),
  },
} as const satisfies Record<string, Setting<unknown>>;

export type GatewayConfig = SettingsOf<typeof gatewaySettings>;

/** TAO as a decimal → rao. */
function amount(value: string): bigint {
  const parsed = parseNano(value);
  if (parsed === undefined || parsed <= 0n)
    throw new Error("a positive amount with at most 9 decimals");
  return parsed;
}

/** `exchanges`, or a fixed price in nano-USD per TAO. */
function taoPrice(value: string): "exchanges" | bigint {
  if (value === "exchanges") return value;
  const price = parseFixedPrice(value);
  if (price === undefined) throw new Error(`exchanges, or ${FIXED_PRICE_FORM}`);
  return price;
}

function adminKey(value: string): string {
  if (!/^\S{16,200}$/.test(value)) throw new Error("16 to 200 characters without spaces");
  return value;
}

function walletAddress(value: string): string {
  if (!/^[1-9A-HJ-NP-Za-km-z]{46,49}$/.test(value)) throw new Error("an ss58 address");
  return value;
}

function treasury(value: string): string {
  if (!/^(0x)?[0-9a-f]{64}$/i.test(value) && !/^[1-9A-HJ-NP-Za-km-z]{46,49}$/.test(value))
    throw new Error("an ss58 address or 64 hex digits");
  return value;
}
