import { accountId } from "../../metadata/runtime-types.ts";
import { u8, u16, u32, u64, u128, vec } from "../../scale/codec.ts";
import { call, entriesOf, type Pallet } from "../pallet.ts";
import { subtensorErrors, subtensorEvents } from "./events.ts";
import { burnedRegister, registerNetwork, startCall } from "./registration.ts";
import { guardAxon, serveAxon } from "./serving.ts";
import { addStake, removeStake } from "./stake.ts";
import { SUBTENSOR, subtensor } from "./storage.ts";
import { guardWeights, setWeights, type WeightsCall } from "./weights.ts";

/** The first mechanism of a subnet, which `set_weights` means. */
const FIRST_MECHANISM = 0;

interface WeightsArguments {
  readonly netuid: number;
  readonly dests: readonly number[];
  readonly weights: readonly number[];
  readonly version_key: bigint;
}

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
      serve_axon: call(
        4,
        {
          netuid: u16,
          version: u32,
          ip: u128,
          port: u16,
          ip_type: u8,
          protocol: u8,
          placeholder1: u8,
          placeholder2: u8,
        },
        { feeless: true, guard: guardAxon, run: serveAxon },
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
      start_call: call(
        92,
        { netuid: u16 },
        { run: (execution, origin, { netuid }) => startCall(execution, origin, netuid) },
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
    },
    events: subtensorEvents,
    errors: subtensorErrors,
  };
}
