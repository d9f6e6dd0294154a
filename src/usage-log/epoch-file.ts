import { createHash } from "node:crypto";
import { type Hotkey, hotkeyOf } from "../core/ids.ts";

/** What a log epoch adds up to. Its SHA-256 is committed on the chain beside the root. */
export interface EpochFile {
  readonly epoch: number;
  /** Index of the epoch's first leaf, and the size of the tree after its last. */
  readonly first: bigint;
  readonly size: bigint;
  /** 32 bytes: root of the tree of `size` leaves. */
  readonly root: Uint8Array;
  /** `CATALOGUE_VERSION` of the retail prices that the quotes were held against. */
  readonly catalogue: string;
  /** What each miner earned, nano-USD. */
  readonly sums: ReadonlyMap<Hotkey, bigint>;
  /** Leaves of the epoch. */
  readonly receipts: number;
}

/** Longest epoch file, in bytes: 4096 hotkeys with room to spare. */
export const EPOCH_FILE_BYTES_MAX = 524_288;

/** Path of an epoch file below the log's root. */
export function epochPath(epoch: number): string {
  return `epoch/${epoch}.json`;
}

/** The file's one spelling: fixed key order, hotkeys sorted by code unit, no white space. */
export function encodeEpochFile(file: EpochFile): string {
  const sums = Object.fromEntries(
    [...file.sums]
      .sort(([a], [b]) => (a < b ? -1 : 1))
      .map(([hotkey, amount]) => [hotkey, amount.toString()]),
  );
  const { epoch, first, size, root, catalogue, receipts } = file;
  return JSON.stringify({
    v: 1,
    epoch,
    first: Number(first),
    size: Number(size),
    root: Buffer.from(root).toString("hex"),
    catalogue,
    sums,
    receipts,
  });
}

/** SHA-256 of the file: what the log root on the chain names as `sums`. */
export function epochFileHashOf(bytes: Uint8Array | string): Buffer {
  return createHash("sha256").update(bytes).digest();
}

/** @returns undefined unless the bytes are exactly an epoch file as `encodeEpochFile` writes it. */
export function parseEpochFile(bytes: Uint8Array): EpochFile | undefined {
  if (bytes.length > EPOCH_FILE_BYTES_MAX) return undefined;
  const text = Buffer.from(bytes).toString("utf8");
  const file = fromJson(text);
  return file !== undefined && encodeEpochFile(file) === text ? file : undefined;
}

function fromJson(text: string): EpochFile | undefined {
  let json: unknown;
  try {
    json = JSON.parse(text);
  } catch {
    return undefined;
  }
  if (typeof json !== "object" || json === null) return undefined;
  const { epoch, first, size, root, catalogue, sums, receipts } = json as Record<string, unknown>;
  if (!isCount(epoch) || !isCount(first) || !isCount(size) || !isCount(receipts)) return undefined;
  if (typeof root !== "string" || !/^[0-9a-f]{64}$/.test(root)) return undefined;
  if (typeof catalogue !== "string" || typeof sums !== "object" || sums === null) return undefined;
  const amounts = new Map<Hotkey, bigint>();
  for (const [key, value] of Object.entries(sums)) {
    const hotkey = hotkeyOf(key);
    if (hotkey === undefined || typeof value !== "string" || !/^\d{1,24}$/.test(value))
      return undefined;
    amounts.set(hotkey, BigInt(value));
  }
  return {
    epoch,
    first: BigInt(first),
    size: BigInt(size),
    root: Buffer.from(root, "hex"),
    catalogue,
    sums: amounts,
    receipts,
  };
}

function isCount(value: unknown): value is number {
  return Number.isSafeInteger(value) && (value as number) >= 0;
}
