/**
 * The receipts of a relay, on disk before the answer ends: a gateway that lost one, or died before it settled, pulls it
 * again. One JSON line each, never edited:
 *
 *   {"att":<enclave id>,"seq":<n>,"rid":<request id>,"salt":<32 hex digits>,"token":<signed claims>}
 *
 * Requests that end in one turn of the event loop share a signature and a system call, before any of their trailers is
 * sent; so a receipt that was sent survives the death of the process. The disk is synchronised once a second, so a power
 * failure may cost the last second, which costs the miner and nobody else.
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
import type { SigningKey } from "../core/jws.ts";
import {
  BATCH_CLAIMS_MAX,
  claimsHashOf,
  type EncodedClaims,
  encodeClaims,
  signClaims,
} from "../core/signed-claims.ts";
import type { Logger } from "../runtime/logger.ts";
import { makeFolder } from "../runtime/make-folder.ts";
import type { Closable } from "../runtime/shutdown.ts";
import { turnBatch } from "../runtime/turn-batch.ts";

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

/** A receipt to make. */
export interface ReceiptOrder {
  readonly enclave: EnclaveId;
  readonly rid: RequestId;
  readonly salt: string;
  /** The enclave's receipt key. */
  readonly key: SigningKey;
  /** Gets the position in the enclave's chain and `claimsHashOf` the receipt before. */
  readonly claimsAt: (seq: number, prev: string) => object;
}

export interface ReceiptStore extends Closable {
  /**
   * Numbers, signs and stores the next receipt of an enclave.
   *
   * @throws Error if it could not be made or written; the chain has not moved for it then.
   */
  append(order: ReceiptOrder): Promise<StoredReceipt>;
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
      chain.prev = claimsHashOf(line.token);
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

  /** @returns how many bytes of `text` reached the file, from which offset, and why not all of them. */
  const write = (text: string): { offset: number; written: number; error?: unknown } => {
    const start = torn ? 2 : 0;
    const bytes = Buffer.from(torn ? `!\n${text}` : text);
    const offset = size + start;
    let written = 0;
    try {
      while (written < bytes.length) written += writeSync(fd, bytes, written);
      return { offset, written: written - start };
    } catch (error) {
      return { offset, written: written - start, error };
    } finally {
      size += written;
      torn = written === 0 ? torn : bytes[written - 1] !== 0x0a;
      dirty = true;
    }
  };

  /** Stores receipts of one enclave. A disk that fills up midway keeps the lines that it took whole. */
  const appendChained = (orders: readonly ReceiptOrder[]): (StoredReceipt | Error)[] => {
    const results: (StoredReceipt | Error)[] = [];
    const numbered: { order: ReceiptOrder; seq: number; claims: EncodedClaims; at: number }[] = [];
    const [first] = orders;
    const chain = first === undefined ? undefined : chains.get(first.enclave);
    let seq = chain?.nextSeq ?? 0;
    let prev = chain?.prev ?? "";
    orders.forEach((order, at) => {
      try {
        const claims = encodeClaims(order.claimsAt(seq, prev));
        numbered.push({ order, seq, claims, at });
        prev = claims.hash;
        seq += 1;
      } catch (error) {
        results[at] = error instanceof Error ? error : new Error(String(error));
      }
    });
    if (first === undefined || numbered.length === 0) return results;
    const tokens = signClaims(
      "usage-receipt",
      numbered.map(({ claims }) => claims),
      first.key,
    );
    const lines = numbered.map(({ order: { enclave, rid, salt }, seq }, i): Line => {
      return { att: enclave, seq, rid, salt, token: tokens[i] ?? "" };
    });
    const texts = lines.map((line) => `${JSON.stringify(line)}\n`);
    const { offset, written, error } = write(texts.join(""));
    let end = 0;
    numbered.forEach(({ at }, i) => {
      const line = lines[i];
      const start = end;
      end += texts[i]?.length ?? 0;
      if (line === undefined || end > written) {
        results[at] = new Error("the receipt could not be written", { cause: error });
        return;
      }
      remember(line, offset + start);
      results[at] = { token: line.token, salt: line.salt };
    });
    return results;
  };

  const appendTogether = turnBatch(BATCH_CLAIMS_MAX, (orders: readonly ReceiptOrder[]) => {
    // The number of a closed file is given to the next socket, and the receipts would be written there.
    if (closed) throw new Error("the receipt store is closed");
    const results: (StoredReceipt | Error)[] = [];
    for (const enclave of new Set(orders.map((order) => order.enclave))) {
      const places = [...orders.keys()].filter((i) => orders[i]?.enclave === enclave);
      const own = appendChained(orders.filter((order) => order.enclave === enclave));
      places.forEach((place, i) => {
        results[place] = own[i] ?? new Error("the receipt was not made");
      });
    }
    return results;
  });

  return {
    append: async (order) => {
      const result = await appendTogether(order);
      if (result instanceof Error) throw result;
      return result;
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
  /^\{"att":"([\w-]{43})","seq":(\d{1,15}),"rid":"([0-9a-f-]{36})","salt":"([0-9a-f]{32})","token":"([\w.~-]+)"\}$/;

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
