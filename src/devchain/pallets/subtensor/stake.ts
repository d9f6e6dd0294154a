import type { StorageView } from "../../metadata/storage-item.ts";
import type { Hex } from "../../scale/bytes.ts";
import { burn, mint } from "../balances.ts";
import { type Execution, ensure, type Origin, signerOf } from "../pallet.ts";
import { subtensorErrors as errors, subtensorEvents as events } from "./events.ts";
import { RAO_PER_TOKEN, ROOT_NETUID, stakeOf, subtensor, withElement } from "./storage.ts";

/** Smallest amount of TAO that a stake call moves, in rao. */
const STAKE_RAO_MIN = 2_000_000n;
/** Swaps cost nothing here. */
const NO_FEE = 0n;

/** Rao of TAO per 1 alpha: the pool's spot price. Root is always 1:1. */
export function alphaPriceRao(view: StorageView, netuid: number): bigint {
  if (netuid === ROOT_NETUID) return RAO_PER_TOKEN;
  const alpha = subtensor.SubnetAlphaIn.get(view, netuid);
  return alpha === 0n ? 0n : (subtensor.SubnetTAO.get(view, netuid) * RAO_PER_TOKEN) / alpha;
}

/** Gives alpha to a hotkey, on behalf of a coldkey. */
export function creditStake(
  execution: Execution,
  hotkey: Hex,
  coldkey: Hex,
  netuid: number,
  alpha: bigint,
): void {
  const total = subtensor.TotalHotkeyAlpha.get(execution, hotkey, netuid);
  subtensor.TotalHotkeyAlpha.put(execution, [hotkey, netuid], total + alpha);
  const own = stakeOf.get(execution, hotkey, coldkey, netuid);
  stakeOf.put(execution, [hotkey, coldkey, netuid], own + alpha);
  const out = subtensor.SubnetAlphaOut.get(execution, netuid);
  subtensor.SubnetAlphaOut.put(execution, [netuid], out + alpha);
}

/** Moves TAO into the pool and alpha out of it, or the other way round; the product of the two stays the same. */
function swap(execution: Execution, netuid: number, into: "tao" | "alpha", amount: bigint): bigint {
  if (netuid === ROOT_NETUID) return amount;
  const tao = subtensor.SubnetTAO.get(execution, netuid);
  const alpha = subtensor.SubnetAlphaIn.get(execution, netuid);
  const [poolIn, poolOut] = into === "tao" ? [tao, alpha] : [alpha, tao];
  const received = (poolOut * amount) / (poolIn + amount);
  ensure(received > 0n && received < poolOut, errors.InsufficientLiquidity);
  const [taoAfter, alphaAfter] =
    into === "tao" ? [tao + amount, alpha - received] : [tao - received, alpha + amount];
  subtensor.SubnetTAO.put(execution, [netuid], taoAfter);
  subtensor.SubnetAlphaIn.put(execution, [netuid], alphaAfter);
  return received;
}

/** `add_stake`: TAO of a coldkey becomes alpha of a hotkey. */
export function addStake(
  execution: Execution,
  origin: Origin,
  args: { readonly hotkey: Hex; readonly netuid: number; readonly amount_staked: bigint },
): void {
  const coldkey = signerOf(origin);
  const { hotkey, netuid, amount_staked: tao } = args;
  ensure(subtensor.NetworksAdded.get(execution, netuid), errors.SubnetNotExists);
  ensure(tao >= STAKE_RAO_MIN, errors.AmountTooLow);
  ensure(hasOwner(execution, hotkey), errors.HotKeyAccountNotExists);
  ensure(burn(execution, coldkey, tao), errors.NotEnoughBalanceToStake);
  const alpha = swap(execution, netuid, "tao", tao);
  creditStake(execution, hotkey, coldkey, netuid, alpha);
  permit(execution, netuid, hotkey);
  execution.emit(events.StakeAdded, [coldkey, hotkey, tao, alpha, netuid, NO_FEE]);
}

/** The real chain gives permits at the next epoch; waiting a tempo for a first validator helps nobody on a dev chain. */
function permit(execution: Execution, netuid: number, hotkey: Hex): void {
  const uid = subtensor.Uids.get(execution, netuid, hotkey);
  if (uid === undefined) return;
  const permits = subtensor.ValidatorPermit.get(execution, netuid);
  subtensor.ValidatorPermit.put(execution, [netuid], withElement(permits, uid, true, false));
}

/** `remove_stake`: alpha of a hotkey becomes TAO of the coldkey that staked it. */
export function removeStake(
  execution: Execution,
  origin: Origin,
  args: { readonly hotkey: Hex; readonly netuid: number; readonly amount_unstaked: bigint },
): void {
  const coldkey = signerOf(origin);
  const { hotkey, netuid, amount_unstaked: alpha } = args;
  ensure(subtensor.NetworksAdded.get(execution, netuid), errors.SubnetNotExists);
  ensure(hasOwner(execution, hotkey), errors.HotKeyAccountNotExists);
  const own = stakeOf.get(execution, hotkey, coldkey, netuid);
  ensure(alpha > 0n && alpha <= own, errors.NotEnoughStakeToWithdraw);
  const tao = swap(execution, netuid, "alpha", alpha);
  ensure(tao >= STAKE_RAO_MIN, errors.AmountTooLow);
  stakeOf.put(execution, [hotkey, coldkey, netuid], own - alpha);
  const total = subtensor.TotalHotkeyAlpha.get(execution, hotkey, netuid);
  subtensor.TotalHotkeyAlpha.put(execution, [hotkey, netuid], total - alpha);
  const out = subtensor.SubnetAlphaOut.get(execution, netuid);
  subtensor.SubnetAlphaOut.put(execution, [netuid], out - alpha);
  mint(execution, coldkey, tao);
  execution.emit(events.StakeRemoved, [coldkey, hotkey, tao, alpha, netuid, NO_FEE]);
}

/** Whether the hotkey was ever registered. */
export function hasOwner(view: StorageView, hotkey: Hex): boolean {
  return view.get(subtensor.Owner.keyOf(hotkey)) !== undefined;
}
