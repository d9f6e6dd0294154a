/**
 * The epoch of a subnet: who is paid for the blocks since the last one.
 *
 * It is the real chain's without consensus clipping, bonds and several mechanisms: incentive is the average of the
 * permitted validators' weight rows by stake, dividends follow stake. All arithmetic is on integers.
 *
 * @module
 */
import type { Execution } from "../pallet.ts";
import { isEpochDue } from "./epoch-schedule.ts";
import { subtensorEvents as events } from "./events.ts";
import { addAlphaOut, alphaPriceRao, creditStake } from "./stake.ts";
import { FIXED_ONE, RAO_PER_TOKEN, storageIndexOf, subnetsOf, subtensor } from "./storage.ts";

/** Alpha that a subnet emits per block. */
const ALPHA_PER_BLOCK_RAO = RAO_PER_TOKEN;
const OWNER_CUT_PERCENT = 18n;
const U16_MAX = 65_535n;
/** Digits kept of a validator's row before it is weighed by stake. */
const ROW_SCALE = 1n << 32n;

/** Runs the epochs that are due at the beginning of a block, before its extrinsics. */
export function runDueEpochs(execution: Execution): void {
  for (const netuid of subnetsOf(execution)) {
    if (isEpochDue(execution, netuid)) runEpoch(execution, netuid);
    const blocks = BigInt(execution.number) - subtensor.LastEpochBlock.get(execution, netuid);
    subtensor.BlocksSinceLastStep.put(execution, [netuid], blocks);
  }
}

function runEpoch(execution: Execution, netuid: number): void {
  const block = BigInt(execution.number);
  const blocks = block - subtensor.LastEpochBlock.get(execution, netuid);
  const emitted = blocks * ALPHA_PER_BLOCK_RAO;
  const ownerCut = (emitted * OWNER_CUT_PERCENT) / 100n;
  const minerHalf = (emitted - ownerCut) / 2n;
  const validatorHalf = emitted - ownerCut - minerHalf;

  const { stakes, permits, ranks } = rank(execution, netuid);
  const ranked = sum(ranks);
  const incentives = ranks.map((one) => (ranked === 0n ? 0n : (minerHalf * one) / ranked));
  // With no weights at all the validators get the miners' half too, as on the real chain.
  const dividendPool = ranked === 0n ? minerHalf + validatorHalf : validatorHalf;
  const earning = stakes.map((stake, uid) => (permits[uid] === true ? stake : 0n));
  const earningStake = sum(earning);
  const dividends = earning.map((stake) =>
    earningStake === 0n ? 0n : (dividendPool * stake) / earningStake,
  );

  const at = [netuid] as const;
  subtensor.Incentive.put(
    execution,
    at,
    ranks.map((one) => shareOf(one, ranked)),
  );
  subtensor.Dividends.put(
    execution,
    at,
    earning.map((one) => shareOf(one, earningStake)),
  );
  subtensor.Emission.put(
    execution,
    at,
    incentives.map((incentive, uid) => incentive + (dividends[uid] ?? 0n)),
  );
  subtensor.SubnetAlphaOutEmission.put(execution, at, ALPHA_PER_BLOCK_RAO);
  subtensor.SubnetMovingPrice.put(execution, at, {
    bits: (alphaPriceRao(execution, netuid) * FIXED_ONE) / RAO_PER_TOKEN,
  });
  pay(execution, netuid, incentives, dividends, ownerCut);
  subtensor.ValidatorPermit.put(execution, at, permitsOf(execution, netuid));
  subtensor.LastEpochBlock.put(execution, at, block);
  subtensor.PendingEpochAt.put(execution, at, 0n);
  subtensor.SubnetEpochIndex.put(
    execution,
    at,
    subtensor.SubnetEpochIndex.get(execution, netuid) + 1n,
  );
  execution.emit(events.IncentiveAlphaEmittedToMiners, { netuid, emissions: incentives });
}

/** Each neuron's part of the permitted validators' weights, in units that only compare with each other. */
function rank(
  execution: Execution,
  netuid: number,
): { stakes: bigint[]; permits: readonly boolean[]; ranks: bigint[] } {
  const neurons = subtensor.SubnetworkN.get(execution, netuid);
  const index = storageIndexOf(netuid, 0);
  const permits = subtensor.ValidatorPermit.get(execution, netuid);
  const updates = subtensor.LastUpdate.get(execution, index);
  const uids = Array.from({ length: neurons }, (_, uid) => uid);
  const stakes = uids.map((uid) =>
    subtensor.TotalHotkeyAlpha.get(execution, subtensor.Keys.get(execution, netuid, uid), netuid),
  );
  const registered = uids.map((uid) => subtensor.BlockAtRegistration.get(execution, netuid, uid));
  const owner = subtensor.Uids.get(
    execution,
    netuid,
    subtensor.SubnetOwnerHotkey.get(execution, netuid),
  );
  const ranks = uids.map(() => 0n);
  for (const validator of uids) {
    const stake = stakes[validator] ?? 0n;
    if (permits[validator] !== true || stake === 0n) continue;
    const updated = updates[validator] ?? 0n;
    const row = subtensor.Weights.get(execution, index, validator).filter(
      ([uid]) =>
        // A weight that is older than the neuron was meant for the one before it.
        updated > (registered[uid] ?? 0n) && (uid !== validator || validator === owner),
    );
    const total = row.reduce((weights, [, weight]) => weights + weight, 0);
    if (total === 0) continue;
    for (const [uid, weight] of row) {
      const part = (stake * BigInt(weight) * ROW_SCALE) / BigInt(total);
      ranks[uid] = (ranks[uid] ?? 0n) + part;
    }
  }
  return { stakes, permits, ranks };
}

/**
 * Incentive of the owner's hotkeys is withheld: it is in the event and nobody gets it. Burned, it stays outstanding; recycled,
 * it does not.
 *
 * @see subtensor, pallets/subtensor/src/coinbase/run_coinbase.rs, distribute_dividends_and_incentives
 */
function pay(
  execution: Execution,
  netuid: number,
  incentives: readonly bigint[],
  dividends: readonly bigint[],
  ownerCut: bigint,
): void {
  const owner = subtensor.SubnetOwner.get(execution, netuid);
  let withheld = 0n;
  for (const [uid, incentive] of incentives.entries()) {
    const hotkey = subtensor.Keys.get(execution, netuid, uid);
    const coldkey = subtensor.Owner.get(execution, hotkey);
    if (coldkey === owner) withheld += incentive;
    const earned = (coldkey === owner ? 0n : incentive) + (dividends[uid] ?? 0n);
    if (earned > 0n) creditStake(execution, hotkey, coldkey, netuid, earned);
  }
  const ownerHotkey = subtensor.SubnetOwnerHotkey.get(execution, netuid);
  creditStake(execution, ownerHotkey, owner, netuid, ownerCut);
  const isBurned = subtensor.RecycleOrBurn.get(execution, netuid).type === "Burn";
  if (isBurned) addAlphaOut(execution, netuid, withheld);
  const all = sum(incentives);
  const bits = all === 0n ? 0n : (withheld * FIXED_ONE) / all;
  subtensor.MinerBurned.put(execution, [netuid], { bits });
}

/** The neurons with most stake, as many as may validate. */
function permitsOf(execution: Execution, netuid: number): boolean[] {
  const neurons = subtensor.SubnetworkN.get(execution, netuid);
  const stakes = Array.from({ length: neurons }, (_, uid) => ({
    uid,
    stake: subtensor.TotalHotkeyAlpha.get(
      execution,
      subtensor.Keys.get(execution, netuid, uid),
      netuid,
    ),
  }));
  const permitted = new Set(
    stakes
      .filter(({ stake }) => stake > 0n)
      .toSorted((a, b) => (a.stake === b.stake ? a.uid - b.uid : a.stake > b.stake ? -1 : 1))
      .slice(0, subtensor.MaxAllowedValidators.get(execution, netuid))
      .map(({ uid }) => uid),
  );
  return stakes.map(({ uid }) => permitted.has(uid));
}

function sum(values: readonly bigint[]): bigint {
  return values.reduce((total, value) => total + value, 0n);
}

/** `part` of `whole` in 1/65535, rounded down. */
function shareOf(part: bigint, whole: bigint): number {
  return whole === 0n ? 0 : Number((part * U16_MAX) / whole);
}
