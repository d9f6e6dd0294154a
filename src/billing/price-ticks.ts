import { lowerMedianOf } from "../core/median.ts";
import type { Queryable } from "../runtime/database.ts";

const MINUTE_MS = 60_000;
/** Ticks whose median is the recent price. */
const RECENT_MINUTES = 5n;
/** Ticks that one listing returns. */
const LISTED_MAX = 60;
/** How far a process may be ahead of the database's clock, in minutes: a tick decides its minute for ever. */
const AHEAD_MINUTES_MAX = 1;

/** What each source said: by name, nano-USD per TAO and whether it made the price. */
export type TickSources = Readonly<
  Record<string, { readonly nusd_per_tao: string; readonly used: boolean }>
>;

/** The source of a tick that an operator set, and so of no other. */
const MANUAL = "manual";

/**
 * Records the price of the minute. The first tick of a minute stays.
 *
 * @returns false if the minute has one already, or is not there yet by the database's clock.
 */
export async function addTick(
  database: Queryable,
  tick: { readonly atMs: number; readonly nanoUsdPerTao: bigint; readonly sources: TickSources },
): Promise<boolean> {
  const rows = await database.query(
    `INSERT INTO ledger.price_tick (minute, nusd_per_tao, sources)
       SELECT $1::bigint, $2::bigint, $3::jsonb WHERE $1::bigint <= ledger.now_ms() / ${MINUTE_MS} + ${AHEAD_MINUTES_MAX}
       ON CONFLICT DO NOTHING RETURNING minute`,
    [minuteOf(tick.atMs), tick.nanoUsdPerTao, JSON.stringify(tick.sources)],
  );
  return rows.length > 0;
}

/** A tick that an operator sets. @returns false if the minute has one already. */
export async function addManualTick(
  database: Queryable,
  tick: { readonly atMs: number; readonly nanoUsdPerTao: bigint },
): Promise<boolean> {
  const said = { nusd_per_tao: tick.nanoUsdPerTao.toString(), used: true };
  return await addTick(database, { ...tick, sources: { [MANUAL]: said } });
}

/**
 * Nano-USD per TAO at which a deposit of a block with this time is credited: the tick of the block's minute, else the
 * first one after it. @returns undefined while there is none.
 */
export async function tickRate(
  database: Queryable,
  timestampMs: number,
): Promise<bigint | undefined> {
  const [tick] = await database.query<{ nusd_per_tao: bigint }>(
    "SELECT nusd_per_tao FROM ledger.price_tick WHERE minute >= $1 ORDER BY minute LIMIT 1",
    [minuteOf(timestampMs)],
  );
  return tick?.nusd_per_tao;
}

/** The price of one minute. */
export interface PriceTick {
  /** Start of the minute, Unix milliseconds. */
  readonly minuteMs: number;
  readonly nanoUsdPerTao: bigint;
  /** `manual` alone when an operator set it. */
  readonly sources: TickSources;
}

/** Ticks from the minute of a time on, oldest first; without one the newest, oldest first. At most an hour of them. */
export async function listTicks(
  database: Queryable,
  fromMs: number | undefined,
): Promise<PriceTick[]> {
  const rows = await database.query<{
    minute: bigint;
    nusd_per_tao: bigint;
    sources: TickSources;
  }>(
    fromMs === undefined
      ? `SELECT * FROM (SELECT * FROM ledger.price_tick ORDER BY minute DESC LIMIT ${LISTED_MAX}) t ORDER BY minute`
      : `SELECT * FROM ledger.price_tick WHERE minute >= $1 ORDER BY minute LIMIT ${LISTED_MAX}`,
    fromMs === undefined ? [] : [minuteOf(fromMs)],
  );
  return rows.map(({ minute, nusd_per_tao, sources }) => ({
    minuteMs: Number(minute) * MINUTE_MS,
    nanoUsdPerTao: nusd_per_tao,
    sources,
  }));
}

/** The price before now, against which a new one is a jump. */
export interface RecentPrice {
  readonly nanoUsdPerTao: bigint;
  /** Start of the minute of the newest tick, Unix milliseconds. */
  readonly lastMs: number;
}

/**
 * The lower median of the newest tick and those less than five minutes before it, however old it is. A tick that an
 * operator set begins anew: what was before it does not count.
 *
 * @returns undefined if there is no tick.
 */
export async function recentPrice(database: Queryable): Promise<RecentPrice | undefined> {
  const rows = await database.query<{
    minute: bigint;
    nusd_per_tao: bigint;
    is_manual: boolean;
  }>(
    `SELECT minute, nusd_per_tao, sources ? $1 AS is_manual FROM ledger.price_tick
      ORDER BY minute DESC LIMIT ${RECENT_MINUTES}`,
    [MANUAL],
  );
  const [newest] = rows;
  if (newest === undefined) return undefined;
  const manual = rows.findIndex(({ is_manual }) => is_manual);
  const prices = rows
    .slice(0, manual === -1 ? rows.length : manual + 1)
    .filter(({ minute }) => minute > newest.minute - RECENT_MINUTES)
    .map(({ nusd_per_tao }) => nusd_per_tao);
  return {
    nanoUsdPerTao: lowerMedianOf(prices) ?? newest.nusd_per_tao,
    lastMs: Number(newest.minute) * MINUTE_MS,
  };
}

function minuteOf(timestampMs: number): number {
  return Math.floor(timestampMs / MINUTE_MS);
}
