/**
 * SCALE codecs that know how the metadata describes them.
 *
 * One value of type `Codec` both encodes a type and is its row in the portable type registry, so the metadata and the
 * bytes cannot disagree.
 *
 * @see https://docs.substrate.io/reference/scale-codec/
 * @module
 */
import assert from "node:assert/strict";
import {
  type ByteReader,
  type ByteWriter,
  expectEnd,
  fromHex,
  type Hex,
  openReader,
  openWriter,
  put,
  putByte,
  remaining,
  ScaleError,
  take,
  takeByte,
  toHex,
  written,
} from "./bytes.ts";

/** How one type is written, read and described. */
export interface Codec<T> {
  readonly shape: Shape;
  encode(value: T, out: ByteWriter): void;
  /** @throws ScaleError for bytes that are not of this type. */
  decode(input: ByteReader): T;
}

export type ValueOf<C> = C extends Codec<infer T> ? T : never;

export type PrimitiveName = "bool" | "str" | "u8" | "u16" | "u32" | "u64" | "u128" | "i128";

/** A row of the portable type registry, with codecs where the registry has type numbers. */
export type Shape =
  | { readonly kind: "primitive"; readonly name: PrimitiveName }
  | { readonly kind: "compact"; readonly of: Codec<unknown> }
  | { readonly kind: "sequence"; readonly of: Codec<unknown> }
  | { readonly kind: "array"; readonly length: number; readonly of: Codec<unknown> }
  | { readonly kind: "tuple"; readonly of: readonly Codec<unknown>[] }
  | {
      readonly kind: "composite";
      readonly path: string;
      readonly params: readonly TypeParam[];
      readonly fields: readonly ShapeField[];
    }
  | {
      readonly kind: "variant";
      readonly path: string;
      readonly params: readonly TypeParam[];
      readonly variants: readonly ShapeVariant[];
    }
  /** A type that contains itself, such as the call of a batch of calls. */
  | { readonly kind: "lazy"; of(): Codec<unknown> };

/** A generic parameter. polkadot-js finds the parts of extrinsics, addresses and event records by these names. */
export interface TypeParam {
  readonly name: string;
  readonly codec?: Codec<unknown>;
}

export interface ShapeField {
  readonly name?: string;
  readonly codec: Codec<unknown>;
}

export interface ShapeVariant {
  readonly name: string;
  readonly index: number;
  readonly fields: readonly ShapeField[];
}

/** The bytes of `value`. */
export function encode<T>(codec: Codec<T>, value: T): Uint8Array {
  const out = openWriter();
  codec.encode(value, out);
  return written(out);
}

/** @throws ScaleError unless `bytes` are exactly one value. */
export function decode<T>(codec: Codec<T>, bytes: Uint8Array): T {
  const input = openReader(bytes);
  const value = codec.decode(input);
  expectEnd(input);
  return value;
}

function littleEndian(name: PrimitiveName, bytes: 1 | 2 | 4): Codec<number> {
  const max = 2 ** (8 * bytes) - 1;
  return {
    shape: { kind: "primitive", name },
    encode(value, out) {
      assert(Number.isInteger(value) && value >= 0 && value <= max, `${value} is not a ${name}`);
      for (let i = 0; i < bytes; i++) putByte(out, (value >>> (8 * i)) & 0xff);
    },
    decode(input) {
      let value = 0;
      take(input, bytes).forEach((byte, i) => {
        value += byte * 2 ** (8 * i);
      });
      return value;
    },
  };
}

function littleEndianBig(name: PrimitiveName, bytes: 8 | 16): Codec<bigint> {
  return {
    shape: { kind: "primitive", name },
    encode(value, out) {
      assert(value >= 0n && value >> BigInt(8 * bytes) === 0n, `${value} is not a ${name}`);
      let rest = value;
      for (let i = 0; i < bytes; i++) {
        putByte(out, Number(rest & 0xffn));
        rest >>= 8n;
      }
    },
    decode(input) {
      let value = 0n;
      for (const byte of take(input, bytes).toReversed()) value = (value << 8n) | BigInt(byte);
      return value;
    },
  };
}

export const u8 = littleEndian("u8", 1);
export const u16 = littleEndian("u16", 2);
export const u32 = littleEndian("u32", 4);
export const u64 = littleEndianBig("u64", 8);
export const u128 = littleEndianBig("u128", 16);

/** The half of `i128` that is not negative, which is written as `u128` is. */
export const positiveI128: Codec<bigint> = {
  ...littleEndianBig("u128", 16),
  shape: { kind: "primitive", name: "i128" },
};

export const bool: Codec<boolean> = {
  shape: { kind: "primitive", name: "bool" },
  encode: (value, out) => putByte(out, value ? 1 : 0),
  decode(input) {
    const byte = takeByte(input);
    if (byte > 1) throw new ScaleError(`${byte} is not a bool`);
    return byte === 1;
  },
};

/** Writes the integer in SCALE's compact form: 1, 2, 4 or 5…17 bytes. */
export function putCompact(out: ByteWriter, value: bigint): void {
  if (value < 1n << 6n) putByte(out, Number(value << 2n));
  else if (value < 1n << 14n) u16.encode(Number((value << 2n) | 1n), out);
  else if (value < 1n << 30n) u32.encode(Number((value << 2n) | 2n), out);
  else {
    const bytes: number[] = [];
    for (let rest = value; rest > 0n; rest >>= 8n) bytes.push(Number(rest & 0xffn));
    while (bytes.length < 4) bytes.push(0);
    putByte(out, ((bytes.length - 4) << 2) | 3);
    put(out, Uint8Array.from(bytes));
  }
}

/** @throws ScaleError for more than 16 bytes. */
export function takeCompact(input: ByteReader): bigint {
  const first = takeByte(input);
  const mode = first & 3;
  if (mode === 0) return BigInt(first >> 2);
  const more = mode === 3 ? (first >> 2) + 4 : 2 ** mode - 1;
  if (more > 16) throw new ScaleError("a compact integer of more than 128 bits");
  let value = 0n;
  for (const byte of take(input, more).toReversed()) value = (value << 8n) | BigInt(byte);
  return mode === 3 ? value : (value << 6n) | BigInt(first >> 2);
}

/**
 * The length of a sequence.
 *
 * @throws ScaleError if that many items of at least one byte cannot follow, before anything is allocated for them.
 */
function takeLength(input: ByteReader): number {
  const length = takeCompact(input);
  if (length > BigInt(remaining(input))) throw new ScaleError(`a sequence of ${length} items`);
  return Number(length);
}

/** A number in compact form. */
export function compact(of: Codec<number>): Codec<number> {
  const max = maxOf(of);
  return {
    shape: { kind: "compact", of },
    encode: (value, out) => putCompact(out, BigInt(value)),
    decode: (input) => Number(bounded(takeCompact(input), max)),
  };
}

/** A bigint in compact form. */
export function compactBig(of: Codec<bigint>): Codec<bigint> {
  const max = maxOf(of);
  return {
    shape: { kind: "compact", of },
    encode: (value, out) => putCompact(out, value),
    decode: (input) => bounded(takeCompact(input), max),
  };
}

function maxOf(codec: Codec<unknown>): bigint {
  assert(codec.shape.kind === "primitive");
  return (1n << BigInt(codec.shape.name.slice(1))) - 1n;
}

function bounded(value: bigint, max: bigint): bigint {
  if (value > max) throw new ScaleError(`${value} is more than ${max}`);
  return value;
}

/** `Vec<u8>`. */
export const bytes: Codec<Uint8Array> = {
  shape: { kind: "sequence", of: u8 },
  encode(value, out) {
    putCompact(out, BigInt(value.length));
    put(out, value);
  },
  decode: (input) => Uint8Array.from(take(input, takeLength(input))),
};

/** Text as UTF-8. */
export const str: Codec<string> = {
  shape: { kind: "primitive", name: "str" },
  encode: (value, out) => bytes.encode(Buffer.from(value), out),
  decode: (input) => Buffer.from(bytes.decode(input)).toString("utf8"),
};

/** `[u8; length]`. */
export function fixedBytes(length: number): Codec<Uint8Array> {
  return {
    shape: { kind: "array", length, of: u8 },
    encode(value, out) {
      assert(value.length === length, `${length} bytes expected, not ${value.length}`);
      put(out, value);
    },
    decode: (input) => Uint8Array.from(take(input, length)),
  };
}

/** A named 32-byte value, in code as hex: it is a key of maps and a part of JSON. */
export function hash32(path: string): Codec<Hex> {
  const inner = fixedBytes(32);
  return {
    shape: { kind: "composite", path, params: [], fields: [{ codec: inner }] },
    encode: (value, out) => inner.encode(fromHex(value), out),
    decode: (input) => toHex(inner.decode(input)),
  };
}

/** `Vec<of>`. */
export function vec<T>(of: Codec<T>): Codec<readonly T[]> {
  return {
    shape: { kind: "sequence", of },
    encode(values, out) {
      putCompact(out, BigInt(values.length));
      for (const value of values) of.encode(value, out);
    },
    decode: (input) => Array.from({ length: takeLength(input) }, () => of.decode(input)),
  };
}

/** `BoundedVec<of, max>`. @throws ScaleError on decoding more than `max` items. */
export function boundedVec<T>(of: Codec<T>, max: number): Codec<readonly T[]> {
  return boundedSequence(vec(of), of, max);
}

/** `BoundedVec<u8, max>`. @throws ScaleError on decoding more than `max` bytes. */
export function boundedBytes(max: number): Codec<Uint8Array> {
  return boundedSequence(bytes, u8, max);
}

function boundedSequence<T extends { readonly length: number }>(
  sequence: Codec<T>,
  of: Codec<unknown>,
  max: number,
): Codec<T> {
  return {
    shape: {
      kind: "composite",
      path: "bounded_collections::bounded_vec::BoundedVec",
      params: [{ name: "T", codec: of }, { name: "S" }],
      fields: [{ codec: sequence }],
    },
    encode: (value, out) => sequence.encode(value, out),
    decode(input) {
      const value = sequence.decode(input);
      if (value.length > max) throw new ScaleError(`${value.length} items, at most ${max} allowed`);
      return value;
    },
  };
}

/** `Option<of>`; none is undefined. */
export function option<T>(of: Codec<T>): Codec<T | undefined> {
  return {
    shape: {
      kind: "variant",
      path: "Option",
      params: [{ name: "T", codec: of }],
      variants: [
        { name: "None", index: 0, fields: [] },
        { name: "Some", index: 1, fields: [{ codec: of }] },
      ],
    },
    encode(value, out) {
      putByte(out, value === undefined ? 0 : 1);
      if (value !== undefined) of.encode(value, out);
    },
    decode(input) {
      const byte = takeByte(input);
      if (byte > 1) throw new ScaleError(`${byte} is not an option`);
      return byte === 1 ? of.decode(input) : undefined;
    },
  };
}

/** Fields by name (a struct, or a variant with named fields) or by position (a tuple). */
export type Fields = Readonly<Record<string, Codec<unknown>>> | readonly Codec<unknown>[];

/** What `Fields` hold: an object, or a tuple. */
export type FieldValues<F extends Fields> = { readonly [K in keyof F]: ValueOf<F[K]> };

export function shapeFieldsOf(fields: Fields): ShapeField[] {
  return isList(fields)
    ? fields.map((codec) => ({ codec }))
    : Object.entries(fields).map(([name, codec]) => ({ name, codec }));
}

function isList(fields: Fields): fields is readonly Codec<unknown>[] {
  return Array.isArray(fields);
}

export function encodeFields<F extends Fields>(
  fields: F,
  values: FieldValues<F>,
  out: ByteWriter,
): void {
  // Object.entries gives the same order for the codecs of a table and for the positions of a list.
  const byName = values as Readonly<Record<string, unknown>>;
  for (const [name, codec] of Object.entries<Codec<unknown>>(fields))
    codec.encode(byName[name], out);
}

export function decodeFields<F extends Fields>(fields: F, input: ByteReader): FieldValues<F> {
  const values = isList(fields)
    ? fields.map((codec) => codec.decode(input))
    : Object.fromEntries(
        Object.entries(fields).map(([name, codec]) => [name, codec.decode(input)]),
      );
  return values as FieldValues<F>;
}

/** A named struct. */
export function struct<const F extends Readonly<Record<string, Codec<unknown>>>>(
  path: string,
  fields: F,
  params: readonly TypeParam[] = [],
): Codec<FieldValues<F>> {
  return {
    shape: { kind: "composite", path, params, fields: shapeFieldsOf(fields) },
    encode: (value, out) => encodeFields(fields, value, out),
    decode: (input) => decodeFields(fields, input),
  };
}

/** A struct with one field that has no name: the same bytes under another name. */
export function newtype<T>(path: string, of: Codec<T>): Codec<T> {
  return {
    shape: { kind: "composite", path, params: [], fields: [{ codec: of }] },
    encode: (value, out) => of.encode(value, out),
    decode: (input) => of.decode(input),
  };
}

export function tuple<const F extends readonly Codec<unknown>[]>(...of: F): Codec<FieldValues<F>> {
  return {
    shape: { kind: "tuple", of },
    encode: (value, out) => encodeFields(of, value, out),
    decode: (input) => decodeFields(of, input),
  };
}

/** The empty tuple. */
export const unit = tuple();

/** Variants by name: index, and fields if it has any. */
export type Variants = Readonly<Record<string, readonly [index: number, fields?: Fields]>>;

type PayloadOf<V> = V extends readonly [number, infer F]
  ? F extends Fields
    ? { readonly value: FieldValues<F> }
    : { readonly value?: undefined }
  : { readonly value?: undefined };

/** `{ type: "Name" }` or, with fields, `{ type: "Name", value }`. */
export type VariantValue<V extends Variants> = {
  [K in keyof V & string]: { readonly type: K } & PayloadOf<V[K]>;
}[keyof V & string];

/** An enum. */
export function variant<const V extends Variants>(
  path: string,
  variants: V,
  params: readonly TypeParam[] = [],
): Codec<VariantValue<V>> {
  const byIndex = new Map(
    Object.entries(variants).map(([type, [index, fields]]) => [index, { type, fields }]),
  );
  return {
    shape: {
      kind: "variant",
      path,
      params,
      variants: Object.entries(variants).map(([name, [index, fields]]) => ({
        name,
        index,
        fields: shapeFieldsOf(fields ?? []),
      })),
    },
    encode(value, out) {
      const found = variants[value.type];
      assert(found !== undefined, `${path} has no ${value.type}`);
      const [index, fields] = found;
      putByte(out, index);
      if (fields !== undefined) encodeFields<Fields>(fields, value.value ?? [], out);
    },
    decode(input) {
      const index = takeByte(input);
      const found = byIndex.get(index);
      if (found === undefined) throw new ScaleError(`${path} has no variant ${index}`);
      const { type, fields } = found;
      const value: unknown =
        fields === undefined ? { type } : { type, value: decodeFields(fields, input) };
      return value as VariantValue<V>;
    },
  };
}

/** A type that is only described in the metadata: its bytes are handled elsewhere. */
export function described<T>(shape: Shape): Codec<T> {
  const refuse = (): never => {
    throw new assert.AssertionError({ message: "this type is only described" });
  };
  return { shape, encode: refuse, decode: refuse };
}
