import { accountId, h256 } from "../../metadata/runtime-types.ts";
import {
  bool,
  boundedBytes,
  bytes,
  compact,
  compactBig,
  tuple,
  u8,
  u16,
  u32,
  u64,
  u128,
  vec,
} from "../../scale/codec.ts";
import { call, entriesOf, type Pallet } from "../pallet.ts";
import {
  batchRevealHashes,
  commitHash,
  commitTimelocked,
  guardBatchReveal,
  guardCommit,
  guardReveal,
  guardTimelocked,
  revealHash,
} from "./commit-reveal.ts";
import { subtensorErrors, subtensorEvents } from "./events.ts";
import { burnedRegister, registerLimit, registerNetwork, startCall } from "./registration.ts";
import { guardAxon, serveAxon, serveAxonTls } from "./serving.ts";
import { addStake, addStakeLimit, removeStake, removeStakeLimit, transferStake } from "./stake.ts";
import { COMMIT_BYTES_MAX, SUBTENSOR, subtensor } from "./storage.ts";
import { batchSetWeights, guardWeights, setWeights, type WeightsCall } from "./weights.ts";

/** The first mechanism of a subnet, which `set_weights` means. */
const FIRST_MECHANISM = 0;

interface WeightsArguments {
  readonly netuid: number;
  readonly dests: readonly number[];
  readonly weights: readonly number[];
  readonly version_key: bigint;
}

const axon = {
  netuid: u16,
  version: u32,
  ip: u128,
  port: u16,
  ip_type: u8,
  protocol: u8,
  placeholder1: u8,
  placeholder2: u8,
};
const limit = { limit_price: u64, allow_partial: bool };
const hashedCommit = { commit_hash: h256 };
const timelockedCommit = {
  commit: boundedBytes(COMMIT_BYTES_MAX),
  reveal_round: u64,
  commit_reveal_version: u16,
};
const revealed = { uids: vec(u16), values: vec(u16), salt: vec(u16), version_key: u64 };

/** The arguments of a call without a mechanism, for the first one. */
const inFirstMechanism = <T extends object>(values: T) => ({ ...values, mecid: FIRST_MECHANISM });

const weightsCallOf = (values: WeightsArguments, mechanism: number): WeightsCall => ({
  netuid: values.netuid,
  mechanism,
  dests: values.dests,
  weights: values.weights,
  versionKey: values.version_key,
});

/** @param tempo blocks per epoch of new subnets. */
export function subtensorPallet(tempo: number): Pallet {
  return {
    name: SUBTENSOR.name,
    index: SUBTENSOR.index,
    path: SUBTENSOR.path,
    storage: entriesOf(subtensor),
    calls: {
      set_weights: call(
        0,
        { netuid: u16, dests: vec(u16), weights: vec(u16), version_key: u64 },
        {
          feeless: true,
          guard: (view, who, values) =>
            guardWeights(view, who, weightsCallOf(values, FIRST_MECHANISM)),
          run: (execution, origin, values) =>
            setWeights(execution, origin, weightsCallOf(values, FIRST_MECHANISM)),
        },
      ),
      add_stake: call(2, { hotkey: accountId, netuid: u16, amount_staked: u64 }, { run: addStake }),
      remove_stake: call(
        3,
        { hotkey: accountId, netuid: u16, amount_unstaked: u64 },
        { run: removeStake },
      ),
      serve_axon: call(4, axon, { feeless: true, guard: guardAxon, run: serveAxon }),
      serve_axon_tls: call(
        40,
        { ...axon, certificate: bytes },
        { feeless: true, guard: guardAxon, run: serveAxonTls },
      ),
      burned_register: call(
        7,
        { netuid: u16, hotkey: accountId },
        {
          run: (execution, origin, { netuid, hotkey }) =>
            burnedRegister(execution, origin, netuid, hotkey),
        },
      ),
      register_network: call(
        59,
        { hotkey: accountId },
        {
          run: (execution, origin, { hotkey }) => registerNetwork(execution, origin, hotkey, tempo),
        },
      ),
      batch_set_weights: call(
        80,
        {
          netuids: vec(compact(u16)),
          weights: vec(vec(tuple(compact(u16), compact(u16)))),
          version_keys: vec(compactBig(u64)),
        },
        { feeless: true, run: batchSetWeights },
      ),
      transfer_stake: call(
        86,
        {
          destination_coldkey: accountId,
          hotkey: accountId,
          origin_netuid: u16,
          destination_netuid: u16,
          alpha_amount: u64,
        },
        { run: transferStake },
      ),
      add_stake_limit: call(
        88,
        { hotkey: accountId, netuid: u16, amount_staked: u64, ...limit },
        { run: addStakeLimit },
      ),
      remove_stake_limit: call(
        89,
        { hotkey: accountId, netuid: u16, amount_unstaked: u64, ...limit },
        { run: removeStakeLimit },
      ),
      start_call: call(
        92,
        { netuid: u16 },
        { run: (execution, origin, { netuid }) => startCall(execution, origin, netuid) },
      ),
      commit_weights: call(
        96,
        { netuid: u16, ...hashedCommit },
        {
          feeless: true,
          guard: (view, who, { netuid }) => guardCommit(view, who, netuid),
          run: (execution, origin, values) =>
            commitHash(execution, origin, inFirstMechanism(values)),
        },
      ),
      reveal_weights: call(
        97,
        { netuid: u16, ...revealed },
        {
          feeless: true,
          guard: (view, who, values) => guardReveal(view, who, inFirstMechanism(values)),
          run: (execution, origin, values) =>
            revealHash(execution, origin, inFirstMechanism(values)),
        },
      ),
      batch_reveal_weights: call(
        98,
        {
          netuid: u16,
          uids_list: vec(vec(u16)),
          values_list: vec(vec(u16)),
          salts_list: vec(vec(u16)),
          version_keys: vec(u64),
        },
        { feeless: true, guard: guardBatchReveal, run: batchRevealHashes },
      ),
      commit_timelocked_weights: call(
        113,
        { netuid: u16, ...timelockedCommit },
        {
          feeless: true,
          guard: (view, who, values) => guardTimelocked(view, who, inFirstMechanism(values)),
          run: (execution, origin, values) =>
            commitTimelocked(execution, origin, inFirstMechanism(values)),
        },
      ),
      commit_mechanism_weights: call(
        115,
        { netuid: u16, mecid: u8, ...hashedCommit },
        {
          feeless: true,
          guard: (view, who, { netuid }) => guardCommit(view, who, netuid),
          run: commitHash,
        },
      ),
      reveal_mechanism_weights: call(
        116,
        { netuid: u16, mecid: u8, ...revealed },
        { feeless: true, guard: guardReveal, run: revealHash },
      ),
      commit_timelocked_mechanism_weights: call(
        118,
        { netuid: u16, mecid: u8, ...timelockedCommit },
        { feeless: true, guard: guardTimelocked, run: commitTimelocked },
      ),
      set_mechanism_weights: call(
        119,
        { netuid: u16, mecid: u8, dests: vec(u16), weights: vec(u16), version_key: u64 },
        {
          feeless: true,
          guard: (view, who, values) =>
            guardWeights(view, who, weightsCallOf(values, values.mecid)),
          run: (execution, origin, values) =>
            setWeights(execution, origin, weightsCallOf(values, values.mecid)),
        },
      ),
      register_limit: call(
        134,
        { netuid: u16, hotkey: accountId, limit_price: u64 },
        {
          run: (execution, origin, { netuid, hotkey, limit_price: limit }) =>
            registerLimit(execution, origin, netuid, hotkey, limit),
        },
      ),
    },
    events: subtensorEvents,
    errors: subtensorErrors,
  };
}
