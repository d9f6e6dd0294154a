/** What a chain keeps on disk: one snapshot record, then one record per block. */
import { ConfigError } from "../runtime/settings.ts";
import { type Block, blockHashOf } from "./block.ts";
import { h256 } from "./metadata/runtime-types.ts";
import { fromHex, type Hex, toHex } from "./scale/bytes.ts";
import {
  bytes,
  type Codec,
  decode,
  encode,
  option,
  struct,
  tuple,
  u32,
  type ValueOf,
  vec,
} from "./scale/codec.ts";
import type { Changes } from "./state.ts";

const blockRecord = struct("Block", {
  number: u32,
  parentHash: h256,
  stateRoot: h256,
  extrinsicsRoot: h256,
  logs: vec(bytes),
  extrinsics: vec(bytes),
});

const sealedRecord = struct("Sealed", {
  block: blockRecord,
  changes: vec(tuple(bytes, option(bytes))),
});

const snapshotRecord = struct("Snapshot", {
  genesis: blockRecord,
  base: blockRecord,
  entries: vec(tuple(bytes, bytes)),
});

/** A block with what it changed. */
export interface SealedBlock {
  readonly block: Block;
  readonly changes: Changes;
}

/** The oldest state that is kept. */
export interface Snapshot {
  readonly genesis: Block;
  /** The block after which the state is as in `entries`. */
  readonly base: Block;
  readonly entries: readonly (readonly [Hex, Uint8Array])[];
}

export function encodeSealedBlock({ block, changes }: SealedBlock): Uint8Array {
  return encode(sealedRecord, {
    block: recordOf(block),
    changes: [...changes].map(([key, value]) => [fromHex(key), value] as const),
  });
}

export function encodeSnapshot({ genesis, base, entries }: Snapshot): Uint8Array {
  return encode(snapshotRecord, {
    genesis: recordOf(genesis),
    base: recordOf(base),
    entries: entries.map(([key, value]) => [fromHex(key), value] as const),
  });
}

/**
 * Reads the records of a chain.
 *
 * @throws ConfigError if they do not fit together, which a kill or a full disk cannot cause.
 */
export function decodeChain(
  [first, ...rest]: readonly Uint8Array[],
  directory: string,
): { readonly snapshot: Snapshot; readonly blocks: readonly SealedBlock[] } | undefined {
  if (first === undefined) return undefined;
  const snapshot = snapshotOf(read(snapshotRecord, first, directory));
  let parent = snapshot.base;
  const blocks = rest.map((record) => {
    const { block, changes } = read(sealedRecord, record, directory);
    const sealed = {
      block: blockOf(block),
      changes: new Map(changes.map(([key, value]) => [toHex(key), value])),
    };
    if (sealed.block.parentHash !== parent.hash || sealed.block.number !== parent.number + 1)
      throw damaged(directory, `block ${sealed.block.number} does not follow ${parent.number}`);
    parent = sealed.block;
    return sealed;
  });
  return { snapshot, blocks };
}

/** Reads one snapshot by itself. @throws ScaleError */
export function decodeSnapshot(record: Uint8Array): Snapshot {
  return snapshotOf(decode(snapshotRecord, record));
}

function snapshotOf(stored: ValueOf<typeof snapshotRecord>): Snapshot {
  return {
    genesis: blockOf(stored.genesis),
    base: blockOf(stored.base),
    entries: stored.entries.map(([key, value]) => [toHex(key), value] as const),
  };
}

function read<T>(codec: Codec<T>, record: Uint8Array, directory: string): T {
  try {
    return decode(codec, record);
  } catch (cause) {
    const error = damaged(directory, "a record cannot be read");
    error.cause = cause;
    throw error;
  }
}

function damaged(directory: string, what: string): ConfigError {
  return new ConfigError(
    `the chain in ${directory} is damaged (${what}): restore the data folder from a copy, or delete it to begin a new chain`,
  );
}

function recordOf(block: Block): ValueOf<typeof blockRecord> {
  return { ...block, logs: block.logs.map(fromHex) };
}

function blockOf(record: ValueOf<typeof blockRecord>): Block {
  const header = { ...record, logs: record.logs.map(toHex) };
  return { ...header, hash: blockHashOf(header) };
}
