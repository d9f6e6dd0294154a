import assert from "node:assert/strict";

/** One column of a batch, as a parameter of type `type[]`. */
export type Column =
  | { readonly type: "text"; readonly values: readonly (string | null)[] }
  | { readonly type: "uuid"; readonly values: readonly string[] }
  | { readonly type: "int8"; readonly values: readonly bigint[] }
  | { readonly type: "int4"; readonly values: readonly number[] }
  | { readonly type: "bool"; readonly values: readonly boolean[] };

/** Type oids (pg_type.dat). */
const OIDS = { text: 25, uuid: 2950, int8: 20, int4: 23, bool: 16 } as const;
/** Dimensions, null flag, oid, length and lower bound: int4 each. */
const HEADER_BYTES = 20;
const LENGTH_BYTES = 4;
/** Most bytes of an item that is not text. */
const ITEM_BYTES_MAX = 16;

/**
 * Columns as binary array parameters of `Queryable.query`: written here with a few copies, and read by PostgreSQL with
 * a few more, where array literals are escaped and parsed character by character. All lie in one new buffer.
 *
 * Each is `dimensions=1, has nulls, type oid, length, lower bound=1`, then `byte length, bytes` per item, in which a
 * length of −1 is null; an array without items has 0 dimensions and ends after the oid (array_recv in arrayfuncs.c).
 *
 * @throws RangeError or AssertionError if a value is not one of its type.
 */
export function arrayParams(columns: readonly Column[]): Uint8Array[] {
  const buffer = Buffer.allocUnsafeSlow(columns.reduce((sum, column) => sum + roomFor(column), 0));
  let at = 0;
  return columns.map((column) => {
    const start = at;
    at = writeHeader(buffer, at, column);
    at = writeItems(buffer, at, column);
    return buffer.subarray(start, at);
  });
}

function roomFor({ type, values }: Column): number {
  const bytes = HEADER_BYTES + values.length * LENGTH_BYTES;
  if (type !== "text") return bytes + values.length * ITEM_BYTES_MAX;
  // Counted, since three bytes per character would let the garbage collector run three times as often.
  return values.reduce((sum, text) => sum + (text === null ? 0 : Buffer.byteLength(text)), bytes);
}

function writeHeader(buffer: Buffer, start: number, { type, values }: Column): number {
  let at = buffer.writeInt32BE(values.length === 0 ? 0 : 1, start);
  at = buffer.writeInt32BE(type === "text" && values.includes(null) ? 1 : 0, at);
  at = buffer.writeInt32BE(OIDS[type], at);
  if (values.length === 0) return at;
  at = buffer.writeInt32BE(values.length, at);
  return buffer.writeInt32BE(1, at);
}

function writeItems(buffer: Buffer, start: number, column: Column): number {
  let at = start;
  const length = (bytes: number): void => {
    at = buffer.writeInt32BE(bytes, at);
  };
  switch (column.type) {
    case "text":
      for (const text of column.values) {
        const bytes = text === null ? 0 : buffer.write(text, at + LENGTH_BYTES);
        length(text === null ? -1 : bytes);
        at += bytes;
      }
      break;
    case "uuid":
      for (const uuid of column.values) {
        length(16);
        const bytes = buffer.write(uuid.replaceAll("-", ""), at, "hex");
        assert(bytes === 16, "not a uuid");
        at += bytes;
      }
      break;
    case "int8":
      for (const value of column.values) {
        length(8);
        at = buffer.writeBigInt64BE(value, at);
      }
      break;
    case "int4":
      for (const value of column.values) {
        assert(Number.isInteger(value), "not an integer");
        length(4);
        at = buffer.writeInt32BE(value, at);
      }
      break;
    case "bool":
      for (const value of column.values) {
        length(1);
        at = buffer.writeUInt8(value ? 1 : 0, at);
      }
      break;
  }
  return at;
}
