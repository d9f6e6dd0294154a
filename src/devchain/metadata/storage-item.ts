import { HASHERS, type Hasher, twox128 } from "../hashing.ts";
import { type Hex, toHex } from "../scale/bytes.ts";
import { bool, type Codec, decode, encode, tuple } from "../scale/codec.ts";

/** Raw storage that can be read: the newest state, the state inside a block, or the state of an older block. */
export interface StorageView {
  get(key: Hex): Uint8Array | undefined;
}

/** Raw storage that can be changed. */
export interface StorageWriter extends StorageView {
  /** @param value undefined removes the key. */
  set(key: Hex, value: Uint8Array | undefined): void;
}

/** What the metadata says about a storage item. */
export interface StorageEntry {
  readonly name: string;
  /** An optional item reads as nothing when it is absent, a default one as its fallback. */
  readonly modifier: "Optional" | "Default";
  readonly hashers: readonly Hasher[];
  readonly key: Codec<unknown> | undefined;
  readonly value: Codec<unknown>;
  readonly fallback: Uint8Array;
}

/** A storage item or map, with its real key layout. */
export interface StorageItem<Keys extends readonly unknown[], Value, Read> {
  readonly entry: StorageEntry;
  keyOf(...keys: Keys): Hex;
  /** The value, or its fallback. */
  get(view: StorageView, ...keys: Keys): Read;
  put(store: StorageWriter, keys: Keys, value: Value): void;
  remove(store: StorageWriter, ...keys: Keys): void;
}

type KeyCodecs = readonly (readonly [hasher: Hasher, codec: Codec<unknown>])[];
type KeyValues<K extends KeyCodecs> = {
  readonly [I in keyof K]: K[I] extends readonly [Hasher, Codec<infer T>] ? T : never;
};

/** Hashed account keys that are remembered, since a pallet reads the same accounts in every block. */
const HASHED_KEYS_MAX = 8_192;
const hashedKeys = new Map<string, string>();

function hashedHex(hasher: Hasher, key: Uint8Array): string {
  const name = `${hasher}${Buffer.from(key).toString("latin1")}`;
  const known = hashedKeys.get(name);
  if (known !== undefined) return known;
  if (hashedKeys.size >= HASHED_KEYS_MAX) hashedKeys.clear();
  const hex = Buffer.from(HASHERS[hasher].hash(key)).toString("hex");
  hashedKeys.set(name, hex);
  return hex;
}

/** Makes the storage items of one pallet. */
export interface StorageOf {
  value<T>(name: string, codec: Codec<T>, fallback: T): StorageItem<[], T, T>;
  optional<T>(name: string, codec: Codec<T>): StorageItem<[], T, T | undefined>;
  map<const K extends KeyCodecs, T>(
    name: string,
    keys: K,
    codec: Codec<T>,
    fallback: T,
  ): StorageItem<KeyValues<K>, T, T>;
  optionalMap<const K extends KeyCodecs, T>(
    name: string,
    keys: K,
    codec: Codec<T>,
  ): StorageItem<KeyValues<K>, T, T | undefined>;
}

/** @param pallet the prefix of all its keys. */
export function storageOf(pallet: string): StorageOf {
  const prefix = toHex(twox128(pallet));

  function item<K extends KeyCodecs, T, Read>(
    name: string,
    keyCodecs: K,
    codec: Codec<T>,
    absent: { readonly modifier: "Optional" | "Default"; readonly bytes: Uint8Array; read(): Read },
    present: (value: T) => Read,
  ): StorageItem<KeyValues<K>, T, Read> {
    const itemPrefix = prefix + Buffer.from(twox128(name)).toString("hex");
    const codecs = keyCodecs.map(([, key]) => key);
    const [only] = codecs;
    const keyOf = (...keys: KeyValues<K>): Hex => {
      const hashed = keyCodecs.map(([hasher, key], i) => hashedHex(hasher, encode(key, keys[i])));
      return `${itemPrefix}${hashed.join("")}` as Hex;
    };
    return {
      entry: {
        name,
        modifier: absent.modifier,
        hashers: keyCodecs.map(([hasher]) => hasher),
        key: codecs.length > 1 ? tuple(...codecs) : only,
        value: codec,
        fallback: absent.bytes,
      },
      keyOf,
      get(view, ...keys) {
        const raw = view.get(keyOf(...keys));
        return raw === undefined ? absent.read() : present(decode(codec, raw));
      },
      put: (store, keys, value) => store.set(keyOf(...keys), encode(codec, value)),
      remove: (store, ...keys) => store.set(keyOf(...keys), undefined),
    };
  }

  const fallbackOf = <T>(codec: Codec<T>, value: T) => ({
    modifier: "Default" as const,
    bytes: encode(codec, value),
    read: () => value,
  });
  const NOTHING = {
    modifier: "Optional" as const,
    bytes: encode(bool, false),
    read: () => undefined,
  };

  return {
    value: <T>(name: string, codec: Codec<T>, fallback: T) =>
      item<[], T, T>(name, [], codec, fallbackOf(codec, fallback), (value) => value),
    optional: <T>(name: string, codec: Codec<T>) =>
      item<[], T, T | undefined>(name, [], codec, NOTHING, (value) => value),
    map: <const K extends KeyCodecs, T>(name: string, keys: K, codec: Codec<T>, fallback: T) =>
      item<K, T, T>(name, keys, codec, fallbackOf(codec, fallback), (value) => value),
    optionalMap: <const K extends KeyCodecs, T>(name: string, keys: K, codec: Codec<T>) =>
      item<K, T, T | undefined>(name, keys, codec, NOTHING, (value) => value),
  };
}
