import type { Extrinsic } from "./extrinsics.ts";
import type { Hex } from "./scale/bytes.ts";

/** Transactions that wait, of all signers and of one. */
const POOL_MAX = 4_096;
const POOL_PER_SIGNER_MAX = 512;
/** All of them together; a block can take them all. */
const POOL_BYTES_MAX = 8 << 20;
/** Blocks that a transaction waits for the ones before it, or for its turn. */
const WAIT_BLOCKS_MAX = 64;

/** What a watcher of a transaction is told, in the words of `author_extrinsicUpdate`. */
export type ExtrinsicStatus =
  | "future"
  | "ready"
  | "invalid"
  | "dropped"
  | { readonly inBlock: Hex }
  | { readonly finalized: Hex };

export type Watcher = (status: ExtrinsicStatus) => void;

/** A transaction was not taken in. Codes, messages and data are those of a Substrate node. */
export class PoolError extends Error {
  override readonly name = "PoolError";
  readonly code: number;
  readonly data: string | undefined;

  constructor(code: number, message: string, data?: string) {
    super(message);
    this.code = code;
    this.data = data;
  }
}

/** Error 1010. @param data such as `Transaction is outdated` or `Custom error: 6`. */
export function invalidTransaction(data: string): PoolError {
  return new PoolError(1010, "Invalid Transaction", data);
}

interface Entry {
  readonly extrinsic: Extrinsic;
  readonly since: number;
  watcher: Watcher | undefined;
}

/** Transactions on their way into a block. */
export interface Pool {
  /** @throws PoolError if it is there already, replaces another one, or there is no room. */
  add(
    extrinsic: Extrinsic,
    watcher: Watcher | undefined,
    block: number,
    accountNonce: number,
  ): void;
  /** In the order they came in, but each signer's by nonce. At most `max`. */
  ready(nonceOf: (signer: Hex) => number, max: number): Extrinsic[];
  /** All that wait, ready or not. */
  all(): Extrinsic[];
  /** Takes out what a block included, with its watcher. */
  remove(hash: Hex): Watcher | undefined;
  /** Takes out and tells the watchers of those that can never be included any more. */
  prune(block: number, isDead: (extrinsic: Extrinsic) => boolean): void;
  /** Drops all and tells their watchers. */
  clear(): void;
  /** Nonce after the signer's last transaction that is ready, starting from `nonce`. */
  nextNonce(signer: Hex, nonce: number): number;
}

export function openPool(): Pool {
  const byHash = new Map<Hex, Entry>();
  const bySigner = new Map<Hex, Map<number, Entry>>();
  let bytes = 0;

  function drop(entry: Entry, status: ExtrinsicStatus | undefined): void {
    const { hash, signer, nonce } = entry.extrinsic;
    byHash.delete(hash);
    bytes -= entry.extrinsic.bytes.length;
    const own = bySigner.get(signer);
    own?.delete(nonce);
    if (own?.size === 0) bySigner.delete(signer);
    if (status !== undefined) entry.watcher?.(status);
  }

  function nextNonce(signer: Hex, nonce: number): number {
    const own = bySigner.get(signer);
    let next = nonce;
    while (own?.has(next) === true) next += 1;
    return next;
  }

  return {
    add(extrinsic, watcher, block, accountNonce) {
      const { hash, signer, nonce } = extrinsic;
      if (byHash.has(hash)) throw new PoolError(1013, "Transaction is already imported");
      const own = bySigner.get(signer) ?? new Map<number, Entry>();
      if (own.has(nonce))
        throw new PoolError(
          1014,
          "Priority is too low: (1 vs 1)",
          "The transaction has too low priority to replace another transaction already in the pool.",
        );
      const full =
        byHash.size >= POOL_MAX ||
        own.size >= POOL_PER_SIGNER_MAX ||
        bytes + extrinsic.bytes.length > POOL_BYTES_MAX;
      if (full)
        throw new PoolError(
          1016,
          "Immediately Dropped",
          "The transaction couldn't enter the pool because of the limit",
        );
      const entry: Entry = { extrinsic, since: block, watcher };
      byHash.set(hash, entry);
      bytes += extrinsic.bytes.length;
      own.set(nonce, entry);
      bySigner.set(signer, own);
      watcher?.(nextNonce(signer, accountNonce) > nonce ? "ready" : "future");
    },
    ready(nonceOf, max) {
      const chosen: Extrinsic[] = [];
      for (const signer of bySigner.keys()) {
        const own = bySigner.get(signer);
        for (let nonce = nonceOf(signer); chosen.length < max; nonce++) {
          const entry = own?.get(nonce);
          if (entry === undefined) break;
          chosen.push(entry.extrinsic);
        }
      }
      return chosen;
    },
    all: () => [...byHash.values()].map(({ extrinsic }) => extrinsic),
    remove(hash) {
      const entry = byHash.get(hash);
      if (entry !== undefined) drop(entry, undefined);
      return entry?.watcher;
    },
    prune(block, isDead) {
      for (const entry of byHash.values()) {
        if (block - entry.since > WAIT_BLOCKS_MAX) drop(entry, "dropped");
        else if (isDead(entry.extrinsic)) drop(entry, "invalid");
      }
    },
    clear() {
      for (const entry of byHash.values()) drop(entry, "dropped");
    },
    nextNonce,
  };
}
