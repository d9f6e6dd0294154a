import type { DispatchError } from "../../metadata/runtime-types.ts";
import type { Hex } from "../../scale/bytes.ts";
import {
  type BlockView,
  DispatchFailure,
  type Execution,
  ensure,
  type Origin,
  type PalletError,
  signerOf,
} from "../pallet.ts";
import { subtensorErrors as errors, subtensorEvents as events } from "./events.ts";
import { ROOT_NETUID, storageIndexOf, subtensor, withElement } from "./storage.ts";

const WEIGHT_MAX = 65_535;

export interface WeightsCall {
  readonly netuid: number;
  readonly mechanism: number;
  readonly dests: readonly number[];
  readonly weights: readonly number[];
  readonly versionKey: bigint;
}

/** What the pool refuses already: too little stake, too soon. */
export function guardWeights(
  view: BlockView,
  who: Hex,
  call: WeightsCall,
): PalletError | undefined {
  if (!hasStake(view, who, call.netuid)) return errors.NotEnoughStakeToSetWeights;
  if (subtensor.CommitRevealWeightsEnabled.get(view, call.netuid)) return undefined;
  const uid = subtensor.Uids.get(view, call.netuid, who);
  if (uid === undefined || passesRateLimit(view, call.netuid, call.mechanism, uid))
    return undefined;
  return errors.SettingWeightsTooFast;
}

/** The owner's hotkey needs no stake. */
export function hasStake(view: BlockView, hotkey: Hex, netuid: number): boolean {
  return (
    subtensor.SubnetOwnerHotkey.get(view, netuid) === hotkey ||
    subtensor.TotalHotkeyAlpha.get(view, hotkey, netuid) >= subtensor.StakeThreshold.get(view)
  );
}

/** Whether enough blocks have passed since the neuron's last weights or commit. */
export function passesRateLimit(
  view: BlockView,
  netuid: number,
  mechanism: number,
  uid: number,
): boolean {
  const last = subtensor.LastUpdate.get(view, storageIndexOf(netuid, mechanism))[uid];
  // A mechanism that does not exist does not pass; one that is new has no entries yet, which is as good as 0.
  if (!hasMechanism(view, netuid, mechanism)) return false;
  if (last === undefined || last === 0n) return true;
  return BigInt(view.number) - last >= subtensor.WeightsSetRateLimit.get(view, netuid);
}

/**
 * `set_weights` and `set_mechanism_weights`, with the real chain's checks in its order. Values are scaled up so that
 * the largest is 65535.
 *
 * @see subtensor, pallets/subtensor/src/subnets/weights.rs, internal_set_weights
 */
export function setWeights(execution: Execution, origin: Origin, call: WeightsCall): void {
  const who = signerOf(origin);
  const enabled = subtensor.CommitRevealWeightsEnabled.get(execution, call.netuid);
  ensure(!enabled, errors.CommitRevealEnabled);
  applyWeights(execution, who, call);
}

/** `batch_set_weights`: weights of several subnets, each by itself. */
export function batchSetWeights(
  execution: Execution,
  origin: Origin,
  args: {
    readonly netuids: readonly number[];
    readonly weights: readonly (readonly (readonly [uid: number, weight: number])[])[];
    readonly version_keys: readonly bigint[];
  },
): void {
  const who = signerOf(origin);
  const { netuids, weights, version_keys: keys } = args;
  const equal = netuids.length === weights.length && netuids.length === keys.length;
  ensure(equal, errors.InputLengthsUnequal);
  let failed = false;
  for (const [i, netuid] of netuids.entries()) {
    const row = weights[i] ?? [];
    const error = failureIn(() =>
      setWeights(execution, origin, {
        netuid,
        mechanism: 0,
        dests: row.map(([uid]) => uid),
        weights: row.map(([, weight]) => weight),
        versionKey: keys[i] ?? 0n,
      }),
    );
    if (error === undefined) continue;
    if (!failed) execution.emit(events.BatchCompletedWithErrors, []);
    failed = true;
    execution.emit(events.BatchWeightItemFailed, [netuid, error]);
  }
  execution.emit(events.BatchWeightsCompleted, [netuids, who]);
}

/** Why `work`, which fails before it changes anything, has failed. */
function failureIn(work: () => void): DispatchError | undefined {
  try {
    work();
    return undefined;
  } catch (error) {
    if (error instanceof DispatchFailure) return error.reason;
    throw error;
  }
}

/**
 * The same without asking for commit-reveal: revealed weights end here too. Those have no rate limit, since their commit had
 * one.
 *
 * @throws DispatchFailure before anything has changed.
 */
export function applyWeights(execution: Execution, who: Hex, call: WeightsCall): void {
  const { netuid, mechanism, dests, weights, versionKey } = call;
  ensure(netuid !== ROOT_NETUID, errors.CanNotSetRootNetworkWeights);
  ensure(dests.length === weights.length, errors.WeightVecNotEqualSize);
  ensureMechanism(execution, netuid, mechanism);
  const neurons = subtensor.SubnetworkN.get(execution, netuid);
  ensure(dests.length <= neurons, errors.UidsLengthExceedUidsInSubNet);
  const uid = subtensor.Uids.get(execution, netuid, who);
  ensure(uid !== undefined, errors.HotKeyNotRegisteredInSubNet);
  ensure(hasStake(execution, who, netuid), errors.NotEnoughStakeToSetWeights);
  const wanted = subtensor.WeightsVersionKey.get(execution, netuid);
  ensure(wanted === 0n || versionKey >= wanted, errors.IncorrectWeightVersionKey);
  const isRevealed = subtensor.CommitRevealWeightsEnabled.get(execution, netuid);
  const inTime = isRevealed || passesRateLimit(execution, netuid, mechanism, uid);
  ensure(inTime, errors.SettingWeightsTooFast);
  const selfWeight = dests.length === 1 && dests[0] === uid;
  const permitted =
    selfWeight ||
    subtensor.SubnetOwnerHotkey.get(execution, netuid) === who ||
    subtensor.ValidatorPermit.get(execution, netuid)[uid] === true;
  ensure(permitted, errors.NeuronNoValidatorPermit);
  ensure(new Set(dests).size === dests.length, errors.DuplicateUids);
  ensure(
    dests.every((dest) => dest < neurons),
    errors.UidVecContainInvalidOne,
  );
  const enough = Math.min(neurons, subtensor.MinAllowedWeights.get(execution, netuid));
  ensure(selfWeight || dests.length >= enough, errors.WeightVecLengthIsLow);

  const max = Math.max(0, ...weights);
  const index = storageIndexOf(netuid, mechanism);
  const row = dests.map((dest, i) => {
    const weight = weights[i] ?? 0;
    return [dest, max === 0 ? 0 : Math.floor((weight * WEIGHT_MAX) / max)] as const;
  });
  subtensor.Weights.put(execution, [index, uid], row);
  if (!isRevealed) touchLastUpdate(execution, index, uid);
  execution.emit(events.WeightsSet, [index, uid]);
}

export function ensureMechanism(view: BlockView, netuid: number, mechanism: number): void {
  ensure(hasMechanism(view, netuid, mechanism), errors.MechanismDoesNotExist);
}

function hasMechanism(view: BlockView, netuid: number, mechanism: number): boolean {
  return (
    subtensor.NetworksAdded.get(view, netuid) &&
    mechanism < subtensor.MechanismCountCurrent.get(view, netuid)
  );
}

/** Begins a neuron's rate limit. @param index of its mechanism's storage. */
export function touchLastUpdate(execution: Execution, index: number, uid: number): void {
  const updates = subtensor.LastUpdate.get(execution, index);
  const block = BigInt(execution.number);
  subtensor.LastUpdate.put(execution, [index], withElement(updates, uid, block, 0n));
}
