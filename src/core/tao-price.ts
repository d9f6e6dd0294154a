import { formatNano, parseNano } from "./money.ts";

/** Genesis of Bittensor's main network, where a made-up price would give away real TAO's worth. */
const FINNEY_GENESIS = "0x2f0555cc76fc2840a25a6ea3b9637146806f1f44b090c175ffde2a7e5ab36c03";

const FIXED = "fixed:";
/** 1,000,000 USD per TAO: above it, a deposit's product could leave int8. */
const NANO_USD_PER_TAO_MAX = 1_000_000_000_000_000n;

/** What a setting with a fixed price must look like; completes "must be …". */
export const FIXED_PRICE_FORM = `like ${FIXED}400.00 (USD per TAO, at most ${formatNano(NANO_USD_PER_TAO_MAX)})`;

/**
 * Parses US dollars per TAO, such as "412.34", into nano-USD per TAO, exactly.
 *
 * @returns undefined for anything else: signs, exponents, more than 9 decimals, zero, more than a million dollars.
 */
export function parseTaoPrice(text: string): bigint | undefined {
  const price = parseNano(text);
  return price === undefined || price === 0n || price > NANO_USD_PER_TAO_MAX ? undefined : price;
}

/** The price of `fixed:400.00`, nano-USD per TAO. @returns undefined if the text is something else. */
export function parseFixedPrice(text: string): bigint | undefined {
  return text.startsWith(FIXED) ? parseTaoPrice(text.slice(FIXED.length)) : undefined;
}

/** Whether a price may be made up on the chain with this genesis: on any but Bittensor's main network. */
export function allowsFixedPrice(genesisHash: string): boolean {
  return genesisHash.toLowerCase() !== FINNEY_GENESIS;
}
