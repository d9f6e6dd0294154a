import type { StorageView, StorageWriter } from "./metadata/storage-item.ts";
import type { Hex } from "./scale/bytes.ts";

/** What a block does to the storage; undefined removes a key. */
export type Changes = ReadonlyMap<Hex, Uint8Array | undefined>;

/**
 * The newest storage, and for each of the last blocks what it replaced.
 *
 * Memory is the current state plus one small map per block of history, however long the chain runs.
 */
export interface State extends StorageView {
  /** Replaces everything: this is the oldest state now. */
  load(entries: Iterable<readonly [Hex, Uint8Array]>): void;
  /** Applies a block. The oldest history is dropped when there is more than the limit. */
  apply(changes: Changes): void;
  /** Takes back the newest block. @throws RangeError if none is in the history. */
  revert(): void;
  /**
   * The state as it was `blocks` blocks ago; 0 is now. Valid until the next `apply`.
   *
   * @returns undefined if history does not go back that far.
   */
  before(blocks: number): StorageView | undefined;
  /** What the block that many blocks ago changed. */
  changesOf(blocksAgo: number): Changes;
  /** All keys with the prefix at that time, in order. */
  keys(prefix: string, blocksAgo: number): Hex[];
  /** How many blocks back `before` can go. */
  history(): number;
  /** Every key and value at that time. */
  entries(blocksAgo: number): Iterable<readonly [Hex, Uint8Array]>;
}

/** @param historyMax blocks that can be looked back at. */
export function openState(historyMax: number): State {
  const current = new Map<Hex, Uint8Array>();
  /** Oldest first: what each block's changes replaced. */
  const undo: Changes[] = [];

  function get(key: Hex, blocksAgo: number): Uint8Array | undefined {
    for (let i = undo.length - blocksAgo; i < undo.length; i++) {
      const replaced = undo[i];
      if (replaced?.has(key) === true) return replaced.get(key);
    }
    return current.get(key);
  }

  function keysWith(prefix: string, blocksAgo: number): Hex[] {
    const candidates = new Set<Hex>();
    for (const key of current.keys()) if (key.startsWith(prefix)) candidates.add(key);
    for (const replaced of undo.slice(undo.length - blocksAgo))
      for (const key of replaced.keys()) if (key.startsWith(prefix)) candidates.add(key);
    const present =
      blocksAgo === 0
        ? [...candidates]
        : [...candidates].filter((key) => get(key, blocksAgo) !== undefined);
    return present.toSorted();
  }

  return {
    get: (key) => current.get(key),
    load(entries) {
      current.clear();
      undo.length = 0;
      for (const [key, value] of entries) current.set(key, value);
    },
    apply(changes) {
      const replaced = new Map<Hex, Uint8Array | undefined>();
      for (const [key, value] of changes) {
        replaced.set(key, current.get(key));
        if (value === undefined) current.delete(key);
        else current.set(key, value);
      }
      undo.push(replaced);
      if (undo.length > historyMax) undo.shift();
    },
    revert() {
      const replaced = undo.pop();
      if (replaced === undefined) throw new RangeError("there is no block to take back");
      for (const [key, value] of replaced) {
        if (value === undefined) current.delete(key);
        else current.set(key, value);
      }
    },
    before(blocks) {
      if (blocks < 0 || blocks > undo.length) return undefined;
      return { get: (key) => get(key, blocks) };
    },
    changesOf(blocksAgo) {
      const replaced = undo.at(-1 - blocksAgo) ?? new Map<Hex, undefined>();
      return new Map([...replaced.keys()].map((key) => [key, get(key, blocksAgo)]));
    },
    keys: keysWith,
    history: () => undo.length,
    *entries(blocksAgo) {
      for (const key of keysWith("", blocksAgo)) {
        const value = get(key, blocksAgo);
        if (value !== undefined) yield [key, value] as const;
      }
    },
  };
}

/** Storage that is being changed, in layers that can be undone. */
export interface Overlay extends StorageWriter {
  /** Runs `work`; undoes its changes if it throws. */
  layered<T>(work: () => T): T;
  /** Everything that changed. */
  changes(): Changes;
}

export function openOverlay(base: StorageView): Overlay {
  const layers: Map<Hex, Uint8Array | undefined>[] = [new Map<Hex, Uint8Array | undefined>()];
  const top = () => {
    const layer = layers.at(-1);
    if (layer === undefined) throw new RangeError("the bottom layer is gone");
    return layer;
  };
  return {
    get(key) {
      for (const layer of layers.toReversed()) if (layer.has(key)) return layer.get(key);
      return base.get(key);
    },
    set: (key, value) => void top().set(key, value),
    layered(work) {
      const depth = layers.push(new Map());
      try {
        const result = work();
        const done = top();
        layers.pop();
        for (const [key, value] of done) top().set(key, value);
        return result;
      } catch (error) {
        layers.length = depth - 1;
        throw error;
      }
    },
    changes: () => top(),
  };
}
