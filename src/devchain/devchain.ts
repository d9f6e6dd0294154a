import { decodeAddress } from "@polkadot/util-crypto/address";
import type { Logger } from "../runtime/logger.ts";
import { ConfigError } from "../runtime/settings.ts";
import { type Closable, closeAll } from "../runtime/shutdown.ts";
import { FILE_BYTES_MAX, openChain } from "./chain.ts";
import type { Snapshot } from "./chain-file.ts";
import { SLOT_MS } from "./pallets/aura.ts";
import { type Hex, toHex } from "./scale/bytes.ts";
import { openRpcServer } from "./server.ts";
import { readSnapshotJson } from "./snapshot-json.ts";

export interface DevchainOptions {
  /** Address to listen on; a loopback one unless others shall reach it. */
  readonly host: string;
  /** 0 picks a free one. */
  readonly port: number;
  /** Folder that keeps the chain; absent, it lives in memory. */
  readonly dataDir?: string | undefined;
  /**
   * Milliseconds between blocks when nothing happens; a transaction gets its block at once. 0: only then, and clients are told
   * the real chain's 12 seconds.
   */
  readonly blockMs: number;
  /** Blocks per epoch, of new subnets and, after a start, of those that exist. */
  readonly tempo: number;
  /** Blocks between the newest block and the newest final one. */
  readonly finalityLagBlocks: number;
  /** Who owns TAO when a chain begins; the first one also has the sudo key. Ignored when the chain exists. */
  readonly endowed: readonly { readonly address: string; readonly rao: bigint }[];
  /** JSON of a snapshot that a new chain begins with, of whichever chain. Ignored when the chain exists. */
  readonly snapshot?: unknown;
  readonly log?: Logger;
}

export interface Devchain extends Closable {
  /** `ws://host:port`; HTTP answers on the same port. */
  readonly url: string;
  readonly port: number;
  readonly genesisHash: string;
  /** Makes a block now, whatever the clock says. @returns its number. */
  produceBlock(): number;
  /** From the next block on the chain has this spec version, as after a runtime upgrade; a restart forgets it. */
  upgradeRuntime(specVersion: number): void;
  /** Takes the newest block back; the next one is a fork of it. For chains in memory. @throws RangeError if it is final. */
  retractBlock(): void;
}

/**
 * Starts a local chain that looks like Subtensor to its clients: same calls, storage, events, errors and signatures.
 * One process decides alone what a block is, so there is no consensus, and no fork but by `retractBlock`.
 *
 * @throws ConfigError if the folder or the port cannot be used, or an address is wrong.
 */
export async function openDevchain(options: DevchainOptions): Promise<Devchain> {
  const { dataDir, tempo, finalityLagBlocks, log, host, port, blockMs } = options;
  const chain = openChain({
    dataDir,
    fileBytesMax: FILE_BYTES_MAX,
    tempo,
    slotMs: blockMs > 0 ? blockMs : SLOT_MS,
    finalityLagBlocks,
    endowed: options.endowed.map(({ address, rao }) => ({ account: accountOf(address), rao })),
    snapshot: options.snapshot === undefined ? undefined : snapshotOf(options.snapshot),
    log,
  });
  let timer: NodeJS.Timeout | undefined;
  let soon: NodeJS.Immediate | undefined;

  function produce(): void {
    try {
      chain.produce();
    } catch (error) {
      // The disk is full, or worse. Transactions stay in the pool and the next block tries again.
      log?.error({ err: error }, "devchain.block_failed");
    }
  }

  const server = await openRpcServer(
    {
      ...chain,
      submit(extrinsic, watcher) {
        const hash = chain.submit(extrinsic, watcher);
        // After the other messages that have arrived: transactions sent together share a block.
        soon ??= setImmediate(() => {
          soon = undefined;
          produce();
        });
        return hash;
      },
    },
    { host, port, log },
  ).catch(async (error: unknown) => {
    await chain.close();
    throw error;
  });
  if (blockMs > 0) timer = setInterval(produce, blockMs);
  const url = `ws://${host.includes(":") ? `[${host}]` : host}:${server.port}`;
  log?.info({ url, block: chain.head().number, genesis: chain.genesis.hash }, "devchain.open");

  let closed: Promise<void> | undefined;
  return {
    url,
    port: server.port,
    genesisHash: chain.genesis.hash,
    produceBlock: () => chain.produce().number,
    upgradeRuntime: (specVersion) => chain.upgrade(specVersion),
    retractBlock: () => chain.retract(),
    close() {
      closed ??= (async () => {
        clearInterval(timer);
        if (soon !== undefined) clearImmediate(soon);
        await closeAll([chain, server]);
      })();
      return closed;
    },
  };
}

function snapshotOf(json: unknown): Snapshot {
  try {
    return readSnapshotJson(json);
  } catch (cause) {
    throw new ConfigError(`the snapshot cannot be used: ${(cause as Error).message}`, { cause });
  }
}

function accountOf(address: string): Hex {
  try {
    return toHex(decodeAddress(address));
  } catch (cause) {
    throw new ConfigError(`${JSON.stringify(address)} is not an ss58 address`, { cause });
  }
}
