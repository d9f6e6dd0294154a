import { blake2AsHex } from "@polkadot/util-crypto";
import type { ChainRuntime } from "./chain-runtime.ts";

/** Longest remark that is read, in bytes; a longer one is nobody's memo. */
const REMARK_BYTES_MAX = 128;
/** Places of one extrinsic that are tried. Each costs a hash, and whoever sends the extrinsic chooses how many there are. */
const PLACES_MAX = 4_096;
const PRINTABLE_ASCII = /^[ -~]+$/;

/** Two bytes, pallet and call, that every `System.remark_with_event` begins with. @throws ChainError "Unsupported" */
export function remarkCallIndex(runtime: ChainRuntime): Uint8Array {
  return runtime.call("system", "remarkWithEvent", { remark: "0x" }).callIndex;
}

/**
 * Texts of the remarks in an extrinsic that did run, by their Blake2-256 hash (0x-hex). Only printable ASCII of at most
 * 128 bytes is read.
 *
 * The call tree is not decoded. A remark's bytes follow its call index and its length (SCALE compact) wherever it stands,
 * inside batches, proxies and calls that this version does not know; and only bytes whose hash the chain has put into a
 * `System.Remarked` event are taken, so a remark that never ran, or bytes that merely look like one, give nothing.
 */
export function remarksIn(
  extrinsic: Uint8Array,
  callIndex: Uint8Array,
  remarked: ReadonlySet<string>,
): ReadonlyMap<string, string> {
  const bytes = Buffer.from(extrinsic.buffer, extrinsic.byteOffset, extrinsic.byteLength);
  const found = new Map<string, string>();
  let at = bytes.indexOf(callIndex);
  for (let place = 0; at >= 0 && place < PLACES_MAX && found.size < remarked.size; place++) {
    const remark = bytesAt(bytes, at + callIndex.length);
    const text = remark?.toString("latin1");
    if (remark !== undefined && text !== undefined && PRINTABLE_ASCII.test(text)) {
      const hash = blake2AsHex(remark, 256);
      if (remarked.has(hash)) found.set(hash, text);
    }
    at = bytes.indexOf(callIndex, at + 1);
  }
  return found;
}

/** A SCALE byte string: its compact length in one byte (below 64) or two, then the bytes. */
function bytesAt(bytes: Buffer, offset: number): Buffer | undefined {
  const first = bytes[offset];
  if (first === undefined) return undefined;
  const mode = first & 0b11;
  if (mode > 1 || (mode === 1 && offset + 1 >= bytes.length)) return undefined;
  const length = (mode === 0 ? first : bytes.readUInt16LE(offset)) >> 2;
  const start = offset + mode + 1;
  if (length > REMARK_BYTES_MAX || start + length > bytes.length) return undefined;
  return bytes.subarray(start, start + length);
}
