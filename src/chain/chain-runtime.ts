import { expandMetadata, Metadata, TypeRegistry } from "@polkadot/types";
import type { Call, DispatchError } from "@polkadot/types/interfaces";
import type { StorageEntry } from "@polkadot/types/primitive/types";
import type { CallFunction, Codec } from "@polkadot/types/types";
import { compactStripLength, hexToU8a, u8aToHex } from "@polkadot/util";
import { ChainError } from "./chain-error.ts";

/** Decoded runtimes kept for all connections of the process: the live one, the one before an upgrade, another chain's. */
const RUNTIMES_KEPT_MAX = 4;

/** Signed extensions whose bytes this client fills in. */
const HANDLED_EXTENSIONS: ReadonlySet<string> = new Set([
  "CheckNonZeroSender",
  "CheckSpecVersion",
  "CheckTxVersion",
  "CheckGenesis",
  "CheckMortality",
  "CheckNonce",
  "CheckWeight",
  "ChargeTransactionPayment",
  "CheckMetadataHash",
]);

/**
 * Signed extensions of Subtensor (spec 425) that polkadot-js does not know and that add no bytes to what is signed.
 * Any other one might, and leaving its bytes out makes every signature invalid.
 */
const EMPTY_EXTENSIONS: ReadonlySet<string> = new Set([
  "SudoTransactionExtension",
  "CheckShieldedTxValidity",
  "SubtensorTransactionExtension",
  "DrandPriority",
]);

/** Names of a storage item as polkadot-js spells them: `["subtensorModule", "keys"]`. */
export type StorageItem = readonly [section: string, item: string];

/** What one version of the chain's runtime calls things and how it encodes them. All look-ups are by name. */
export interface ChainRuntime {
  readonly registry: TypeRegistry;
  /** Signed extensions that forbid signing; empty when all is known. */
  readonly unknownExtensions: readonly string[];
  has(item: StorageItem): boolean;
  /** The whole key, 0x-hex. @throws ChainError "Unsupported" if the runtime has no such item. */
  storageKey(item: StorageItem, ...keys: readonly unknown[]): string;
  /** What all keys that start with `keys` begin with, 0x-hex. */
  storagePrefix(item: StorageItem, ...keys: readonly unknown[]): string;
  /** @returns the item's default for an absent value, or undefined if the item is optional. */
  decodeStorage(item: StorageItem, value: string | undefined): Codec | undefined;
  /** Names are camelCase here. @throws ChainError "Unsupported" if there is no such call, or with other arguments. */
  call(section: string, method: string, args: Readonly<Record<string, unknown>>): Call;
  /** Encoded arguments of a runtime API method, 0x-hex. @throws ChainError "Unsupported" */
  encodeApiCall(api: string, method: string, args: readonly unknown[]): string;
  decodeApiResult(api: string, method: string, result: string): Codec;
  /** The pallet's own name of a module error; otherwise the innermost variant, such as "BadOrigin" or "NotExpendable". */
  dispatchErrorName(error: DispatchError): string;
}

const kept = new Map<string, ChainRuntime>();

/** Decodes metadata (version 14 or 15), 0x-hex, or finds it already decoded; that costs 50 to 200 ms of CPU. */
export function runtimeOfMetadata(metadataHex: string): ChainRuntime {
  const known = kept.get(metadataHex);
  const runtime = known ?? decode(metadataHex);
  kept.delete(metadataHex);
  kept.set(metadataHex, runtime);
  const [oldest] = kept.keys();
  if (kept.size > RUNTIMES_KEPT_MAX && oldest !== undefined) kept.delete(oldest);
  return runtime;
}

function decode(metadataHex: string): ChainRuntime {
  const registry = new TypeRegistry();
  const metadata = new Metadata(registry, metadataHex as `0x${string}`);
  const noEffect = Object.fromEntries(
    [...EMPTY_EXTENSIONS].map((name) => [name, { extrinsic: {}, payload: {} }]),
  );
  // The last argument keeps polkadot-js from printing what it does not know; unknownExtensions says it.
  registry.setMetadata(metadata, undefined, noEffect, true);
  const { query, tx } = expandMetadata(registry, metadata);
  const apis = new Map(
    metadata.asLatest.apis.flatMap((api) =>
      api.methods.map((method) => [`${api.name.toString()}_${method.name.toString()}`, method]),
    ),
  );

  const entryOf = ([section, item]: StorageItem): StorageEntry => {
    const entry = query[section]?.[item];
    if (entry === undefined) throw unsupported(`storage ${section}.${item}`);
    return entry;
  };
  const decodeStorage = (item: StorageItem, value: string | undefined): Codec | undefined => {
    const { type, modifier, fallback } = entryOf(item).meta;
    if (value === undefined && modifier.isOptional) return undefined;
    const raw = value === undefined ? fallback.toU8a(true) : hexToU8a(value);
    const typeId = type.isPlain ? type.asPlain : type.asMap.value;
    return registry.createTypeUnsafe(registry.createLookupType(typeId), [raw]);
  };
  const apiOf = (api: string, method: string) => {
    const found = apis.get(`${api}_${method}`);
    if (found === undefined) throw unsupported(`runtime API ${api}.${method}`);
    return found;
  };

  return {
    registry,
    unknownExtensions: unknownExtensionsOf(metadata),
    has: ([section, item]) => query[section]?.[item] !== undefined,
    storageKey: (item, ...keys) => u8aToHex(compactStripLength(entryOf(item)(...keys))[1]),
    storagePrefix: (item, ...keys) => u8aToHex(entryOf(item).keyPrefix(...keys)),
    decodeStorage,
    call(section, method, args) {
      const make: CallFunction | undefined = tx[section]?.[method];
      if (make === undefined) throw unsupported(`call ${section}.${method}`);
      const names = make.meta.args.map(({ name }) => name.toString());
      if (names.length !== Object.keys(args).length || names.some((name) => !(name in args))) {
        throw unsupported(`call ${section}.${method} with (${names.join(", ")})`);
      }
      return make(...names.map((name) => args[name]));
    },
    encodeApiCall(api, method, args) {
      const { inputs } = apiOf(api, method);
      if (inputs.length !== args.length) throw unsupported(`runtime API ${api}.${method}`);
      const encoded = inputs.map(({ type }, i) =>
        registry.createTypeUnsafe(registry.createLookupType(type), [args[i]]).toU8a(),
      );
      return u8aToHex(Buffer.concat(encoded));
    },
    decodeApiResult: (api, method, result) =>
      registry.createTypeUnsafe(registry.createLookupType(apiOf(api, method).output), [
        hexToU8a(result),
      ]),
    dispatchErrorName(error) {
      if (error.isModule) {
        try {
          return registry.findMetaError(error.asModule).name;
        } catch {
          return `Module:${error.asModule.index.toString()}:${error.asModule.error.toHex()}`;
        }
      }
      if (error.isToken || error.isArithmetic || error.isTransactional) {
        return error.inner.toString();
      }
      return error.type;
    },
  };
}

/** Extensions that are neither handled nor empty, or that were empty and no longer are. */
function unknownExtensionsOf(metadata: Metadata): string[] {
  const { lookup } = metadata.asLatest;
  // Not asLatest: its conversion from V15 (16.5.6) loses what each extension adds to the signed payload.
  const { extrinsic } = metadata.version === 14 ? metadata.asV14 : metadata.asV15;
  const isEmpty = (typeId: Parameters<typeof lookup.getSiType>[0]): boolean => {
    const { def } = lookup.getSiType(typeId);
    return (
      (def.isTuple && def.asTuple.length === 0) ||
      (def.isComposite && def.asComposite.fields.every(({ type }) => isEmpty(type)))
    );
  };
  return extrinsic.signedExtensions
    .filter(({ identifier, type, additionalSigned }) => {
      const name = identifier.toString();
      if (EMPTY_EXTENSIONS.has(name)) return !isEmpty(type) || !isEmpty(additionalSigned);
      return !HANDLED_EXTENSIONS.has(name);
    })
    .map(({ identifier }) => identifier.toString());
}

function unsupported(what: string): ChainError {
  return new ChainError("Unsupported", `the chain's runtime has no ${what}`);
}
