import { mkdir, open, readFile, rename, rm } from "node:fs/promises";
import { dirname, join } from "node:path";
import type { SigningKey } from "../core/jws.ts";
import { makeFolder } from "../runtime/make-folder.ts";
import { type Checkpoint, signCheckpoint, verifyCheckpoint } from "./checkpoint.ts";
import { epochPath } from "./epoch-file.ts";
import { SIDE_FILES, type SideKind, sidePath } from "./side-file.ts";
import {
  decodeEntries,
  decodeHashes,
  edgeOfTiles,
  encodeEntries,
  partialTilesOf,
  TILE_WIDTH,
  type TileKind,
  tilePath,
  tileRootOf,
} from "./tiles.ts";
import { type Edge, EMPTY_EDGE, grown, leafHashOf, rootOf } from "./tree.ts";

/** Appends to one log directory. One writer per directory at a time; its owner sees to that. */
export interface UsageLogWriter {
  /** Leaves in the tree. After opening: those of the last checkpoint; the owner appends the rest again. */
  size(): bigint;
  /** Root of the tree as it is, published or not. O(log n). */
  root(): Uint8Array;
  /**
   * Adds leaves at the end. Full tiles are on disk when it resolves; the rest with the next checkpoint.
   *
   * @throws Error if the leaves disagree with a checkpoint that was already signed. Nothing is added then, nor when
   * a file cannot be written.
   */
  append(leaves: readonly Uint8Array[]): Promise<void>;
  /** Writes the partial tiles of the tree as it is, so that they are there for whoever reads the log at this size later. */
  putPartialTiles(): Promise<void>;
  /**
   * Writes the partial tiles, then signs and replaces the checkpoint.
   *
   * @throws Error while the tree is smaller than the checkpoint that was signed before.
   */
  publishCheckpoint(): Promise<void>;
  /** Writes `/epoch/<epoch>.json`. */
  putEpoch(epoch: number, json: string): Promise<void>;
  /** Writes a side file under its content hash or enclave id. @throws Error if `name` is neither. */
  putSide(kind: SideKind, name: string, json: string): Promise<void>;
}

interface UsageLogOptions {
  /** Holds the files exactly as they are served. Created when absent. */
  readonly directory: string;
  /** Name of the log in its checkpoints. */
  readonly origin: string;
  readonly key: SigningKey;
}

/** The growing end of the tree: the partial tile of every level, and the leaves of the last entries tile. */
interface Tail {
  readonly edge: Edge;
  readonly levels: readonly (readonly Uint8Array[])[];
  readonly entries: readonly Uint8Array[];
}

const EMPTY_TAIL: Tail = { edge: EMPTY_EDGE, levels: [], entries: [] };
const WIDTH = BigInt(TILE_WIDTH);

/**
 * Opens a log at its last checkpoint.
 *
 * The database is the source of the leaves and this directory a copy: when files behind the checkpoint are missing or
 * torn, the log opens empty and the owner appends everything again, which writes the same files. A checkpoint that was
 * signed is remembered meanwhile, so that a tree that disagrees with it is never signed.
 *
 * @throws Error if the directory holds the log of another key or name.
 */
export async function openUsageLogWriter(options: UsageLogOptions): Promise<UsageLogWriter> {
  const { directory, origin, key } = options;
  makeFolder(directory);
  let signed = await signedBefore(options);
  let tail = (signed && (await tailAt(directory, signed))) ?? EMPTY_TAIL;
  let last: Promise<unknown> = Promise.resolve();
  /** One change at a time, in the order asked for; a failed one does not stop the next. */
  const inTurn = async <T>(work: () => Promise<T>): Promise<T> => {
    const turn = last.then(work);
    last = turn.catch(() => undefined);
    return await turn;
  };

  const append = async (leaves: readonly Uint8Array[]): Promise<void> => {
    const files = new Map<string, Buffer>();
    const partials = new Set<string>();
    const next = extended(tail, leaves, signed, (kind, index, bytes) => {
      const path = tilePath(kind, index, TILE_WIDTH);
      files.set(path, bytes);
      partials.add(`${path}.p`);
    });
    for (const [path, bytes] of files) await writeFileSafely(directory, path, bytes, true);
    // C2SP tlog-tiles lets partial tiles go once the full tile is there.
    for (const path of partials) await rm(join(directory, path), { recursive: true, force: true });
    tail = next;
  };

  const putPartialTiles = async (): Promise<void> => {
    const { size } = tail.edge;
    for (const { level, index, width } of partialTilesOf(size)) {
      if (width === 0) continue;
      const hashes = Buffer.concat(tail.levels[level] ?? []);
      await writeFileSafely(directory, tilePath(level, index, width), hashes, false);
    }
    if (tail.entries.length > 0) {
      const path = tilePath("entries", size / WIDTH, tail.entries.length);
      await writeFileSafely(directory, path, encodeEntries(tail.entries), false);
    }
  };

  const publishCheckpoint = async (): Promise<void> => {
    const { size } = tail.edge;
    if (signed !== undefined && size < signed.size)
      throw new Error(`the log has ${size} leaves again, but ${signed.size} were signed`);
    if (signed?.size === size) return;
    await putPartialTiles();
    const next = { origin, size, root: rootOf(tail.edge) };
    await writeFileSafely(directory, "checkpoint", Buffer.from(signCheckpoint(next, key)), true);
    signed = next;
  };

  return {
    size: () => tail.edge.size,
    root: () => rootOf(tail.edge),
    append: (leaves) => inTurn(() => append(leaves)),
    putPartialTiles: () => inTurn(putPartialTiles),
    publishCheckpoint: () => inTurn(publishCheckpoint),
    putEpoch: (epoch, json) =>
      inTurn(() => writeFileSafely(directory, epochPath(epoch), Buffer.from(json), true)),
    putSide: async (kind, name, json) => {
      const bytes = Buffer.from(json);
      if (bytes.length > SIDE_FILES[kind].bytesMax)
        throw new Error(
          `a side file of kind ${kind} has at most ${SIDE_FILES[kind].bytesMax} bytes`,
        );
      await inTurn(() => writeFileSafely(directory, sidePath(kind, name), bytes, true));
    },
  };
}

/**
 * The tail after more leaves. Full tiles are handed to `emit`, and nothing else happens.
 *
 * @throws Error if the tree disagrees with `signed` where it reaches that size.
 */
function extended(
  tail: Tail,
  leaves: readonly Uint8Array[],
  signed: Checkpoint | undefined,
  emit: (kind: TileKind, index: bigint, bytes: Buffer) => void,
): Tail {
  let { edge } = tail;
  let entries = [...tail.entries];
  const levels = tail.levels.map((hashes) => [...hashes]);
  for (const leaf of leaves) {
    const hash = leafHashOf(leaf);
    entries.push(leaf);
    edge = grown(edge, [hash]);
    addHash(levels, 0, hash, edge.size - 1n, emit);
    if (entries.length === TILE_WIDTH) {
      emit("entries", edge.size / WIDTH - 1n, encodeEntries(entries));
      entries = [];
    }
    if (edge.size === signed?.size && !rootOf(edge).equals(signed.root))
      throw new Error("these leaves are not those that the last checkpoint was signed for");
  }
  return { edge, levels, entries };
}

/** Adds hash number `index` to a level; a tile that is full is emitted and becomes one hash of the next level. */
function addHash(
  levels: Uint8Array[][],
  level: number,
  hash: Uint8Array,
  index: bigint,
  emit: (kind: TileKind, index: bigint, bytes: Buffer) => void,
): void {
  const hashes = levels[level] ?? [];
  levels[level] = hashes;
  hashes.push(hash);
  if (hashes.length < TILE_WIDTH) return;
  emit(level, index / WIDTH, Buffer.concat(hashes));
  levels[level] = [];
  addHash(levels, level + 1, tileRootOf(hashes), index / WIDTH, emit);
}

async function signedBefore({
  directory,
  origin,
  key,
}: UsageLogOptions): Promise<Checkpoint | undefined> {
  const note = await contentsOf(join(directory, "checkpoint"));
  if (note === undefined || note.length === 0) return undefined;
  const checkpoint = verifyCheckpoint(note, key);
  if (checkpoint === undefined || checkpoint.origin !== origin)
    throw new Error(`${directory} holds a usage log that this key did not sign as ${origin}`);
  return checkpoint;
}

/** The tail that a checkpoint describes. @returns undefined if the files do not add up to its root. */
async function tailAt(directory: string, { size, root }: Checkpoint): Promise<Tail | undefined> {
  const levels: Buffer[][] = [];
  for (const { level, index, width } of partialTilesOf(size)) {
    const hashes = await readTile(directory, level, index, width);
    if (hashes === undefined) return undefined;
    levels.push(hashes);
  }
  const entries = await readTile(directory, "entries", size / WIDTH, Number(size % WIDTH));
  if (entries === undefined) return undefined;
  const edge = edgeOfTiles(size, levels);
  const leavesMatch = entries.every((leaf, i) => leafHashOf(leaf).equals(levels[0]?.[i] ?? leaf));
  return leavesMatch && rootOf(edge).equals(root) ? { edge, levels, entries } : undefined;
}

/** The first `width` parts of a tile: of the partial one, or of the full one that replaced it before a crash. */
async function readTile(
  directory: string,
  kind: TileKind,
  index: bigint,
  width: number,
): Promise<Buffer[] | undefined> {
  if (width === 0) return [];
  const decode = kind === "entries" ? decodeEntries : decodeHashes;
  for (const stored of [width, TILE_WIDTH]) {
    const bytes = await contentsOf(join(directory, tilePath(kind, index, stored)));
    const parts = bytes && decode(bytes, stored);
    if (parts !== undefined) return parts.slice(0, width);
  }
  return undefined;
}

async function contentsOf(path: string): Promise<Buffer | undefined> {
  try {
    return await readFile(path);
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === "ENOENT" || code === "ENOTDIR") return undefined;
    throw error;
  }
}

/**
 * Replaces a file as a whole: readers see the old bytes or the new ones.
 *
 * @param durable waits for the disk. Files that nothing would write again need it; a lost partial tile is noticed when
 * the log is opened.
 */
async function writeFileSafely(
  directory: string,
  path: string,
  bytes: Buffer,
  durable: boolean,
): Promise<void> {
  const target = join(directory, path);
  const temporary = `${target}.new`;
  await mkdir(dirname(target), { recursive: true });
  const file = await open(temporary, "w");
  try {
    await file.writeFile(bytes);
    if (durable) await file.sync();
  } finally {
    await file.close();
  }
  await rename(temporary, target);
}
