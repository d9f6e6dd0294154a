import { setTimeout as delay } from "node:timers/promises";
import type { Database } from "../runtime/database.ts";
import type { Logger } from "../runtime/logger.ts";
import { Counter, Gauge, type Registry } from "../runtime/metrics.ts";
import { decidePrice, FRESH_MS, type PriceDecision, type PriceReading } from "./decide-price.ts";
import type { PresentPrice, TaoPrice } from "./price.ts";
import type { PriceSource } from "./price-sources.ts";
import { addManualTick, addTick, recentPrice, type TickSources, tickRate } from "./price-ticks.ts";
import { migrateBilling } from "./schema.ts";

/** Pause between two rounds of questions, and how much it varies, in milliseconds. */
const ROUND_MS = 30_000;
const JITTER_MS = 5_000;
/** After this long without a price the log says so as an error, and again each time it has passed, in milliseconds. */
const ALERT_MS = 1_800_000;

export interface PriceFeedOptions {
  readonly database: Database;
  readonly sources: readonly PriceSource[];
  /** Asks a source. @returns its answer's text. @throws Error if there is none in time. */
  readonly ask: (url: string, signal: AbortSignal) => Promise<string>;
  readonly log: Logger;
  readonly metrics: Registry;
  readonly nowMs: () => number;
  /** Resolves after the time, or at once when aborted. Default: a timer. */
  readonly pause?: (milliseconds: number, signal: AbortSignal) => Promise<void>;
  /** From 0 to 1, exclusive. Default: Math.random. */
  readonly random?: () => number;
}

type Frozen = Extract<PresentPrice, { state: "frozen" }>;

/**
 * Asks the sources what TAO is worth about every 30 seconds, decides by `decidePrice`, and records the price of each minute
 * in the database, where all gateways of one database read it when they credit deposits.
 *
 * While there is no price it is frozen: nothing is recorded, so deposits wait; it ends by itself when the sources agree.
 *
 * @throws ConfigError if the database is newer.
 */
export async function openPriceFeed(options: PriceFeedOptions): Promise<TaoPrice> {
  const { database, sources, ask, log, nowMs, random = Math.random, pause = timer } = options;
  await migrateBilling(database);
  const closing = new AbortController();
  const readings = new Map<string, PriceReading>();
  const failing = new Set<string>();
  let live: { readonly price: PresentPrice; readonly untilMs: number } | undefined;
  const lastMs = (await recentPrice(database))?.lastMs;
  let frozen: Frozen | undefined = {
    state: "frozen",
    reason: "starting",
    sinceMs: lastMs ?? nowMs(),
  };
  let alertMs = frozen.sinceMs + ALERT_MS;

  const present = (): PresentPrice => {
    if (frozen !== undefined) return frozen;
    if (live === undefined || live.untilMs <= nowMs())
      return { state: "frozen", reason: "unreachable", sinceMs: live?.untilMs ?? nowMs() };
    return live.price;
  };
  const meters = metersOf(options.metrics, present, nowMs);

  const askOne = async (source: PriceSource): Promise<void> => {
    try {
      const { nanoUsdPerTao, sourceMs } = source.read(await ask(source.url, closing.signal));
      const atMs = Math.min(sourceMs ?? Infinity, nowMs());
      readings.set(source.name, { source: source.name, quote: source.quote, nanoUsdPerTao, atMs });
      meters.answers.inc({ source: source.name, result: "ok" });
      if (failing.delete(source.name)) log.info({ source: source.name }, "price.source_recovered");
    } catch (error) {
      if (closing.signal.aborted) return;
      meters.answers.inc({ source: source.name, result: "failed" });
      if (failing.has(source.name)) return;
      failing.add(source.name);
      const reason = error instanceof Error ? error.message : "unknown";
      log.warn({ source: source.name, reason }, "price.source_failed");
    }
  };

  const freeze = (reason: Frozen["reason"], facts: object): void => {
    if (frozen?.reason !== reason) {
      log.warn({ reason, ...facts }, "price.frozen");
      // The last price may have run out before this round.
      const sinceMs = frozen?.sinceMs ?? Math.min(nowMs(), live?.untilMs ?? Infinity);
      if (frozen === undefined) alertMs = sinceMs + ALERT_MS;
      frozen = { state: "frozen", reason, sinceMs };
    }
    if (nowMs() < alertMs) return;
    alertMs = nowMs() + ALERT_MS;
    const minutes = Math.floor((nowMs() - frozen.sinceMs) / 60_000);
    log.error({ reason, minutes, ...facts }, "price.still_frozen");
  };

  const round = async (): Promise<void> => {
    await Promise.all(sources.map(askOne));
    if (closing.signal.aborted) return;
    const atMs = nowMs();
    try {
      const recent = await recentPrice(database);
      const decision = decidePrice([...readings.values()], recent?.nanoUsdPerTao, atMs);
      const said = tickSourcesOf(decision);
      if (!decision.ok)
        return freeze(decision.reason, { said, recent: recent?.nanoUsdPerTao.toString() });
      const { nanoUsdPerTao, used } = decision;
      await addTick(database, { atMs, nanoUsdPerTao, sources: said });
      const names = used.map(({ source }) => source);
      live = {
        price: { state: "live", nanoUsdPerTao, sources: names },
        untilMs: atMs + FRESH_MS,
      };
      if (frozen === undefined) return;
      frozen = undefined;
      log.info({ nanoUsdPerTao: nanoUsdPerTao.toString(), said }, "price.live");
    } catch (error) {
      if (!closing.signal.aborted) freeze("unreachable", { err: error });
    }
  };

  const run = async (): Promise<void> => {
    while (!closing.signal.aborted) {
      await round();
      await pause(ROUND_MS + Math.round((2 * random() - 1) * JITTER_MS), closing.signal);
    }
  };
  const running = run();
  return {
    present,
    rateOf: tickRate,
    setByHand: async (nanoUsdPerTao) => {
      const isNew = await addManualTick(database, { atMs: nowMs(), nanoUsdPerTao });
      if (isNew) log.warn({ nanoUsdPerTao: nanoUsdPerTao.toString() }, "price.set_by_hand");
      return isNew;
    },
    close: async () => {
      closing.abort();
      await running;
    },
  };
}

async function timer(milliseconds: number, signal: AbortSignal): Promise<void> {
  await delay(milliseconds, undefined, { signal }).catch(() => undefined);
}

function tickSourcesOf({ used, left }: PriceDecision): TickSources {
  const said = (readings: readonly PriceReading[], isUsed: boolean) =>
    readings.map(({ source, nanoUsdPerTao }) => [
      source,
      { nusd_per_tao: nanoUsdPerTao.toString(), used: isUsed },
    ]);
  return Object.fromEntries([...said(used, true), ...said(left, false)]) as TickSources;
}

function metersOf(registry: Registry, present: () => PresentPrice, nowMs: () => number) {
  const registers = [registry];
  const gauge = (name: string, help: string, read: (price: PresentPrice) => number): void => {
    new Gauge({
      name,
      help,
      registers,
      collect() {
        this.set(read(present()));
      },
    });
  };
  gauge("daybreak_gateway_tao_usd", "US dollars per TAO; NaN while there is no price", (price) =>
    price.state === "frozen" ? Number.NaN : Number(price.nanoUsdPerTao) / 1e9,
  );
  gauge("daybreak_gateway_tao_usd_frozen_seconds", "Seconds without a TAO price", (price) =>
    price.state === "frozen" ? Math.max(0, nowMs() - price.sinceMs) / 1_000 : 0,
  );
  return {
    answers: new Counter({
      name: "daybreak_gateway_price_answers_total",
      help: "Answers of price sources by result",
      labelNames: ["source", "result"],
      registers,
    }),
  };
}
