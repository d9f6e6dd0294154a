import { u64 } from "../scale/codec.ts";
import { constant, type Pallet } from "./pallet.ts";

/** Length of the real chain's slots, in milliseconds; one block each. */
export const SLOT_MS = 12_000n;

/** One process makes all blocks here. What clients read is the time between two, to tell blocks in minutes. */
export const auraPallet: Pallet = {
  name: "Aura",
  index: 3,
  path: "pallet_aura",
  constants: [constant("SlotDuration", u64, SLOT_MS)],
};
