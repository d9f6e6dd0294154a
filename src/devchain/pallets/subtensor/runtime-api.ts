import { accountId } from "../../metadata/runtime-types.ts";
import type { StorageView } from "../../metadata/storage-item.ts";
import type { Hex } from "../../scale/bytes.ts";
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
import { hyperparameter, hyperparametersOf } from "./hyperparameters.ts";
import { metagraph, metagraphOf } from "./metagraph.ts";
import { NETWORK_LOCK_RAO } from "./registration.ts";
import { alphaPriceRao } from "./stake.ts";
import { axonInfo, NO_AXON, stakeOf, storageIndexOf, subnetsOf, subtensor } from "./storage.ts";

const prometheusInfo = struct("pallet_subtensor::pallet::PrometheusInfo", {
  block: u64,
  version: u32,
  ip: u128,
  port: u16,
  ip_type: u8,
});

const NO_PROMETHEUS = { block: 0n, version: 0, ip: 0n, port: 0, ip_type: 0 };

const beforeWeights = {
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
};
const pair = tuple(compact(u16), compact(u16));
const neuronInfo = struct("pallet_subtensor::rpc_info::neuron_info::NeuronInfo", {
  ...beforeWeights,
  weights: vec(pair),
  bonds: vec(pair),
  pruning_score: compact(u16),
});
const neuronInfoLite = struct("pallet_subtensor::rpc_info::neuron_info::NeuronInfoLite", {
  ...beforeWeights,
  pruning_score: compact(u16),
});

const stakeInfo = struct("pallet_subtensor::rpc_info::stake_info::StakeInfo", {
  hotkey: accountId,
  coldkey: accountId,
  netuid: compact(u16),
  stake: compactBig(u64),
  locked: compactBig(u64),
  emission: compactBig(u64),
  tao_emission: compactBig(u64),
  drain: compactBig(u64),
  is_registered: bool,
});

function stakeInfoOf(
  view: StorageView,
  hotkey: Hex,
  coldkey: Hex,
  netuid: number,
): ValueOf<typeof stakeInfo> {
  return {
    hotkey,
    coldkey,
    netuid,
    stake: stakeOf.get(view, hotkey, coldkey, netuid),
    locked: 0n,
    emission: 0n,
    tao_emission: 0n,
    drain: 0n,
    is_registered: subtensor.Uids.get(view, netuid, hotkey) !== undefined,
  };
}

const subnetPrice = struct("pallet_subtensor_swap_runtime_api::SubnetPrice", {
  netuid: u16,
  price: u64,
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
    get_neurons: runtimeFunction({ netuid: u16 }, vec(neuronInfo), (view, { netuid }) => {
      const neurons = neuronsOf(view, netuid);
      return Array.from({ length: neurons.count }, (_, uid) => ({
        ...neurons.neuron(uid),
        weights: subtensor.Weights.get(view, netuid, uid),
        bonds: subtensor.Bonds.get(view, netuid, uid),
      }));
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
    get_subnet_hyperparams_v3: runtimeFunction(
      { netuid: u16 },
      option(vec(hyperparameter)),
      (view, { netuid }) => hyperparametersOf(view, netuid),
    ),
    get_metagraph: runtimeFunction({ netuid: u16 }, option(metagraph), (view, { netuid }) =>
      metagraphOf(view, netuid, 0),
    ),
    get_mechagraph: runtimeFunction(
      { netuid: u16, mecid: u8 },
      option(metagraph),
      (view, { netuid, mecid }) => metagraphOf(view, netuid, mecid),
    ),
    get_next_epoch_start_block: runtimeFunction({ netuid: u16 }, option(u64), (view, { netuid }) =>
      nextEpochBlock(view, netuid),
    ),
  },
  StakeInfoRuntimeApi: {
    get_stake_info_for_coldkey: runtimeFunction(
      { coldkey_account: accountId },
      vec(stakeInfo),
      (view, { coldkey_account: coldkey }) =>
        subtensor.StakingHotkeys.get(view, coldkey)
          .flatMap((hotkey) =>
            subnetsOf(view).map((netuid) => stakeInfoOf(view, hotkey, coldkey, netuid)),
          )
          .filter(({ stake }) => stake > 0n),
    ),
    get_stake_info_for_hotkey_coldkey_netuid: runtimeFunction(
      { hotkey_account: accountId, coldkey_account: accountId, netuid: u16 },
      option(stakeInfo),
      (view, { hotkey_account: hotkey, coldkey_account: coldkey, netuid }) =>
        stakeInfoOf(view, hotkey, coldkey, netuid),
    ),
  },
  SubnetRegistrationRuntimeApi: {
    get_network_registration_cost: runtimeFunction({}, u64, () => NETWORK_LOCK_RAO),
  },
  SwapRuntimeApi: {
    current_alpha_price_all: runtimeFunction({}, vec(subnetPrice), (view) =>
      subnetsOf(view).map((netuid) => ({ netuid, price: alphaPriceRao(view, netuid) })),
    ),
    current_alpha_price: runtimeFunction({ netuid: u16 }, u64, (view, { netuid }) =>
      alphaPriceRao(view, netuid),
    ),
  },
};
