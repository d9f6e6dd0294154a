import { type FileHandle, open, readFile, rename } from "node:fs/promises";
import { join } from "node:path";
import { lockDirectory } from "../runtime/data-lock.ts";
import { ConfigError } from "../runtime/settings.ts";
import type { Closable } from "../runtime/shutdown.ts";
import { syncPath } from "../runtime/sync-path.ts";
import type { SignedExtrinsic } from "./sign-extrinsic.ts";

const FILE = "extrinsics.jsonl";
const FORMAT_VERSION = 1;
/** Included extrinsics that are remembered; the oldest is forgotten first. */
const INCLUDED_MAX = 10_000;
/** Lines beyond those that count, after which the file is written anew. */
const DEAD_LINES_MAX = 200;

/** Where an extrinsic was included. */
export interface Inclusion {
  readonly blockHash: string;
  readonly blockNumber: number;
}

/** A signed extrinsic and what it is for. It is written before it is sent. */
export interface OutboxRecord extends Omit<SignedExtrinsic, "bytes"> {
  /** Names the one thing that it does; there is one record for each purpose and chain. */
  readonly purpose: string;
  /** Hash of the chain's block 0. */
  readonly genesis: string;
  /** Absent once it is included, when nobody sends it again. */
  readonly bytes?: string;
  /** Where it ran with success, by a finalized block; absent while its fate is open. */
  readonly inclusion?: Inclusion;
}

/**
 * Extrinsics on their way, and the newest 10,000 that have arrived. What must never be sent twice, even after those are
 * forgotten, has to be recorded elsewhere by then.
 */
export interface Outbox {
  records(genesis: string): readonly OutboxRecord[];
  of(genesis: string, purpose: string): OutboxRecord | undefined;
  /** Replaces the record of its purpose. Resolves when it is durable. */
  put(record: OutboxRecord): Promise<void>;
  remove(record: OutboxRecord): Promise<void>;
}

/** An outbox that lasts as long as the process. */
export function memoryOutbox(): Outbox {
  const records = new Map<string, OutboxRecord>();
  return {
    records: (genesis) => [...records.values()].filter((record) => record.genesis === genesis),
    of: (genesis, purpose) => records.get(keyOf({ genesis, purpose })),
    async put(record) {
      apply(records, { v: FORMAT_VERSION, put: record });
    },
    async remove(record) {
      apply(records, { v: FORMAT_VERSION, remove: record });
    },
  };
}

/**
 * An outbox in a folder of its own, which is made when missing and locked. Each change is one line of JSON, on the disk
 * before its promise resolves; a line that a power failure cut short was never promised and is dropped.
 *
 * @throws ConfigError if the folder is in use, cannot be written, or is damaged.
 */
export async function openOutboxFile(directory: string): Promise<Outbox & Closable> {
  const lock = lockDirectory(directory);
  try {
    return await openLocked(directory, () => lock.release());
  } catch (error) {
    lock.release();
    throw error;
  }
}

async function openLocked(directory: string, release: () => void): Promise<Outbox & Closable> {
  const path = join(directory, FILE);
  const records = new Map<string, OutboxRecord>();
  for (const line of await linesOf(path)) apply(records, line);
  let { file, length } = await writeAnew(directory, records);
  let lines = records.size;
  /** Ends when all work on the file so far has ended, well or not. */
  let busy: Promise<unknown> = Promise.resolve();
  let closed: Promise<void> | undefined;
  /** Set once, for good: the name of the file may lead to another file than the open one. */
  let failure: Error | undefined;

  const compact = async (): Promise<void> => {
    const old = file;
    ({ file, length } = await writeAnew(directory, records));
    lines = records.size;
    await old.close();
  };
  const append = async (change: Line): Promise<void> => {
    if (failure !== undefined) throw failure;
    if (lines > 2 * records.size + DEAD_LINES_MAX)
      await compact().catch((cause: unknown) => {
        failure = new Error(`${path} cannot be written anew`, { cause });
        throw failure;
      });
    const bytes = Buffer.from(`${JSON.stringify(change)}\n`);
    try {
      for (let done = 0; done < bytes.length; ) {
        const { bytesWritten } = await file.write(bytes, done, bytes.length - done, length + done);
        done += bytesWritten;
      }
      await file.datasync();
    } catch (error) {
      // A half-written line must not stay in front of the next one.
      await file.truncate(length);
      throw error;
    }
    length += bytes.length;
    lines += 1;
    apply(records, change);
  };
  const inTurn = async (change: Line): Promise<void> => {
    const turn = busy.then(() => append(change));
    busy = turn.catch(() => undefined);
    await turn;
  };

  return {
    records: (genesis) => [...records.values()].filter((record) => record.genesis === genesis),
    of: (genesis, purpose) => records.get(keyOf({ genesis, purpose })),
    put: (record) => inTurn({ v: FORMAT_VERSION, put: record }),
    remove: ({ genesis, purpose }) => inTurn({ v: FORMAT_VERSION, remove: { genesis, purpose } }),
    close: () =>
      (closed ??= (async () => {
        await busy;
        await file.close();
        release();
      })()),
  };
}

interface Name {
  readonly genesis: string;
  readonly purpose: string;
}

type Line =
  | { readonly v: typeof FORMAT_VERSION; readonly put: OutboxRecord }
  | { readonly v: typeof FORMAT_VERSION; readonly remove: Name };

function keyOf({ genesis, purpose }: Name): string {
  return `${genesis} ${purpose}`;
}

function apply(records: Map<string, OutboxRecord>, line: Line): void {
  if ("remove" in line) {
    records.delete(keyOf(line.remove));
    return;
  }
  const key = keyOf(line.put);
  records.delete(key); // so that the newest is last
  records.set(key, line.put);
  if (records.size <= INCLUDED_MAX) return;
  let excess = -INCLUDED_MAX;
  for (const { inclusion } of records.values()) if (inclusion !== undefined) excess += 1;
  for (const [old, { inclusion }] of records) {
    if (excess <= 0) break;
    if (inclusion === undefined) continue;
    records.delete(old);
    excess -= 1;
  }
}

/** @throws ConfigError if a whole line is none of ours. */
async function linesOf(path: string): Promise<Line[]> {
  let text: string;
  try {
    text = await readFile(path, "utf8");
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return [];
    throw error;
  }
  // What follows the last line break is a line that was cut short, or nothing.
  return text
    .split("\n")
    .slice(0, -1)
    .map((line, index) => {
      const parsed = lineOf(line);
      if (parsed === undefined)
        throw new ConfigError(
          `${path} is damaged in line ${index + 1}, or of a newer version: restore it from a copy; without it, what was sent to the chain may be sent again`,
        );
      return parsed;
    });
}

function lineOf(text: string): Line | undefined {
  try {
    const line = JSON.parse(text) as Partial<Record<"v" | "put" | "remove", unknown>>;
    const { genesis, purpose } = (line.put ?? line.remove) as Partial<Name>;
    const isOurs =
      line.v === FORMAT_VERSION && typeof genesis === "string" && typeof purpose === "string";
    return isOurs ? (line as Line) : undefined;
  } catch {
    return undefined;
  }
}

/** Writes the file beside the old one and moves it into its place. */
async function writeAnew(
  directory: string,
  records: ReadonlyMap<string, OutboxRecord>,
): Promise<{ file: FileHandle; length: number }> {
  const path = join(directory, FILE);
  const lines = [...records.values()].map((put) => JSON.stringify({ v: FORMAT_VERSION, put }));
  const bytes = Buffer.from(lines.map((line) => `${line}\n`).join(""));
  const file = await open(`${path}.new`, "w");
  try {
    await file.writeFile(bytes);
    await file.sync();
    await rename(`${path}.new`, path);
    // The rename itself is on the disk once the folder is.
    syncPath(directory);
  } catch (error) {
    await file.close();
    throw error;
  }
  return { file, length: bytes.length };
}
