import { accountId } from "../../metadata/runtime-types.ts";
import type { StorageView } from "../../metadata/storage-item.ts";
import {
  bool,
  compact,
  compactBig,
  option,
  struct,
  tuple,
  u8,
  u16,
  u32,
  u64,
  u128,
  type ValueOf,
  vec,
} from "../../scale/codec.ts";
import { type RuntimeApi, runtimeFunction } from "../pallet.ts";
import { nextEpochBlock } from "./epoch-schedule.ts";
import { alphaPriceRao } from "./stake.ts";
import { axonInfo, NO_AXON, storageIndexOf, subtensor } from "./storage.ts";

const prometheusInfo = struct("pallet_subtensor::pallet::PrometheusInfo", {
  block: u64,
  version: u32,
  ip: u128,
  port: u16,
  ip_type: u8,
});

const NO_PROMETHEUS = { block: 0n, version: 0, ip: 0n, port: 0, ip_type: 0 };

const neuronInfoLite = struct("pallet_subtensor::rpc_info::neuron_info::NeuronInfoLite", {
  hotkey: accountId,
  coldkey: accountId,
  uid: compact(u16),
  netuid: compact(u16),
  active: bool,
  axon_info: axonInfo,
  prometheus_info: prometheusInfo,
  stake: vec(tuple(accountId, compactBig(u64))),
  rank: compact(u16),
  emission: compactBig(u64),
  incentive: compact(u16),
  consensus: compact(u16),
  trust: compact(u16),
  validator_trust: compact(u16),
  dividends: compact(u16),
  last_update: compactBig(u64),
  validator_permit: bool,
  pruning_score: compact(u16),
});

/** Reads the vectors of a subnet once, then any number of its neurons. */
function neuronsOf(
  view: StorageView,
  netuid: number,
): { count: number; neuron(uid: number): ValueOf<typeof neuronInfoLite> } {
  const active = subtensor.Active.get(view, netuid);
  const emission = subtensor.Emission.get(view, netuid);
  const incentive = subtensor.Incentive.get(view, netuid);
  const dividends = subtensor.Dividends.get(view, netuid);
  const updates = subtensor.LastUpdate.get(view, storageIndexOf(netuid, 0));
  const permits = subtensor.ValidatorPermit.get(view, netuid);
  return {
    count: subtensor.SubnetworkN.get(view, netuid),
    neuron(uid) {
      const hotkey = subtensor.Keys.get(view, netuid, uid);
      const coldkey = subtensor.Owner.get(view, hotkey);
      return {
        hotkey,
        coldkey,
        uid,
        netuid,
        active: active[uid] ?? false,
        axon_info: subtensor.Axons.get(view, netuid, hotkey) ?? NO_AXON,
        prometheus_info: NO_PROMETHEUS,
        stake: [[coldkey, subtensor.TotalHotkeyAlpha.get(view, hotkey, netuid)]],
        rank: 0,
        emission: emission[uid] ?? 0n,
        incentive: incentive[uid] ?? 0,
        consensus: 0,
        trust: 0,
        validator_trust: 0,
        dividends: dividends[uid] ?? 0,
        last_update: updates[uid] ?? 0n,
        validator_permit: permits[uid] ?? false,
        pruning_score: 0,
      };
    },
  };
}

/** The runtime APIs of Subtensor that a subnet's software uses. */
export const subtensorApis: Readonly<Record<string, RuntimeApi>> = {
  NeuronInfoRuntimeApi: {
    get_neurons_lite: runtimeFunction({ netuid: u16 }, vec(neuronInfoLite), (view, { netuid }) => {
      const neurons = neuronsOf(view, netuid);
      return Array.from({ length: neurons.count }, (_, uid) => neurons.neuron(uid));
    }),
    get_neuron_lite: runtimeFunction(
      { netuid: u16, uid: u16 },
      option(neuronInfoLite),
      (view, { netuid, uid }) => {
        const neurons = neuronsOf(view, netuid);
        return uid < neurons.count ? neurons.neuron(uid) : undefined;
      },
    ),
  },
  SubnetInfoRuntimeApi: {
    get_next_epoch_start_block: runtimeFunction({ netuid: u16 }, option(u64), (view, { netuid }) =>
      nextEpochBlock(view, netuid),
    ),
  },
  SwapRuntimeApi: {
    current_alpha_price: runtimeFunction({ netuid: u16 }, u64, (view, { netuid }) =>
      alphaPriceRao(view, netuid),
    ),
  },
};
