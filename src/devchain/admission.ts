/** Which transactions may wait in the pool, and which may be in a block. */
import { decodeExtrinsic, type Extrinsic } from "./extrinsics.ts";
import { EXISTENTIAL_DEPOSIT_RAO, freeOf } from "./pallets/balances.ts";
import type { BlockView, DecodedCall } from "./pallets/pallet.ts";
import { customErrorOf } from "./pallets/subtensor/events.ts";
import { system } from "./pallets/system.ts";
import { feeOf } from "./pallets/transaction-payment.ts";
import { invalidTransaction, PoolError } from "./pool.ts";
import { ScaleError } from "./scale/bytes.ts";
import type { Codec } from "./scale/codec.ts";

/** Longest extrinsic. */
const EXTRINSIC_BYTES_MAX = 128 << 10;

/** Reads an extrinsic that came from outside. @throws PoolError */
export function admitted(bytes: Uint8Array, callCodec: Codec<DecodedCall>): Extrinsic {
  if (bytes.length > EXTRINSIC_BYTES_MAX)
    throw invalidTransaction("Transaction would exhaust the block limits");
  try {
    return decodeExtrinsic(bytes, callCodec);
  } catch (error) {
    if (!(error instanceof ScaleError)) throw error;
    throw new PoolError(1001, "Extrinsic has invalid format", error.message);
  }
}

/**
 * What speaks against a transaction, its signature and era aside: a used nonce, a fee that cannot be paid, the guard
 * of its call. A nonce that is too high only means that it waits.
 */
export function objectionTo(extrinsic: Extrinsic, view: BlockView): PoolError | undefined {
  const { signer, nonce, call, tip, bytes } = extrinsic;
  if (nonce < system.Account.get(view, signer).nonce)
    return invalidTransaction("Transaction is outdated");
  const fee = feeOf(bytes.length, call.feeless) + tip;
  // A hotkey without a balance may send free calls, as the real runtime's own nonce check allows.
  if (fee > 0n && freeOf(view, signer) < fee + EXISTENTIAL_DEPOSIT_RAO)
    return invalidTransaction("Inability to pay some fees (e.g. account balance too low)");
  const refused = guardOf(extrinsic, view);
  return refused && invalidTransaction(`Custom error: ${customErrorOf(refused.name)}`);
}

/** What the call's own guard says; storage that it cannot read refuses everything. */
function guardOf(
  { call, signer }: Extrinsic,
  view: BlockView,
): { readonly name: string } | undefined {
  try {
    return call.guard(view, signer);
  } catch (error) {
    if (error instanceof ScaleError) return error;
    throw error;
  }
}
