import { readFileSync, renameSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { EnclaveId, Hotkey } from "../core/ids.ts";
import type { Model } from "../core/models.ts";
import { discounted, priceToJson } from "../core/pricing.ts";
import {
  QUOTE_LIFE_SECONDS_MAX,
  quoteHashOf,
  quoteSigningBytes,
  type SignedQuote,
} from "../core/quote.ts";
import { makeFolder } from "../runtime/make-folder.ts";
import type { Closable } from "../runtime/shutdown.ts";

/** A quote is valid from a little before it was made, for gateways whose clock is behind. */
const CLOCK_SKEW_SECONDS = 30;
/** Seconds after which quotes are made anew: half of their life, so that one is always good for half an hour. */
const RENEW_SECONDS = QUOTE_LIFE_SECONDS_MAX / 2;
const CHECK_INTERVAL_MS = 10_000;
const COUNTER_FILE = "quote-seq";

/** What a relay promises to bear. */
export interface QuoteCapacity {
  readonly rpm: number;
  readonly tpm: number;
  readonly inflight: number;
}

export interface PriceQuotesOptions {
  readonly hotkey: Hotkey;
  /** sr25519 over the raw bytes. */
  sign(message: Uint8Array): Uint8Array;
  readonly models: readonly Model[];
  readonly discountBps: number;
  readonly capacity: QuoteCapacity;
  /** Folder of the counter. */
  readonly directory: string;
  /** The enclave that serves at these prices now. */
  enclave(): EnclaveId;
  nowMs(): number;
}

export interface PriceQuotes extends Closable {
  /** The newest quote of each product. */
  current(): readonly SignedQuote[];
  /** Whether `hash` names a quote of ours for that product which has not expired. */
  isOffered(hash: string, product: string): boolean;
  /** Makes new quotes now if the old ones are half way through their life or name another enclave. */
  renew(): void;
}

/**
 * Keeps signed floor prices for every product, and renews them in time.
 *
 * @throws Error if the counter cannot be read or written.
 */
export function openPriceQuotes(options: PriceQuotesOptions): PriceQuotes {
  makeFolder(options.directory);
  const counterPath = join(options.directory, COUNTER_FILE);
  /** Hash → product and the second in which it expires. */
  const offered = new Map<string, { readonly product: string; readonly exp: number }>();
  let quotes: readonly SignedQuote[] = [];
  let madeAtSeconds = 0;
  let madeFor: EnclaveId | undefined;
  let seq = readCounter(counterPath);

  const renew = (): void => {
    const now = Math.floor(options.nowMs() / 1_000);
    const enclave = options.enclave();
    if (madeFor === enclave && Math.abs(now - madeAtSeconds) < RENEW_SECONDS) return;
    // Rising across restarts: by the counter on disk, and by the clock should that be lost.
    seq = Math.max(seq + 1, now);
    writeCounter(counterPath, seq);
    const nbf = now - CLOCK_SKEW_SECONDS;
    const exp = nbf + QUOTE_LIFE_SECONDS_MAX;
    quotes = options.models.map((model) => {
      const quote = JSON.stringify({
        v: 1,
        hk: options.hotkey,
        ek: enclave,
        prod: model.id,
        route: "direct",
        price: priceToJson(discounted(model.retail, options.discountBps)),
        cap: options.capacity,
        nbf,
        exp,
        seq,
        min_payout_bps: 0,
      });
      offered.set(quoteHashOf(quote), { product: model.id, exp });
      return { quote, sig: Buffer.from(options.sign(quoteSigningBytes(quote))).toString("hex") };
    });
    for (const [hash, old] of offered) if (old.exp < now) offered.delete(hash);
    madeAtSeconds = now;
    madeFor = enclave;
  };

  renew();
  const timer = setInterval(renew, CHECK_INTERVAL_MS);
  timer.unref();
  return {
    current: () => quotes,
    isOffered: (hash, product) => {
      const quote = offered.get(hash);
      return quote?.product === product && quote.exp >= options.nowMs() / 1_000;
    },
    renew,
    close: async () => clearInterval(timer),
  };
}

function readCounter(path: string): number {
  let text: string;
  try {
    text = readFileSync(path, "utf8");
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return 0;
    throw error;
  }
  const seq = Number(text);
  return Number.isSafeInteger(seq) && seq >= 0 ? seq : 0;
}

/** Written beside and renamed, so that a crash leaves the old counter or the new one. */
function writeCounter(path: string, seq: number): void {
  writeFileSync(`${path}.new`, `${seq}\n`, { mode: 0o600 });
  renameSync(`${path}.new`, path);
}
