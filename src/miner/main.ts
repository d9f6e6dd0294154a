import { readFileSync } from "node:fs";
import { isIPv6 } from "node:net";
import { join } from "node:path";
import { type Keypair, keypairOf } from "../chain/keys.ts";
import { openOutboxFile } from "../chain/outbox.ts";
import { publishCommitment } from "../chain/publish-commitment.ts";
import { openSubtensor, type Subtensor } from "../chain/subtensor.ts";
import { type Hotkey, netuidOf } from "../core/ids.ts";
import { type SigningKey, signingKey } from "../core/jws.ts";
import { lockDirectory } from "../runtime/data-lock.ts";
import type { Logger } from "../runtime/logger.ts";
import { ConfigError } from "../runtime/settings.ts";
import { type Closable, closeAll } from "../runtime/shutdown.ts";
import { openAnnouncement } from "./announce-relay.ts";
import type { MinerConfig } from "./config.ts";
import { bootEnclave } from "./enclave.ts";
import { checkEnvironment } from "./forbidden-environment.ts";
import { gatewayKeys } from "./gateway-keys.ts";
import { openPriceQuotes } from "./price-quotes.ts";
import { openReceiptStore } from "./receipts.ts";
import { buildRelay, RELAY_LIMITS } from "./relay.ts";
import { openUpstreams, type UpstreamConfig, upstreamsOfKeys } from "./upstreams.ts";

const CHAIN_CONNECT_TIMEOUT_MS = 30_000;
/** What a relay promises in its quotes, per product and minute. */
const REQUESTS_PER_MINUTE = 30_000;
const TOKENS_PER_MINUTE = 100_000_000;

/** A relay that serves and has been announced, or keeps trying to be. */
export interface Miner extends Closable {
  /** As announced on the chain. */
  readonly url: string;
  readonly hotkey: Hotkey;
}

/**
 * Starts a relay.
 *
 * @param environment the process's environment, to be checked for what could expose prompts.
 * @throws ConfigError for what the operator can mend; everything that was opened is closed first.
 */
export async function openMiner(
  config: MinerConfig,
  log: Logger,
  environment: Readonly<Record<string, string | undefined>> = {},
): Promise<Miner> {
  const opened: Closable[] = [];
  try {
    return await open(config, log, environment, opened);
  } catch (error) {
    await closeAll(opened);
    throw error;
  }
}

async function open(
  config: MinerConfig,
  log: Logger,
  environment: Readonly<Record<string, string | undefined>>,
  opened: Closable[],
): Promise<Miner> {
  const nowMs = Date.now;
  const keypair = hotkeyFrom(config.hotkeyFile);
  const hotkey = keypair.address as Hotkey;
  const simulatedTee = simulatedTeeFrom(config.simTeeKeyFile);
  const upstreamConfigs = upstreamsFrom(config);
  const forbidden = checkEnvironment("sim", environment);
  if (forbidden.length > 0) log.warn({ variables: forbidden }, "relay.forbidden_environment");

  // Two relays that append to one file of receipts would lose each other's place in it.
  const lock = lockDirectory(config.data);
  opened.push({ close: async () => lock.release() });
  const outbox = await openOutboxFile(join(config.data, "outbox"));
  opened.push(outbox);
  const chain = await openSubtensor({
    endpoints: config.chain,
    connectTimeoutMs: CHAIN_CONNECT_TIMEOUT_MS,
    outbox,
    log,
  });
  opened.push(chain);
  const netuid = netuidOf(config.netuid);
  if (netuid === undefined) throw new ConfigError(`${config.netuid} is not the number of a subnet`);
  await assertRegistered(chain, netuid, hotkey);

  const upstreams = openUpstreams(upstreamConfigs);
  opened.push(upstreams);
  const receipts = await openReceiptStore(config.data, log);
  opened.push(receipts);
  const enclave = bootEnclave({
    simulatedTee,
    net: chain.genesisHash,
    netuid,
    hotkeyPublicKeyHex: keypair.publicKeyHex,
    signWithHotkey: (message) => keypair.sign(message),
    worker: config.worker,
    host: config.publicUrl === undefined ? config.host : hostOf(config.publicUrl),
    upstreams: upstreams.hosts,
    measuredConfig: upstreamConfigs.map(({ name, kind, baseUrl, models }) => ({
      name,
      kind,
      baseUrl,
      models: models.map(({ id }) => id),
    })),
    nowMs,
  });
  const quotes = openPriceQuotes({
    hotkey,
    sign: (message) => keypair.sign(message),
    models: upstreams.models,
    discountBps: config.discountBps,
    capacity: {
      rpm: REQUESTS_PER_MINUTE,
      tpm: TOKENS_PER_MINUTE,
      inflight: RELAY_LIMITS.inFlightMax,
    },
    directory: config.data,
    enclave: () => enclave.id(),
    nowMs,
  });
  opened.push(quotes);

  const keys = gatewayKeys(
    {
      ownerHotkey: async () =>
        (await chain.subnets()).find((subnet) => subnet.netuid === netuid)?.ownerHotkey,
      commitmentOf: async (owner) => (await chain.commitmentOf(netuid, owner))?.fields,
    },
    { nowMs, log },
  );
  let head = await chain.finalizedHead();
  const stopHeads = chain.onFinalizedHead((next) => {
    if (next.number > head.number) head = next;
    keys.refresh().catch(() => undefined);
  });
  opened.push({ close: async () => stopHeads() });
  await keys.refresh();

  const relay = buildRelay({
    hotkey,
    enclave,
    upstreams,
    quotes,
    receipts,
    gatewayKeyOf: (kid) => keys.keyOf(kid),
    refreshGatewayKeys: () => keys.refresh(),
    head: () => head,
    nowMs,
    log,
    drainMs: config.drainMs,
  });
  opened.push(relay);
  const port = await relay.listen(config.host, config.port);
  const url = config.publicUrl ?? urlOf(config.host, port);
  opened.push(
    await openAnnouncement(
      url,
      {
        read: async () => (await chain.commitmentOf(netuid, hotkey))?.fields,
        publish: async (fields) => {
          await publishCommitment(chain, netuid, keypair, fields);
        },
      },
      log,
    ),
  );
  log.info({ url, hotkey, netuid, models: upstreams.models.length }, "relay.ready");
  let closing: Promise<void> | undefined;
  return { url, hotkey, close: () => (closing ??= closeAll(opened)) };
}

async function assertRegistered(
  chain: Subtensor,
  netuid: Parameters<Subtensor["metagraph"]>[0],
  hotkey: Hotkey,
): Promise<void> {
  const { neurons } = await chain.metagraph(netuid).catch((cause: unknown) => {
    if (cause instanceof Error && cause.name === "SubnetNotExists")
      throw new ConfigError(`the chain has no subnet ${netuid}: check DAYBREAK_MINER_NETUID`, {
        cause,
      });
    throw cause;
  });
  if (!neurons.some((neuron) => neuron.hotkey === hotkey))
    throw new ConfigError(
      `hotkey ${hotkey} is not registered on subnet ${netuid}: register it, then start again`,
    );
}

function upstreamsFrom(config: MinerConfig): readonly UpstreamConfig[] {
  const list =
    config.upstreams ??
    upstreamsOfKeys({
      openai: config.openaiApiKey,
      anthropic: config.anthropicApiKey,
      gemini: config.geminiApiKey,
    });
  if (list.length === 0)
    throw new ConfigError(
      "a relay needs a provider: set OPENAI_API_KEY, ANTHROPIC_API_KEY, GEMINI_API_KEY or DAYBREAK_UPSTREAMS",
    );
  return list;
}

function hotkeyFrom(path: string): Keypair {
  try {
    return keypairOf(readKeyFile(path, "hotkey"));
  } catch (error) {
    if (error instanceof ConfigError) throw error;
    throw new ConfigError(`the hotkey file ${path} does not hold a seed, a mnemonic or a URI`);
  }
}

function simulatedTeeFrom(path: string): SigningKey {
  try {
    return signingKey(readKeyFile(path, "simulated TEE's key"));
  } catch (error) {
    if (error instanceof ConfigError) throw error;
    throw new ConfigError(
      `the simulated TEE's key file ${path} does not hold an Ed25519 key in PKCS#8 PEM`,
    );
  }
}

function readKeyFile(path: string, what: string): string {
  try {
    return readFileSync(path, "utf8").trim();
  } catch (cause) {
    throw new ConfigError(
      `cannot read the ${what} from ${path} (${(cause as NodeJS.ErrnoException).code})`,
      { cause },
    );
  }
}

function hostOf(url: string): string {
  return new URL(url).hostname.replace(/^\[|\]$/g, "");
}

/** @throws ConfigError if nobody else could use the address. */
function urlOf(host: string, port: number): string {
  if (host === "0.0.0.0" || host === "::")
    throw new ConfigError(
      `the relay listens on ${host}, which is no address for others: set DAYBREAK_MINER_PUBLIC_URL`,
    );
  return `https://${isIPv6(host) ? `[${host}]` : host}:${port}`;
}
