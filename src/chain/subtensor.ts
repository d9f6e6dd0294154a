import type { Hotkey, Netuid } from "../core/ids.ts";
import { type Rao, rao } from "../core/money.ts";
import type { Closable } from "../runtime/shutdown.ts";
import { type BlockFacts, readBlockFacts } from "./block-facts.ts";
import { type Head, headOf, openBlockStates } from "./block-state.ts";
import { bigintOf, fieldOf } from "./codec-values.ts";
import { type Commitment, readCommitment, readCommitments } from "./commitments.ts";
import { type ConnectionOptions, openConnection } from "./connection.ts";
import {
  type EpochPosition,
  type Metagraph,
  readEpoch,
  readMetagraph,
  readSubnets,
  readWeights,
  type SubnetName,
} from "./metagraph.ts";
import { memoryOutbox, type Outbox } from "./outbox.ts";
import { openSubmitter, type Submit, type SubmitOnce } from "./submit.ts";

/**
 * A Subtensor chain, be it finney or a local one. It reconnects by itself; calls wait up to 30 s for that and then throw
 * a ChainError.
 *
 * `atHash` names the block after which state is read; without it, the best block. Where a fork must not matter, pass the
 * hash of a finalized head. Nodes that are not archives forget state after 256 blocks or so ("StateDiscarded").
 */
export interface Subtensor extends Closable {
  /** Hash of block 0, 0x-hex. If the endpoint ever serves another chain, every call throws "WrongGenesis". */
  readonly genesisHash: string;
  finalizedHead(): Promise<Head>;
  /** Calls back with the newest finalized head only: numbers grow but may be skipped. @returns a function that stops it. */
  onFinalizedHead(listener: (head: Head) => void): () => void;
  /** The newest block, which another fork may still replace. */
  bestHead(): Promise<Head>;
  /** Calls back with each new best head; after a fork, numbers repeat. @returns a function that stops it. */
  onBestHead(listener: (head: Head) => void): () => void;
  /** @returns undefined if there is no such block yet. */
  blockHash(number: number): Promise<string | undefined>;
  /** @throws ChainError "UnknownBlock" */
  header(hash: string): Promise<Head>;
  /** All of a subnet, read at one block. @throws ChainError "SubnetNotExists" */
  metagraph(netuid: Netuid, atHash?: string): Promise<Metagraph>;
  /** Far cheaper than the metagraph. @throws ChainError "SubnetNotExists" */
  epochOf(netuid: Netuid, atHash?: string): Promise<EpochPosition>;
  /** Commitments of the neurons registered at that block. */
  commitments(netuid: Netuid, atHash?: string): Promise<ReadonlyMap<Hotkey, Commitment>>;
  /** @returns undefined if the hotkey has published nothing. */
  commitmentOf(netuid: Netuid, hotkey: Hotkey, atHash?: string): Promise<Commitment | undefined>;
  /** Weights by the uid that set them, as (uid, u16). The chain scales them so that the largest is 65535. */
  weights(
    netuid: Netuid,
    atHash?: string,
  ): Promise<ReadonlyMap<number, ReadonlyArray<readonly [number, number]>>>;
  /** Rao of TAO for one alpha (10⁹ rao of alpha). */
  alphaPriceRao(netuid: Netuid, atHash?: string): Promise<bigint>;
  /** What happened in a block. */
  blockFacts(hash: string): Promise<BlockFacts>;
  freeBalance(address: string, atHash?: string): Promise<Rao>;
  /** Every subnet, by netuid. */
  subnets(atHash?: string): Promise<readonly SubnetName[]>;
  readonly submit: Submit;
  readonly submitOnce: SubmitOnce;
}

export interface SubtensorOptions extends ConnectionOptions {
  /** Remembers what `submitOnce` has sent; by default only until the client is closed. The caller closes it afterwards. */
  readonly outbox?: Outbox;
}

/**
 * Connects to a node and checks which chain it serves.
 *
 * @throws ChainError "Unreachable" if no node answers within `connectTimeoutMs`; all sockets are closed first.
 */
export async function openSubtensor(options: SubtensorOptions): Promise<Subtensor> {
  const { log, outbox = memoryOutbox() } = options;
  const connection = await openConnection(options);
  const states = openBlockStates(connection);
  const submitter = openSubmitter({ connection, states, outbox, log });
  const finalizedListeners = new Set<(head: Head) => void>();
  let newestFinalized = -1;
  const tell = (listeners: Iterable<(head: Head) => void>, head: Head): void => {
    for (const listener of listeners) {
      try {
        listener(head);
      } catch (err) {
        log.error({ err, block: head.number }, "chain.listener_failed");
      }
    }
  };
  connection.onHeader("finalized", (raw) => {
    const head = headOf(raw);
    if (head.number <= newestFinalized) return;
    newestFinalized = head.number;
    tell(finalizedListeners, head);
  });

  return {
    genesisHash: connection.genesisHash,
    finalizedHead: () => states.finalized(),
    onFinalizedHead(listener) {
      finalizedListeners.add(listener);
      return () => finalizedListeners.delete(listener);
    },
    bestHead: () => states.best(),
    onBestHead: (listener) => connection.onHeader("best", (raw) => tell([listener], headOf(raw))),
    blockHash: (number) => states.hashOf(number),
    header: (hash) => states.header(hash),
    metagraph: async (netuid, atHash) => await readMetagraph(await states.at(atHash), netuid),
    epochOf: async (netuid, atHash) => await readEpoch(await states.at(atHash), netuid),
    commitments: async (netuid, atHash) => await readCommitments(await states.at(atHash), netuid),
    commitmentOf: async (netuid, hotkey, atHash) =>
      await readCommitment(await states.at(atHash), netuid, hotkey),
    weights: async (netuid, atHash) => await readWeights(await states.at(atHash), netuid),
    async alphaPriceRao(netuid, atHash) {
      const state = await states.at(atHash);
      return bigintOf(await state.callApi("SwapRuntimeApi", "current_alpha_price", netuid));
    },
    blockFacts: async (hash) => await readBlockFacts(await states.at(hash)),
    async freeBalance(address, atHash) {
      const state = await states.at(atHash);
      const [account] = await state.read([{ item: ["system", "account"], keys: [address] }]);
      return rao(bigintOf(fieldOf(fieldOf(account, "data"), "free")));
    },
    subnets: async (atHash) => await readSubnets(await states.at(atHash)),
    submit: submitter.submit,
    submitOnce: submitter.submitOnce,
    async close() {
      await connection.close();
      await submitter.ended();
    },
  };
}
