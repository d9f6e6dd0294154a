/** When a subnet's epochs are. */
import type { StorageView } from "../../metadata/storage-item.ts";
import type { BlockView } from "../pallet.ts";
import { subtensor } from "./storage.ts";

/** First block at or after which the next epoch runs; undefined for a subnet without epochs. */
export function nextEpochBlock(view: StorageView, netuid: number): bigint | undefined {
  const tempo = subtensor.Tempo.get(view, netuid);
  if (!subtensor.NetworksAdded.get(view, netuid) || tempo === 0) return undefined;
  const regular = subtensor.LastEpochBlock.get(view, netuid) + BigInt(tempo);
  const pending = subtensor.PendingEpochAt.get(view, netuid);
  return pending > 0n && pending < regular ? pending : regular;
}

/** Whether an epoch runs in this block, and has not yet. */
export function isEpochDue(view: BlockView, netuid: number): boolean {
  const due = nextEpochBlock(view, netuid);
  return due !== undefined && BigInt(view.number) >= due;
}

/** The epoch that a commit of now belongs to: the next one if it begins in this block. */
export function currentEpoch(view: BlockView, netuid: number): bigint {
  const index = subtensor.SubnetEpochIndex.get(view, netuid);
  return isEpochDue(view, netuid) ? index + 1n : index;
}
