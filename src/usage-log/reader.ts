import type { VerifyingKey } from "../core/jws.ts";
import { CHECKPOINT_BYTES_MAX, type Checkpoint, verifyCheckpoint } from "./checkpoint.ts";
import {
  EPOCH_FILE_BYTES_MAX,
  type EpochFile,
  epochFileHashOf,
  epochPath,
  parseEpochFile,
} from "./epoch-file.ts";
import { SIDE_FILES, type SideKind, sidePath } from "./side-file.ts";
import {
  decodeEntries,
  decodeHashes,
  ENTRIES_TILE_BYTES_MAX,
  edgeOfTiles,
  HASH_TILE_BYTES_MAX,
  partialTilesOf,
  TILE_WIDTH,
  type TileKind,
  tilePath,
} from "./tiles.ts";
import { type Edge, grown, leafHashOf, rootOf } from "./tree.ts";

/**
 * Fetches a file of the log by its path, without a leading slash.
 *
 * @param bytesMax a longer file must be refused while it is read.
 * @returns undefined if there is no such file.
 * @throws when that cannot be known: the caller tries again later.
 */
export type FetchBytes = (path: string, bytesMax: number) => Promise<Uint8Array | undefined>;

export type LogErrorCode =
  | "bad_checkpoint"
  | "checkpoint_behind_root"
  | "missing_tile"
  | "malformed_tile"
  | "root_mismatch"
  | "missing_epoch_file"
  | "epoch_file_mismatch"
  | "malformed_epoch_file"
  | "file_too_large";

/** The log contradicts itself or what the chain says about it. Fetching again does not help. */
export class LogError extends Error {
  override readonly name = "LogError";
  readonly code: LogErrorCode;

  constructor(code: LogErrorCode, message: string) {
    super(message);
    this.code = code;
  }
}

/** Tiles fetched at the same time. */
const FETCHES_MAX = 8;
const WIDTH = BigInt(TILE_WIDTH);

/** Reads one log. It trusts nothing but `key`, and what the caller compares roots with. */
export interface LogReader {
  /** The signed head. @throws LogError `bad_checkpoint` if there is none that the log's key signed. */
  checkpoint(): Promise<Checkpoint>;
  /**
   * The right edge that the tiles claim for the first `size` leaves. It is only as good as the root that
   * `appendedSince` checks on top of it.
   */
  edgeAt(size: bigint): Promise<Edge>;
  /**
   * The leaves after `edge` up to `size`, and the edge at `size`.
   *
   * The root is computed from `edge` and the leaves themselves. When it equals `root`, the edge was a part of that tree,
   * so a tree that continues an edge seen before is an extension of what was seen.
   *
   * @throws LogError `root_mismatch`, or one about a tile.
   */
  appendedSince(
    edge: Edge,
    size: bigint,
    root: Uint8Array,
  ): Promise<{ leaves: Buffer[]; edge: Edge }>;
  /** An epoch's file. @param hash its SHA-256, as committed on the chain. @throws LogError */
  epochFile(epoch: number, hash: Uint8Array): Promise<EpochFile>;
  /** A side file, as text. @returns undefined if the log does not have it. */
  side(kind: SideKind, name: string): Promise<string | undefined>;
}

/** @param fetchBytes reaches the log's files: over HTTP, from a directory, from a mirror. */
export function openLogReader(fetchBytes: FetchBytes, key: VerifyingKey): LogReader {
  /** A tile of a tree that may have grown since: the partial tile it had, or the start of the full one. */
  const tile = async (kind: TileKind, index: bigint, width: number): Promise<Buffer[]> => {
    const bytesMax = kind === "entries" ? ENTRIES_TILE_BYTES_MAX : HASH_TILE_BYTES_MAX;
    const decode = kind === "entries" ? decodeEntries : decodeHashes;
    for (const stored of new Set([width, TILE_WIDTH])) {
      const path = tilePath(kind, index, stored);
      const bytes = await fetchBytes(path, bytesMax);
      if (bytes === undefined) continue;
      const parts = decode(bytes, stored);
      if (parts === undefined) throw new LogError("malformed_tile", `${path} is malformed`);
      return parts.slice(0, width);
    }
    throw new LogError("missing_tile", `${tilePath(kind, index, width)} is missing`);
  };

  return {
    checkpoint: async () => {
      const note = await fetchBytes("checkpoint", CHECKPOINT_BYTES_MAX);
      const checkpoint = note && verifyCheckpoint(note, key);
      if (checkpoint === undefined)
        throw new LogError("bad_checkpoint", "the log has no checkpoint signed by its key");
      return checkpoint;
    },
    edgeAt: async (size) => {
      const tiles: Buffer[][] = [];
      for (const { level, index, width } of partialTilesOf(size))
        tiles.push(width === 0 ? [] : await tile(level, index, width));
      return edgeOfTiles(size, tiles);
    },
    appendedSince: async (edge, size, root) => {
      const leaves = await entries(tile, edge.size, size);
      const next = grown(edge, leaves.map(leafHashOf));
      if (next.size !== size || !rootOf(next).equals(root))
        throw new LogError("root_mismatch", `the first ${size} leaves have another root`);
      return { leaves, edge: next };
    },
    epochFile: async (epoch, hash) => {
      const bytes = await fetchBytes(epochPath(epoch), EPOCH_FILE_BYTES_MAX);
      if (bytes === undefined)
        throw new LogError("missing_epoch_file", `the log has no file of epoch ${epoch}`);
      if (!epochFileHashOf(bytes).equals(hash))
        throw new LogError("epoch_file_mismatch", `the file of epoch ${epoch} is another one`);
      const file = parseEpochFile(bytes);
      if (file?.epoch !== epoch)
        throw new LogError("malformed_epoch_file", `the file of epoch ${epoch} is malformed`);
      return file;
    },
    side: async (kind, name) => {
      const bytes = await fetchBytes(sidePath(kind, name), SIDE_FILES[kind].bytesMax);
      return bytes && Buffer.from(bytes).toString("utf8");
    },
  };
}

/** Leaves `from` … `to` − 1 of a tree of `to` leaves. */
async function entries(
  tile: (kind: TileKind, index: bigint, width: number) => Promise<Buffer[]>,
  from: bigint,
  to: bigint,
): Promise<Buffer[]> {
  const wanted: { index: bigint; width: number; skip: number }[] = [];
  for (let index = from / WIDTH; index * WIDTH < to; index += 1n) {
    const width = Number(to - index * WIDTH < WIDTH ? to - index * WIDTH : WIDTH);
    const skip = index * WIDTH < from ? Number(from - index * WIDTH) : 0;
    if (width > skip) wanted.push({ index, width, skip });
  }
  const leaves: Buffer[] = [];
  for (let at = 0; at < wanted.length; at += FETCHES_MAX) {
    const batch = wanted.slice(at, at + FETCHES_MAX);
    const tiles = await Promise.all(
      batch.map(async ({ index, width, skip }) =>
        (await tile("entries", index, width)).slice(skip),
      ),
    );
    for (const part of tiles) leaves.push(...part);
  }
  return leaves;
}
