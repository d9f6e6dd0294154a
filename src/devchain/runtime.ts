/** The runtime: all pallets, the call of any of them, the runtime APIs and the metadata. */
import { apiIdOf } from "./hashing.ts";
import {
  encodeMetadata,
  palletEnumsOf,
  type RuntimeDescription,
  type SignedExtension,
} from "./metadata/encode-metadata.ts";
import {
  accountId,
  CALL_WEIGHT,
  dispatchClass,
  h256,
  multiAddress,
  multiSignature,
  weight,
} from "./metadata/runtime-types.ts";
import { auraPallet } from "./pallets/aura.ts";
import { balancesPallet } from "./pallets/balances.ts";
import { commitmentsPallet } from "./pallets/commitments.ts";
import { drandPallet } from "./pallets/drand.ts";
import {
  type DecodedCall,
  type Pallet,
  type RuntimeApi,
  runtimeFunction,
} from "./pallets/pallet.ts";
import { subtensorPallet } from "./pallets/subtensor/pallet.ts";
import { subtensorApis } from "./pallets/subtensor/runtime-api.ts";
import { sudoPallet } from "./pallets/sudo.ts";
import { phase, system, systemPallet } from "./pallets/system.ts";
import { timestampPallet } from "./pallets/timestamp.ts";
import { feeOf, transactionPaymentPallet } from "./pallets/transaction-payment.ts";
import { utilityPallet } from "./pallets/utility.ts";
import { openReader, ScaleError, takeByte, toHex } from "./scale/bytes.ts";
import {
  bytes,
  type Codec,
  compact,
  compactBig,
  described,
  fixedBytes,
  newtype,
  option,
  str,
  struct,
  tuple,
  u8,
  u32,
  u64,
  unit,
  variant,
  vec,
} from "./scale/codec.ts";

/** The version of the real runtime that this one looks like. Extrinsics sign it. */
export const SPEC_VERSION = 425;
export const TRANSACTION_VERSION = 1;
const SPEC_NAME = "node-subtensor";
/** Calls inside calls (batch, sudo) that are decoded. */
const CALL_DEPTH_MAX = 16;

/** The runtime of one chain. */
export interface Runtime {
  readonly metadata: { readonly v14: Uint8Array; readonly v15: Uint8Array };
  readonly apis: Readonly<Record<string, RuntimeApi>>;
  /** As `state_getRuntimeVersion` shows it. */
  readonly versionJson: Readonly<Record<string, unknown>>;
  readonly call: Codec<DecodedCall>;
}

const emptyStruct = (path: string) => struct(path, {});

const era = variant("sp_runtime::generic::era::Era", {
  Immortal: [0],
  ...Object.fromEntries(
    Array.from({ length: 255 }, (_, i) => [`Mortal${i + 1}`, [i + 1, [u8]] as const] as const),
  ),
});

/** What is signed beside the call, in order. The empty ones have no bytes. */
const SIGNED_EXTENSIONS: readonly SignedExtension[] = [
  {
    identifier: "CheckNonZeroSender",
    codec: emptyStruct("frame_system::extensions::check_non_zero_sender::CheckNonZeroSender"),
    additional: unit,
  },
  {
    identifier: "CheckSpecVersion",
    codec: emptyStruct("frame_system::extensions::check_spec_version::CheckSpecVersion"),
    additional: u32,
  },
  {
    identifier: "CheckTxVersion",
    codec: emptyStruct("frame_system::extensions::check_tx_version::CheckTxVersion"),
    additional: u32,
  },
  {
    identifier: "CheckGenesis",
    codec: emptyStruct("frame_system::extensions::check_genesis::CheckGenesis"),
    additional: h256,
  },
  {
    identifier: "CheckMortality",
    codec: newtype("frame_system::extensions::check_mortality::CheckMortality", era),
    additional: h256,
  },
  {
    identifier: "CheckNonce",
    codec: newtype("frame_system::extensions::check_nonce::CheckNonce", compact(u32)),
    additional: unit,
  },
  {
    identifier: "CheckWeight",
    codec: emptyStruct("frame_system::extensions::check_weight::CheckWeight"),
    additional: unit,
  },
  {
    identifier: "ChargeTransactionPayment",
    codec: newtype("pallet_transaction_payment::ChargeTransactionPayment", compactBig(u64)),
    additional: unit,
  },
  {
    identifier: "SudoTransactionExtension",
    codec: emptyStruct("node_subtensor_runtime::sudo_wrapper::SudoTransactionExtension"),
    additional: unit,
  },
  {
    identifier: "CheckShieldedTxValidity",
    codec: emptyStruct("pallet_shield::CheckShieldedTxValidity"),
    additional: unit,
  },
  {
    identifier: "SubtensorTransactionExtension",
    codec: emptyStruct("pallet_subtensor::extensions::subtensor::SubtensorTransactionExtension"),
    additional: unit,
  },
  {
    identifier: "DrandPriority",
    codec: emptyStruct("pallet_drand::drand_priority::DrandPriority"),
    additional: unit,
  },
  {
    identifier: "CheckMetadataHash",
    codec: struct("frame_metadata_hash_extension::CheckMetadataHash", {
      mode: variant("frame_metadata_hash_extension::Mode", { Disabled: [0], Enabled: [1] }),
    }),
    additional: option(fixedBytes(32)),
  },
];

const runtimeVersion = struct("sp_version::RuntimeVersion", {
  spec_name: str,
  impl_name: str,
  authoring_version: u32,
  spec_version: u32,
  impl_version: u32,
  apis: vec(tuple(fixedBytes(8), u32)),
  transaction_version: u32,
  system_version: u8,
});

const dispatchInfo = struct("pallet_transaction_payment::types::RuntimeDispatchInfo", {
  weight,
  class: dispatchClass,
  partial_fee: u64,
});

/** Versions of the runtime APIs, which clients compare with what they know. */
const API_VERSIONS: Readonly<Record<string, number>> = {
  Core: 5,
  Metadata: 2,
  AccountNonceApi: 1,
  TransactionPaymentApi: 4,
  NeuronInfoRuntimeApi: 1,
  SubnetInfoRuntimeApi: 2,
  StakeInfoRuntimeApi: 1,
  SubnetRegistrationRuntimeApi: 1,
  SwapRuntimeApi: 1,
};

/**
 * Puts the pallets together.
 *
 * @param tempo blocks per epoch of new subnets.
 * @param slotMs time between two blocks, in milliseconds, as clients are told.
 * @param feelessOf reads an extrinsic far enough to say whether its call is free. @throws ScaleError
 */
export function buildRuntime(
  tempo: number,
  slotMs: number,
  feelessOf: (extrinsic: Uint8Array, call: Codec<DecodedCall>) => boolean,
): Runtime {
  // Utility and Sudo take calls of any pallet, themselves included, so the whole is named before it is known.
  const parts: { call?: Codec<DecodedCall>; event?: Codec<unknown> } = {};
  const known = <T>(part: T | undefined): T => {
    if (part === undefined) throw new TypeError("the runtime is not complete yet");
    return part;
  };
  const call: Codec<DecodedCall> = {
    shape: { kind: "lazy", of: () => known(parts.call) },
    encode: (value, out) => known(parts.call).encode(value, out),
    decode: (input) => known(parts.call).decode(input),
  };
  const eventRecord = described({
    kind: "composite",
    path: "frame_system::EventRecord",
    params: [
      { name: "E", codec: described({ kind: "lazy", of: () => known(parts.event) }) },
      { name: "T", codec: h256 },
    ],
    fields: [
      { name: "phase", codec: phase },
      { name: "event", codec: described({ kind: "lazy", of: () => known(parts.event) }) },
      { name: "topics", codec: vec(h256) },
    ],
  });
  const pallets: readonly Pallet[] = [
    systemPallet(eventRecord),
    timestampPallet(slotMs),
    auraPallet(slotMs),
    balancesPallet,
    transactionPaymentPallet,
    subtensorPallet(tempo),
    utilityPallet(call),
    sudoPallet(call),
    commitmentsPallet,
    drandPallet,
  ];
  const enums = new Map(pallets.map((pallet) => [pallet, palletEnumsOf(pallet)]));
  const outerEnum = (name: string, kind: "calls" | "events" | "errors"): Codec<unknown> =>
    described({
      kind: "variant",
      path: `node_subtensor_runtime::${name}`,
      params: [],
      variants: pallets.flatMap((pallet) => {
        const inner = enums.get(pallet)?.[kind];
        return inner === undefined
          ? []
          : [{ name: pallet.name, index: pallet.index, fields: [{ codec: inner }] }];
      }),
    });
  parts.call = callCodec(outerEnum("RuntimeCall", "calls"), pallets);
  parts.event = outerEnum("RuntimeEvent", "events");

  const extra = tuple(...SIGNED_EXTENSIONS.map(({ codec }) => codec));
  const extrinsic: Codec<Uint8Array> = {
    ...bytes,
    shape: {
      kind: "composite",
      path: "sp_runtime::generic::unchecked_extrinsic::UncheckedExtrinsic",
      // polkadot-js takes the types of address, call and signature from these names.
      params: [
        { name: "Address", codec: multiAddress },
        { name: "Call", codec: call },
        { name: "Signature", codec: multiSignature },
        { name: "Extra", codec: extra },
      ],
      fields: [{ codec: bytes }],
    },
  };

  const built: { metadata?: Runtime["metadata"] } = {};
  const metadata = () => known(built.metadata);
  const version = {
    spec_name: SPEC_NAME,
    impl_name: SPEC_NAME,
    authoring_version: 1,
    spec_version: SPEC_VERSION,
    impl_version: 1,
    apis: Object.entries(API_VERSIONS).map(([name, n]) => [apiIdOf(name), n] as const),
    transaction_version: TRANSACTION_VERSION,
    system_version: 1,
  };
  const apis: Readonly<Record<string, RuntimeApi>> = {
    Core: { version: runtimeFunction({}, runtimeVersion, () => version) },
    Metadata: {
      metadata: runtimeFunction({}, bytes, () => metadata().v14),
      metadata_at_version: runtimeFunction({ version: u32 }, option(bytes), (_view, input) =>
        input.version === 15 ? metadata().v15 : input.version === 14 ? metadata().v14 : undefined,
      ),
      metadata_versions: runtimeFunction({}, vec(u32), () => [14, 15]),
    },
    AccountNonceApi: {
      account_nonce: runtimeFunction(
        { account: accountId },
        u32,
        (view, { account }) => system.Account.get(view, account).nonce,
      ),
    },
    TransactionPaymentApi: {
      query_info: runtimeFunction({ uxt: extrinsic, len: u32 }, dispatchInfo, (_view, input) => ({
        weight: CALL_WEIGHT,
        class: { type: "Normal" as const },
        partial_fee: feeOf(input.len, feelessOf(input.uxt, call)),
      })),
    },
    ...subtensorApis,
  };

  const description: RuntimeDescription = {
    pallets,
    apis,
    address: multiAddress,
    signature: multiSignature,
    call,
    event: parts.event,
    error: outerEnum("RuntimeError", "errors"),
    extrinsic,
    extra,
    runtime: emptyStruct("node_subtensor_runtime::Runtime"),
    signedExtensions: SIGNED_EXTENSIONS,
    enums,
  };
  built.metadata = encodeMetadata(description);
  return {
    metadata: built.metadata,
    apis,
    call,
    versionJson: {
      specName: version.spec_name,
      implName: version.impl_name,
      authoringVersion: version.authoring_version,
      specVersion: version.spec_version,
      implVersion: version.impl_version,
      apis: version.apis.map(([id, n]) => [toHex(id), n]),
      transactionVersion: version.transaction_version,
      systemVersion: version.system_version,
      stateVersion: version.system_version,
    },
  };
}

/** Reads pallet index, call index and arguments. Calls are never written. */
function callCodec(shape: Codec<unknown>, pallets: readonly Pallet[]): Codec<DecodedCall> {
  const byIndex = new Map(
    pallets.map((pallet) => [
      pallet.index,
      {
        pallet: pallet.name,
        calls: new Map(
          Object.entries(pallet.calls ?? {}).map(([name, row]) => [row.index, { name, row }]),
        ),
      },
    ]),
  );
  return {
    ...described<DecodedCall>(shape.shape),
    decode(input) {
      if (input.depth >= CALL_DEPTH_MAX) throw new ScaleError("calls are nested too deep");
      const found = byIndex.get(takeByte(input));
      const one = found?.calls.get(takeByte(input));
      if (found === undefined || one === undefined) throw new ScaleError("no such call");
      input.depth += 1;
      const decoded = one.row.decode(input);
      input.depth -= 1;
      return { pallet: found.pallet, name: one.name, ...decoded };
    },
  };
}

/** Runs a runtime API function. @returns undefined if there is none of that name. @throws ScaleError for bad arguments. */
export function runtimeFunctionOf(
  { apis }: Runtime,
  method: string,
):
  | ((view: Parameters<RuntimeApi[string]["call"]>[0], input: Uint8Array) => Uint8Array)
  | undefined {
  const [, api, name] = /^([A-Za-z]+)_(\w+)$/.exec(method) ?? [];
  if (api === undefined || name === undefined) return undefined;
  const functions = Object.hasOwn(apis, api) ? apis[api] : undefined;
  const found =
    functions !== undefined && Object.hasOwn(functions, name) ? functions[name] : undefined;
  return found && ((view, input) => found.call(view, openReader(input)));
}
