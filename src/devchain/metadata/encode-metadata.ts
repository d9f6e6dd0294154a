/**
 * Runtime metadata, versions 14 and 15, from the pallets' tables.
 *
 * @see https://docs.rs/frame-metadata, modules v14 and v15
 * @module
 */
import { HASHERS } from "../hashing.ts";
import type { Pallet, RuntimeApi } from "../pallets/pallet.ts";
import { openWriter, put, written } from "../scale/bytes.ts";
import {
  bytes,
  type Codec,
  described,
  encode,
  option,
  shapeFieldsOf,
  str,
  struct,
  tuple,
  u8,
  variant,
  vec,
} from "../scale/codec.ts";
import type { StorageEntry } from "./storage-item.ts";
import { openTypeRegistry, portableType, type TypeRegistry, typeId } from "./type-registry.ts";

const docs = vec(str);

const storageEntry = struct("StorageEntryMetadata", {
  name: str,
  modifier: variant("StorageEntryModifier", { Optional: [0], Default: [1] }),
  type: variant("StorageEntryType", {
    Plain: [0, [typeId]],
    Map: [1, { hashers: vec(u8), key: typeId, value: typeId }],
  }),
  fallback: bytes,
  docs,
});

const palletFieldsV14 = {
  name: str,
  storage: option(struct("PalletStorageMetadata", { prefix: str, items: vec(storageEntry) })),
  calls: option(typeId),
  events: option(typeId),
  constants: vec(struct("PalletConstantMetadata", { name: str, type: typeId, value: bytes, docs })),
  errors: option(typeId),
  index: u8,
};
const palletV14 = struct("PalletMetadataV14", palletFieldsV14);
const palletV15 = struct("PalletMetadataV15", { ...palletFieldsV14, docs });

const signedExtensions = vec(
  struct("SignedExtensionMetadata", { identifier: str, type: typeId, additional: typeId }),
);

const metadataV14 = struct("RuntimeMetadataV14", {
  types: vec(portableType),
  pallets: vec(palletV14),
  extrinsic: struct("ExtrinsicMetadataV14", { type: typeId, version: u8, signedExtensions }),
  runtime: typeId,
});

const runtimeApi = struct("RuntimeApiMetadata", {
  name: str,
  methods: vec(
    struct("RuntimeApiMethodMetadata", {
      name: str,
      inputs: vec(struct("RuntimeApiMethodParamMetadata", { name: str, type: typeId })),
      output: typeId,
      docs,
    }),
  ),
  docs,
});

const metadataV15 = struct("RuntimeMetadataV15", {
  types: vec(portableType),
  pallets: vec(palletV15),
  extrinsic: struct("ExtrinsicMetadataV15", {
    version: u8,
    address: typeId,
    call: typeId,
    signature: typeId,
    extra: typeId,
    signedExtensions,
  }),
  runtime: typeId,
  apis: vec(runtimeApi),
  outerEnums: struct("OuterEnums", { call: typeId, event: typeId, error: typeId }),
  custom: vec(tuple(str, tuple(typeId, bytes))),
});

/** A part of what is signed: `codec` is in the extrinsic, `additional` is only signed. */
export interface SignedExtension {
  readonly identifier: string;
  readonly codec: Codec<unknown>;
  readonly additional: Codec<unknown>;
}

/** Everything that the metadata describes. */
export interface RuntimeDescription {
  readonly pallets: readonly Pallet[];
  readonly apis: Readonly<Record<string, RuntimeApi>>;
  readonly address: Codec<unknown>;
  readonly signature: Codec<unknown>;
  readonly call: Codec<unknown>;
  readonly event: Codec<unknown>;
  readonly error: Codec<unknown>;
  readonly extrinsic: Codec<unknown>;
  readonly extra: Codec<unknown>;
  readonly runtime: Codec<unknown>;
  readonly signedExtensions: readonly SignedExtension[];
  /** The calls, events and errors of each pallet, as `palletEnumsOf` describes them. */
  readonly enums: ReadonlyMap<Pallet, PalletEnums>;
}

export interface PalletEnums {
  readonly calls: Codec<unknown> | undefined;
  readonly events: Codec<unknown> | undefined;
  readonly errors: Codec<unknown> | undefined;
}

const EXTRINSIC_VERSION = 4;
const MAGIC = Buffer.from("meta");

/** `meta` ‖ version ‖ metadata. */
function withMagic(version: number, metadata: Uint8Array): Uint8Array {
  const out = openWriter();
  put(out, MAGIC);
  put(out, Uint8Array.of(version));
  put(out, metadata);
  return written(out);
}

/** Both versions of the metadata, as `state_getMetadata` and `Metadata_metadata_at_version` return them. */
export function encodeMetadata(description: RuntimeDescription): {
  readonly v14: Uint8Array;
  readonly v15: Uint8Array;
} {
  const registry = openTypeRegistry();
  const idOf = (codec: Codec<unknown>) => registry.idOf(codec);
  const pallets = description.pallets.map((pallet) => palletRow(pallet, description, registry));
  const extensions = description.signedExtensions.map(({ identifier, codec, additional }) => ({
    identifier,
    type: idOf(codec),
    additional: idOf(additional),
  }));
  const apis = Object.entries(description.apis).map(([name, functions]) => ({
    name,
    methods: Object.entries(functions).map(([method, { inputs, output }]) => ({
      name: method,
      inputs: Object.entries(inputs).map(([input, codec]) => ({ name: input, type: idOf(codec) })),
      output: idOf(output),
      docs: [],
    })),
    docs: [],
  }));
  const runtime = idOf(description.runtime);
  const extrinsic = idOf(description.extrinsic);
  const v15Extrinsic = {
    version: EXTRINSIC_VERSION,
    address: idOf(description.address),
    call: idOf(description.call),
    signature: idOf(description.signature),
    extra: idOf(description.extra),
    signedExtensions: extensions,
  };
  const outerEnums = {
    call: idOf(description.call),
    event: idOf(description.event),
    error: idOf(description.error),
  };
  // Last: by now every type has its row.
  const types = registry.rows();
  const v14 = encode(metadataV14, {
    types,
    pallets,
    extrinsic: { type: extrinsic, version: EXTRINSIC_VERSION, signedExtensions: extensions },
    runtime,
  });
  const v15 = encode(metadataV15, {
    types,
    pallets: pallets.map((pallet) => ({ ...pallet, docs: [] })),
    extrinsic: v15Extrinsic,
    runtime,
    apis,
    outerEnums,
    custom: [],
  });
  return { v14: withMagic(14, v14), v15: withMagic(15, v15) };
}

function palletRow(pallet: Pallet, description: RuntimeDescription, registry: TypeRegistry) {
  const idOf = (codec: Codec<unknown>) => registry.idOf(codec);
  const enums = description.enums.get(pallet);
  const idOrNone = (codec: Codec<unknown> | undefined) =>
    codec === undefined ? undefined : idOf(codec);
  const entries = pallet.storage?.map((entry) => entryRow(entry, idOf));
  return {
    name: pallet.name,
    storage: entries === undefined ? undefined : { prefix: pallet.name, items: entries },
    calls: idOrNone(enums?.calls),
    events: idOrNone(enums?.events),
    constants: (pallet.constants ?? []).map(({ name, codec, value }) => ({
      name,
      type: idOf(codec),
      value,
      docs: [],
    })),
    errors: idOrNone(enums?.errors),
    index: pallet.index,
  };
}

function entryRow(entry: StorageEntry, idOf: TypeRegistry["idOf"]) {
  const value = idOf(entry.value);
  return {
    name: entry.name,
    modifier: { type: entry.modifier },
    type:
      entry.key === undefined
        ? ({ type: "Plain", value: [value] } as const)
        : ({
            type: "Map",
            value: {
              hashers: entry.hashers.map((name) => HASHERS[name].index),
              key: idOf(entry.key),
              value,
            },
          } as const),
    fallback: entry.fallback,
    docs: [],
  };
}

/** Describes a pallet's own enums. Variants carry numbers, so a subset of the real ones keeps them. */
export function palletEnumsOf(pallet: Pallet): PalletEnums {
  const enumOf = (name: string, rows: readonly EnumRow[] | undefined) =>
    rows === undefined
      ? undefined
      : described({
          kind: "variant",
          path: `${pallet.path}::pallet::${name}`,
          params: [],
          variants: rows.map(([variantName, { index, fields }]) => ({
            name: variantName,
            index,
            fields: shapeFieldsOf(fields ?? []),
          })),
        });
  return {
    calls: enumOf("Call", pallet.calls && Object.entries(pallet.calls)),
    events: enumOf("Event", pallet.events && Object.entries(pallet.events)),
    errors: enumOf("Error", pallet.errors && Object.entries(pallet.errors)),
  };
}

type EnumRow = readonly [
  name: string,
  row: { readonly index: number; readonly fields?: Parameters<typeof shapeFieldsOf>[0] },
];
