import { blake2Hex } from "../hashing.ts";
import {
  accountId,
  CALL_WEIGHT,
  type DispatchError,
  dispatchError,
  dispatchInfo,
  h256,
} from "../metadata/runtime-types.ts";
import { storageOf } from "../metadata/storage-item.ts";
import { type Hex, toHex } from "../scale/bytes.ts";
import {
  bytes,
  type Codec,
  fixedBytes,
  struct,
  tuple,
  u16,
  u32,
  u64,
  u128,
  type ValueOf,
  variant,
  vec,
} from "../scale/codec.ts";
import {
  call,
  constant,
  type Execution,
  ensureRoot,
  entriesOf,
  type Pallet,
  palletErrors,
  palletEvents,
  signerOf,
} from "./pallet.ts";

const INDEX = 0;

/** Blocks whose hashes the state keeps, and the longest life of a transaction. The real chain has the same. */
export const BLOCK_HASH_COUNT = 2_400;
/** ss58 prefix of all Bittensor addresses. */
export const SS58_PREFIX = 42;

/** Set on every account by the runtime: balances use the new logic of 2023. */
const NEW_LOGIC_FLAG = 1n << 127n;

const accountData = struct("pallet_balances::types::AccountData", {
  free: u64,
  reserved: u64,
  frozen: u64,
  flags: u128,
});

const accountInfo = struct("frame_system::AccountInfo", {
  nonce: u32,
  consumers: u32,
  providers: u32,
  sufficients: u32,
  data: accountData,
});

export type AccountInfo = ValueOf<typeof accountInfo>;

const NO_ACCOUNT: AccountInfo = {
  nonce: 0,
  consumers: 0,
  providers: 0,
  sufficients: 0,
  data: { free: 0n, reserved: 0n, frozen: 0n, flags: NEW_LOGIC_FLAG },
};

const digestItem = variant("sp_runtime::generic::digest::DigestItem", {
  Other: [0, [bytes]],
  Consensus: [4, [fixedBytes(4), bytes]],
  Seal: [5, [fixedBytes(4), bytes]],
  PreRuntime: [6, [fixedBytes(4), bytes]],
  RuntimeEnvironmentUpdated: [8],
});

export const digest = struct("sp_runtime::generic::digest::Digest", { logs: vec(digestItem) });
export type Digest = ValueOf<typeof digest>;

export const phase = variant("frame_system::Phase", {
  ApplyExtrinsic: [0, [u32]],
  Finalization: [1],
  Initialization: [2],
});
export type Phase = ValueOf<typeof phase>;

const NO_HASH: Hex = `0x${"00".repeat(32)}`;

const storage = storageOf("System");
const items = {
  Account: storage.map("Account", [["Blake2_128Concat", accountId]], accountInfo, NO_ACCOUNT),
  ExtrinsicCount: storage.optional("ExtrinsicCount", u32),
  BlockHash: storage.map("BlockHash", [["Twox64Concat", u32]], h256, NO_HASH),
  Number: storage.value("Number", u32, 0),
  ParentHash: storage.value("ParentHash", h256, NO_HASH),
  Digest: storage.value("Digest", digest, { logs: [] }),
  EventCount: storage.value("EventCount", u32, 0),
};

/** The events of a block, raw: their type needs all pallets. The metadata row gets it in `systemPallet`. */
const eventsItem = storage.value("Events", bytes, new Uint8Array());
export const EVENTS_KEY = eventsItem.keyOf();

/** Storage of the System pallet. */
export const system = items;

const events = palletEvents(INDEX, {
  ExtrinsicSuccess: [0, { dispatch_info: dispatchInfo }],
  ExtrinsicFailed: [1, { dispatch_error: dispatchError, dispatch_info: dispatchInfo }],
  NewAccount: [3, { account: accountId }],
  KilledAccount: [4, { account: accountId }],
  Remarked: [5, { sender: accountId, hash: h256 }],
});

const errors = palletErrors(INDEX, {
  InvalidSpecName: 0,
  SpecVersionNeedsToIncrease: 1,
  FailedToExtractRuntimeVersion: 2,
  NonDefaultComposite: 3,
  NonZeroRefCount: 4,
  CallFiltered: 5,
});

export const systemEvents = events;
export const systemErrors = errors;

/** How an extrinsic ended: the last of its events. */
export function emitOutcome(
  execution: Execution,
  kind: "Normal" | "Mandatory",
  feeless: boolean,
  failure: DispatchError | undefined,
): void {
  const dispatch_info = {
    weight: CALL_WEIGHT,
    class: { type: kind },
    pays_fee: { type: feeless ? "No" : "Yes" },
  } as const;
  if (failure === undefined) execution.emit(events.ExtrinsicSuccess, { dispatch_info });
  else execution.emit(events.ExtrinsicFailed, { dispatch_error: failure, dispatch_info });
}

/** Counts one more transaction of `who`. */
export function incrementNonce(execution: Execution, who: Hex): void {
  const info = items.Account.get(execution, who);
  items.Account.put(execution, [who], { ...info, nonce: info.nonce + 1 });
}

/** @param eventRecord describes a record of events, whose type needs all pallets. */
export function systemPallet(eventRecord: Codec<unknown>): Pallet {
  return {
    name: "System",
    index: INDEX,
    path: "frame_system",
    storage: [...entriesOf(items), { ...eventsItem.entry, value: vec(eventRecord) }],
    calls: {
      remark: call(0, { remark: bytes }, { run: () => undefined }),
      set_storage: call(
        4,
        { items: vec(tuple(bytes, bytes)) },
        {
          run(execution, origin, { items: pairs }) {
            ensureRoot(origin);
            for (const [key, value] of pairs) execution.set(toHex(key), value);
          },
        },
      ),
      remark_with_event: call(
        7,
        { remark: bytes },
        {
          run(execution, origin, { remark }) {
            const sender = signerOf(origin);
            execution.emit(events.Remarked, { sender, hash: blake2Hex(remark) });
          },
        },
      ),
    },
    events,
    errors,
    constants: [
      constant("BlockHashCount", u32, BLOCK_HASH_COUNT),
      constant("SS58Prefix", u16, SS58_PREFIX),
    ],
  };
}
