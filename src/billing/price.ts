import type { Queryable } from "../runtime/database.ts";
import type { Closable } from "../runtime/shutdown.ts";
import type { NoPrice } from "./decide-price.ts";

/**
 * Nano-USD per TAO at the time of a block (Unix milliseconds), read with the transaction that credits by it, so that every
 * process and every repetition gets the same. undefined while it is not known.
 */
export type RateSource = (
  tx: Queryable,
  timestampMs: number,
) => bigint | undefined | Promise<bigint | undefined>;

/** What TAO is worth at this moment. */
export type PresentPrice =
  | {
      /** fixed: it was set, and never changes. live: sources agree on it. */
      readonly state: "fixed" | "live";
      readonly nanoUsdPerTao: bigint;
      /** Names of the sources that made it. */
      readonly sources: readonly string[];
    }
  | {
      /** There is no price: deposits wait for one, and nothing is quoted. */
      readonly state: "frozen";
      /** starting: the sources have not been asked yet. unreachable: they, or the database, could not be asked of late. */
      readonly reason: NoPrice | "starting" | "unreachable";
      readonly sinceMs: number;
    };

/** The TAO price of a gateway. */
export interface TaoPrice extends Closable {
  present(): PresentPrice;
  readonly rateOf: RateSource;
  /**
   * Sets the price of this minute by hand.
   *
   * @returns false if the minute has a price already. @throws Error if the price is fixed.
   */
  setByHand(nanoUsdPerTao: bigint): Promise<boolean>;
}

/** A price that never changes. For local networks and tests. */
export function fixedPrice(nanoUsdPerTao: bigint): TaoPrice {
  return {
    present: () => ({ state: "fixed", nanoUsdPerTao, sources: [] }),
    rateOf: () => nanoUsdPerTao,
    setByHand: () => Promise.reject(new Error("the price is fixed")),
    close: async () => undefined,
  };
}
