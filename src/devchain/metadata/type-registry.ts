import {
  type Codec,
  compact,
  option,
  type Shape,
  type ShapeField,
  str,
  struct,
  type TypeParam,
  u8,
  u32,
  type ValueOf,
  variant,
  vec,
} from "../scale/codec.ts";

/** Number of a type in the registry. */
export const typeId = compact(u32);

const field = struct("Field", {
  name: option(str),
  type: typeId,
  typeName: option(str),
  docs: vec(str),
});

const variantRow = struct("Variant", {
  name: str,
  fields: vec(field),
  index: u8,
  docs: vec(str),
});

const PRIMITIVES = {
  bool: "Bool",
  str: "Str",
  u8: "U8",
  u16: "U16",
  u32: "U32",
  u64: "U64",
  u128: "U128",
  i128: "I128",
} as const;

const primitive = variant("TypeDefPrimitive", {
  Bool: [0],
  Str: [2],
  U8: [3],
  U16: [4],
  U32: [5],
  U64: [6],
  U128: [7],
  I128: [13],
});

const typeDef = variant("TypeDef", {
  Composite: [0, { fields: vec(field) }],
  Variant: [1, { variants: vec(variantRow) }],
  Sequence: [2, { type: typeId }],
  Array: [3, { len: u32, type: typeId }],
  Tuple: [4, [vec(typeId)]],
  Primitive: [5, [primitive]],
  Compact: [6, { type: typeId }],
});

/** One row of the portable registry (scale-info `PortableType`). */
export const portableType = struct("PortableType", {
  id: typeId,
  path: vec(str),
  params: vec(struct("TypeParameter", { name: str, type: option(typeId) })),
  def: typeDef,
  docs: vec(str),
});

export type PortableType = ValueOf<typeof portableType>;

/** Collects the types that the metadata mentions. */
export interface TypeRegistry {
  /** The number of a type; adds it, and those it is made of, on first sight. */
  idOf(codec: Codec<unknown>): number;
  /** All rows so far, by number. */
  rows(): PortableType[];
}

export function openTypeRegistry(): TypeRegistry {
  const rows: (PortableType | undefined)[] = [];
  const ids = new Map<Codec<unknown>, number>();
  // Two codecs of equal shape, such as two `vec(u16)`, are one type.
  const idsByShape = new Map<string, number>();

  function idOf(codec: Codec<unknown>): number {
    if (codec.shape.kind === "lazy") return idOf(codec.shape.of());
    const known = ids.get(codec);
    if (known !== undefined) return known;
    const key = keyOf(codec.shape);
    const same = key === undefined ? undefined : idsByShape.get(key);
    const id = same ?? rows.length;
    ids.set(codec, id);
    if (same !== undefined) return same;
    if (key !== undefined) idsByShape.set(key, id);
    rows.push(undefined);
    rows[id] = rowOf(id, codec.shape);
    return id;
  }

  /** Identifies structural types. Named types are told apart by their codec: they may contain themselves. */
  function keyOf(shape: Shape): string | undefined {
    switch (shape.kind) {
      case "primitive":
        return shape.name;
      case "compact":
      case "sequence":
        return `${shape.kind}:${idOf(shape.of)}`;
      case "array":
        return `array:${shape.length}:${idOf(shape.of)}`;
      case "tuple":
        return `tuple:${shape.of.map(idOf).join()}`;
      case "composite":
      case "variant":
      case "lazy":
        return undefined;
    }
  }

  const fieldOf = ({ name, codec }: ShapeField) => ({
    name,
    type: idOf(codec),
    typeName: undefined,
    docs: [],
  });
  const paramOf = ({ name, codec }: TypeParam) => ({
    name,
    type: codec === undefined ? undefined : idOf(codec),
  });

  function rowOf(id: number, shape: Shape): PortableType {
    const named = shape.kind === "composite" || shape.kind === "variant";
    return {
      id,
      path: named ? shape.path.split("::") : [],
      params: named ? shape.params.map(paramOf) : [],
      def: defOf(shape),
      docs: [],
    };
  }

  function defOf(shape: Shape): PortableType["def"] {
    switch (shape.kind) {
      case "primitive":
        return { type: "Primitive", value: [{ type: PRIMITIVES[shape.name] }] };
      case "compact":
        return { type: "Compact", value: { type: idOf(shape.of) } };
      case "sequence":
        return { type: "Sequence", value: { type: idOf(shape.of) } };
      case "array":
        return { type: "Array", value: { len: shape.length, type: idOf(shape.of) } };
      case "tuple":
        return { type: "Tuple", value: [shape.of.map(idOf)] };
      case "composite":
        return { type: "Composite", value: { fields: shape.fields.map(fieldOf) } };
      case "variant":
        return {
          type: "Variant",
          value: {
            variants: shape.variants.map(({ name, index, fields }) => ({
              name,
              index,
              fields: fields.map(fieldOf),
              docs: [],
            })),
          },
        };
      case "lazy":
        return defOf(shape.of().shape);
    }
  }

  return { idOf, rows: () => rows.filter((row) => row !== undefined) };
}
