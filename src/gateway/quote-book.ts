import type { EnclaveId, Hotkey } from "../core/ids.ts";
import type { Price } from "../core/pricing.ts";
import {
  type PriceQuote,
  parseQuote,
  QUOTE_CHANGE_WINDOW_SECONDS,
  type QuoteChangeRefusal,
  type QuoteRefusal,
  quoteChangeRefusalOf,
  quoteHashOf,
  quoteRefusalOf,
  quoteSigningBytes,
  type SignedQuote,
} from "../core/quote.ts";

/** A quote that passed every check, ready to be named in grants. */
export interface AcceptedQuote {
  readonly quote: PriceQuote;
  readonly signed: SignedQuote;
  /** Base64url SHA-256 of the quote text. */
  readonly hash: string;
}

export type QuoteBookRefusal =
  | "malformed"
  | "wrong_miner"
  | "wrong_enclave"
  | "unknown_product"
  | "bad_signature"
  | "too_many_quotes"
  | QuoteRefusal
  | QuoteChangeRefusal;

export type QuoteVerdict =
  | { readonly ok: true; readonly accepted: AcceptedQuote; readonly isNew: boolean }
  | { readonly ok: false; readonly refusal: QuoteBookRefusal };

/** Who quotes: an attested relay. */
export interface QuoteSource {
  readonly hotkey: Hotkey;
  readonly enclave: EnclaveId;
}

/** The price quotes of all miners: what is in force, and ten minutes of what was. */
export interface QuoteBook {
  /**
   * Takes one quote of a miner's relay, or says why not. The quote before stays in force until it expires.
   *
   * @param from who must have made it: the attested relay's hotkey and enclave.
   */
  accept(signed: SignedQuote, from: QuoteSource, nowSeconds: number): QuoteVerdict;
  /** The newest quote of this boot of a miner's relay that is valid now: an earlier boot's prices bind nobody. */
  current(from: QuoteSource, product: string, nowSeconds: number): AcceptedQuote | undefined;
  /** Why the last quote of each product of a miner was refused; a product whose last quote was taken is absent. */
  refusalsOf(hotkey: Hotkey): ReadonlyMap<string, QuoteBookRefusal>;
  /** Drops the quotes of a miner that left the subnet. */
  forget(hotkey: Hotkey): void;
}

/** Quotes of one miner and product within the ten minutes; a renewal every few seconds is enough for anyone. */
export const QUOTES_IN_HISTORY_MAX = 128;
const SIGNATURE = /^(?:0x)?([0-9a-f]{128})$/i;

interface History {
  /** Oldest first; the last one is the newest ever, however old. */
  readonly quotes: AcceptedQuote[];
}

/**
 * An empty book. Bounded by miners × products: quotes for products that `retailOf` does not know are refused.
 *
 * @param deps `verifySignature` checks sr25519 by the hotkey over the given bytes; it costs about 2 ms, so it comes last.
 */
export function quoteBook(deps: {
  readonly verifySignature: (message: Uint8Array, signature: Uint8Array, hotkey: Hotkey) => boolean;
  readonly retailOf: (product: string) => Price | undefined;
}): QuoteBook {
  const miners = new Map<Hotkey, Map<string, History>>();
  const refusals = new Map<Hotkey, Map<string, QuoteBookRefusal>>();

  const isInForce = ({ quote }: AcceptedQuote, nowSeconds: number): boolean =>
    quote.nbf <= nowSeconds && nowSeconds <= quote.exp;

  const check = (
    signed: SignedQuote,
    quote: PriceQuote,
    from: QuoteSource,
    nowSeconds: number,
  ): QuoteVerdict => {
    if (quote.hk !== from.hotkey) return { ok: false, refusal: "wrong_miner" };
    if (quote.ek !== from.enclave) return { ok: false, refusal: "wrong_enclave" };
    const retail = deps.retailOf(quote.prod);
    if (retail === undefined) return { ok: false, refusal: "unknown_product" };
    const history = miners.get(quote.hk)?.get(quote.prod) ?? { quotes: [] };
    const hash = quoteHashOf(signed.quote);
    const refusal = quoteRefusalOf(quote, retail, nowSeconds);
    if (refusal !== undefined) return { ok: false, refusal };
    const known = history.quotes.find((accepted) => accepted.hash === hash);
    if (known !== undefined) return { ok: true, accepted: known, isNew: false };
    const recent = history.quotes.map((accepted) => accepted.quote);
    const change = quoteChangeRefusalOf(quote, recent);
    if (change !== undefined) return { ok: false, refusal: change };
    if (history.quotes.length >= QUOTES_IN_HISTORY_MAX)
      return { ok: false, refusal: "too_many_quotes" };
    const signature = SIGNATURE.exec(signed.sig)?.[1];
    const isSigned =
      signature !== undefined &&
      deps.verifySignature(
        quoteSigningBytes(signed.quote),
        Buffer.from(signature, "hex"),
        quote.hk,
      );
    if (!isSigned) return { ok: false, refusal: "bad_signature" };
    const accepted = { quote, signed: { quote: signed.quote, sig: signed.sig }, hash };
    keep(accepted, history);
    return { ok: true, accepted, isNew: true };
  };

  const keep = (accepted: AcceptedQuote, history: History): void => {
    const { hk, prod } = accepted.quote;
    history.quotes.push(accepted);
    const products = miners.get(hk) ?? new Map<string, History>();
    miners.set(hk, products.set(prod, history));
  };

  /** The newest stays, because the next one must follow on it; the others while they held within the window. */
  const prune = (hotkey: Hotkey, product: string, nowSeconds: number): void => {
    const quotes = miners.get(hotkey)?.get(product)?.quotes ?? [];
    for (;;) {
      const [oldest, next] = quotes;
      if (oldest === undefined || next === undefined) return;
      const heldUntil = Math.min(oldest.quote.exp, next.quote.nbf);
      if (heldUntil >= nowSeconds - QUOTE_CHANGE_WINDOW_SECONDS) return;
      quotes.shift();
    }
  };

  return {
    accept: (signed, from, nowSeconds) => {
      const quote = parseQuote(signed.quote);
      if (quote === undefined) return { ok: false, refusal: "malformed" };
      prune(quote.hk, quote.prod, nowSeconds);
      const verdict = check(signed, quote, from, nowSeconds);
      if (quote.hk !== from.hotkey || deps.retailOf(quote.prod) === undefined) return verdict;
      const refused = refusals.get(from.hotkey) ?? new Map<string, QuoteBookRefusal>();
      if (verdict.ok) refused.delete(quote.prod);
      else refused.set(quote.prod, verdict.refusal);
      refusals.set(from.hotkey, refused);
      return verdict;
    },
    current: ({ hotkey, enclave }, product, nowSeconds) =>
      miners
        .get(hotkey)
        ?.get(product)
        ?.quotes.findLast(
          (accepted) => accepted.quote.ek === enclave && isInForce(accepted, nowSeconds),
        ),
    refusalsOf: (hotkey) => refusals.get(hotkey) ?? new Map<string, QuoteBookRefusal>(),
    forget: (hotkey) => {
      miners.delete(hotkey);
      refusals.delete(hotkey);
    },
  };
}
