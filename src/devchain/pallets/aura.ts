import { u64 } from "../scale/codec.ts";
import { constant, type Pallet } from "./pallet.ts";

/** Length of the real chain's slots, in milliseconds; one block each. */
export const SLOT_MS = 12_000;

/**
 * One process makes all blocks here. What clients read is the time between two: they reckon with it when a block, an epoch or
 * the round of a timelocked commit will come.
 */
export function auraPallet(slotMs: number): Pallet {
  return {
    name: "Aura",
    index: 3,
    path: "pallet_aura",
    constants: [constant("SlotDuration", u64, BigInt(slotMs))],
  };
}
