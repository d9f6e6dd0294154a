/** Bytes that are not valid SCALE for the expected type. Its message may be shown to whoever sent them. */
export class ScaleError extends Error {
  override readonly name = "ScaleError";
}

/** A position in bytes that are being decoded. */
export interface ByteReader {
  readonly bytes: Uint8Array;
  offset: number;
  /** How many calls inside calls are being decoded; bounded by the codec of calls. */
  depth: number;
}

export function openReader(bytes: Uint8Array): ByteReader {
  return { bytes, offset: 0, depth: 0 };
}

/** How many bytes are left. */
export function remaining(reader: ByteReader): number {
  return reader.bytes.length - reader.offset;
}

/**
 * The next `length` bytes, without a copy.
 *
 * @throws ScaleError if there are fewer.
 */
export function take(reader: ByteReader, length: number): Uint8Array {
  if (length > remaining(reader))
    throw new ScaleError(`${length} bytes expected at ${reader.offset}`);
  const taken = reader.bytes.subarray(reader.offset, reader.offset + length);
  reader.offset += length;
  return taken;
}

/** @throws ScaleError if there is no byte left. */
export function takeByte(reader: ByteReader): number {
  const byte = reader.bytes[reader.offset];
  if (byte === undefined) throw new ScaleError(`a byte expected at ${reader.offset}`);
  reader.offset += 1;
  return byte;
}

/** @throws ScaleError if bytes are left over. */
export function expectEnd(reader: ByteReader): void {
  if (remaining(reader) > 0) throw new ScaleError(`${remaining(reader)} bytes too many`);
}

const WRITER_BYTES_FIRST = 256;

/** Bytes that are being encoded; the buffer doubles when it is full. */
export interface ByteWriter {
  buffer: Uint8Array;
  length: number;
}

export function openWriter(): ByteWriter {
  return { buffer: new Uint8Array(WRITER_BYTES_FIRST), length: 0 };
}

/** Appends a copy of `bytes`. */
export function put(writer: ByteWriter, bytes: Uint8Array): void {
  reserve(writer, bytes.length);
  writer.buffer.set(bytes, writer.length);
  writer.length += bytes.length;
}

export function putByte(writer: ByteWriter, byte: number): void {
  reserve(writer, 1);
  writer.buffer[writer.length] = byte;
  writer.length += 1;
}

function reserve(writer: ByteWriter, bytes: number): void {
  const needed = writer.length + bytes;
  if (needed <= writer.buffer.length) return;
  const grown = new Uint8Array(Math.max(needed, writer.buffer.length * 2));
  grown.set(writer.buffer.subarray(0, writer.length));
  writer.buffer = grown;
}

/** A copy of what was written. */
export function written(writer: ByteWriter): Uint8Array {
  return writer.buffer.slice(0, writer.length);
}

/** Lower-case hex with the prefix `0x`. */
export type Hex = `0x${string}`;

export function toHex(bytes: Uint8Array): Hex {
  return `0x${Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length).toString("hex")}`;
}

/** The bytes of well-formed hex; `0x` alone is no bytes. Only for text that was checked before. */
export function fromHex(hex: Hex): Uint8Array {
  return Uint8Array.from(Buffer.from(hex.slice(2), "hex"));
}
