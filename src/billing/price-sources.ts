import { parseTaoPrice } from "../core/tao-price.ts";

/** What a source said. */
export interface PriceAnswer {
  readonly nanoUsdPerTao: bigint;
  /** When the source says that it was so, Unix milliseconds; undefined when it does not say. */
  readonly sourceMs?: number;
}

/** A place that knows what TAO trades at. */
export interface PriceSource {
  readonly name: string;
  /** Currency of its pair: a USDT pair counts only while it agrees with a USD pair. */
  readonly quote: "USD" | "USDT";
  /** Answers without a key. */
  readonly url: string;
  /** Reads its answer. @throws Error if the answer is not of the documented form. */
  read(answer: string): PriceAnswer;
}

/**
 * The sources, each with the format of its documentation:
 * Kraken "Get Ticker Information" (`c`: last trade closed, price first), CoinGecko "Coin Price by IDs", MEXC and Binance
 * spot v3 "Symbol Price Ticker"; Binance on its host for market data alone, which no region is shut out of.
 */
export const PRICE_SOURCES: readonly PriceSource[] = [
  {
    name: "kraken",
    quote: "USD",
    url: "https://api.kraken.com/0/public/Ticker?pair=TAOUSD",
    read: (answer) => {
      const { error, result } = objectOf(parseExactly(answer));
      if (!Array.isArray(error) || error.length > 0) throw new Error("Kraken reports an error");
      // The key is Kraken's own name of the pair, which may differ from the one that was asked for.
      const [ticker, ...others] = Object.values(objectOf(result));
      if (others.length > 0) throw new Error("the answer has more than one pair");
      const last = objectOf(ticker)["c"];
      return { nanoUsdPerTao: priceOf(Array.isArray(last) ? last[0] : undefined) };
    },
  },
  {
    name: "coingecko",
    quote: "USD",
    url: "https://api.coingecko.com/api/v3/simple/price?ids=bittensor&vs_currencies=usd&include_last_updated_at=true&precision=9",
    read: (answer) => {
      const { usd, last_updated_at: updated } = objectOf(
        objectOf(parseExactly(answer))["bittensor"],
      );
      if (typeof updated !== "string" || !/^\d{1,12}$/.test(updated))
        throw new Error("the answer does not say when it was updated");
      return { nanoUsdPerTao: priceOf(usd), sourceMs: Number(updated) * 1_000 };
    },
  },
  {
    name: "mexc",
    quote: "USDT",
    url: "https://api.mexc.com/api/v3/ticker/price?symbol=TAOUSDT",
    read: symbolPrice,
  },
  {
    name: "binance",
    quote: "USDT",
    url: "https://data-api.binance.vision/api/v3/ticker/price?symbol=TAOUSDT",
    read: symbolPrice,
  },
];

function symbolPrice(answer: string): PriceAnswer {
  const { symbol, price } = objectOf(parseExactly(answer));
  if (symbol !== "TAOUSDT") throw new Error("the answer is about another pair");
  return { nanoUsdPerTao: priceOf(price) };
}

/** JSON with every number as the digits it was written with: a double would round a price. */
function parseExactly(answer: string): unknown {
  const keepDigits = (_key: string, value: unknown, context?: { source?: string }): unknown =>
    typeof value === "number" ? context?.source : value;
  return JSON.parse(answer, keepDigits) as unknown;
}

function objectOf(value: unknown): Record<string, unknown> {
  if (typeof value !== "object" || value === null || Array.isArray(value))
    throw new Error("the answer has another form");
  return value as Record<string, unknown>;
}

function priceOf(value: unknown): bigint {
  const price = typeof value === "string" ? parseTaoPrice(value) : undefined;
  if (price === undefined) throw new Error("the answer has no usable price");
  return price;
}
