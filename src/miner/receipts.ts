/**
 * The receipts of a relay, on disk before the answer ends: a gateway that lost one, or died before it settled, pulls it
 * again. One JSON line each, never edited:
 *
 *   {"att":<enclave id>,"seq":<n>,"rid":<request id>,"salt":<32 hex digits>,"token":<JWS>}
 *
 * A line is written with one system call before the trailer is sent, so it survives the death of the process; the disk
 * is synchronised once a second, so a power failure may cost the last second, which costs the miner and nobody else.
 *
 * @module
 */
import {
  closeSync,
  createReadStream,
  fdatasync,
  fdatasyncSync,
  fstatSync,
  openSync,
  read,
  readSync,
  writeSync,
} from "node:fs";
import { join } from "node:path";
import type { EnclaveId, RequestId } from "../core/ids.ts";
import { receiptHashOf } from "../core/receipt.ts";
import type { Logger } from "../runtime/logger.ts";
import { makeFolder } from "../runtime/make-folder.ts";
import type { Closable } from "../runtime/shutdown.ts";

/** A receipt as it travels: the salt opens the hashes of the bodies for whoever has them. */
export interface StoredReceipt {
  readonly token: string;
  readonly salt: string;
}

/** Most receipts in one page. */
export const RECEIPTS_PAGE_MAX = 256;
/** Receipts that are found by request id without reading the file through. */
const INDEXED_MAX = 50_000;
/** Longest line of the file, in bytes. */
const LINE_BYTES_MAX = 16_384;
const SYNC_INTERVAL_MS = 1_000;
const FILE_NAME = "receipts.jsonl";
/** Every how many receipts of an enclave the place in the file is remembered. */
const MARK_EVERY = 256;

export interface ReceiptStore extends Closable {
  /**
   * Numbers, signs and stores the next receipt of an enclave.
   *
   * @param sign gets the position in the chain and the hash of the receipt before, and returns the signed receipt.
   * @throws Error if it could not be written; the chain has not moved then.
   */
  append(
    enclave: EnclaveId,
    rid: RequestId,
    salt: string,
    sign: (seq: number, prev: string) => string,
  ): StoredReceipt;
  /** The receipt of a request, also from earlier boots. */
  byRequest(rid: RequestId): Promise<StoredReceipt | undefined>;
  /** Receipts of one enclave with `seq` above `after` (−1 for all), in order, at most 256. */
  page(
    enclave: EnclaveId,
    after: number,
  ): Promise<{ readonly receipts: readonly StoredReceipt[]; readonly more: boolean }>;
}

/** Where the receipts of one enclave lie in the file. */
interface Chain {
  nextSeq: number;
  prev: string;
  /** Offset of every 256th receipt, from seq 0. */
  readonly marks: number[];
}

interface Line {
  readonly att: EnclaveId;
  readonly seq: number;
  readonly rid: RequestId;
  readonly salt: string;
  readonly token: string;
}

/** Opens the file in `directory` and reads it through once. @throws Error if it cannot be opened. */
export async function openReceiptStore(
  directory: string,
  log: Logger,
  indexedMax: number = INDEXED_MAX,
): Promise<ReceiptStore> {
  makeFolder(directory);
  const path = join(directory, FILE_NAME);
  const fd = openSync(path, "a+", 0o600);
  const chains = new Map<EnclaveId, Chain>();
  // A Map keeps the order of insertion, so its first key is the oldest.
  const offsets = new Map<RequestId, number>();
  let forgotten = false;

  const remember = (line: Line, offset: number): void => {
    let chain = chains.get(line.att);
    if (chain === undefined) {
      chain = { nextSeq: 0, prev: "", marks: [] };
      chains.set(line.att, chain);
    }
    if (line.seq === chain.nextSeq) {
      if (line.seq % MARK_EVERY === 0) chain.marks.push(offset);
      chain.nextSeq = line.seq + 1;
      chain.prev = receiptHashOf(line.token);
    }
    offsets.set(line.rid, offset);
    if (offsets.size > indexedMax) {
      forgotten = true;
      const [oldest] = offsets.keys();
      if (oldest !== undefined) offsets.delete(oldest);
    }
  };

  let size = 0;
  let unreadable = 0;
  for await (const { offset, text } of linesOf(path, 0)) {
    const line = lineOf(text);
    if (line === undefined) unreadable += 1;
    else remember(line, offset);
  }
  size = fstatSync(fd).size;
  // After kill -9 in the middle of a write the last line has no end; the next one must not continue it.
  let torn = size > 0 && !endsWithNewline(fd, size);
  if (torn || unreadable > 0) log.warn({ lines: unreadable, torn }, "receipts.unreadable_lines");

  let dirty = false;
  let syncing = false;
  const timer = setInterval(() => {
    if (!dirty || syncing) return;
    dirty = false;
    syncing = true;
    fdatasync(fd, (error) => {
      syncing = false;
      if (error !== null) log.error({ code: error.code }, "receipts.sync_failed");
      if (closed) closeSync(fd);
    });
  }, SYNC_INTERVAL_MS);
  timer.unref();
  let closed = false;

  const write = (text: string): number => {
    const bytes = Buffer.from(torn ? `\n${text}` : text);
    const offset = size + (torn ? 1 : 0);
    let written = 0;
    try {
      while (written < bytes.length) written += writeSync(fd, bytes, written);
    } finally {
      size += written;
      torn = written === 0 ? torn : written < bytes.length;
    }
    dirty = true;
    return offset;
  };

  return {
    append: (enclave, rid, salt, sign) => {
      // The number of a closed file is given to the next socket, and the receipt would be written there.
      if (closed) throw new Error("the receipt store is closed");
      const chain = chains.get(enclave);
      const seq = chain?.nextSeq ?? 0;
      const token = sign(seq, chain?.prev ?? "");
      const line: Line = { att: enclave, seq, rid, salt, token };
      remember(line, write(`${JSON.stringify(line)}\n`));
      return { token, salt };
    },
    byRequest: async (rid) => {
      const offset = offsets.get(rid);
      if (offset !== undefined) {
        const line = lineOf(await readLine(fd, offset));
        return line?.rid === rid ? { token: line.token, salt: line.salt } : undefined;
      }
      if (!forgotten) return undefined;
      for await (const { text } of linesOf(path, 0)) {
        if (!text.includes(rid)) continue;
        const line = lineOf(text);
        if (line?.rid === rid) return { token: line.token, salt: line.salt };
      }
      return undefined;
    },
    page: async (enclave, after) => {
      const chain = chains.get(enclave);
      const first = after + 1;
      const offset = chain?.marks[Math.floor(first / MARK_EVERY)];
      if (chain === undefined || offset === undefined || first >= chain.nextSeq)
        return { receipts: [], more: false };
      const last = Math.min(chain.nextSeq, first + RECEIPTS_PAGE_MAX) - 1;
      const receipts: StoredReceipt[] = [];
      let wanted = first;
      for await (const { text } of linesOf(path, offset)) {
        const line = lineOf(text);
        if (line === undefined || line.att !== enclave || line.seq !== wanted) continue;
        receipts.push({ token: line.token, salt: line.salt });
        if (wanted === last) break;
        wanted += 1;
      }
      return { receipts, more: last + 1 < chain.nextSeq };
    },
    close: async () => {
      if (closed) return;
      closed = true;
      clearInterval(timer);
      if (dirty) fdatasyncSync(fd);
      if (!syncing) closeSync(fd);
    },
  };
}

const LINE_SHAPE =
  /^\{"att":"([\w-]{43})","seq":(\d{1,15}),"rid":"([0-9a-f-]{36})","salt":"([0-9a-f]{32})","token":"([\w.-]+)"\}$/;

function lineOf(text: string): Line | undefined {
  const [, att, seq, rid, salt, token] = LINE_SHAPE.exec(text) ?? [];
  if (att === undefined || seq === undefined || rid === undefined) return undefined;
  if (salt === undefined || token === undefined) return undefined;
  return { att: att as EnclaveId, seq: Number(seq), rid: rid as RequestId, salt, token };
}

/** Complete lines of a file from `start`, with the offset of each; one chunk and one line in memory at a time. */
async function* linesOf(
  path: string,
  start: number,
): AsyncGenerator<{ offset: number; text: string }> {
  let carried: Buffer = Buffer.alloc(0);
  let offset = start;
  for await (const chunk of createReadStream(path, { start }) as AsyncIterable<Buffer>) {
    const bytes = carried.length === 0 ? chunk : Buffer.concat([carried, chunk]);
    let from = 0;
    for (let end = bytes.indexOf(0x0a); end >= 0; end = bytes.indexOf(0x0a, from)) {
      yield { offset: offset + from, text: bytes.toString("latin1", from, end) };
      from = end + 1;
    }
    offset += from;
    carried = bytes.subarray(from);
    if (carried.length > LINE_BYTES_MAX) {
      // No line of ours is that long. What is left of it is reported as one that cannot be read.
      offset += carried.length;
      carried = Buffer.alloc(0);
    }
  }
}

async function readLine(fd: number, offset: number): Promise<string> {
  const buffer = Buffer.alloc(LINE_BYTES_MAX);
  const bytesRead = await new Promise<number>((resolve, reject) => {
    read(fd, buffer, 0, buffer.length, offset, (error, count) => {
      if (error === null) resolve(count);
      else reject(error);
    });
  });
  const end = buffer.subarray(0, bytesRead).indexOf(0x0a);
  return end < 0 ? "" : buffer.toString("latin1", 0, end);
}

function endsWithNewline(fd: number, size: number): boolean {
  const last = Buffer.alloc(1);
  readSync(fd, last, 0, 1, size - 1);
  return last[0] === 0x0a;
}
