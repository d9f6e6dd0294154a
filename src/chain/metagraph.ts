import type { Codec } from "@polkadot/types/types";
import type { Coldkey, Hotkey, Netuid, Uid } from "../core/ids.ts";
import type { BlockState, StorageRead } from "./block-state.ts";
import { ChainError } from "./chain-error.ts";
import { accountOf, bigintOf, booleanOf, listOf, numberOf } from "./codec-values.ts";

/** Slots in one subnet; the chain's own limit is 256 (`MaxAllowedUids`). */
const NEURONS_MAX = 4_096;
/** Subnets on one chain; netuids are u16, and there were 129 in 2026. */
const SUBNETS_MAX = 4_096;
const MAX_WEIGHTS_LIMIT_DEFAULT = 65_535;
const PALLET = "subtensorModule";

/** One slot of a subnet. */
export interface Neuron {
  readonly uid: Uid;
  readonly hotkey: Hotkey;
  readonly coldkey: Coldkey;
  /** Alpha staked to the hotkey in this subnet (`TotalHotkeyAlpha`), in rao of alpha. */
  readonly stakeRao: bigint;
  readonly validatorPermit: boolean;
  /** u16: share of the last epoch's miner emission, of 65535. */
  readonly incentive: number;
  /** Block of the last set_weights (or commit), and of the registration. */
  readonly lastUpdate: number;
}

/** A subnet after one block. Everything in it was read at the same block hash. */
export interface Metagraph {
  readonly netuid: Netuid;
  readonly blockHash: string;
  readonly block: number;
  /** Epochs that have run (`SubnetEpochIndex`). */
  readonly epochIndex: number;
  readonly lastEpochBlock: number;
  /** Blocks per epoch. */
  readonly tempo: number;
  readonly ownerHotkey: Hotkey;
  readonly ownerColdkey: Coldkey;
  /** By uid, without gaps. */
  readonly neurons: readonly Neuron[];
  readonly weightsVersionKey: bigint;
  /** Blocks between two set_weights of one hotkey. */
  readonly weightsRateLimitBlocks: number;
  readonly commitRevealEnabled: boolean;
  readonly revealPeriodEpochs: number;
  readonly minAllowedWeights: number;
  /** u16: most that one weight may be. */
  readonly maxWeightsLimit: number;
}

/** Where a subnet is in its epochs. */
export interface EpochPosition {
  readonly index: number;
  readonly lastEpochBlock: number;
  readonly tempo: number;
}

export interface SubnetName {
  readonly netuid: Netuid;
  readonly ownerHotkey: Hotkey;
}

/** @throws ChainError "SubnetNotExists" */
export async function readMetagraph(state: BlockState, netuid: Netuid): Promise<Metagraph> {
  const reader = recordReader(state, netuid);
  const hasMaxWeights = state.runtime.has([PALLET, "maxWeightsLimit"]);
  const subnet = await reader([
    "networksAdded",
    "subnetworkN",
    "subnetEpochIndex",
    "lastEpochBlock",
    "tempo",
    "subnetOwnerHotkey",
    "subnetOwner",
    "weightsVersionKey",
    "weightsSetRateLimit",
    "commitRevealWeightsEnabled",
    "revealPeriodEpochs",
    "minAllowedWeights",
    "validatorPermit",
    "incentive",
    "lastUpdate",
    // Newer runtimes made it a constant.
    ...(hasMaxWeights ? ["maxWeightsLimit"] : []),
  ]);
  requireSubnet(subnet["networksAdded"], netuid);
  const count = countOf(subnet["subnetworkN"]);
  const hotkeys = await readHotkeys(state, netuid, count);
  const owned = await state.read([
    ...hotkeys.map((hotkey) => ({ item: [PALLET, "owner"] as const, keys: [hotkey] })),
    ...hotkeys.map((hotkey) => ({
      item: [PALLET, "totalHotkeyAlpha"] as const,
      keys: [hotkey, netuid],
    })),
  ]);
  const permits = listOf(subnet["validatorPermit"]);
  const incentives = listOf(subnet["incentive"]);
  const updates = listOf(subnet["lastUpdate"]);
  return {
    netuid,
    blockHash: state.head.hash,
    block: state.head.number,
    epochIndex: numberOf(subnet["subnetEpochIndex"]),
    lastEpochBlock: numberOf(subnet["lastEpochBlock"]),
    tempo: numberOf(subnet["tempo"]),
    ownerHotkey: accountOf(subnet["subnetOwnerHotkey"]),
    ownerColdkey: accountOf(subnet["subnetOwner"]),
    neurons: hotkeys.map((hotkey, uid) => ({
      uid: uid as Uid,
      hotkey,
      coldkey: accountOf(owned[uid]),
      stakeRao: bigintOf(owned[count + uid]),
      // The vectors grow at the next epoch in some runtimes; a slot without a value has none yet.
      validatorPermit: permits[uid] === undefined ? false : booleanOf(permits[uid]),
      incentive: incentives[uid] === undefined ? 0 : numberOf(incentives[uid]),
      lastUpdate: updates[uid] === undefined ? 0 : numberOf(updates[uid]),
    })),
    weightsVersionKey: bigintOf(subnet["weightsVersionKey"]),
    weightsRateLimitBlocks: numberOf(subnet["weightsSetRateLimit"]),
    commitRevealEnabled: booleanOf(subnet["commitRevealWeightsEnabled"]),
    revealPeriodEpochs: numberOf(subnet["revealPeriodEpochs"]),
    minAllowedWeights: numberOf(subnet["minAllowedWeights"]),
    maxWeightsLimit: hasMaxWeights
      ? numberOf(subnet["maxWeightsLimit"])
      : MAX_WEIGHTS_LIMIT_DEFAULT,
  };
}

/** Three values in one request. @throws ChainError "SubnetNotExists" */
export async function readEpoch(state: BlockState, netuid: Netuid): Promise<EpochPosition> {
  const subnet = await recordReader(
    state,
    netuid,
  )(["networksAdded", "subnetEpochIndex", "lastEpochBlock", "tempo"]);
  requireSubnet(subnet["networksAdded"], netuid);
  return {
    index: numberOf(subnet["subnetEpochIndex"]),
    lastEpochBlock: numberOf(subnet["lastEpochBlock"]),
    tempo: numberOf(subnet["tempo"]),
  };
}

/** Hotkeys by uid. */
export async function readHotkeys(
  state: BlockState,
  netuid: Netuid,
  count?: number,
): Promise<readonly Hotkey[]> {
  const known =
    count ?? countOf((await recordReader(state, netuid)(["subnetworkN"]))["subnetworkN"]);
  const keys = await state.read(eachUid("keys", netuid, known));
  return keys.map(accountOf);
}

/** Weights that each uid set, as (uid, u16 weight); uids that set none are left out. Mechanism 0 only. */
export async function readWeights(
  state: BlockState,
  netuid: Netuid,
): Promise<ReadonlyMap<number, ReadonlyArray<readonly [number, number]>>> {
  const subnet = await recordReader(state, netuid)(["networksAdded", "subnetworkN"]);
  requireSubnet(subnet["networksAdded"], netuid);
  const rows = await state.read(eachUid("weights", netuid, countOf(subnet["subnetworkN"])));
  const weights = new Map<number, ReadonlyArray<readonly [number, number]>>();
  for (const [uid, row] of rows.entries()) {
    const pairs = listOf(row).map((pair) => {
      const [target, weight] = listOf(pair);
      return [numberOf(target), numberOf(weight)] as const;
    });
    if (pairs.length > 0) weights.set(uid, pairs);
  }
  return weights;
}

/** Every subnet and its owner's hotkey. */
export async function readSubnets(state: BlockState): Promise<readonly SubnetName[]> {
  const item = [PALLET, "networksAdded"] as const;
  const keys = await state.keysUnder(state.runtime.storagePrefix(item), SUBNETS_MAX);
  // The key ends with the netuid itself, u16 little-endian: the hasher is Identity.
  const netuids = keys.map((key) => Buffer.from(key.slice(-4), "hex").readUInt16LE());
  const values = await state.read([
    ...netuids.map((netuid) => ({ item, keys: [netuid] })),
    ...netuids.map((netuid) => ({
      item: [PALLET, "subnetOwnerHotkey"] as const,
      keys: [netuid],
    })),
  ]);
  return netuids
    .map((netuid, i) => ({
      netuid: netuid as Netuid,
      exists: booleanOf(values[i]),
      ownerHotkey: accountOf(values[netuids.length + i]),
    }))
    .filter(({ exists }) => exists)
    .map(({ netuid, ownerHotkey }) => ({ netuid, ownerHotkey }))
    .sort((a, b) => a.netuid - b.netuid);
}

function eachUid(item: string, netuid: Netuid, count: number): StorageRead[] {
  return Array.from({ length: count }, (_, uid) => ({
    item: [PALLET, item] as const,
    keys: [netuid, uid],
  }));
}

/** Reads items that are keyed by the netuid alone. */
function recordReader(state: BlockState, netuid: Netuid) {
  return async (items: readonly string[]): Promise<Record<string, Codec | undefined>> => {
    const values = await state.read(
      items.map((item) => ({ item: [PALLET, item] as const, keys: [netuid] })),
    );
    return Object.fromEntries(items.map((item, i) => [item, values[i]]));
  };
}

function requireSubnet(added: Codec | undefined, netuid: Netuid): void {
  if (!booleanOf(added)) throw new ChainError("SubnetNotExists", `there is no subnet ${netuid}`);
}

function countOf(subnetworkN: Codec | undefined): number {
  const count = numberOf(subnetworkN);
  if (count > NEURONS_MAX) throw new ChainError("Overloaded", `${count} neurons in one subnet`);
  return count;
}
