/** The chain: blocks on top of each other, the state after each of the last ones, and the transactions that wait. */
import type { Logger } from "../runtime/logger.ts";
import { admitted, objectionTo } from "./admission.ts";
import { type Block, buildBlock } from "./block.ts";
import { decodeChain, encodeSealedBlock, encodeSnapshot, type Snapshot } from "./chain-file.ts";
import { type Extrinsic, eraBirthOf, isFeeless, isSignatureValid } from "./extrinsics.ts";
import { beginChain, type Endowment } from "./genesis.ts";
import type { BlockView, Execution } from "./pallets/pallet.ts";
import { setTempo } from "./pallets/subtensor/registration.ts";
import { subnetsOf, subtensor } from "./pallets/subtensor/storage.ts";
import { system } from "./pallets/system.ts";
import { timestamp } from "./pallets/timestamp.ts";
import { invalidTransaction, openPool, type Watcher } from "./pool.ts";
import { openRecordLog } from "./record-log.ts";
import { buildRuntime, type Runtime, SPEC_VERSION } from "./runtime.ts";
import { type Hex, toHex } from "./scale/bytes.ts";
import { type Changes, openState } from "./state.ts";

/** Blocks whose state, body and header can be read; full nodes of the real chain keep as many. */
export const HISTORY_BLOCKS = 256;
/** The file is written anew, with a snapshot, when it is longer than this and twice as long as it was then. */
export const FILE_BYTES_MAX = 8 << 20;
/** Most extrinsics of a block. */
const BLOCK_EXTRINSICS_MAX = 1_024;

export interface ChainOptions {
  readonly dataDir: string | undefined;
  /** Length at which the file is written anew. */
  readonly fileBytesMax: number;
  /** Blocks per epoch. */
  readonly tempo: number;
  /** Milliseconds between two blocks, as clients are told. */
  readonly slotMs: number;
  /** Blocks between the newest one and the newest final one. */
  readonly finalityLagBlocks: number;
  /** Who owns TAO in block 0; the first one also has the sudo key. Ignored when the chain exists. */
  readonly endowed: readonly Endowment[];
  /** What a new chain begins with instead. Ignored when the chain exists. */
  readonly snapshot?: Snapshot | undefined;
  readonly log: Logger | undefined;
}

/** A state that can be read, with the number of its block. */
export interface StateAt extends BlockView {
  readonly hash: Hex;
  /** All keys with the prefix, in order. */
  keys(prefix: string): Hex[];
}

export interface Chain {
  readonly runtime: Runtime;
  /** The runtime's version after a block, as `state_getRuntimeVersion` shows it; without a number, after the newest. */
  versionJson(number?: number): Readonly<Record<string, unknown>>;
  /** From the next block on the runtime says that it is this version, and only extrinsics signed for it are valid. */
  upgrade(specVersion: number): void;
  readonly genesis: Block;
  head(): Block;
  finalized(): Block;
  /** One of the last blocks, or genesis. */
  block(hash: Hex): Block | undefined;
  /** Hash of one of the last 2400 blocks, or of genesis. */
  hashOf(number: number): Hex | undefined;
  /** State after a block; undefined if it is unknown or too old. Valid until the next block. */
  stateAt(hash: Hex): StateAt | undefined;
  /** Takes a transaction into the pool. @throws PoolError */
  submit(extrinsic: Uint8Array, watcher?: Watcher): Hex;
  pending(): Extrinsic[];
  /** Nonce for the account's next transaction, those in the pool counted. */
  nextNonce(account: Hex): number;
  /**
   * Makes a block of what is in the pool.
   *
   * @param changes to storage, made before anything else in the block.
   * @throws Error if the disk refuses it; nothing has happened then.
   */
  produce(changes?: Changes): Block;
  /** Time of the newest block, in milliseconds since 1970. */
  now(): bigint;
  /** Sets the clock, so that the next block has this time. */
  travelTo(ms: bigint): void;
  /** The chain after its newest block. */
  snapshot(): Snapshot;
  /** Goes back to a snapshot of this chain. @throws Error if the disk refuses; nothing has happened then. */
  restore(snapshot: Snapshot): void;
  /**
   * Takes the newest block back, as another fork's victory does; what it included is gone. For a chain in memory.
   *
   * @throws RangeError if the block is final. @throws TypeError if the chain has a file.
   */
  retract(): void;
  onBlock(listener: (block: Block, changes: Changes) => void): void;
  /** Told of the newest final block when there is one; numbers may be skipped. */
  onFinalized(listener: (block: Block) => void): void;
  close(): Promise<void>;
}

/**
 * Opens the chain in `dataDir`, or begins one; without a folder it lives in memory.
 *
 * @throws ConfigError if the folder cannot be used.
 */
export function openChain(options: ChainOptions): Chain {
  const { dataDir, log } = options;
  const runtime = buildRuntime(options.tempo, options.slotMs, isFeeless);
  const file = dataDir === undefined ? undefined : openRecordLog(dataDir);
  try {
    return startChain(options, runtime, file);
  } catch (error) {
    void file?.close().catch((cause: unknown) => log?.error({ err: cause }, "chain.close_failed"));
    throw error;
  }
}

type ChainFile = ReturnType<typeof openRecordLog>;

function startChain(
  { dataDir, fileBytesMax, tempo, finalityLagBlocks, endowed, log, ...options }: ChainOptions,
  runtime: Runtime,
  file: ChainFile | undefined,
): Chain {
  if (file !== undefined && file.droppedBytes > 0)
    log?.warn({ dropped_bytes: file.droppedBytes }, "chain.torn_record_dropped");
  const stored = file && decodeChain(file.records, dataDir ?? "");
  const state = openState(HISTORY_BLOCKS);
  const recent = new Map<number, Block>();
  const byHash = new Map<Hex, Block>();
  const pool = openPool();
  const blockListeners: ((block: Block, changes: Changes) => void)[] = [];
  const finalListeners: ((block: Block) => void)[] = [];
  /** Included transactions whose block is not final yet. */
  let unfinal: { readonly number: number; readonly hash: Hex; readonly watcher: Watcher }[] = [];
  /** Last block in which a transaction may be included. */
  const lastBlockOf = new WeakMap<Extrinsic, number>();

  const first = stored?.snapshot ?? options.snapshot ?? beginChain(endowed);
  const { genesis } = first;
  state.load(first.entries);
  byHash.set(genesis.hash, genesis);
  let head = first.base;
  remember(head);
  /** Milliseconds that the chain's clock is ahead of the machine's. */
  let aheadMs = 0n;
  for (const { block, changes } of stored?.blocks ?? []) {
    state.apply(changes);
    remember(block);
  }
  let durable = head.number;
  let tempoApplied = stored === undefined && options.snapshot === undefined;
  let rewriteBytes = fileBytesMax;
  let finalNumber = Math.max(first.base.number, head.number - finalityLagBlocks);
  // Writes what was read as a snapshot and the blocks since: the next start reads no more than it must.
  compact();

  function remember(block: Block): void {
    head = block;
    recent.set(block.number, block);
    byHash.set(block.hash, block);
    const old = recent.get(block.number - HISTORY_BLOCKS - 1);
    if (old === undefined) return;
    recent.delete(old.number);
    if (old.number !== 0) byHash.delete(old.hash);
  }

  function compact(): void {
    const depth = state.history();
    const oldest = recent.get(head.number - depth);
    if (file === undefined || oldest === undefined) return;
    const snapshot = encodeSnapshot({ genesis, base: oldest, entries: [...state.entries(depth)] });
    const blocks = Array.from({ length: depth }, (_, i) => {
      const ago = depth - 1 - i;
      const block = recent.get(head.number - ago);
      if (block === undefined) throw new RangeError("a recent block is missing");
      return encodeSealedBlock({ block, changes: state.changesOf(ago) });
    });
    file.replace([snapshot, ...blocks]);
    // A state that is large by itself is not written anew in every block.
    rewriteBytes = Math.max(fileBytesMax, 2 * file.bytes());
  }

  /** The old file is still good when a new one cannot be written. */
  function compactOrGoOn(): void {
    try {
      compact();
    } catch (error) {
      log?.error({ err: error }, "chain.compaction_failed");
    }
  }

  function hashOf(number: number): Hex | undefined {
    const known = recent.get(number)?.hash ?? (number === 0 ? genesis.hash : undefined);
    if (known !== undefined) return known;
    const hash = state.get(system.BlockHash.keyOf(number));
    return hash && toHex(hash);
  }

  /** The state that a transaction in the next block would meet. */
  const nextView = (): BlockView => ({ number: head.number + 1, get: (key) => state.get(key) });

  const isExpired = (extrinsic: Extrinsic, number: number) =>
    number > (lastBlockOf.get(extrinsic) ?? 0);

  function finalize(): void {
    const reached = Math.max(finalNumber, Math.min(head.number - finalityLagBlocks, durable));
    if (reached === finalNumber) return;
    finalNumber = reached;
    const waiting = unfinal;
    unfinal = waiting.filter(({ number }) => number > reached);
    for (const { number, hash, watcher } of waiting)
      if (number <= reached) watcher({ finalized: hash });
    const block = recent.get(reached);
    if (block !== undefined) for (const listener of finalListeners) listener(block);
  }

  /** A final block is on the disk: it cannot be lost with the power. */
  function makeDurable(file_: ChainFile, number: number): void {
    file_.sync().then(
      () => {
        durable = Math.max(durable, number);
        finalize();
      },
      (error: unknown) => log?.error({ err: error }, "chain.sync_failed"),
    );
  }

  /** In the first block after a start, gives existing subnets the tempo of that start. */
  function applyTempo(execution: Execution): void {
    if (tempoApplied) return;
    for (const netuid of subnetsOf(execution))
      if (subtensor.Tempo.get(execution, netuid) !== tempo) setTempo(execution, netuid, tempo);
  }

  /** Everything that differs between the newest state and `entries`. */
  function differences(entries: Snapshot["entries"]): Changes {
    const changes = new Map<Hex, Uint8Array | undefined>();
    for (const [key] of state.entries(0)) changes.set(key, undefined);
    for (const [key, value] of entries) {
      const old = state.get(key);
      if (old !== undefined && Buffer.compare(old, value) === 0) changes.delete(key);
      else changes.set(key, value);
    }
    return changes;
  }

  function restore({ base, entries }: Snapshot): void {
    file?.replace([encodeSnapshot({ genesis, base, entries })]);
    const changes = differences(entries);
    state.load(entries);
    recent.clear();
    byHash.clear();
    byHash.set(genesis.hash, genesis);
    remember(base);
    pool.clear();
    unfinal = [];
    durable = base.number;
    finalNumber = base.number;
    for (const listener of blockListeners) listener(base, changes);
    for (const listener of finalListeners) listener(base);
  }

  function produce(forced: Changes = new Map()): Block {
    const offered = pool.ready(
      (signer) => system.Account.get(state, signer).nonce,
      BLOCK_EXTRINSICS_MAX,
    );
    const refused = new Set<Extrinsic>();
    const isValid = (extrinsic: Extrinsic, execution: Execution): boolean => {
      const { nonce, signer } = extrinsic;
      // The one before it was refused: it waits for another.
      if (nonce > system.Account.get(execution, signer).nonce) return false;
      const dead = isExpired(extrinsic, execution.number) || objectionTo(extrinsic, execution);
      if (dead) refused.add(extrinsic);
      return !dead;
    };
    const now = BigInt(Date.now()) + aheadMs;
    const last = timestamp.Now.get(state);
    const prepare = (execution: Execution) => {
      applyTempo(execution);
      for (const [key, value] of forced) execution.set(key, value);
    };
    const { block, changes, included } = buildBlock(
      { number: head.number, hash: head.hash, state },
      now > last ? now : last + 1n,
      offered,
      isValid,
      prepare,
      (error) => log?.error({ err: error, block: head.number + 1 }, "chain.call_or_epoch_failed"),
    );
    file?.append(encodeSealedBlock({ block, changes }));
    tempoApplied = true;
    state.apply(changes);
    remember(block);
    for (const { hash } of included) {
      const watcher = pool.remove(hash);
      watcher?.({ inBlock: block.hash });
      if (watcher !== undefined) unfinal.push({ number: block.number, hash: block.hash, watcher });
    }
    pool.prune(
      block.number,
      (extrinsic) =>
        refused.has(extrinsic) ||
        isExpired(extrinsic, block.number + 1) ||
        extrinsic.nonce < system.Account.get(state, extrinsic.signer).nonce,
    );
    for (const listener of blockListeners) listener(block, changes);
    if (file === undefined) durable = block.number;
    else makeDurable(file, block.number);
    finalize();
    if (file !== undefined && file.bytes() > rewriteBytes) compactOrGoOn();
    return block;
  }

  const upgrades = [{ from: 0, version: SPEC_VERSION }];
  const specVersionAt = (number: number): number =>
    upgrades.findLast(({ from }) => from <= number)?.version ?? SPEC_VERSION;

  function retract(): void {
    if (file !== undefined) throw new TypeError("a chain with a file has no forks");
    const parent = recent.get(head.number - 1);
    if (parent === undefined || head.number <= finalNumber)
      throw new RangeError(`block ${head.number} is final`);
    recent.delete(head.number);
    byHash.delete(head.hash);
    unfinal = unfinal.filter(({ number }) => number < head.number);
    state.revert();
    head = parent;
    durable = parent.number;
  }

  const blockOrThrow = (number: number): Block => {
    const block = recent.get(number) ?? (number === 0 ? genesis : undefined);
    if (block === undefined) throw new RangeError(`block ${number} is not kept`);
    return block;
  };

  return {
    runtime,
    versionJson: (number = head.number) => ({
      ...runtime.versionJson,
      specVersion: specVersionAt(number),
    }),
    upgrade: (version) => void upgrades.push({ from: head.number + 1, version }),
    genesis,
    head: () => head,
    // A lag beyond the kept blocks would point to one that is gone.
    finalized: () => blockOrThrow(Math.max(finalNumber, head.number - HISTORY_BLOCKS, 0)),
    block: (hash) => byHash.get(hash),
    hashOf,
    stateAt(hash) {
      const block = byHash.get(hash);
      const ago = block === undefined ? -1 : head.number - block.number;
      const view = state.before(ago);
      if (block === undefined || view === undefined) return undefined;
      return {
        number: block.number,
        hash,
        get: (key) => view.get(key),
        keys: (prefix) => state.keys(prefix, ago),
      };
    },
    submit(bytes, watcher) {
      const extrinsic = admitted(bytes, runtime.call);
      const number = head.number + 1;
      const birth = eraBirthOf(extrinsic.era, number);
      const birthHash = birth < number ? hashOf(birth) : undefined;
      if (birthHash === undefined)
        throw invalidTransaction("Transaction has an ancient birth block");
      if (!isSignatureValid(extrinsic, genesis.hash, birthHash, specVersionAt(head.number)))
        throw invalidTransaction("Transaction has a bad signature");
      const view = nextView();
      const refusal = objectionTo(extrinsic, view);
      if (refusal !== undefined) throw refusal;
      const { era } = extrinsic;
      lastBlockOf.set(extrinsic, era === "immortal" ? Infinity : birth + era.period - 1);
      const { nonce } = system.Account.get(view, extrinsic.signer);
      pool.add(extrinsic, watcher, head.number, nonce);
      return extrinsic.hash;
    },
    pending: () => pool.all(),
    nextNonce: (account) => pool.nextNonce(account, system.Account.get(state, account).nonce),
    produce,
    now: () => timestamp.Now.get(state),
    travelTo(ms) {
      aheadMs = ms - BigInt(Date.now());
    },
    snapshot: () => ({ genesis, base: head, entries: [...state.entries(0)] }),
    restore,
    retract,
    onBlock: (listener) => void blockListeners.push(listener),
    onFinalized: (listener) => void finalListeners.push(listener),
    close: async () => await file?.close(),
  };
}
