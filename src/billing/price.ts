import { formatNano, parseNano } from "../core/money.ts";
import { ConfigError } from "../runtime/settings.ts";

/** Genesis of Bittensor's main network, where a made-up price would give away real TAO's worth. */
const FINNEY_GENESIS = "0x2f0555cc76fc2840a25a6ea3b9637146806f1f44b090c175ffde2a7e5ab36c03";

const FIXED = "fixed:";
/** 1,000,000 USD per TAO: above it, a deposit's product could leave int8. */
const RATE_NANO_USD_MAX = 1_000_000_000_000_000n;

/** Nano-USD per TAO at a time (Unix milliseconds); undefined while no trustworthy price is known. */
export type RateSource = (timestampMs: number) => bigint | undefined;

/**
 * A price that never changes, from `fixed:400.00` (USD per TAO). For local networks and tests.
 *
 * @throws ConfigError if the text is something else, or the chain is Bittensor's main network.
 */
export function fixedRate(text: string, genesisHash: string): RateSource {
  const rate = text.startsWith(FIXED) ? parseNano(text.slice(FIXED.length)) : undefined;
  if (rate === undefined || rate === 0n || rate > RATE_NANO_USD_MAX) {
    throw new ConfigError(
      `The price source ${JSON.stringify(text)} is not understood; it looks like fixed:400.00 (USD per TAO, at most ${formatNano(RATE_NANO_USD_MAX)}).`,
    );
  }
  if (genesisHash === FINNEY_GENESIS) {
    throw new ConfigError(
      "A fixed price is for local networks; this chain is Bittensor's main network.",
    );
  }
  return () => rate;
}
