import { readFileSync } from "node:fs";
import { isIPv6 } from "node:net";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { localPolicy, type Policy } from "../attestation/policy.ts";
import { SIMULATED_IMAGE } from "../attestation/simulated/image.ts";
import {
  addressOf,
  type Keypair,
  keypairOf,
  publicKeyHexOf,
  verifySr25519,
} from "../chain/keys.ts";
import { type Metagraph } from "../chain/metagraph.ts";
import { openOutboxFile } from "../chain/outbox.ts";
import { publishCommitment } from "../chain/publish-commitment.ts";
import { openSubtensor, type Subtensor } from "../chain/subtensor.ts";
import { encodeAnnouncement } from "../core/commitment.ts";
import { type Hotkey, type Netuid, netuidOf } from "../core/ids.ts";
import { quoteSigningBytes } from "../core/quote.ts";
import { allowsFixedPrice } from "../core/tao-price.ts";
import { lockDirectory } from "../runtime/data-lock.ts";
import type { Logger } from "../runtime/logger.ts";
import { ConfigError } from "../runtime/settings.ts";
import { type Closable, closeAll } from "../runtime/shutdown.ts";
import { buildValidatorApp } from "./app.ts";
import type { ValidatorConfig } from "./config.ts";
import { openEpochLoop, type ValidatorChain } from "./epoch-loop.ts";
import { openLogFetch } from "./log-fetch.ts";
import { LEDGER_PARAMETERS } from "./miner-pay-ledger.ts";
import { WEIGHT_MAX } from "./plan-to-weights.ts";
import { runProbes } from "./probe.ts";
import { BurnUidError, burnUidOf } from "./settle-epoch.ts";
import { validatorMetrics } from "./validator-metrics.ts";
import { stateFile } from "./validator-state.ts";
import { enclaveVerifier } from "./verify-enclave.ts";

const CHAIN_CONNECT_TIMEOUT_MS = 30_000;
const ANNOUNCE_RETRY_FIRST_MS = 1_000;
const ANNOUNCE_RETRY_MAX_MS = 60_000;

/** A validator that audits, and serves its report. */
export interface Validator extends Closable {
  /** Where the report is, as announced on the chain. */
  readonly url: string;
  readonly hotkey: Hotkey;
}

/**
 * Starts a validator.
 *
 * @throws ConfigError for what the operator or the subnet's owner can mend; what was opened is closed first.
 */
export async function openValidator(config: ValidatorConfig, log: Logger): Promise<Validator> {
  const opened: Closable[] = [];
  try {
    return await open(config, log, opened);
  } catch (error) {
    await closeAll(opened);
    throw error;
  }
}

async function open(config: ValidatorConfig, log: Logger, opened: Closable[]): Promise<Validator> {
  const keypair = hotkeyFrom(config.hotkeyFile);
  const hotkey = keypair.address as Hotkey;
  const apiKey =
    config.apiKey ??
    (config.apiKeyFile === undefined ? undefined : readKeyFile(config.apiKeyFile, "API key"));
  const netuid = netuidOf(config.netuid);
  if (netuid === undefined) throw new ConfigError(`${config.netuid} is not the number of a subnet`);
  // Two validators that step one ledger would count an epoch twice, or not at all.
  const lock = lockDirectory(config.data);
  opened.push({ close: async () => lock.release() });
  const outbox = await openOutboxFile(join(config.data, "outbox"));
  opened.push(outbox);
  const subtensor = await openSubtensor({
    endpoints: config.chain,
    connectTimeoutMs: CHAIN_CONNECT_TIMEOUT_MS,
    outbox,
    log,
  });
  opened.push(subtensor);
  if (!allowsFixedPrice(subtensor.genesisHash))
    throw new ConfigError(
      "DAYBREAK_VALIDATOR_TAO_USD is a fixed price, which is for local networks; this chain is Bittensor's main network, for which this version has no price that all validators share",
    );
  checkSubnet(await metagraphOf(subtensor, netuid), hotkey);

  const metrics = validatorMetrics();
  const logFetch = openLogFetch();
  opened.push(logFetch);
  const policy = policyFrom(config);
  if (policy === undefined)
    log.error("validator.no_policy: no attestation policy is set, so no receipt will count");
  const loop = await openEpochLoop({
    chain: chainOf(subtensor, netuid, keypair),
    hotkey,
    state: stateFile(config.data, { genesis: subtensor.genesisHash, netuid }),
    rules: { parameters: LEDGER_PARAMETERS, nanoUsdPerTao: config.taoUsd },
    fetchFrom: (logUrl) => logFetch.from(logUrl),
    verifyEnclave:
      policy === undefined
        ? async () => undefined
        : enclaveVerifier({
            policy,
            net: subtensor.genesisHash,
            netuid,
            blockHash: (number) => subtensor.blockHash(number),
            addressOf,
            verifyHotkeySignature: verifySr25519,
            log,
          }),
    verifyQuoteSignature: ({ quote, sig }, signer) =>
      /^[0-9a-f]{128}$/.test(sig) &&
      verifySr25519(quoteSigningBytes(quote), Buffer.from(sig, "hex"), publicKeyHexOf(signer)),
    ...(apiKey === undefined
      ? {}
      : {
          probe: async (epoch, announcedUrl, signal) => {
            const gatewayUrl = config.gatewayUrl ?? announcedUrl.replace(/\/+$/, "");
            const summary = await runProbes({ epoch, gatewayUrl, apiKey, signal });
            if (summary !== undefined) metrics.probes(summary);
            return summary;
          },
        }),
    onReport: (report) => metrics.epoch(report),
    onWeights: (result) => metrics.weights(result),
    log,
  });
  opened.push(loop);

  const app = buildValidatorApp({
    hotkey,
    netuid,
    metrics: metrics.registry,
    reports: () => loop.reports(),
    probe: () => loop.probe(),
    handledBlock: () => loop.handledBlock(),
  });
  opened.push({ close: () => app.close() });
  await app.listen({ host: config.host, port: config.port });
  const address = app.server.address();
  const port = typeof address === "object" && address !== null ? address.port : config.port;
  const url = config.publicUrl ?? urlOf(config.host, port);
  opened.push(openAnnouncement(subtensor, netuid, keypair, url, log));
  log.info({ url, hotkey, netuid, probes: apiKey !== undefined }, "validator.ready");
  let closing: Promise<void> | undefined;
  return { url, hotkey, close: () => (closing ??= closeAll(opened)) };
}

/** One subnet of a chain, as plain functions. */
function chainOf(subtensor: Subtensor, netuid: Netuid, keypair: Keypair): ValidatorChain {
  return {
    finalizedHead: () => subtensor.finalizedHead(),
    onFinalizedHead: (listener) => subtensor.onFinalizedHead(listener),
    blockHash: (number) => subtensor.blockHash(number),
    epochOf: (atHash) => subtensor.epochOf(netuid, atHash),
    subnet: (atHash) => subtensor.metagraph(netuid, atHash),
    minerEmissions: async (hash) => {
      const { minerEmissions } = await subtensor.blockFacts(hash);
      const total: bigint[] = [];
      for (const { emissions } of minerEmissions.filter((entry) => entry.netuid === netuid))
        for (const [uid, rao] of emissions.entries()) total[uid] = (total[uid] ?? 0n) + rao;
      return total;
    },
    alphaPriceRao: async (atHash) => {
      try {
        return await subtensor.alphaPriceRao(netuid, atHash);
      } catch (error) {
        if (error instanceof Error && error.name === "SubnetNotExists") return 0n;
        throw error;
      }
    },
    commitmentFields: async (hotkey, atHash) =>
      (await subtensor.commitmentOf(netuid, hotkey, atHash))?.fields ?? [],
    setWeights: async (epoch, weights, versionKey) => {
      try {
        const { blockNumber } = await subtensor.submitOnce(
          `weights/${netuid}/${keypair.address}/${epoch}`,
          { kind: "set_weights", netuid, uids: weights.map((_, uid) => uid), weights, versionKey },
          keypair,
        );
        return { ok: true, block: blockNumber };
      } catch (error) {
        return { ok: false, refusal: error instanceof Error ? error.name : "unknown" };
      }
    },
  };
}

async function metagraphOf(subtensor: Subtensor, netuid: Netuid): Promise<Metagraph> {
  const head = await subtensor.finalizedHead();
  return await subtensor.metagraph(netuid, head.hash).catch((cause: unknown) => {
    if (cause instanceof Error && cause.name === "SubnetNotExists")
      throw new ConfigError(`the chain has no subnet ${netuid}: check DAYBREAK_VALIDATOR_NETUID`, {
        cause,
      });
    throw cause;
  });
}

/** @throws ConfigError if weights of this version would not do on this subnet what they say. */
function checkSubnet(subnet: Metagraph, hotkey: Hotkey): void {
  const { netuid } = subnet;
  if (!subnet.neurons.some((neuron) => neuron.hotkey === hotkey))
    throw new ConfigError(
      `hotkey ${hotkey} is not registered on subnet ${netuid}: register it, then start again`,
    );
  if (subnet.commitRevealEnabled)
    throw new ConfigError(
      `subnet ${netuid} has commit-reveal enabled, which this version does not do: its owner has to switch it off`,
    );
  if (BigInt(subnet.maxWeightsLimit) < WEIGHT_MAX)
    throw new ConfigError(
      `subnet ${netuid} limits single weights to ${subnet.maxWeightsLimit}: its owner has to raise that to ${WEIGHT_MAX}`,
    );
  try {
    burnUidOf(subnet);
  } catch (error) {
    if (error instanceof BurnUidError)
      throw new ConfigError(`subnet ${netuid} cannot burn: ${error.message}`, { cause: error });
    throw error;
  }
}

/** Publishes the URL unless it is there already; the chain's rate limit makes it try again in the background. */
function openAnnouncement(
  subtensor: Subtensor,
  netuid: Netuid,
  keypair: Keypair,
  url: string,
  log: Logger,
): Closable {
  const closing = new AbortController();
  const field = encodeAnnouncement({ kind: "validator", url });
  const announce = async (): Promise<void> => {
    let pauseMs = ANNOUNCE_RETRY_FIRST_MS;
    while (!closing.signal.aborted) {
      try {
        const published = await subtensor.commitmentOf(netuid, keypair.address as Hotkey);
        if (Buffer.compare(published?.fields[0] ?? Buffer.alloc(0), field) === 0) return;
        await publishCommitment(subtensor, netuid, keypair, [field]);
        log.info({ url }, "validator.announced");
        return;
      } catch (error) {
        if (closing.signal.aborted) return;
        const reason = error instanceof Error ? error.name : "unknown";
        log.warn({ reason, retryMs: pauseMs }, "validator.not_announced");
        await delay(pauseMs, undefined, { signal: closing.signal }).catch(() => undefined);
        pauseMs = Math.min(pauseMs * 2, ANNOUNCE_RETRY_MAX_MS);
      }
    }
  };
  const done = announce();
  return {
    close: async () => {
      closing.abort();
      await done;
    },
  };
}

/** The only policy of this version is that of a local network; hardware comes with its manifest. */
function policyFrom({ simTeeRoot, simTeeImages }: ValidatorConfig): Policy | undefined {
  if (simTeeRoot === undefined) return undefined;
  const images = simTeeImages.length > 0 ? simTeeImages : [SIMULATED_IMAGE];
  return localPolicy({ simRoot: simTeeRoot, images });
}

function hotkeyFrom(path: string): Keypair {
  const secret = readKeyFile(path, "hotkey");
  try {
    return keypairOf(secret);
  } catch {
    throw new ConfigError(`the hotkey file ${path} does not hold a seed, a mnemonic or a URI`);
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

/** @throws ConfigError if nobody else could use the address. */
function urlOf(host: string, port: number): string {
  if (host === "0.0.0.0" || host === "::")
    throw new ConfigError(
      `the report is served on ${host}, which is no address for others: set DAYBREAK_VALIDATOR_PUBLIC_URL`,
    );
  return `http://${isIPv6(host) ? `[${host}]` : host}:${port}`;
}
