import type { Queryable } from "../runtime/queryable.ts";
import type { KeyUsage } from "./routes/key-fields.ts";

/** How long an answer is repeated, in milliseconds: the sum reads all requests of the key. */
const CACHE_MS = 5_000;
const CACHE_KEYS_MAX = 1_000;

/** What an API key has spent, net of refunds, from the ledger's settled requests. */
export function keyUsageReader(
  database: Queryable,
  nowMs: () => number,
): (keyId: string) => Promise<KeyUsage> {
  const cache = new Map<string, { untilMs: number; usage: Promise<KeyUsage> }>();
  const read = async (keyId: string): Promise<KeyUsage> => {
    const { day, week, month } = periodStarts(nowMs());
    const [row] = await database.query<{ total: bigint; day: bigint; week: bigint; month: bigint }>(
      `SELECT COALESCE(sum(charged - refunded), 0)::bigint AS total,
              COALESCE(sum(charged - refunded) FILTER (WHERE created_ms >= $2), 0)::bigint AS day,
              COALESCE(sum(charged - refunded) FILTER (WHERE created_ms >= $3), 0)::bigint AS week,
              COALESCE(sum(charged - refunded) FILTER (WHERE created_ms >= $4), 0)::bigint AS month
         FROM ledger.ended WHERE api_key = $1 AND state = 1`,
      [keyId, day, week, month],
    );
    return row ?? { total: 0n, day: 0n, week: 0n, month: 0n };
  };
  return async (keyId) => {
    const cached = cache.get(keyId);
    if (cached !== undefined && cached.untilMs > nowMs()) return await cached.usage;
    const usage = read(keyId);
    usage.catch(() => cache.delete(keyId));
    if (cache.size >= CACHE_KEYS_MAX) cache.clear();
    cache.set(keyId, { untilMs: nowMs() + CACHE_MS, usage });
    return await usage;
  };
}

/** Unix milliseconds at which the current UTC day, week (from Monday) and month began. */
export function periodStarts(nowMs: number): { day: number; week: number; month: number } {
  const now = new Date(nowMs);
  const [year, month, date] = [now.getUTCFullYear(), now.getUTCMonth(), now.getUTCDate()];
  const sinceMonday = (now.getUTCDay() + 6) % 7;
  return {
    day: Date.UTC(year, month, date),
    week: Date.UTC(year, month, date - sinceMonday),
    month: Date.UTC(year, month, 1),
  };
}
