/** Types of `frame_system`, `sp_runtime` and friends that several pallets share. Paths are those of the real runtime. */
import {
  bytes,
  compactBig,
  fixedBytes,
  hash32,
  struct,
  u8,
  u64,
  unit,
  type ValueOf,
  variant,
} from "../scale/codec.ts";

/** A public key. In code as `0x` and 64 hex digits. */
export const accountId = hash32("sp_core::crypto::AccountId32");
export const h256 = hash32("primitive_types::H256");

export const multiAddress = variant(
  "sp_runtime::multiaddress::MultiAddress",
  {
    Id: [0, [accountId]],
    Index: [1, [compactUnit()]],
    Raw: [2, [bytes]],
    Address32: [3, [fixedBytes(32)]],
    Address20: [4, [fixedBytes(20)]],
  },
  [
    { name: "AccountId", codec: accountId },
    { name: "AccountIndex", codec: unit },
  ],
);

/** `Compact<()>`: no bytes. */
function compactUnit() {
  return { ...unit, shape: { kind: "compact", of: unit } as const };
}

export const multiSignature = variant("sp_runtime::MultiSignature", {
  Ed25519: [0, [fixedBytes(64)]],
  Sr25519: [1, [fixedBytes(64)]],
  Ecdsa: [2, [fixedBytes(65)]],
});

export const weight = struct("sp_weights::weight_v2::Weight", {
  ref_time: compactBig(u64),
  proof_size: compactBig(u64),
});

export const dispatchClass = variant("frame_support::dispatch::DispatchClass", {
  Normal: [0],
  Operational: [1],
  Mandatory: [2],
});

export const pays = variant("frame_support::dispatch::Pays", { Yes: [0], No: [1] });

export const dispatchInfo = struct("frame_system::DispatchEventInfo", {
  weight,
  class: dispatchClass,
  pays_fee: pays,
});

const moduleError = struct("sp_runtime::ModuleError", { index: u8, error: fixedBytes(4) });

const tokenError = variant("sp_runtime::TokenError", {
  FundsUnavailable: [0],
  OnlyProvider: [1],
  BelowMinimum: [2],
  CannotCreate: [3],
  UnknownAsset: [4],
  Frozen: [5],
  Unsupported: [6],
  CannotCreateHold: [7],
  NotExpendable: [8],
  Blocked: [9],
});

const arithmeticError = variant("sp_arithmetic::ArithmeticError", {
  Underflow: [0],
  Overflow: [1],
  DivisionByZero: [2],
});

const transactionalError = variant("sp_runtime::TransactionalError", {
  LimitReached: [0],
  NoLayer: [1],
});

export const dispatchError = variant("sp_runtime::DispatchError", {
  Other: [0],
  CannotLookup: [1],
  BadOrigin: [2],
  Module: [3, [moduleError]],
  ConsumerRemaining: [4],
  NoProviders: [5],
  TooManyConsumers: [6],
  Token: [7, [tokenError]],
  Arithmetic: [8, [arithmeticError]],
  Transactional: [9, [transactionalError]],
  Exhausted: [10],
  Corruption: [11],
  Unavailable: [12],
  RootNotAllowed: [13],
});

export type DispatchError = ValueOf<typeof dispatchError>;
export type TokenError = ValueOf<typeof tokenError>["type"];

export const dispatchResult = variant("Result", { Ok: [0, [unit]], Err: [1, [dispatchError]] }, [
  { name: "T", codec: unit },
  { name: "E", codec: dispatchError },
]);

/** Weight of every call: this chain does not meter execution. */
export const CALL_WEIGHT = { ref_time: 100_000_000n, proof_size: 0n } as const;
