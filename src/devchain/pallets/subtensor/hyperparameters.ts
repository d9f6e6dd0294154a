/** The rules of a subnet by name, in a form that later ones can join without breaking clients. */
import type { StorageView } from "../../metadata/storage-item.ts";
import {
  bool,
  bytes,
  compact,
  compactBig,
  struct,
  u16,
  u32,
  u64,
  u128,
  type ValueOf,
  variant,
} from "../../scale/codec.ts";
import { subtensor } from "./storage.ts";

const value = variant("pallet_subtensor::rpc_info::subnet_info::HyperparamValue", {
  Bool: [0, [bool]],
  U16: [1, [compact(u16)]],
  U32: [2, [compact(u32)]],
  U64: [3, [compactBig(u64)]],
  U128: [4, [compactBig(u128)]],
  TaoBalance: [5, [compactBig(u64)]],
});
export const hyperparameter = struct("pallet_subtensor::rpc_info::subnet_info::HyperparamEntry", {
  name: bytes,
  value,
});

type Value = ValueOf<typeof value>;

/** @returns undefined for a subnet that does not exist. */
export function hyperparametersOf(
  view: StorageView,
  netuid: number,
): ValueOf<typeof hyperparameter>[] | undefined {
  if (!subtensor.NetworksAdded.get(view, netuid)) return undefined;
  const short = (n: number): Value => ({ type: "U16", value: [n] });
  const long = (n: bigint): Value => ({ type: "U64", value: [n] });
  const values: Readonly<Record<string, Value>> = {
    immunity_period: short(subtensor.ImmunityPeriod.get(view, netuid)),
    min_allowed_weights: short(subtensor.MinAllowedWeights.get(view, netuid)),
    max_weights_limit: short(subtensor.MaxWeightsLimit.get(view, netuid)),
    tempo: short(subtensor.Tempo.get(view, netuid)),
    weights_version: long(subtensor.WeightsVersionKey.get(view, netuid)),
    weights_rate_limit: long(subtensor.WeightsSetRateLimit.get(view, netuid)),
    serving_rate_limit: long(subtensor.ServingRateLimit.get(view, netuid)),
    max_validators: short(subtensor.MaxAllowedValidators.get(view, netuid)),
    commit_reveal_period: long(subtensor.RevealPeriodEpochs.get(view, netuid)),
    commit_reveal_weights_enabled: {
      type: "Bool",
      value: [subtensor.CommitRevealWeightsEnabled.get(view, netuid)],
    },
    transfers_enabled: { type: "Bool", value: [subtensor.TransferToggle.get(view, netuid)] },
  };
  return Object.entries(values).map(([name, one]) => ({ name: Buffer.from(name), value: one }));
}
