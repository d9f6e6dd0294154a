import { join } from "node:path";
import { localPolicy } from "../attestation/policy.ts";
import { SIMULATED_IMAGE } from "../attestation/simulated/image.ts";
import { openLedger } from "../billing/ledger.ts";
import { fixedPrice, type TaoPrice } from "../billing/price.ts";
import { openPriceFeed } from "../billing/price-feed.ts";
import { PRICE_SOURCES } from "../billing/price-sources.ts";
import {
  canonicalAddressOf,
  deriveDepositAddress,
  keypairOf,
  publicKeyHexOf,
  verifySignedText,
  verifySr25519,
} from "../chain/keys.ts";
import { openOutboxFile } from "../chain/outbox.ts";
import { publishCommitment } from "../chain/publish-commitment.ts";
import { openSubtensor, type Subtensor } from "../chain/subtensor.ts";
import type { Hotkey, Netuid } from "../core/ids.ts";
import { formatNano } from "../core/money.ts";
import { allowsFixedPrice } from "../core/tao-price.ts";
import { bullmqOnPostgres, bullmqOnRedis } from "../runtime/bullmq.ts";
import { type Database, openDatabase } from "../runtime/database.ts";
import type { OpenDispatcher } from "../runtime/jobs.ts";
import type { Logger } from "../runtime/logger.ts";
import { Registry } from "../runtime/metrics.ts";
import { openRedis } from "../runtime/redis.ts";
import { ConfigError } from "../runtime/settings.ts";
import { type Closable, closeAll } from "../runtime/shutdown.ts";
import type { GatewayConfig } from "./config.ts";
import { type GatewayChain, type GatewayService, openGatewayService } from "./gateway-service.ts";
import { loadAdminKey, loadSigningKey, readSecretFile } from "./key-files.ts";
import { openPriceFetch } from "./price-fetch.ts";
import { sharedRateLimiter } from "./shared-rate-limit.ts";

const CHAIN_CONNECT_TIMEOUT_MS = 15_000;

/** Opens a gateway: chain, database, ledger, usage log, HTTP. @throws ConfigError for what the operator can mend. */
export async function openGateway(config: GatewayConfig, log: Logger): Promise<GatewayService> {
  const { simTeeRoot } = config;
  if (simTeeRoot === undefined)
    throw new ConfigError(
      "DAYBREAK_GATEWAY_SIM_TEE_ROOT is required: this version verifies simulated evidence only, which is for local networks",
    );
  const images = config.simTeeImages.length === 0 ? [SIMULATED_IMAGE] : config.simTeeImages;
  const policy = localPolicy({ simRoot: simTeeRoot, images });
  const hotkey = keypairOf(readSecretFile(config.hotkeyFile, "the hotkey"));
  const signingKey = loadSigningKey(config.data, config.signingKeyFile);
  const adminKey = loadAdminKey(config.data, config.adminKey, config.adminKeyFile);
  const opened: Closable[] = [];
  try {
    const outbox = await openOutboxFile(join(config.data, "outbox"));
    opened.push(outbox);
    const chain = await openSubtensor({
      endpoints: config.chain,
      connectTimeoutMs: CHAIN_CONNECT_TIMEOUT_MS,
      outbox,
      log,
    });
    opened.push(chain);
    if (typeof config.taoUsd === "bigint" && !allowsFixedPrice(chain.genesisHash))
      throw new ConfigError(
        "DAYBREAK_GATEWAY_TAO_USD is a fixed price, which is for local networks; this chain is Bittensor's main network: set it to exchanges",
      );
    const database = await openDatabase({
      ...(config.databaseUrl === undefined
        ? { directory: join(config.data, "ledger") }
        : { url: config.databaseUrl }),
      log,
    });
    opened.push(database);
    const redis = config.redisUrl === undefined ? undefined : openRedis(config.redisUrl, log);
    if (redis !== undefined) opened.push(redis);
    const metrics = new Registry();
    const ledger = await openLedger({ database, gateway: signingKey.kid, log, metrics });
    opened.push(ledger);
    const price = await openPrice(config.taoUsd, database, metrics, log, opened);
    const service = await openGatewayService({
      config,
      chain: chainPorts(chain, config, hotkey, treasuryKeyOf(config.treasury)),
      policy,
      database,
      ledger,
      metrics,
      signingKey,
      adminKey,
      hotkey: hotkey.address as Hotkey,
      price,
      rateLimiterOf:
        redis === undefined ? undefined : (limit) => sharedRateLimiter(redis, limit, log),
      openDispatcher: dispatcherOf(config, log),
      log,
    });
    opened.push(service);
    log.info({ database: database.description }, "gateway.opened");
    let closing: Promise<void> | undefined;
    return { url: service.url, close: () => (closing ??= closeAll(opened)) };
  } catch (error) {
    await closeAll(opened);
    throw error;
  }
}

/** Who hands jobs out: Redis, or else Postgres; the one process of an embedded database needs nobody. */
function dispatcherOf(config: GatewayConfig, log: Logger): OpenDispatcher | undefined {
  if (config.redisUrl !== undefined) return bullmqOnRedis(config.redisUrl, log);
  return config.databaseUrl === undefined ? undefined : bullmqOnPostgres(config.databaseUrl, log);
}

/** The price of the exchanges, or the fixed one, nano-USD per TAO. */
async function openPrice(
  setting: GatewayConfig["taoUsd"],
  database: Database,
  metrics: Registry,
  log: Logger,
  opened: Closable[],
): Promise<TaoPrice> {
  if (setting !== "exchanges") {
    log.warn({ usdPerTao: formatNano(setting) }, "price.fixed");
    return fixedPrice(setting);
  }
  const fetch = openPriceFetch();
  opened.push(fetch);
  const feed = await openPriceFeed({
    database,
    sources: PRICE_SOURCES,
    ask: (url, signal) => fetch.ask(url, signal),
    log,
    metrics,
    nowMs: Date.now,
  });
  opened.push(feed);
  return feed;
}

function treasuryKeyOf(treasury: string): string {
  if (/^(0x)?[0-9a-f]{64}$/i.test(treasury)) return treasury.replace(/^0x/i, "").toLowerCase();
  try {
    return publicKeyHexOf(treasury);
  } catch (cause) {
    throw new ConfigError(`DAYBREAK_GATEWAY_TREASURY is not a valid address: ${treasury}`, {
      cause,
    });
  }
}

function walletOf(address: string | undefined, name: string): string | undefined {
  try {
    return address === undefined ? undefined : canonicalAddressOf(address);
  } catch (cause) {
    throw new ConfigError(`${name} is not a valid address: ${address}`, { cause });
  }
}

/** The chain as the gateway's parts see it: each gets the few functions it calls. */
function chainPorts(
  chain: Subtensor,
  config: Pick<GatewayConfig, "netuid" | "hotWallet" | "coldWallet">,
  signer: ReturnType<typeof keypairOf>,
  treasuryKeyHex: string,
): GatewayChain {
  const netuid = config.netuid as Netuid;
  const hotkey = signer.address as Hotkey;
  const finalizedHead = () => chain.finalizedHead();
  const onFinalizedHead: Subtensor["onFinalizedHead"] = (listener) =>
    chain.onFinalizedHead(listener);
  const commitments = (atHash: string) => chain.commitments(netuid, atHash);
  return {
    directory: {
      genesisHash: chain.genesisHash,
      netuid,
      finalizedHead,
      onFinalizedHead,
      blockHash: (number) => chain.blockHash(number),
      neurons: async (atHash) => (await chain.metagraph(netuid, atHash)).neurons,
      commitments,
      publicKeyHexOf,
      verifySr25519,
    },
    log: {
      finalizedHead,
      onFinalizedHead,
      epochIndex: async (atHash) => (await chain.epochOf(netuid, atHash)).index,
      commitment: async () => (await chain.commitmentOf(netuid, hotkey))?.fields,
      commit: async (fields) => (await publishCommitment(chain, netuid, signer, fields)).blockHash,
    },
    reports: {
      metagraph: async () => await chain.metagraph(netuid, (await chain.finalizedHead()).hash),
      commitments,
    },
    deposits: {
      genesisHash: chain.genesisHash,
      finalizedHead,
      onFinalizedHead,
      bestHead: () => chain.bestHead(),
      onBestHead: (listener) => chain.onBestHead(listener),
      blockHash: (number) => chain.blockHash(number),
      blockFacts: (hash) => chain.blockFacts(hash),
    },
    depositAddressOf: (accountIndex) => deriveDepositAddress(treasuryKeyHex, accountIndex),
    treasury: {
      hot: walletOf(config.hotWallet, "DAYBREAK_GATEWAY_HOT_WALLET"),
      cold: walletOf(config.coldWallet, "DAYBREAK_GATEWAY_COLD_WALLET"),
    },
    walletAddressOf: canonicalAddressOf,
    verifySignedText,
  };
}
