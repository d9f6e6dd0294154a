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
  addAlphaOut(execution, netuid, alpha);
  const staked = subtensor.StakingHotkeys.get(execution, coldkey);
  if (!staked.includes(hotkey))
    subtensor.StakingHotkeys.put(execution, [coldkey], [...staked, hotkey]);
}

/** Takes alpha of a hotkey from a coldkey that has as much. */
function debitStake(
  execution: Execution,
  hotkey: Hex,
  coldkey: Hex,
  netuid: number,
  alpha: bigint,
): void {
  const own = stakeOf.get(execution, hotkey, coldkey, netuid);
  stakeOf.put(execution, [hotkey, coldkey, netuid], own - alpha);
  const total = subtensor.TotalHotkeyAlpha.get(execution, hotkey, netuid);
  subtensor.TotalHotkeyAlpha.put(execution, [hotkey, netuid], total - alpha);
  addAlphaOut(execution, netuid, -alpha);
}

/** More alpha is outstanding, whoever has it. */
export function addAlphaOut(execution: Execution, netuid: number, alpha: bigint): void {
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

/** `add_stake_limit`: the same, unless the price of alpha would rise above `limit_price`; then as much as keeps it, or nothing. */
export function addStakeLimit(
  execution: Execution,
  origin: Origin,
  args: Parameters<typeof addStake>[2] & {
    readonly limit_price: bigint;
    readonly allow_partial: boolean;
  },
): void {
  const { netuid, limit_price: limit, amount_staked: tao } = args;
  const most = netuid === ROOT_NETUID ? tao : taoUpToPrice(execution, netuid, limit);
  ensure(tao <= most || args.allow_partial, errors.SlippageTooHigh);
  addStake(execution, origin, { ...args, amount_staked: tao < most ? tao : most });
}

/** `remove_stake_limit`: the same, unless the price of alpha would fall below `limit_price`. */
export function removeStakeLimit(
  execution: Execution,
  origin: Origin,
  args: Parameters<typeof removeStake>[2] & {
    readonly limit_price: bigint;
    readonly allow_partial: boolean;
  },
): void {
  const { netuid, limit_price: limit, amount_unstaked: alpha } = args;
  const most = netuid === ROOT_NETUID ? alpha : alphaDownToPrice(execution, netuid, limit);
  ensure(alpha <= most || args.allow_partial, errors.SlippageTooHigh);
  removeStake(execution, origin, { ...args, amount_unstaked: alpha < most ? alpha : most });
}

/** TAO that moves the pool's price up to `limit`: the pool then holds √(product × price). */
function taoUpToPrice(view: StorageView, netuid: number, limit: bigint): bigint {
  const tao = subtensor.SubnetTAO.get(view, netuid);
  const alpha = subtensor.SubnetAlphaIn.get(view, netuid);
  return atLeastZero(squareRoot((tao * alpha * limit) / RAO_PER_TOKEN) - tao);
}

/** Alpha that moves the pool's price down to `limit`. */
function alphaDownToPrice(view: StorageView, netuid: number, limit: bigint): bigint {
  const tao = subtensor.SubnetTAO.get(view, netuid);
  const alpha = subtensor.SubnetAlphaIn.get(view, netuid);
  const price = limit > 0n ? limit : 1n;
  return atLeastZero(squareRoot((tao * alpha * RAO_PER_TOKEN) / price) - alpha);
}

const atLeastZero = (value: bigint): bigint => (value > 0n ? value : 0n);

/** Rounded down, by Newton's method. */
function squareRoot(value: bigint): bigint {
  if (value < 2n) return value;
  let root = 1n << BigInt((value.toString(2).length + 1) >> 1);
  for (;;) {
    const next = (root + value / root) >> 1n;
    if (next >= root) return root;
    root = next;
  }
}

/** `transfer_stake`: alpha becomes another coldkey's, on the same hotkey. Between two subnets it is swapped on the way. */
export function transferStake(
  execution: Execution,
  origin: Origin,
  args: {
    readonly destination_coldkey: Hex;
    readonly hotkey: Hex;
    readonly origin_netuid: number;
    readonly destination_netuid: number;
    readonly alpha_amount: bigint;
  },
): void {
  const coldkey = signerOf(origin);
  const { destination_coldkey: to, hotkey, alpha_amount: alpha } = args;
  const { origin_netuid: from, destination_netuid: into } = args;
  for (const netuid of [from, into]) {
    ensure(subtensor.NetworksAdded.get(execution, netuid), errors.SubnetNotExists);
    ensure(subtensor.TransferToggle.get(execution, netuid), errors.TransferDisallowed);
  }
  ensure(hasOwner(execution, hotkey), errors.HotKeyAccountNotExists);
  const own = stakeOf.get(execution, hotkey, coldkey, from);
  ensure(alpha > 0n && alpha <= own, errors.NotEnoughStakeToWithdraw);
  debitStake(execution, hotkey, coldkey, from, alpha);
  const isSwapped = from !== into;
  const tao = isSwapped
    ? swap(execution, from, "alpha", alpha)
    : (alpha * alphaPriceRao(execution, from)) / RAO_PER_TOKEN;
  ensure(tao >= STAKE_RAO_MIN, errors.AmountTooLow);
  creditStake(execution, hotkey, to, into, isSwapped ? swap(execution, into, "tao", tao) : alpha);
  execution.emit(events.StakeTransferred, [coldkey, to, hotkey, from, into, tao]);
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
  debitStake(execution, hotkey, coldkey, netuid, alpha);
  mint(execution, coldkey, tao);
  execution.emit(events.StakeRemoved, [coldkey, hotkey, tao, alpha, netuid, NO_FEE]);
}

/** Whether the hotkey was ever registered. */
export function hasOwner(view: StorageView, hotkey: Hex): boolean {
  return view.get(subtensor.Owner.keyOf(hotkey)) !== undefined;
}
