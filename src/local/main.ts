import { randomBytes } from "node:crypto";
import { mkdtempSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { keypairOf, newSecret } from "../chain/keys.ts";
import { openSubtensor, type Subtensor } from "../chain/subtensor.ts";
import { pemOf, signingKey } from "../core/jws.ts";
import { MODELS } from "../core/models.ts";
import { NANO, rao } from "../core/money.ts";
import type { Surface } from "../core/surface.ts";
import { openDevchain } from "../devchain/devchain.ts";
import { gatewaySettings } from "../gateway/config.ts";
import { openGateway } from "../gateway/main.ts";
import { type MinerConfig, minerSettings } from "../miner/config.ts";
import { openMiner } from "../miner/main.ts";
import type { UpstreamConfig } from "../miner/upstreams.ts";
import { type Logger, openLogger } from "../runtime/logger.ts";
import { ConfigError, loadSettings } from "../runtime/settings.ts";
import { type Closable, closeAll } from "../runtime/shutdown.ts";
import { validatorSettings } from "../validator/config.ts";
import { openValidator } from "../validator/main.ts";
import { lastChainPort, rememberChainPort } from "./chain-port.ts";
import type { LocalConfig } from "./config.ts";
import { type NetworkFile, type NetworkSecrets, openNetworkFile } from "./network-file.ts";
import { openProviderSimulator } from "./provider-simulator.ts";
import { seedSubnet } from "./seed-subnet.ts";
import { type Welcome, welcomeText } from "./welcome.ts";

/** TAO that the owner has on a new local chain. */
const OWNER_TAO = 10_000_000n;
/** The development accounts that Substrate chains fund, and what each gets. */
const DEVELOPMENT_ACCOUNTS = [
  "//Alice",
  "//Bob",
  "//Charlie",
  "//Dave",
  "//Eve",
  "//Ferdie",
] as const;
const DEVELOPMENT_TAO = 1_000_000n;
/** TAO that each customer of a new network deposits: the user's account, and each validator's for its probes. */
const DEPOSIT_RAO = rao(1n * NANO);
/** The chain is for this machine only. */
const CHAIN_HOST = "127.0.0.1";
/** Longest wait for any one part to become ready, in milliseconds. */
const READY_DEADLINE_MS = 30_000;
const POLL_MS = 25;
/** Floors of the miners, basis points below retail; they repeat when there are more miners. */
const DISCOUNTS_BPS = [2_000, 1_900, 1_500] as const;

/** A running local network: what the ready file says. */
interface LocalNetwork extends Closable {
  readonly base_url: string;
  readonly api_key: string;
  readonly admin_key: string;
  readonly chain_ws: string;
  readonly netuid: number;
  readonly log_url: string;
  readonly miners: readonly { readonly hotkey: string; readonly url: string }[];
  readonly pid: number;
}

/**
 * Starts a whole network, prints how to use it to `out`, and writes the ready file.
 *
 * @throws ConfigError for what the user can mend: a busy port, a folder that cannot be used.
 */
export async function runLocalNetwork(
  config: LocalConfig,
  out: NodeJS.WritableStream,
): Promise<Closable> {
  const startedMs = performance.now();
  if (config.readyFile !== undefined) rmSync(config.readyFile, { force: true });
  const directory = config.ephemeral
    ? mkdtempSync(join(tmpdir(), "daybreak-"))
    : resolve(config.data);
  const opened: Closable[] = [];
  if (config.ephemeral)
    opened.push({ close: async () => rmSync(directory, { recursive: true, force: true }) });
  try {
    const { network, models } = await openNetwork(config, directory, opened);
    const welcome: Welcome = {
      ...network,
      models,
      simulated: !usesRealUpstreams(config),
      taoUsd: config.taoUsd,
      miners: network.miners.length,
      validators: config.validators,
      blockMs: config.blockMs,
      tempo: config.tempo,
      directory: config.ephemeral ? `${directory} (removed at exit)` : directory,
      readyMs: performance.now() - startedMs,
    };
    out.write(welcomeText(welcome));
    if (config.readyFile !== undefined) {
      const file = config.readyFile;
      writeReadyFile(file, network);
      opened.push({ close: async () => rmSync(file, { force: true }) });
    }
  } catch (error) {
    await closeAll(opened);
    throw error;
  }
  let closing: Promise<void> | undefined;
  return { close: () => (closing ??= closeAll(opened)) };
}

type NetworkFacts = Omit<LocalNetwork, "close">;

async function openNetwork(
  config: LocalConfig,
  directory: string,
  opened: Closable[],
): Promise<{ network: NetworkFacts; models: readonly { id: string; surface: string }[] }> {
  await assertPortFree(config.host, config.port);
  const file = openNetworkFile(directory, newSecrets);
  // It may lie in the data folder, which exists from here on.
  if (config.readyFile !== undefined) assertReadyFileWritable(config.readyFile);
  const secrets = withNeurons(file, config);
  const logger = (service: string): Logger =>
    openLogger(service, config.logLevel, join(directory, "daybreak.log"));

  const owner = keypairOf(secrets.owner.coldkey);
  const devchain = await openDevchain({
    host: CHAIN_HOST,
    port: await lastChainPort(directory, CHAIN_HOST),
    dataDir: join(directory, "chain"),
    blockMs: config.blockMs,
    tempo: config.tempo,
    finalityLagBlocks: 0,
    endowed: [
      { address: owner.address, rao: rao(OWNER_TAO * NANO) },
      ...DEVELOPMENT_ACCOUNTS.map((uri) => ({
        address: keypairOf(uri).address,
        rao: rao(DEVELOPMENT_TAO * NANO),
      })),
    ],
  });
  opened.push(devchain);
  rememberChainPort(directory, devchain.port);
  const chain = await openSubtensor({
    endpoints: [devchain.url],
    connectTimeoutMs: READY_DEADLINE_MS,
    log: logger("local"),
  });
  opened.push(chain);
  const netuid = await seedSubnet(chain, secrets);

  const simulatedTee = signingKey(secrets.simulatedTeeKey);
  // For validators that are started beside this network.
  file.keyFile("simulated-tee-root", JSON.stringify(simulatedTee.jwk));
  const common = { chain: devchain.url, netuid: String(netuid) };
  const gateway = await openGateway(
    loadSettings(
      gatewaySettings,
      {},
      {
        ...common,
        host: config.host,
        port: String(config.port),
        data: join(directory, "gateway"),
        databaseUrl: config.databaseUrl,
        hotkeyFile: file.keyFile("owner-hotkey", secrets.owner.hotkey),
        adminKey: secrets.adminKey,
        treasury: keypairOf(`${secrets.treasury}//deposits`).address,
        taoUsd: config.taoUsd,
        simTeeRoot: JSON.stringify(simulatedTee.jwk),
        allowPrivateRelays: "true",
      },
    ),
    logger("gateway"),
  );
  opened.push(gateway);

  const upstreams = await openUpstreams(config, opened);
  const simulatedTeeKeyFile = file.keyFile("simulated-tee-key", secrets.simulatedTeeKey);
  const miners = await Promise.all(
    secrets.miners.slice(0, config.miners).map(async (miner, index) => {
      const settings = loadSettings(
        minerSettings,
        {},
        {
          ...common,
          host: "127.0.0.1",
          port: "0",
          data: join(directory, "miners", String(index + 1)),
          hotkeyFile: file.keyFile(`miner-${index + 1}-hotkey`, miner.hotkey),
          simTeeKeyFile: simulatedTeeKeyFile,
          worker: `miner-${index + 1}`,
          discountBps: String(DISCOUNTS_BPS[index % DISCOUNTS_BPS.length]),
        },
      );
      const relay = await openMiner({ ...settings, ...upstreams }, logger(`miner-${index + 1}`));
      opened.push(relay);
      return { hotkey: keypairOf(miner.hotkey).address, url: relay.url };
    }),
  );

  await assertLedgerOf(secrets.customers, gateway.url, directory);
  const customers = await fundedCustomers(chain, gateway.url, file, 1 + config.validators);
  const [user, ...probers] = customers;
  if (user === undefined) throw new Error("the network has no customer");
  for (const [index, validator] of secrets.validators.slice(0, config.validators).entries()) {
    opened.push(
      await openValidator(
        loadSettings(
          validatorSettings,
          {},
          {
            ...common,
            host: "127.0.0.1",
            port: "0",
            data: join(directory, "validators", String(index + 1)),
            hotkeyFile: file.keyFile(`validator-${index + 1}-hotkey`, validator.hotkey),
            apiKey: probers[index]?.apiKey,
            simTeeRoot: JSON.stringify(simulatedTee.jwk),
            taoUsd: config.taoUsd,
          },
        ),
        logger(`validator-${index + 1}`),
      ),
    );
  }
  await allServing(gateway.url, miners.length);
  const models = await get<{ data: { id: string }[] }>(`${gateway.url}/v1/models`);
  const offered = new Set(models.data.map(({ id }) => id));
  return {
    network: {
      base_url: `${gateway.url}/v1`,
      api_key: user.apiKey,
      admin_key: secrets.adminKey,
      chain_ws: devchain.url,
      netuid,
      log_url: `${gateway.url}/log`,
      miners,
      pid: process.pid,
    },
    models: MODELS.filter(({ id }) => offered.has(id)).map(({ id, surface }) => ({ id, surface })),
  };
}

function newSecrets(): NetworkSecrets {
  return {
    owner: { coldkey: newSecret(), hotkey: newSecret() },
    treasury: newSecret(),
    simulatedTeeKey: pemOf(signingKey()),
    adminKey: `sk-db-admin-${randomBytes(24).toString("base64url")}`,
    miners: [],
    validators: [],
    customers: [],
  };
}

/** Makes keys for neurons that the network does not have yet; it keeps those it has. */
function withNeurons(file: NetworkFile, config: LocalConfig): NetworkSecrets {
  const secrets = file.secrets();
  const grown = (have: NetworkSecrets["miners"], want: number) => [
    ...have,
    ...Array.from({ length: Math.max(0, want - have.length) }, () => ({
      coldkey: newSecret(),
      hotkey: newSecret(),
    })),
  ];
  const next = {
    ...secrets,
    miners: grown(secrets.miners, config.miners),
    validators: grown(secrets.validators, config.validators),
  };
  file.save(next);
  return next;
}

function usesRealUpstreams(config: LocalConfig): boolean {
  return [config.upstreams, config.openaiApiKey, config.anthropicApiKey, config.geminiApiKey].some(
    (value) => value !== undefined,
  );
}

type UpstreamSettings = Pick<
  MinerConfig,
  "upstreams" | "openaiApiKey" | "anthropicApiKey" | "geminiApiKey"
>;

/** The miners' upstream settings: the user's own keys, or else a simulator that is started here. */
async function openUpstreams(config: LocalConfig, opened: Closable[]): Promise<UpstreamSettings> {
  const { upstreams, openaiApiKey, anthropicApiKey, geminiApiKey } = config;
  if (usesRealUpstreams(config)) return { upstreams, openaiApiKey, anthropicApiKey, geminiApiKey };
  const simulator = await openProviderSimulator(config.simulatorLatencyMs);
  opened.push(simulator);
  const upstream = (kind: "openai" | "anthropic", surface: Surface): UpstreamConfig => ({
    name: `simulated-${kind}`,
    kind,
    baseUrl: `${simulator.url}/v1`,
    apiKey: "simulated",
    models: MODELS.filter((model) => model.surface === surface),
  });
  return {
    upstreams: [upstream("openai", "chat"), upstream("anthropic", "messages")],
    openaiApiKey: undefined,
    anthropicApiKey: undefined,
    geminiApiKey: undefined,
  };
}

/** @throws ConfigError if the gateway's ledger does not know the network's customers: it is new, or another network's. */
async function assertLedgerOf(
  customers: NetworkSecrets["customers"],
  gatewayUrl: string,
  directory: string,
): Promise<void> {
  for (const { apiKey } of customers) {
    const { status } = await fetch(`${gatewayUrl}/v1/credits`, {
      headers: { authorization: `Bearer ${apiKey}` },
    });
    if (status !== 401) continue;
    throw new ConfigError(
      `the ledger does not know the customers of the network in ${directory}: restore the ledger, or move the folder away or choose another with --data DIR`,
    );
  }
}

/**
 * The first `count` customers of the network. New ones get an account from the gateway, and TAO that the owner sends to
 * their deposit addresses on the chain; this waits until the gateway has credited them.
 */
async function fundedCustomers(
  chain: Subtensor,
  gatewayUrl: string,
  file: NetworkFile,
  count: number,
): Promise<NetworkSecrets["customers"]> {
  const secrets = file.secrets();
  const customers = [...secrets.customers];
  if (customers.length >= count) return customers;
  const fresh: NetworkSecrets["customers"][number][] = [];
  while (customers.length + fresh.length < count) {
    const number = customers.length + fresh.length;
    const created = await post<{ account_id: string; api_key: string; deposit_address: string }>(
      `${gatewayUrl}/v1/accounts`,
      secrets.adminKey,
      { name: number === 0 ? "local user" : `validator ${number}` },
    );
    fresh.push({
      accountId: created.account_id,
      apiKey: created.api_key,
      depositAddress: created.deposit_address,
    });
  }
  const calls = fresh.map(
    ({ depositAddress }) => ({ kind: "transfer", to: depositAddress, rao: DEPOSIT_RAO }) as const,
  );
  await chain.submit({ kind: "batch_all", calls }, keypairOf(secrets.owner.coldkey));
  for (const { apiKey } of fresh) {
    await until("a deposit to be credited", async () => {
      const credits = await get<{ data: { balance_nusd: string } }>(
        `${gatewayUrl}/v1/credits`,
        apiKey,
      );
      return credits.data.balance_nusd !== "0";
    });
  }
  // Only now: a start that is cut off before this line makes new customers the next time, and these are never shown.
  file.save({ ...file.secrets(), customers: [...customers, ...fresh] });
  return file.secrets().customers;
}

async function allServing(gatewayUrl: string, count: number): Promise<void> {
  let last = "";
  try {
    await until("the miners to serve", async () => {
      const miners = await get<{
        data: { state: string; reason?: unknown; products: unknown[] }[];
      }>(`${gatewayUrl}/v1/network/miners`);
      last = JSON.stringify(miners.data.map(({ state, reason }) => ({ state, reason })));
      return (
        miners.data.filter(({ state, products }) => state === "serving" && products.length > 0)
          .length >= count
      );
    });
  } catch (cause) {
    throw new Error(`not all miners serve: ${last}`, { cause });
  }
}

async function until(what: string, condition: () => Promise<boolean>): Promise<void> {
  const deadline = performance.now() + READY_DEADLINE_MS;
  while (!(await condition())) {
    if (performance.now() > deadline)
      throw new Error(
        `waited ${READY_DEADLINE_MS / 1000} s for ${what}; see daybreak.log in the data folder`,
      );
    await delay(POLL_MS);
  }
}

async function get<T>(url: string, apiKey?: string): Promise<T> {
  return await answerOf<T>(
    await fetch(
      url,
      apiKey === undefined ? {} : { headers: { authorization: `Bearer ${apiKey}` } },
    ),
  );
}

async function post<T>(url: string, apiKey: string, body: object): Promise<T> {
  const headers = { authorization: `Bearer ${apiKey}`, "content-type": "application/json" };
  return await answerOf<T>(
    await fetch(url, { method: "POST", headers, body: JSON.stringify(body) }),
  );
}

async function answerOf<T>(response: Response): Promise<T> {
  if (!response.ok)
    throw new Error(`${new URL(response.url).pathname} answered ${response.status}`);
  return (await response.json()) as T;
}

/** @throws ConfigError if the port is taken: found out before anything is started or written. */
async function assertPortFree(host: string, port: number): Promise<void> {
  if (port === 0) return;
  const server = createServer();
  try {
    await new Promise<void>((resolveListening, reject) => {
      server.once("error", reject);
      server.listen(port, host, resolveListening);
    });
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    const remedy = "choose another with --port N, or --port 0 for a free one";
    if (code === "EADDRINUSE")
      throw new ConfigError(`port ${port} is in use: stop the program that has it, or ${remedy}`, {
        cause: error,
      });
    if (code === "EACCES")
      throw new ConfigError(`port ${port} needs privileges: ${remedy}`, { cause: error });
    if (code === "EADDRNOTAVAIL" || code === "ENOTFOUND")
      throw new ConfigError(
        `${host} is not an address of this machine: choose another with --host`,
        { cause: error },
      );
    throw error;
  }
  await new Promise((resolveClosed) => server.close(resolveClosed));
}

/** @throws ConfigError if the file could not be written later, when everything runs. */
function assertReadyFileWritable(path: string): void {
  const draft = draftOf(path);
  orChooseAnother(path, () => {
    writeFileSync(draft, "", { mode: 0o600 });
    rmSync(draft);
  });
}

function writeReadyFile(path: string, network: NetworkFacts): void {
  const draft = draftOf(path);
  orChooseAnother(path, () => {
    writeFileSync(draft, `${JSON.stringify(network, null, 2)}\n`, { mode: 0o600 });
    renameSync(draft, path);
  });
}

function draftOf(path: string): string {
  return `${path}.${process.pid}.new`;
}

function orChooseAnother(path: string, write: () => void): void {
  try {
    write();
  } catch (cause) {
    throw new ConfigError(
      `cannot write the ready file ${path} (${(cause as NodeJS.ErrnoException).code}): choose another with --ready-file`,
      { cause },
    );
  }
}
