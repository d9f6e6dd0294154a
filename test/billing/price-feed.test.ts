import assert from "node:assert/strict";
import { after, before, beforeEach, describe, test } from "node:test";
import pino from "pino";
import type { TaoPrice } from "../../src/billing/price.ts";
import { openPriceFeed, type PriceFeedOptions } from "../../src/billing/price-feed.ts";
import { PRICE_SOURCES } from "../../src/billing/price-sources.ts";
import { addManualTick, addTick, tickRate } from "../../src/billing/price-ticks.ts";
import { migrateBilling } from "../../src/billing/schema.ts";
import { type Database, openDatabase } from "../../src/runtime/database.ts";
import { Registry } from "../../src/runtime/metrics.ts";
import { findPostgres, silent, startPostgres } from "./stores.ts";

/** The start of a minute that is past by any clock. */
const START_MS = Date.UTC(2026, 5, 1, 12, 0, 0);
const MINUTE_MS = 60_000;

type Prices = Partial<Record<"kraken" | "coingecko" | "mexc" | "binance", string>>;
const ALL: Prices = { kraken: "400.1", coingecko: "400.2", mexc: "400.3", binance: "400.4" };

/** The sources' answers as they document them; a source without a price does not answer. */
function answerOf(url: string, prices: Prices, nowMs: number): string {
  const name = PRICE_SOURCES.find((source) => source.url === url)?.name as keyof Prices;
  const price = prices[name];
  if (price === undefined) throw new Error("it did not answer");
  if (name === "kraken") return `{"error":[],"result":{"TAOUSD":{"c":["${price}","0.5"]}}}`;
  if (name === "coingecko")
    return `{"bittensor":{"usd":${price},"last_updated_at":${Math.floor(nowMs / 1_000)}}}`;
  return `{"symbol":"TAOUSDT","price":"${price}"}`;
}

/** A feed whose clock, sources and pauses the test drives. */
async function openDrivenFeed(database: Database, over: Partial<PriceFeedOptions> = {}) {
  let nowMs = START_MS;
  let prices = ALL;
  let resume = (): void => undefined;
  let paused = Promise.withResolvers<void>();
  const pauses: number[] = [];
  const events: Record<string, unknown>[] = [];
  const metrics = new Registry();
  const feed: TaoPrice = await openPriceFeed({
    database,
    sources: PRICE_SOURCES,
    ask: async (url) => answerOf(url, prices, nowMs),
    log: pino(
      { messageKey: "event" },
      { write: (line: string) => events.push(JSON.parse(line) as Record<string, unknown>) },
    ),
    metrics,
    nowMs: () => nowMs,
    pause: async (milliseconds, signal) => {
      pauses.push(milliseconds);
      await new Promise<void>((resolve) => {
        resume = resolve;
        if (signal.aborted) resolve();
        signal.addEventListener("abort", () => resolve());
        paused.resolve();
      });
    },
    ...over,
  });
  return {
    feed,
    metrics,
    pauses,
    /** Names of the events since the last call. */
    events: () => events.splice(0).map(({ event }) => event),
    /** The first round has begun when the feed is open. */
    first: async () => await paused.promise,
    /** Moves the clock on, changes what the sources say, and runs a round. */
    round: async (passedMs: number, next: Prices = prices) => {
      nowMs += passedMs;
      prices = next;
      paused = Promise.withResolvers();
      resume();
      await paused.promise;
    },
    pass: (passedMs: number) => {
      nowMs += passedMs;
    },
  };
}

interface Tick {
  readonly minute: bigint;
  readonly nusd_per_tao: bigint;
  readonly sources: unknown;
}

const ticksOf = async (database: Database): Promise<Tick[]> =>
  await database.query<Tick>(
    "SELECT minute, nusd_per_tao, sources FROM ledger.price_tick ORDER BY minute",
  );

describe("openPriceFeed()", () => {
  let database: Database;
  const opened: TaoPrice[] = [];
  const open = async (over: Partial<PriceFeedOptions> = {}) => {
    const driven = await openDrivenFeed(database, over);
    opened.push(driven.feed);
    return driven;
  };
  before(async () => {
    database = await openDatabase({ log: silent });
    await migrateBilling(database);
  });
  beforeEach(async () => {
    for (const feed of opened.splice(0)) await feed.close();
    await database.exec(
      `ALTER TABLE ledger.price_tick DISABLE TRIGGER append_only; DELETE FROM ledger.price_tick;
       ALTER TABLE ledger.price_tick ENABLE TRIGGER append_only`,
    );
  });
  after(async () => {
    for (const feed of opened.splice(0)) await feed.close();
    await database.close();
  });

  test("records one tick per minute with what every source said, and shows the newest price", async () => {
    const { feed, first, round, pauses, events } = await open();
    assert.deepEqual(feed.present(), {
      state: "frozen",
      reason: "starting",
      sinceMs: START_MS,
    });
    await first();
    assert.deepEqual(feed.present(), {
      state: "live",
      nanoUsdPerTao: 400_200_000_000n,
      sources: ["kraken", "coingecko", "mexc", "binance"],
    });
    await round(30_000, { ...ALL, kraken: "401.5" });
    assert.deepEqual(feed.present(), {
      state: "live",
      nanoUsdPerTao: 400_300_000_000n,
      sources: ["kraken", "coingecko", "mexc", "binance"],
    });
    await round(30_000, { kraken: "401", coingecko: "402", mexc: "450" });
    const minute = BigInt(START_MS / MINUTE_MS);
    const [one, two, ...others] = await ticksOf(database);
    assert.deepEqual([one?.minute, one?.nusd_per_tao], [minute, 400_200_000_000n]);
    assert.deepEqual(two, {
      minute: minute + 1n,
      nusd_per_tao: 401_000_000_000n,
      sources: {
        kraken: { nusd_per_tao: "401000000000", used: true },
        coingecko: { nusd_per_tao: "402000000000", used: true },
        // Not asked for anew: it failed in this round, and what it said before is fresh still.
        binance: { nusd_per_tao: "400400000000", used: true },
        mexc: { nusd_per_tao: "450000000000", used: false },
      },
    });
    assert.deepEqual(others, []);
    assert.ok(
      pauses.every((pauseMs) => pauseMs >= 25_000 && pauseMs <= 35_000),
      pauses.join(" "),
    );
    assert.deepEqual(events(), ["price.live", "price.source_failed"]);
  });

  test("varies its pauses within five seconds", async () => {
    for (const [random, expected] of [
      [0, 25_000],
      [0.5, 30_000],
      [0.999999, 35_000],
    ] as const) {
      const { first, pauses } = await open({ random: () => random });
      await first();
      assert.deepEqual(pauses, [expected]);
    }
  });

  test("freezes when its sources fall silent, raises an alert every 30 minutes, and thaws by itself", async () => {
    const { feed, first, round, events, metrics } = await open();
    await first();
    events();
    await round(30_000, { kraken: "400" });
    await round(60_000);
    assert.equal(feed.present().state, "live", "answers are fresh for 90 s");
    assert.equal((await ticksOf(database)).length, 2);
    await round(30_000);
    const sinceMs = START_MS + 120_000;
    assert.deepEqual(feed.present(), { state: "frozen", reason: "too_few_sources", sinceMs });
    assert.match(await metrics.metrics(), /^daybreak_gateway_tao_usd Nan$/m);
    assert.deepEqual(events(), [
      "price.source_failed",
      "price.source_failed",
      "price.source_failed",
      "price.frozen",
    ]);
    await round(1_799_999);
    assert.deepEqual(events(), []);
    await round(1);
    assert.deepEqual(events(), ["price.still_frozen"]);
    assert.match(await metrics.metrics(), /^daybreak_gateway_tao_usd_frozen_seconds 1800$/m);
    await round(1_799_999);
    assert.deepEqual(events(), []);
    await round(1);
    assert.deepEqual(events(), ["price.still_frozen"]);
    assert.equal((await ticksOf(database)).length, 2, "nothing is recorded while it is frozen");
    await round(30_000, { kraken: "401", coingecko: "402" });
    assert.equal(feed.present().state, "live");
    assert.deepEqual(events(), ["price.source_recovered", "price.live"]);
    assert.match(await metrics.metrics(), /^daybreak_gateway_tao_usd 401$/m);
    assert.match(await metrics.metrics(), /^daybreak_gateway_tao_usd_frozen_seconds 0$/m);
    assert.match(
      await metrics.metrics(),
      /^daybreak_gateway_price_answers_total\{source="mexc",result="failed"\} 8$/m,
    );
  });

  test("freezes at a jump that two sources show, also after a restart, until a third agrees", async () => {
    const one = await open();
    await one.first();
    await one.round(MINUTE_MS, { kraken: "360.1", coingecko: "360.2" });
    await one.round(100_000);
    assert.equal(one.feed.present().state, "frozen");
    assert.deepEqual(one.events().at(-1), "price.frozen");
    await one.feed.close();
    // As late as it likes: the guard compares with the last known price, not with silence.
    const two = await open({ nowMs: () => START_MS + 7_200_000 });
    await two.first();
    assert.equal((await ticksOf(database)).length, 2);
    assert.equal(two.feed.present().state, "live", "four agree on the old price");
    const { first, round, feed } = await open();
    await first();
    await round(10_000_000, { kraken: "340", coingecko: "341" });
    assert.deepEqual(feed.present(), {
      state: "frozen",
      reason: "jump",
      sinceMs: START_MS + 90_000,
    });
    await round(30_000, { kraken: "340", coingecko: "341", binance: "340.5" });
    assert.equal(feed.present().state, "live");
    assert.equal((await ticksOf(database)).at(-1)?.nusd_per_tao, 340_500_000_000n);
  });

  test("compares with the median of five minutes, so that steps add up to a jump", async () => {
    const { round, first, feed } = await open();
    await first();
    for (const price of ["410", "420", "430"])
      await round(MINUTE_MS, { kraken: price, coingecko: price });
    assert.equal(feed.present().state, "live");
    // 400.2, 410, 420, 430: the recent price is 410.
    await round(MINUTE_MS, { kraken: "452", coingecko: "452" });
    assert.equal(feed.present().state, "frozen");
  });

  test("compares with what was less than five minutes before the newest tick, not with older ones", async () => {
    const { round, first, feed } = await open();
    await first();
    await round(MINUTE_MS);
    await round(60 * MINUTE_MS, { kraken: "300", coingecko: "300", mexc: "300" });
    await round(2 * MINUTE_MS, { kraken: "300", coingecko: "300" });
    assert.equal(feed.present().state, "live");
  });

  test("takes a price set by hand as the new start, once per minute", async () => {
    const { round, first, feed, pass, events } = await open();
    await first();
    await round(MINUTE_MS);
    await round(MINUTE_MS);
    await round(MINUTE_MS, { kraken: "300", coingecko: "300" });
    await round(100_000);
    assert.equal(feed.present().state, "frozen");
    pass(MINUTE_MS);
    assert.equal(await feed.setByHand(300_000_000_000n), true);
    assert.equal(await feed.setByHand(301_000_000_000n), false);
    const tick = (await ticksOf(database)).at(-1);
    assert.equal(tick?.nusd_per_tao, 300_000_000_000n);
    assert.deepEqual(tick?.sources, { manual: { nusd_per_tao: "300000000000", used: true } });
    assert.deepEqual(events().slice(-1), ["price.set_by_hand"]);
    assert.equal(feed.present().state, "frozen", "sources make a price live, not an operator");
    await round(MINUTE_MS);
    assert.equal(feed.present().state, "live");
  });

  test("has no price when it could not decide for 90 seconds, or its database fails", async () => {
    let isDown = false;
    const failing: Database = {
      ...database,
      exec: (sql) => database.exec(sql),
      transaction: (work) => database.transaction(work),
      query: async (sql, params) => {
        if (isDown) throw new Error("the server hung up");
        return await database.query(sql, params);
      },
    };
    const driven = await openDrivenFeed(failing);
    opened.push(driven.feed);
    await driven.first();
    driven.pass(89_999);
    assert.equal(driven.feed.present().state, "live");
    driven.pass(1);
    const sinceMs = START_MS + 90_000;
    assert.deepEqual(driven.feed.present(), { state: "frozen", reason: "unreachable", sinceMs });
    await driven.round(1_000);
    assert.equal(driven.feed.present().state, "live");
    isDown = true;
    await driven.round(1_000);
    const present = driven.feed.present();
    assert.equal(present.state === "frozen" && present.reason, "unreachable");
    isDown = false;
    await driven.round(1_000);
    assert.equal(driven.feed.present().state, "live");
  });

  test("does not use an answer that its source dates back", async () => {
    const { first, feed } = await open({
      ask: async (url) => answerOf(url, { kraken: "400", coingecko: "400" }, START_MS - 91_000),
    });
    await first();
    const present = feed.present();
    assert.equal(present.state === "frozen" && present.reason, "too_few_sources");
  });

  test("does not record minutes that are not there yet by the database's clock", async () => {
    const ahead = Date.now() + 10 * MINUTE_MS;
    const { first } = await open({ nowMs: () => ahead });
    await first();
    assert.deepEqual(await ticksOf(database), []);
    const tick = { atMs: Date.now(), nanoUsdPerTao: 1n, sources: {} };
    assert.equal(await addTick(database, tick), true);
  });

  test("does not wait at its close for a source that hangs", async () => {
    const asked = Promise.withResolvers<void>();
    const { feed } = await open({
      ask: async (_url, signal) => {
        asked.resolve();
        return await new Promise((_resolve, reject) => {
          signal.addEventListener("abort", () => reject(new Error("aborted")));
        });
      },
    });
    await asked.promise;
    await feed.close();
  });

  test("tickRate() gives the tick of the minute, else the first after it", async () => {
    await addManualTick(database, { atMs: START_MS, nanoUsdPerTao: 1n });
    await addManualTick(database, { atMs: START_MS + 5 * MINUTE_MS, nanoUsdPerTao: 2n });
    for (const [afterMs, expected] of [
      [-1, 1n],
      [0, 1n],
      [59_999, 1n],
      [60_000, 2n],
      [5 * MINUTE_MS + 59_999, 2n],
      [6 * MINUTE_MS, undefined],
    ] as const)
      assert.equal(await tickRate(database, START_MS + afterMs), expected, `${afterMs} ms`);
  });

  test("a tick cannot be changed or removed", async () => {
    await addManualTick(database, { atMs: START_MS, nanoUsdPerTao: 1n });
    for (const sql of [
      "UPDATE ledger.price_tick SET nusd_per_tao = 2",
      "DELETE FROM ledger.price_tick",
      "TRUNCATE ledger.price_tick",
    ])
      await assert.rejects(database.query(sql), /append-only/);
  });
});

const bin = findPostgres();
if (bin === undefined) {
  console.log("skipped: no PostgreSQL under /usr/lib/postgresql, so racing ticks are not tested");
} else {
  test("of gateways that record a minute at the same time, one decides it", async (t) => {
    const server = await startPostgres(bin);
    const databases: Database[] = [];
    t.after(async () => {
      for (const database of databases) await database.close();
      await server.close();
    });
    const url = await server.newDatabase();
    for (let i = 0; i < 3; i += 1) databases.push(await openDatabase({ url, log: silent }));
    await Promise.all(databases.map((database) => migrateBilling(database)));
    for (let minute = 0; minute < 10; minute += 1) {
      const written = await Promise.all(
        databases.flatMap((database, i) =>
          [0, 1].map((j) =>
            addTick(database, {
              atMs: START_MS + minute * MINUTE_MS,
              nanoUsdPerTao: BigInt(1 + i * 2 + j),
              sources: {},
            }),
          ),
        ),
      );
      assert.equal(written.filter(Boolean).length, 1);
      const winner = BigInt(1 + written.indexOf(true));
      for (const database of databases)
        assert.equal(await tickRate(database, START_MS + minute * MINUTE_MS), winner);
    }
  });
}
