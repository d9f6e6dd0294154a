// The folders of util-crypto are imported one by one: its index also loads wordlists, HD keys and secp256k1, which costs
// another 0.15 s at start (14.0.3).
import { blake2AsU8a } from "@polkadot/util-crypto/blake2";
import { xxhashAsU8a } from "@polkadot/util-crypto/xxhash";
import { type Hex, toHex } from "./scale/bytes.ts";

/** BLAKE2b with a digest of 256 bits. */
export function blake2of256(bytes: Uint8Array): Uint8Array {
  return blake2AsU8a(bytes, 256);
}

/** The same as hex: block and extrinsic hashes. */
export function blake2Hex(bytes: Uint8Array): Hex {
  return toHex(blake2AsU8a(bytes, 256));
}

/** Name of a runtime API in the runtime version: BLAKE2b with a digest of 64 bits. */
export function apiIdOf(name: string): Uint8Array {
  return blake2AsU8a(Buffer.from(name), 64);
}

/** Prefix of a pallet's or an item's storage keys. */
export function twox128(text: string): Uint8Array {
  return xxhashAsU8a(text, 128);
}

/** Storage hashers by their names in the metadata; the value is what stands before or instead of the key. */
export const HASHERS = {
  Identity: { index: 6, hash: (key: Uint8Array) => key },
  Blake2_128Concat: {
    index: 2,
    hash: (key: Uint8Array) => Buffer.concat([blake2AsU8a(key, 128), key]),
  },
  Twox64Concat: {
    index: 5,
    hash: (key: Uint8Array) => Buffer.concat([xxhashAsU8a(key, 64), key]),
  },
} as const;

export type Hasher = keyof typeof HASHERS;
