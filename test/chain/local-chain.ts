import { randomBytes } from "node:crypto";
import type { TestContext } from "node:test";
import { keypairOf } from "../../src/chain/keys.ts";
import { openSubtensor, type Subtensor } from "../../src/chain/subtensor.ts";
import { type Hotkey, hotkeyOf, type Netuid, netuidOf } from "../../src/core/ids.ts";
import { openDevchain } from "../../src/devchain/devchain.ts";
import { type Logger, openLogger } from "../../src/runtime/logger.ts";

export const TAO = 1_000_000_000n;
export const LOG: Logger = openLogger("test", "silent");
export const CONNECT_TIMEOUT_MS = 10_000;

export const ALICE = keypairOf("//Alice");
export const BOB = keypairOf("//Bob");

export interface LocalChainOptions {
  readonly port?: number;
  readonly dataDir?: string;
  readonly blockMs?: number;
  readonly tempo?: number;
  readonly finalityLagBlocks?: number;
}

/** A dev chain on which Alice and Bob are rich. The caller closes it. */
export async function openLocalChain(options: LocalChainOptions = {}) {
  return await openDevchain({
    host: "127.0.0.1",
    port: 0,
    blockMs: 100,
    tempo: 360,
    finalityLagBlocks: 1,
    endowed: [ALICE, BOB].map(({ address }) => ({ address, rao: 1_000_000n * TAO })),
    ...options,
  });
}

/** A dev chain and a client of it, both closed after the test. */
export async function openChainAndClient(
  t: Pick<TestContext, "after">,
  options: LocalChainOptions = {},
): Promise<{ url: string; chain: Subtensor }> {
  const node = await openLocalChain(options);
  const chain = await openSubtensor({
    endpoints: [node.url],
    connectTimeoutMs: CONNECT_TIMEOUT_MS,
    log: LOG,
  });
  t.after(async () => {
    await chain.close();
    await node.close();
  });
  return { url: node.url, chain };
}

/** An address that nobody has used. */
export function freshKeypair() {
  return keypairOf(`0x${randomBytes(32).toString("hex")}`);
}

/** Registers a subnet that Alice owns, with `hotkey` as its owner's. */
export async function openSubnet(chain: Subtensor, hotkey: Hotkey): Promise<Netuid> {
  await chain.submit({ kind: "register_network", hotkey }, ALICE);
  const found = (await chain.subnets()).find(({ ownerHotkey }) => ownerHotkey === hotkey);
  const netuid = netuidOf(found?.netuid);
  if (netuid === undefined) throw new Error("the new subnet is not listed");
  return netuid;
}

/** Waits until uid 0 may set weights: registering counts as an update. */
export async function rateLimitToPass(chain: Subtensor, netuid: Netuid): Promise<void> {
  const { neurons, weightsRateLimitBlocks } = await chain.metagraph(netuid);
  const due = (neurons[0]?.lastUpdate ?? 0) + weightsRateLimitBlocks;
  await eventually(() => chain.blockHash(due));
}

export function hotkey(address: string): Hotkey {
  const known = hotkeyOf(address);
  if (known === undefined) throw new Error(`${address} is not an address`);
  return known;
}

/** Waits until `condition` gives a value. @throws Error after `deadlineMs`. */
export async function eventually<T>(
  condition: () => Promise<T | undefined>,
  deadlineMs = 10_000,
): Promise<T> {
  const end = performance.now() + deadlineMs;
  for (;;) {
    const value = await condition();
    if (value !== undefined) return value;
    if (performance.now() > end) throw new Error("the condition was not met in time");
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}
