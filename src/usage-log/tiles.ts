/**
 * The file layout of a log (C2SP tlog-tiles): names and bytes, no files.
 *
 *   tile/<L>/<N>[.p/<W>]        W hashes of 32 bytes: the roots of the perfect subtrees of 256^L leaves number 256·N …
 *   tile/entries/<N>[.p/<W>]    W leaves, each as u16 BE length ‖ bytes
 *
 * A tile holds 256; while the tree has fewer there, the tile is partial and its name ends in its width. N is written in
 * groups of three digits, all but the last behind an `x`: 1234067 is `x001/x234/067`.
 *
 * @module
 */
import assert from "node:assert/strict";
import { type Edge, grown, HASH_BYTES, rootOf } from "./tree.ts";

/** Hashes or leaves in a full tile. */
export const TILE_WIDTH = 256;
/** Longest leaf, in bytes: a receipt token, a newline and a countersignature token. */
export const LEAF_BYTES_MAX = 16_385;
/** Longest tile of leaves, in bytes. */
export const ENTRIES_TILE_BYTES_MAX = TILE_WIDTH * (2 + LEAF_BYTES_MAX);
/** Longest tile of hashes, in bytes. */
export const HASH_TILE_BYTES_MAX = TILE_WIDTH * HASH_BYTES;

/** What a tile holds: subtree roots of a level (0 = leaf hashes), or leaves. */
export type TileKind = number | "entries";

const WIDTH = BigInt(TILE_WIDTH);

/** Path of a tile below the log's root, without a leading slash. `width` is 1…256. */
export function tilePath(kind: TileKind, index: bigint, width: number): string {
  assert(Number.isInteger(width) && width >= 1 && width <= TILE_WIDTH, `not a width: ${width}`);
  const digits = index.toString();
  const padded = digits.padStart(Math.ceil(digits.length / 3) * 3, "0");
  const groups = padded.match(/\d{3}/g) ?? [];
  const name = groups.map((group, i) => (i < groups.length - 1 ? `x${group}` : group)).join("/");
  return `tile/${kind}/${name}${width === TILE_WIDTH ? "" : `.p/${width}`}`;
}

/** The rightmost tile of a level, as far as it is not full. */
interface PartialTile {
  readonly level: number;
  readonly index: bigint;
  /** 0…255. */
  readonly width: number;
}

/** The rightmost partial tile of every level of a tree, level 0 first; width 0 where the level ends with a full tile. */
export function partialTilesOf(size: bigint): PartialTile[] {
  const tiles: PartialTile[] = [];
  let count = size;
  for (let level = 0; count > 0n; level += 1) {
    tiles.push({ level, index: count / WIDTH, width: Number(count % WIDTH) });
    count /= WIDTH;
  }
  return tiles;
}

/**
 * The right edge of a tree, from the hashes of its partial tiles.
 *
 * @param tiles of `partialTilesOf(size)`, in that order; a tile of width 0 has no hashes.
 */
export function edgeOfTiles(size: bigint, tiles: readonly (readonly Uint8Array[])[]): Edge {
  // Inside one tile the hashes are the leaves of a small tree: its edge is this level's part of the whole edge.
  const parts = tiles.map((hashes) => grown({ size: 0n, hashes: [] }, hashes).hashes);
  return { size, hashes: parts.reverse().flat() };
}

/** The hash by which the next level knows a full tile. */
export function tileRootOf(hashes: readonly Uint8Array[]): Buffer {
  assert.equal(hashes.length, TILE_WIDTH, "only a full tile has a root");
  return rootOf(grown({ size: 0n, hashes: [] }, hashes));
}

/** Bytes of a tile of leaves. @throws AssertionError if a leaf is longer than LEAF_BYTES_MAX. */
export function encodeEntries(leaves: readonly Uint8Array[]): Buffer {
  return Buffer.concat(
    leaves.flatMap((leaf) => {
      assert(leaf.length <= LEAF_BYTES_MAX, `a leaf has at most ${LEAF_BYTES_MAX} bytes`);
      const length = Buffer.alloc(2);
      length.writeUInt16BE(leaf.length);
      return [length, leaf];
    }),
  );
}

/** The leaves of a tile. @returns undefined unless the bytes are exactly `width` leaves. */
export function decodeEntries(bytes: Uint8Array, width: number): Buffer[] | undefined {
  const buffer = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const leaves: Buffer[] = [];
  let at = 0;
  while (at < buffer.length) {
    if (leaves.length === width || at + 2 > buffer.length) return undefined;
    const end = at + 2 + buffer.readUInt16BE(at);
    if (end > buffer.length) return undefined;
    leaves.push(buffer.subarray(at + 2, end));
    at = end;
  }
  return leaves.length === width ? leaves : undefined;
}

/** The hashes of a tile. @returns undefined unless the bytes are exactly `width` hashes. */
export function decodeHashes(bytes: Uint8Array, width: number): Buffer[] | undefined {
  if (bytes.length !== width * HASH_BYTES) return undefined;
  const buffer = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  return Array.from({ length: width }, (_, i) =>
    buffer.subarray(i * HASH_BYTES, (i + 1) * HASH_BYTES),
  );
}
