import { TypeRegistry } from "@polkadot/types";
import type { Header } from "@polkadot/types/interfaces";
import type { Codec } from "@polkadot/types/types";
import { ChainError } from "./chain-error.ts";
import { type ChainRuntime, runtimeOfMetadata, type StorageItem } from "./chain-runtime.ts";
import type { Connection } from "./connection.ts";

/** A block. Hashes are 0x-hex. */
export interface Head {
  readonly number: number;
  readonly hash: string;
  readonly parentHash: string;
}

/** One value of storage: an item and its keys. */
export interface StorageRead {
  readonly item: StorageItem;
  readonly keys?: readonly unknown[];
}

/** All of the chain's state after one block; whatever is read through it is consistent. */
export interface BlockState {
  readonly head: Head;
  readonly runtime: ChainRuntime;
  /** Values in the order of `reads`, with defaults filled in; undefined where an optional item is absent. */
  read(reads: readonly StorageRead[]): Promise<readonly (Codec | undefined)[]>;
  /** Full keys (0x-hex) under a prefix. @throws ChainError "Overloaded" if there are more than `max`. */
  keysUnder(prefix: string, max: number): Promise<readonly string[]>;
  callApi(api: string, method: string, ...args: readonly unknown[]): Promise<Codec>;
  /** The block's extrinsics as they were sent, in order. @throws ChainError "UnknownBlock" */
  extrinsics(): Promise<readonly Uint8Array[]>;
}

/** Runtime version of the chain's best block, which is what a new extrinsic is signed for. */
export interface SigningRuntime {
  readonly runtime: ChainRuntime;
  readonly specVersion: number;
  readonly transactionVersion: number;
}

export interface BlockStates {
  /** State after the block, or after the best block. @throws ChainError "UnknownBlock" or "StateDiscarded" */
  at(hash?: string): Promise<BlockState>;
  header(hash: string): Promise<Head>;
  /** @returns undefined if the chain has no such block yet. */
  hashOf(number: number): Promise<string | undefined>;
  best(): Promise<Head>;
  finalized(): Promise<Head>;
  signingRuntime(): Promise<SigningRuntime>;
}

/** Keys in one request: nodes refuse frames that are too large, and answer while nobody else is served. */
const KEYS_PER_READ_MAX = 1_000;
/** Keys in one page; 1000 is Substrate's own limit. */
const KEYS_PER_PAGE_MAX = 1_000;
/** Version 16 exists, but its additions are not needed, and older runtimes lack it. */
const METADATA_VERSION = 15;
/** Spec versions whose runtimes are kept for this connection. */
const SPEC_VERSIONS_MAX = 4;
/** Blocks whose header and spec version are remembered. */
const BLOCKS_KEPT_MAX = 256;

let headerRegistry: TypeRegistry | undefined;

/** The block that a raw header describes. Its hash is computed, which saves asking for it and proves the decoding. */
export function headOf(raw: unknown): Head {
  headerRegistry ??= new TypeRegistry();
  const header: Header = headerRegistry.createType("Header", raw);
  return {
    number: header.number.toNumber(),
    hash: header.hash.toHex(),
    parentHash: header.parentHash.toHex(),
  };
}

/** Reads state by block hash. One decoded runtime per spec version: polkadot-js's `api.at` keeps one per block for ever. */
export function openBlockStates(connection: Connection): BlockStates {
  const runtimes = new Map<string, Promise<ChainRuntime>>();
  const blocks = new Map<string, Promise<{ head: Head; runtime: ChainRuntime }>>();
  // A node that restarted may be another version of itself.
  connection.onReconnect(() => {
    runtimes.clear();
    blocks.clear();
  });

  const runtimeAt = async (hash: string | undefined): Promise<SigningRuntime> => {
    const params = hash === undefined ? [] : [hash];
    const version = record(await connection.call("state_getRuntimeVersion", ...params));
    const specVersion = Number(version["specVersion"]);
    const runtime = await remembered(
      runtimes,
      `${String(version["specName"])}/${specVersion}`,
      SPEC_VERSIONS_MAX,
      async () => runtimeOfMetadata(await metadataAt(connection, params)),
    );
    return { runtime, specVersion, transactionVersion: Number(version["transactionVersion"]) };
  };

  const header = async (hash: string): Promise<Head> => {
    const raw = await connection.call("chain_getHeader", hash);
    if (raw === null) throw new ChainError("UnknownBlock", `the chain has no block ${hash}`);
    return headOf(raw);
  };

  const blockAt = (hash: string): Promise<{ head: Head; runtime: ChainRuntime }> =>
    remembered(blocks, hash, BLOCKS_KEPT_MAX, async () => {
      const head = await header(hash);
      // A block that upgrades the runtime was itself executed, and wrote its events, with the one before.
      const { runtime } = await runtimeAt(head.number === 0 ? hash : head.parentHash);
      return { head, runtime };
    });

  const best = async (): Promise<Head> => headOf(await connection.call("chain_getHeader"));

  return {
    header,
    best,
    async finalized() {
      return await header(String(await connection.call("chain_getFinalizedHead")));
    },
    async hashOf(number) {
      const hash = await connection.call("chain_getBlockHash", number);
      return typeof hash === "string" ? hash : undefined;
    },
    signingRuntime: () => runtimeAt(undefined),
    async at(hash) {
      const { head, runtime } = await blockAt(hash ?? (await best()).hash);
      return {
        head,
        runtime,
        async read(reads) {
          const keys = reads.map(({ item, keys = [] }) => runtime.storageKey(item, ...keys));
          const values = await valuesOf(connection, keys, head.hash);
          return reads.map(({ item }, i) => runtime.decodeStorage(item, values.get(keys[i] ?? "")));
        },
        keysUnder: (prefix, max) => keysUnder(connection, prefix, max, head.hash),
        async callApi(api, method, ...args) {
          const encoded = runtime.encodeApiCall(api, method, args);
          const result = await connection.call(
            "state_call",
            `${api}_${method}`,
            encoded,
            head.hash,
          );
          return runtime.decodeApiResult(api, method, String(result));
        },
        async extrinsics() {
          const answer = await connection.call("chain_getBlock", head.hash);
          if (answer === null)
            throw new ChainError("UnknownBlock", `the chain has no block ${head.hash}`);
          return list(record(record(answer)["block"])["extrinsics"]).map((hex) =>
            Buffer.from(String(hex).slice(2), "hex"),
          );
        },
      };
    },
  };
}

/** V15 has the runtime APIs; a node without it still serves V14. */
async function metadataAt(connection: Connection, at: readonly string[]): Promise<string> {
  const version = `0x${METADATA_VERSION.toString(16).padStart(2, "0")}000000`;
  try {
    const answer = await connection.call(
      "state_call",
      "Metadata_metadata_at_version",
      version,
      ...at,
    );
    const bytes = Buffer.from(String(answer).slice(2), "hex");
    const option = new TypeRegistry().createType("Option<Bytes>", bytes);
    if (option.isSome) return `0x${Buffer.from(option.unwrap().toU8a(true)).toString("hex")}`;
  } catch (error) {
    if (!(error instanceof ChainError && error.name.startsWith("Rpc:"))) throw error;
  }
  return String(await connection.call("state_getMetadata", ...at));
}

async function valuesOf(
  connection: Connection,
  keys: readonly string[],
  hash: string,
): Promise<ReadonlyMap<string, string>> {
  const values = new Map<string, string>();
  for (let from = 0; from < keys.length; from += KEYS_PER_READ_MAX) {
    const page = keys.slice(from, from + KEYS_PER_READ_MAX);
    const sets = await connection.call("state_queryStorageAt", page, hash);
    for (const set of list(sets)) {
      for (const change of list(record(set)["changes"])) {
        const [key, value] = list(change);
        if (typeof key === "string" && typeof value === "string") values.set(key, value);
      }
    }
  }
  return values;
}

async function keysUnder(
  connection: Connection,
  prefix: string,
  max: number,
  hash: string,
): Promise<readonly string[]> {
  const keys: string[] = [];
  for (;;) {
    const start = keys.at(-1) ?? null;
    const page = list(
      await connection.call("state_getKeysPaged", prefix, KEYS_PER_PAGE_MAX, start, hash),
    ).map(String);
    keys.push(...page);
    if (keys.length > max) {
      throw new ChainError("Overloaded", `more than ${max} storage keys under one prefix`);
    }
    if (page.length < KEYS_PER_PAGE_MAX) return keys;
  }
}

/** The newest `max` results of `make` by key; a failure is not remembered. */
async function remembered<T>(
  cache: Map<string, Promise<T>>,
  key: string,
  max: number,
  make: () => Promise<T>,
): Promise<T> {
  const known = cache.get(key) ?? make();
  cache.delete(key);
  cache.set(key, known);
  const [oldest] = cache.keys();
  if (cache.size > max && oldest !== undefined) cache.delete(oldest);
  try {
    return await known;
  } catch (error) {
    if (cache.get(key) === known) cache.delete(key);
    throw error;
  }
}

function list(value: unknown): readonly unknown[] {
  return Array.isArray(value) ? value : [];
}

function record(value: unknown): Readonly<Record<string, unknown>> {
  return typeof value === "object" && value !== null ? (value as Record<string, unknown>) : {};
}
