import { RouterError } from "../core/errors.ts";
import type { Hotkey } from "../core/ids.ts";
import { MODELS, type Model } from "../core/models.ts";
import { type Price, priceToJson } from "../core/pricing.ts";
import type { SignedQuote } from "../core/quote.ts";
import type { RequestFacts } from "../dialects/read-request.ts";
import type { Logger } from "../runtime/logger.ts";
import type { DirectoryEntry, MinerDirectory } from "./miner-directory.ts";
import { minerHealthBook } from "./miner-health.ts";
import type { ListedModel } from "./model-list.ts";
import { inputTokensHeldOf, priceCeilingOf, type RequestSize } from "./price-ceiling.ts";
import type { AcceptedQuote, QuoteBook } from "./quote-book.ts";
import type { RelayConnection } from "./relay-connection.ts";
import type { MinerFacts } from "./routes/network.ts";
import { type Offer, selectMiners } from "./select-miner.ts";
import {
  type Candidate,
  MINERS_PER_REQUEST_MAX,
  type Outcome,
  type Plan,
} from "./serve-request.ts";

/** Output tokens that a request is expected to use when miners are compared by cost. */
const EXPECTED_OUTPUT_TOKENS = 512;
/** Share of the claimed pay that miners get, basis points; below the whole only when the pool is over-subscribed. */
const PAYOUT_BPS = 10_000;
/** Quotes in one answer of a relay that are looked at. */
const QUOTES_PER_RELAY_MAX = 256;

/** Decides who serves, and learns from how it went. */
export interface MinerRouter {
  /** @throws RouterError `no_miner_available`, saying which filter removed how many. */
  plan(facts: RequestFacts, model: Model, bodyBytes: number): Plan;
  /** An attempt starts. @returns how to tell how it went; only the first call counts. */
  started(candidate: Candidate, model: Model): (outcome: Outcome) => void;
  /** Takes a relay's answer to `GET /v1/quotes`. */
  acceptQuotes(entry: DirectoryEntry, body: Buffer): Promise<void>;
  listedModels(): ListedModel[];
  miners(): MinerFacts[];
}

interface MinerOffer extends Offer {
  readonly relay: RelayConnection | undefined;
  readonly accepted: AcceptedQuote | undefined;
}

export function minerRouter(deps: {
  readonly directory: Pick<MinerDirectory, "entries">;
  readonly quotes: QuoteBook;
  /** Keeps a quote for those who check receipts later. A quote is in force only once this is done. */
  readonly keepQuote: (hash: string, quote: SignedQuote) => Promise<void>;
  readonly markupBps: number;
  readonly log: Logger;
  readonly nowMs: () => number;
}): MinerRouter {
  const { directory, quotes, markupBps, log, nowMs } = deps;
  const health = minerHealthBook();
  /** Quotes whose side file is written. */
  const kept = new Set<string>();

  const quoteOf = (
    { hotkey, relay }: DirectoryEntry,
    product: string,
    atMs: number,
  ): AcceptedQuote | undefined => {
    const enclave = relay?.peer.enclave;
    if (enclave === undefined) return undefined;
    const found = quotes.current({ hotkey, enclave }, product, Math.floor(atMs / 1_000));
    return found !== undefined && kept.has(found.hash) ? found : undefined;
  };
  /** What else a customer may call a miner, by its uid; a text per neuron is not made again for every request. */
  const names = new Map<number, readonly string[]>();
  const namesOf = (uid: number): readonly string[] => {
    let known = names.get(uid);
    if (known === undefined) names.set(uid, (known = [String(uid)]));
    return known;
  };

  const offersOf = (product: string): MinerOffer[] => {
    const atMs = nowMs();
    const pool: Hotkey[] = [];
    const offers = directory.entries().map((entry): MinerOffer => {
      const accepted = quoteOf(entry, product, atMs);
      const { hotkey, coldkey, uid, relay } = entry;
      if (accepted !== undefined) pool.push(hotkey);
      return {
        hotkey,
        coldkey,
        names: namesOf(uid),
        unavailable:
          relay === undefined
            ? "not_attested"
            : accepted === undefined
              ? "no_valid_quote"
              : undefined,
        price: accepted?.quote.price ?? NO_PRICE,
        minPayoutBps: accepted?.quote.min_payout_bps ?? 0,
        health: health.healthOf(hotkey, product, accepted?.quote.cap.inflight ?? 1, atMs),
        ejected: false,
        relay,
        accepted,
      };
    });
    const ejected = health.ejectedOf(pool, product, atMs);
    return ejected.size === 0
      ? offers
      : offers.map((offer) => ({ ...offer, ejected: ejected.has(offer.hotkey) }));
  };

  const plan = (facts: RequestFacts, model: Model, bodyBytes: number): Plan => {
    const size: RequestSize = {
      bodyBytes,
      messages: facts.messages,
      tools: facts.tools,
      attachments: facts.attachments,
      cacheWrites: facts.cacheWrites,
      choices: facts.choices,
      ...(facts.maxOutputTokens === undefined ? {} : { maxOutputTokens: facts.maxOutputTokens }),
    };
    const output = Math.min(
      facts.maxOutputTokens ?? EXPECTED_OUTPUT_TOKENS,
      EXPECTED_OUTPUT_TOKENS,
    );
    const selection = selectMiners(offersOf(model.id), {
      preferences: facts.provider ?? { allowFallbacks: true },
      expected: { input: inputTokensHeldOf(size, model), output: output * facts.choices },
      markupBps,
      payoutBps: PAYOUT_BPS,
      count: MINERS_PER_REQUEST_MAX,
      random: Math.random,
    });
    if (!selection.ok)
      throw new RouterError("no_miner_available", nobodyMessage(model, selection.excluded), {
        retryAfterSeconds: 2,
        details: Object.fromEntries(
          Object.entries(selection.excluded).map(([reason, count]) => [`miners_${reason}`, count]),
        ),
      });
    const candidates = selection.miners.flatMap(({ hotkey, relay, accepted }): Candidate[] =>
      relay === undefined || accepted === undefined
        ? []
        : [{ hotkey, relay, quote: accepted.quote, quoteHash: accepted.hash }],
    );
    const prices = candidates.map(({ quote }) => quote.price);
    return {
      candidates,
      ceilingOf: (available) => priceCeilingOf(size, model, prices, markupBps, available),
    };
  };

  const started = (candidate: Candidate, model: Model): ((outcome: Outcome) => void) => {
    const { hotkey } = candidate;
    const product = model.id;
    health.started(hotkey, product);
    let told = false;
    return (outcome) => {
      if (told) return;
      told = true;
      switch (outcome.kind) {
        case "served":
          health.served(
            hotkey,
            product,
            {
              ttftMs: outcome.firstContentMs,
              durationMs: outcome.durationMs,
              outputTokens: outcome.outputTokens,
            },
            nowMs(),
          );
          break;
        case "fault":
          health.faulted(hotkey, product, nowMs());
          break;
        case "bad_receipt":
          health.faulted(hotkey, product, nowMs());
          health.eject(hotkey, nowMs());
          badReceipts.set(hotkey, { code: outcome.code, atMs: nowMs() });
          log.warn({ miner: hotkey, code: outcome.code }, "miner.ejected");
          break;
        case "busy":
          health.busy(hotkey, product, nowMs());
          break;
        case "neutral":
          health.left(hotkey, product);
          break;
      }
    };
  };
  /** Why miners were ejected for a receipt; at most one entry per neuron. */
  const badReceipts = new Map<Hotkey, { readonly code: string; readonly atMs: number }>();

  const acceptQuotes = async (entry: DirectoryEntry, body: Buffer): Promise<void> => {
    const enclave = entry.relay?.peer.enclave;
    if (enclave === undefined) return;
    const written: string[] = [];
    for (const signed of quotesIn(body)) {
      const nowSeconds = Math.floor(nowMs() / 1_000);
      const verdict = quotes.accept(signed, { hotkey: entry.hotkey, enclave }, nowSeconds);
      if (!verdict.ok) {
        log.debug({ miner: entry.hotkey, refusal: verdict.refusal }, "quote.refused");
        continue;
      }
      const { hash } = verdict.accepted;
      if (kept.has(hash)) continue;
      await deps.keepQuote(hash, verdict.accepted.signed);
      written.push(hash);
    }
    // All at once: a miner appears with everything it sells.
    for (const hash of written) kept.add(hash);
    forgetOldQuotes();
  };

  /** Hashes are kept while a quote can be in force: all of the newest, and more than a book's history holds. */
  const forgetOldQuotes = (): void => {
    for (const hash of kept) {
      if (kept.size <= KEPT_MAX) return;
      kept.delete(hash);
    }
  };

  const miners = (): MinerFacts[] =>
    directory.entries().map((entry) => {
      const products = MODELS.flatMap((model) => {
        const accepted = quoteOf(entry, model.id, nowMs());
        return accepted === undefined ? [] : [{ model, accepted }];
      });
      const refusals = quotes.refusalsOf(entry.hotkey);
      const ejectedFrom = products.filter(({ model }) => {
        const pool = offersOf(model.id).filter(({ ejected }) => ejected);
        return pool.some(({ hotkey }) => hotkey === entry.hotkey);
      });
      const bad = badReceipts.get(entry.hotkey);
      const isEjected = entry.state === "serving" && ejectedFrom.length > 0;
      const sellsNothing = entry.state === "serving" && products.length === 0;
      return {
        hotkey: entry.hotkey,
        uid: entry.uid,
        url: entry.url,
        state: isEjected ? "ejected" : sellsNothing ? "refused" : entry.state,
        reason: isEjected
          ? {
              code: bad?.code ?? "faults",
              stage: bad === undefined ? "serving" : "receipt",
              message:
                bad === undefined
                  ? "it failed too often of late"
                  : "a receipt of it did not tell the truth",
            }
          : sellsNothing
            ? NO_QUOTES
            : (entry.reason ?? null),
        last_bad_receipt:
          bad === undefined ? null : { code: bad.code, at: new Date(bad.atMs).toISOString() },
        enclave: entry.evidence?.enclave ?? null,
        kind: entry.evidence?.kind ?? null,
        security: entry.evidence?.security ?? null,
        evidence_block: entry.evidence?.block ?? null,
        products: products.map(({ model, accepted }) => {
          const { inflight, capacity, failRate, ttftMs, tokensPerSecond } = health.healthOf(
            entry.hotkey,
            model.id,
            accepted.quote.cap.inflight,
            nowMs(),
          );
          return {
            model: model.id,
            surface: model.surface,
            price: priceToJson(accepted.quote.price),
            quote: accepted.hash,
            expires_at: new Date(accepted.quote.exp * 1_000).toISOString(),
            ejected: ejectedFrom.some((other) => other.model === model),
            health: {
              inflight,
              capacity,
              fail_rate: failRate,
              ttft_ms: ttftMs ?? null,
              tokens_per_second: tokensPerSecond ?? null,
            },
          };
        }),
        quote_refusals: Object.fromEntries(refusals),
      };
    });

  return {
    plan,
    started,
    acceptQuotes,
    listedModels: () =>
      MODELS.flatMap((model) => {
        const served = offersOf(model.id).filter(
          ({ unavailable, ejected }) => unavailable === undefined && !ejected,
        );
        const cheapest = served.toSorted((a, b) => sortKeyOf(a) - sortKeyOf(b))[0];
        return cheapest === undefined
          ? []
          : [{ model, price: cheapest.price, miners: served.length }];
      }),
    miners,
  };
}

const NO_PRICE: Price = {};

const NO_QUOTES = {
  code: "quote/none",
  stage: "quote",
  message: "there is no valid price quote of it",
} as const;

/** Quote hashes that are remembered as written. */
const KEPT_MAX = 100_000;

function sortKeyOf({ price }: Offer): number {
  return Number(price.input ?? 0n) + Number(price.output ?? 0n);
}

function nobodyMessage(model: Model, excluded: Readonly<Record<string, number>>): string {
  const reasons = Object.entries(excluded)
    .map(([reason, count]) => `${reason.replaceAll("_", " ")}: ${count}`)
    .join(", ");
  return reasons === ""
    ? `No miner offers ${model.id}.`
    : `No miner can serve ${model.id} now (${reasons}).`;
}

function quotesIn(body: Buffer): SignedQuote[] {
  const json: unknown = JSON.parse(body.toString("utf8"));
  const list = (json as { quotes?: unknown } | null)?.quotes;
  if (!Array.isArray(list)) throw new Error("the relay's answer has no list of quotes");
  return (list as readonly unknown[]).slice(0, QUOTES_PER_RELAY_MAX).flatMap((item) => {
    const { quote, sig } = (item ?? {}) as { quote?: unknown; sig?: unknown };
    return typeof quote === "string" && typeof sig === "string" ? [{ quote, sig }] : [];
  });
}
