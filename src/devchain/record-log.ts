/**
 * An append-only file of records that survives being killed at any moment.
 *
 *   file    "daychain" ‖ format version u32 LE ‖ record …
 *   record  length u32 LE ‖ CRC-32 of the payload u32 LE ‖ payload
 *
 * A last record that was cut short is dropped. A broken record with whole ones after it is damage, not a cut.
 *
 * @module
 */
import {
  closeSync,
  fdatasync,
  fsyncSync,
  ftruncateSync,
  openSync,
  readFileSync,
  renameSync,
  rmSync,
  writeSync,
} from "node:fs";
import { join } from "node:path";
import { promisify } from "node:util";
import { crc32 } from "node:zlib";
import { type DataLock, lockDirectory, unwritable } from "../runtime/data-lock.ts";
import { ConfigError } from "../runtime/settings.ts";
import { syncPath } from "../runtime/sync-path.ts";

const LOG_FILE = "chain.log";
const NEW_LOG_FILE = "chain.log.new";
const MAGIC = Buffer.from("daychain");
/** Raise it when records, or the storage they hold, change their meaning. */
const FORMAT_VERSION = 1;
const HEADER_BYTES = MAGIC.length + 4;
const RECORD_HEADER_BYTES = 8;
/** More than any record has; a larger length is a broken one. */
const RECORD_BYTES_MAX = 1 << 30;

const fdatasyncPromise = promisify(fdatasync);

export interface RecordLog {
  /** The records that were there when the log was opened. */
  readonly records: readonly Uint8Array[];
  /** Bytes of a broken last record that were dropped on opening. */
  readonly droppedBytes: number;
  /** Length of the file. */
  bytes(): number;
  /** Hands a record to the operating system: it survives the end of this process. @throws Error if the disk refuses. */
  append(payload: Uint8Array): void;
  /** Waits until everything appended so far is on the disk. */
  sync(): Promise<void>;
  /** Replaces all records at once. Either the old or the new ones survive. */
  replace(payloads: Iterable<Uint8Array>): void;
  /** Releases the folder. Idempotent. */
  close(): Promise<void>;
}

/**
 * Opens the log in `directory`, which is created.
 *
 * @throws ConfigError if the folder is in use, not writable, damaged or of a newer version; the message says what to do.
 */
export function openRecordLog(directory: string): RecordLog {
  const lock = lockDirectory(directory);
  try {
    return openLocked(directory, lock);
  } catch (error) {
    lock.release();
    throw error instanceof ConfigError ? error : unwritable(directory, error);
  }
}

function openLocked(directory: string, lock: DataLock): RecordLog {
  const path = join(directory, LOG_FILE);
  rmSync(join(directory, NEW_LOG_FILE), { force: true });
  const existing = readIfThere(path);
  const { records, end } =
    existing === undefined
      ? { records: [], end: HEADER_BYTES }
      : { ...readRecords(existing, path) };
  const droppedBytes = existing === undefined ? 0 : existing.length - end;
  if (existing === undefined) writeFile(directory, []);

  let file = openSync(path, "r+");
  if (droppedBytes > 0) ftruncateSync(file, end);
  let length = end;
  let closed: Promise<void> | undefined;
  /** Ends when all work on the disk so far has ended, well or not. */
  let busy: Promise<unknown> = Promise.resolve();
  let queued: Promise<void> | undefined;

  return {
    records,
    droppedBytes,
    bytes: () => length,
    append(payload) {
      const record = frame(payload);
      try {
        writeAll(file, record, length);
      } catch (error) {
        // A half-written record must not stay in front of the next one.
        ftruncateSync(file, length);
        throw error;
      }
      length += record.length;
    },
    sync() {
      // One at a time; whoever asks meanwhile shares the next one. On whichever file is current by then.
      queued ??= busy.then(async () => {
        queued = undefined;
        if (closed === undefined) await fdatasyncPromise(file);
      });
      busy = Promise.allSettled([queued]);
      return queued;
    },
    replace(payloads) {
      length = writeFile(directory, payloads);
      const old = file;
      file = openSync(path, "r+");
      // A sync of the old file may still run; its descriptor is closed after that.
      busy = busy.then(() => closeSync(old));
    },
    close() {
      closed ??= (async () => {
        await busy;
        try {
          fsyncSync(file);
        } finally {
          closeSync(file);
          lock.release();
        }
      })();
      return closed;
    },
  };
}

function readIfThere(path: string): Buffer | undefined {
  try {
    return readFileSync(path);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return undefined;
    throw error;
  }
}

function readRecords(bytes: Buffer, path: string): { records: Uint8Array[]; end: number } {
  if (bytes.length < HEADER_BYTES || !bytes.subarray(0, MAGIC.length).equals(MAGIC))
    throw new ConfigError(`${path} is not a chain of this program: use another data folder`);
  const version = bytes.readUInt32LE(MAGIC.length);
  if (version > FORMAT_VERSION)
    throw new ConfigError(
      `${path} was written by a newer version (format ${version}, this one reads ${FORMAT_VERSION}): update, or use another data folder`,
    );
  const records: Uint8Array[] = [];
  let end = HEADER_BYTES;
  for (;;) {
    const payload = recordAt(bytes, end);
    if (payload === undefined) break;
    records.push(payload);
    end += RECORD_HEADER_BYTES + payload.length;
  }
  if (isFollowedByRecord(bytes, end))
    throw new ConfigError(
      `${path} is damaged at byte ${end}: restore the data folder from a copy, or delete it to begin a new chain`,
    );
  return { records, end };
}

function recordAt(bytes: Buffer, at: number): Buffer | undefined {
  if (at + RECORD_HEADER_BYTES > bytes.length) return undefined;
  const length = bytes.readUInt32LE(at);
  const payload = bytes.subarray(at + RECORD_HEADER_BYTES, at + RECORD_HEADER_BYTES + length);
  const whole = length > 0 && length <= RECORD_BYTES_MAX && payload.length === length;
  return whole && crc32(payload) === bytes.readUInt32LE(at + 4) ? payload : undefined;
}

function isFollowedByRecord(bytes: Buffer, at: number): boolean {
  if (at + RECORD_HEADER_BYTES > bytes.length) return false;
  return recordAt(bytes, at + RECORD_HEADER_BYTES + bytes.readUInt32LE(at)) !== undefined;
}

function frame(payload: Uint8Array): Buffer {
  const header = Buffer.alloc(RECORD_HEADER_BYTES);
  header.writeUInt32LE(payload.length, 0);
  header.writeUInt32LE(crc32(payload), 4);
  return Buffer.concat([header, payload]);
}

function writeAll(file: number, bytes: Uint8Array, at: number): void {
  for (let done = 0; done < bytes.length; )
    done += writeSync(file, bytes, done, bytes.length - done, at + done);
}

/** Writes a whole log beside the old one and moves it into its place. @returns its length. */
function writeFile(directory: string, payloads: Iterable<Uint8Array>): number {
  const newPath = join(directory, NEW_LOG_FILE);
  const file = openSync(newPath, "w");
  let length = 0;
  const write = (bytes: Uint8Array) => {
    writeAll(file, bytes, length);
    length += bytes.length;
  };
  try {
    const version = Buffer.alloc(4);
    version.writeUInt32LE(FORMAT_VERSION);
    write(Buffer.concat([MAGIC, version]));
    for (const payload of payloads) write(frame(payload));
    fsyncSync(file);
  } finally {
    closeSync(file);
  }
  renameSync(newPath, join(directory, LOG_FILE));
  // Or the power could fail before the new name is on the disk, and blocks that are appended now would be lost with it.
  syncPath(directory);
  return length;
}
