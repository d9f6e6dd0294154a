import { accountId } from "../metadata/runtime-types.ts";
import type { Hex } from "../scale/bytes.ts";
import { u8, u64 } from "../scale/codec.ts";
import { constant, type Execution, type Pallet, palletEvents } from "./pallet.ts";

const INDEX = 6;
const OPERATIONAL_FEE_MULTIPLIER = 5;
/** About what a transfer costs on the real chain; there it follows the weight of the call. */
const BASE_FEE_RAO = 125_000n;
const FEE_RAO_PER_BYTE = 1n;

const events = palletEvents(INDEX, {
  TransactionFeePaid: [0, { who: accountId, actual_fee: u64, tip: u64 }],
});

/**
 * The fee of an extrinsic in rao, without tip.
 *
 * @param bytes length of the whole extrinsic, its length prefix included.
 */
export function feeOf(bytes: number, feeless: boolean): bigint {
  return feeless ? 0n : BASE_FEE_RAO + BigInt(bytes) * FEE_RAO_PER_BYTE;
}

/** @param fee with the tip. */
export function emitFeePaid(execution: Execution, who: Hex, fee: bigint, tip: bigint): void {
  execution.emit(events.TransactionFeePaid, { who, actual_fee: fee, tip });
}

export const transactionPaymentPallet: Pallet = {
  name: "TransactionPayment",
  index: INDEX,
  path: "pallet_transaction_payment",
  events,
  constants: [constant("OperationalFeeMultiplier", u8, OPERATIONAL_FEE_MULTIPLIER)],
};
