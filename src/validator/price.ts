import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { lowerMedianOf } from "../core/median.ts";
import { NANO } from "../core/money.ts";

const SAMPLES = 16;
/** Blocks before the epoch's end among which samples are chosen; full nodes keep the state of 256. */
export const PRICE_WINDOW_BLOCKS = 150;
/** A price falls by at most a tenth per epoch. It rises freely: see `alphaPriceOf`. */
const FLOOR_BPS = 9_000n;
const BASIS_POINTS = 10_000n;
const DOMAIN = Buffer.from("price");

/**
 * The blocks at which the alpha price of an epoch is read: chosen by the hash of the block that ran it, so that nobody
 * knows beforehand when to push the price.
 *
 *   bₖ = block − (u64be(SHA-256(seed ‖ "price" ‖ u8 k)[0..8]) mod window),  seed = SHA-256(block hash),  k = 0…15
 *
 * The window is 150 blocks, or as many as a young chain has. A block may be chosen more than once.
 */
export function priceSampleBlocks(block: number, blockHash: string): number[] {
  assert(block >= 1 && /^0x[0-9a-f]{64}$/.test(blockHash), "an epoch ends with a block");
  const seed = createHash("sha256")
    .update(Buffer.from(blockHash.slice(2), "hex"))
    .digest();
  const window = BigInt(Math.min(PRICE_WINDOW_BLOCKS, block));
  return Array.from({ length: SAMPLES }, (_, k) => {
    const digest = createHash("sha256").update(seed).update(DOMAIN).update(Buffer.of(k)).digest();
    return block - Number(digest.readBigUInt64BE(0) % window);
  });
}

/**
 * Nano-USD per alpha at an epoch.
 *
 * One-sided on purpose: a price that is too low pays too much alpha, so falls are limited and whoever pushes the price
 * down must hold it down; a rise is followed at once, since lagging behind a rally would make wash usage profitable.
 *
 * @param samplesRao rao of TAO per alpha at the sample blocks. Zeros (the subnet did not exist yet) do not count.
 * @param nanoUsdPerTao the TAO rate.
 * @param previous the epoch before's price; 0 before the first.
 */
export function alphaPriceOf(
  samplesRao: readonly bigint[],
  nanoUsdPerTao: bigint,
  previous: bigint,
): bigint {
  const median = lowerMedianOf(samplesRao.filter((sample) => sample > 0n)) ?? 0n;
  const raw = (median * nanoUsdPerTao) / NANO;
  const floor = (previous * FLOOR_BPS) / BASIS_POINTS;
  return raw > floor ? raw : floor;
}
