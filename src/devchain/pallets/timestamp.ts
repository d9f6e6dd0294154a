import { storageOf } from "../metadata/storage-item.ts";
import { openWriter, putByte, written } from "../scale/bytes.ts";
import { bytes, compactBig, encode, putCompact, u64 } from "../scale/codec.ts";
import { call, constant, DispatchFailure, entriesOf, type Pallet } from "./pallet.ts";

const INDEX = 2;
const SET_INDEX = 0;
/** Version 4, not signed. */
const INHERENT_VERSION = 4;

const items = { Now: storageOf("Timestamp").value("Now", u64, 0n) };

/** Storage of the Timestamp pallet: milliseconds since 1970. */
export const timestamp = items;

/** The first extrinsic of every block: length ‖ 0x04 ‖ Timestamp.set(Compact<u64>). */
export function timestampInherent(nowMs: bigint): Uint8Array {
  const out = openWriter();
  for (const byte of [INHERENT_VERSION, INDEX, SET_INDEX]) putByte(out, byte);
  putCompact(out, nowMs);
  return encode(bytes, written(out));
}

/** @param slotMs time between two blocks; half of it is what Substrate calls the minimum period. */
export const timestampPallet = (slotMs: number): Pallet => ({
  name: "Timestamp",
  index: INDEX,
  path: "pallet_timestamp",
  storage: entriesOf(items),
  calls: {
    // Only the block itself sets the time.
    set: call(
      SET_INDEX,
      { now: compactBig(u64) },
      {
        run() {
          throw new DispatchFailure({ type: "BadOrigin" }, "BadOrigin");
        },
      },
    ),
  },
  constants: [constant("MinimumPeriod", u64, BigInt(Math.floor(slotMs / 2)))],
});
