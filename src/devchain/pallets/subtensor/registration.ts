import type { Hex } from "../../scale/bytes.ts";
import { burn } from "../balances.ts";
import { DispatchFailure, type Execution, ensure, type Origin, signerOf } from "../pallet.ts";
import { subtensorErrors as errors, subtensorEvents as events } from "./events.ts";
import { hasOwner } from "./stake.ts";
import {
  FIXED_64_ONE,
  RAO_PER_TOKEN,
  ROOT_NETUID,
  storageIndexOf,
  subnetsOf,
  subtensor,
  withElement,
} from "./storage.ts";

/** Price of a new subnet. It is far more on the real chain. */
export const NETWORK_LOCK_RAO = 1n * RAO_PER_TOKEN;
/** What a new subnet's pool holds: 1 alpha costs 0.1 TAO at first. */
const POOL_TAO_RAO = 1_000n * RAO_PER_TOKEN;
const POOL_ALPHA_RAO = 10_000n * RAO_PER_TOKEN;
/** Blocks between two weight vectors of a validator: this many, or half an epoch if that is less. */
const WEIGHTS_RATE_LIMIT_BLOCKS = 100;
/** Fewest entries of a weight vector. */
const MIN_ALLOWED_WEIGHTS = 1;
const MECHANISM_DYNAMIC = 1;
/** Digits of a block's part of the fall of the price. */
const DECAY_BITS = 48;

/** Blocks that a validator waits between two weight vectors on a subnet with this tempo. */
export function weightsRateLimitOf(tempo: number): bigint {
  return BigInt(Math.min(WEIGHTS_RATE_LIMIT_BLOCKS, Math.floor(tempo / 2)));
}

/**
 * `register_network`: a subnet whose first neuron, uid 0, is its owner's hotkey.
 *
 * It begins as an owner would set it up for plain weights, without the waiting: no commit-reveal, weight vectors of any
 * length, tokens enabled at once.
 */
export function registerNetwork(
  execution: Execution,
  origin: Origin,
  hotkey: Hex,
  tempo: number,
): void {
  const owner = signerOf(origin);
  ensureOwnHotkey(execution, owner, hotkey);
  ensure(burn(execution, owner, NETWORK_LOCK_RAO), errors.CannotAffordLockCost);
  const netuid = Math.max(1, subtensor.TotalNetworks.get(execution));
  subtensor.TotalNetworks.put(execution, [], netuid + 1);
  subtensor.NetworksAdded.put(execution, [netuid], true);
  subtensor.NetworkRegisteredAt.put(execution, [netuid], BigInt(execution.number));
  subtensor.LastEpochBlock.put(execution, [netuid], BigInt(execution.number));
  subtensor.SubnetOwner.put(execution, [netuid], owner);
  subtensor.SubnetOwnerHotkey.put(execution, [netuid], hotkey);
  // As on the real chain these are written, not left to their defaults, since clients list them with all subnets.
  subtensor.Burn.put(execution, [netuid], subtensor.Burn.get(execution, netuid));
  // The price stays, so that a whole network registers at once for the same; an owner can let it move.
  subtensor.BurnHalfLife.put(execution, [netuid], 0);
  subtensor.BurnIncreaseMult.put(execution, [netuid], { bits: FIXED_64_ONE });
  subtensor.SubnetLocked.put(execution, [netuid], NETWORK_LOCK_RAO);
  subtensor.TokenSymbol.put(execution, [netuid], subtensor.TokenSymbol.get(execution, netuid));
  subtensor.SubtokenEnabled.put(execution, [netuid], true);
  subtensor.SubnetTAO.put(execution, [netuid], POOL_TAO_RAO);
  subtensor.SubnetAlphaIn.put(execution, [netuid], POOL_ALPHA_RAO);
  subtensor.CommitRevealWeightsEnabled.put(execution, [netuid], false);
  subtensor.MinAllowedWeights.put(execution, [netuid], MIN_ALLOWED_WEIGHTS);
  setTempo(execution, netuid, tempo);
  appendNeuron(execution, netuid, hotkey);
  execution.emit(events.NetworkAdded, [netuid, MECHANISM_DYNAMIC]);
}

/** Sets the tempo and the weights' rate limit that goes with it. */
export function setTempo(execution: Execution, netuid: number, tempo: number): void {
  subtensor.Tempo.put(execution, [netuid], tempo);
  subtensor.WeightsSetRateLimit.put(execution, [netuid], weightsRateLimitOf(tempo));
}

/** `start_call`: says from which block on the subnet emits. Emission does not wait for it here. */
export function startCall(execution: Execution, origin: Origin, netuid: number): void {
  const who = signerOf(origin);
  ensure(subtensor.NetworksAdded.get(execution, netuid), errors.SubnetNotExists);
  if (subtensor.SubnetOwner.get(execution, netuid) !== who)
    throw new DispatchFailure({ type: "BadOrigin" }, "BadOrigin");
  const started = subtensor.FirstEmissionBlockNumber.get(execution, netuid) !== undefined;
  ensure(!started, errors.FirstEmissionBlockNumberAlreadySet);
  const block = BigInt(execution.number + 1);
  subtensor.FirstEmissionBlockNumber.put(execution, [netuid], block);
  execution.emit(events.FirstEmissionBlockNumberSet, [netuid, block]);
}

/** `register_limit`: the same, unless the price has risen above what the coldkey wants to pay. */
export function registerLimit(
  execution: Execution,
  origin: Origin,
  netuid: number,
  hotkey: Hex,
  limitRao: bigint,
): void {
  ensure(subtensor.Burn.get(execution, netuid) <= limitRao, errors.RegistrationPriceLimitExceeded);
  burnedRegister(execution, origin, netuid, hotkey);
}

/** `burned_register`: a coldkey pays the burn and its hotkey gets a uid. */
export function burnedRegister(
  execution: Execution,
  origin: Origin,
  netuid: number,
  hotkey: Hex,
): void {
  const coldkey = signerOf(origin);
  ensure(netuid !== ROOT_NETUID, errors.RegistrationNotPermittedOnRootSubnet);
  ensure(subtensor.NetworksAdded.get(execution, netuid), errors.SubnetNotExists);
  const registered = subtensor.Uids.get(execution, netuid, hotkey) !== undefined;
  ensure(!registered, errors.HotKeyAlreadyRegisteredInSubNet);
  ensureOwnHotkey(execution, coldkey, hotkey);
  const price = subtensor.Burn.get(execution, netuid);
  ensure(burn(execution, coldkey, price), errors.NotEnoughBalanceToStake);
  const full =
    subtensor.SubnetworkN.get(execution, netuid) >= subtensor.MaxAllowedUids.get(execution, netuid);
  const raised = (price * subtensor.BurnIncreaseMult.get(execution, netuid).bits) / FIXED_64_ONE;
  putBurn(execution, netuid, raised);
  if (full) replaceNeuron(execution, netuid, uidToPrune(execution, netuid), hotkey);
  else appendNeuron(execution, netuid, hotkey);
}

function putBurn(execution: Execution, netuid: number, rao: bigint): void {
  const min = subtensor.MinBurn.get(execution, netuid);
  const max = subtensor.MaxBurn.get(execution, netuid);
  subtensor.Burn.put(execution, [netuid], rao < min ? min : rao > max ? max : rao);
}

/** Lowers the price of a registration with time, at the beginning of each block. */
export function decayBurns(execution: Execution): void {
  for (const netuid of subnetsOf(execution)) {
    const halfLife = subtensor.BurnHalfLife.get(execution, netuid);
    if (halfLife === 0) continue;
    const factor = BigInt(Math.round(2 ** (DECAY_BITS - 1 / halfLife)));
    const price = subtensor.Burn.get(execution, netuid);
    putBurn(execution, netuid, (price * factor) >> BigInt(DECAY_BITS));
  }
}

function ensureOwnHotkey(execution: Execution, coldkey: Hex, hotkey: Hex): void {
  if (hasOwner(execution, hotkey)) {
    ensure(subtensor.Owner.get(execution, hotkey) === coldkey, errors.NonAssociatedColdKey);
    return;
  }
  subtensor.Owner.put(execution, [hotkey], coldkey);
  const owned = subtensor.OwnedHotkeys.get(execution, coldkey);
  subtensor.OwnedHotkeys.put(execution, [coldkey], [...owned, hotkey]);
}

function appendNeuron(execution: Execution, netuid: number, hotkey: Hex): void {
  const uid = subtensor.SubnetworkN.get(execution, netuid);
  subtensor.SubnetworkN.put(execution, [netuid], uid + 1);
  writeNeuron(execution, netuid, uid, hotkey);
}

function replaceNeuron(execution: Execution, netuid: number, uid: number, hotkey: Hex): void {
  const old = subtensor.Keys.get(execution, netuid, uid);
  subtensor.Uids.remove(execution, netuid, old);
  subtensor.Axons.remove(execution, netuid, old);
  writeNeuron(execution, netuid, uid, hotkey);
}

function writeNeuron(execution: Execution, netuid: number, uid: number, hotkey: Hex): void {
  const block = BigInt(execution.number);
  subtensor.Uids.put(execution, [netuid, hotkey], uid);
  subtensor.Keys.put(execution, [netuid, uid], hotkey);
  subtensor.BlockAtRegistration.put(execution, [netuid, uid], block);
  for (const vector of [subtensor.Incentive, subtensor.Dividends]) {
    vector.put(execution, [netuid], withElement(vector.get(execution, netuid), uid, 0, 0));
  }
  const { Emission, Active, ValidatorPermit } = subtensor;
  Emission.put(execution, [netuid], withElement(Emission.get(execution, netuid), uid, 0n, 0n));
  Active.put(execution, [netuid], withElement(Active.get(execution, netuid), uid, true, true));
  const staked = subtensor.TotalHotkeyAlpha.get(execution, hotkey, netuid) > 0n;
  const permits = ValidatorPermit.get(execution, netuid);
  ValidatorPermit.put(execution, [netuid], withElement(permits, uid, staked, false));
  const mechanisms = subtensor.MechanismCountCurrent.get(execution, netuid);
  for (let mechanism = 0; mechanism < mechanisms; mechanism++) {
    const index = storageIndexOf(netuid, mechanism);
    const updates = subtensor.LastUpdate.get(execution, index);
    // So a new neuron waits for the rate limit before its first weights, as on the real chain.
    subtensor.LastUpdate.put(execution, [index], withElement(updates, uid, block, 0n));
    subtensor.Weights.remove(execution, index, uid);
  }
  execution.emit(events.NeuronRegistered, [netuid, uid, hotkey]);
}

/**
 * The neuron that makes place for a new one: lowest emission, then longest registered; one in its immunity period only
 * if all are. Never the owner's.
 *
 * @throws DispatchFailure(NoNeuronIdAvailable) if there is only the owner.
 */
function uidToPrune(execution: Execution, netuid: number): number {
  const emission = subtensor.Emission.get(execution, netuid);
  const immuneSince = BigInt(execution.number - subtensor.ImmunityPeriod.get(execution, netuid));
  const owner = subtensor.SubnetOwnerHotkey.get(execution, netuid);
  const [candidate] = emission
    .map((earned, uid) => {
      const registered = subtensor.BlockAtRegistration.get(execution, netuid, uid);
      return { uid, earned, registered, immune: registered > immuneSince };
    })
    .filter(({ uid }) => subtensor.Keys.get(execution, netuid, uid) !== owner)
    .toSorted(
      (a, b) =>
        Number(a.immune) - Number(b.immune) ||
        compareBig(a.earned, b.earned) ||
        compareBig(a.registered, b.registered) ||
        a.uid - b.uid,
    );
  ensure(candidate !== undefined, errors.NoNeuronIdAvailable);
  return candidate.uid;
}

function compareBig(a: bigint, b: bigint): number {
  return a < b ? -1 : Number(a > b);
}
