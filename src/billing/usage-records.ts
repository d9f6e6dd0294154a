import type { AccountId, RequestId } from "../core/ids.ts";
import type { Usage } from "../core/pricing.ts";
import type { Queryable } from "../runtime/database.ts";
import type { ReleasedRow } from "./ledger.ts";

/** Requests that one statement reads. */
const PAGE_ROWS = 500;

/** A request that has ended, as its account may see it. */
export interface UsageRecord {
  readonly request: RequestId;
  readonly state: "settled" | "released" | "expired";
  readonly createdMs: number;
  readonly endedMs: number;
  readonly model: string;
  readonly surface: string;
  readonly streamed: boolean;
  /** Paid from promo credit. */
  readonly promo: boolean;
  readonly apiKeyId: string;
  /** Undefined when the key was removed. */
  readonly apiKeyLabel: string | undefined;
  readonly chargedNusd: bigint;
  readonly refundedNusd: bigint;
  /** Undefined when it ended without a receipt. */
  readonly outcome: ReleasedRow | undefined;
}

/** Which requests: those that ended in `[fromMs, toMs)`. */
export interface UsagePeriod {
  readonly fromMs: number;
  readonly toMs: number;
  /** Only those of this key. */
  readonly apiKeyId?: string | undefined;
}

interface UsageRow {
  readonly id: RequestId;
  readonly state: number;
  readonly created_ms: bigint;
  readonly ended_ms: bigint;
  readonly model: string;
  readonly surface: string;
  readonly streamed: boolean;
  readonly promo: boolean;
  readonly api_key: string;
  readonly label: string | null;
  readonly charged: bigint | null;
  readonly refunded: bigint;
  readonly outcome: string | null;
}

const STATES = { 1: "settled", 2: "released", 3: "expired" } as const;

/**
 * Reads an account's requests in the order in which they ended, a page at a time, so that a reader of any number of them
 * needs memory for one page and no statement takes long.
 *
 * @param after goes on behind this request of the account. @throws UnknownRequest if it has no such request.
 */
export async function* readUsage(
  database: Queryable,
  account: AccountId,
  period: UsagePeriod,
  after?: RequestId,
): AsyncGenerator<readonly UsageRecord[], void> {
  let fromMs = BigInt(period.fromMs);
  let last: RequestId | undefined;
  if (after !== undefined) {
    const [row] = await database.query<{ ended_ms: bigint }>(
      "SELECT ended_ms FROM ledger.ended WHERE id = $1 AND account = $2",
      [after, account],
    );
    if (row === undefined) throw new UnknownRequest();
    if (row.ended_ms >= fromMs) [fromMs, last] = [row.ended_ms, after];
  }
  for (;;) {
    const rows: UsageRow[] = await database.query<UsageRow>(
      `SELECT e.id, e.state, e.created_ms, e.ended_ms, e.model, e.surface, e.streamed, e.api_key, k.label, e.charged,
              e.refunded, e.outcome, e.promo
         FROM ledger.ended e LEFT JOIN ledger.api_key k ON k.id = e.api_key
        WHERE e.account = $1 AND e.ended_ms >= $2 AND e.ended_ms < $3
          AND ($4::uuid IS NULL OR e.ended_ms > $2 OR e.id > $4)
          AND ($5::text IS NULL OR e.api_key = $5)
        ORDER BY e.ended_ms, e.id LIMIT $6`,
      [
        account,
        fromMs,
        BigInt(period.toMs),
        last ?? null,
        period.apiKeyId ?? null,
        BigInt(PAGE_ROWS),
      ],
    );
    if (rows.length > 0) yield rows.map(recordOf);
    const end = rows.at(-1);
    if (end === undefined || rows.length < PAGE_ROWS) return;
    [fromMs, last] = [end.ended_ms, end.id];
  }
}

/** The account has no request of that id. */
export class UnknownRequest extends Error {}

function recordOf(row: UsageRow): UsageRecord {
  return {
    request: row.id,
    state: STATES[row.state as keyof typeof STATES],
    createdMs: Number(row.created_ms),
    endedMs: Number(row.ended_ms),
    model: row.model,
    surface: row.surface,
    streamed: row.streamed,
    promo: row.promo,
    apiKeyId: row.api_key,
    apiKeyLabel: row.label ?? undefined,
    chargedNusd: row.charged ?? 0n,
    refundedNusd: row.refunded,
    outcome: row.outcome === null ? undefined : (JSON.parse(row.outcome) as ReleasedRow),
  };
}

/** What one model was used for on one UTC day. */
export interface DayUsage {
  /** YYYY-MM-DD. */
  readonly date: string;
  readonly model: string;
  readonly requests: number;
  /** Net of refunds. */
  readonly chargedNusd: bigint;
  readonly usage: Usage;
}

/** Sums an account's settled requests by UTC day and model, newest day first. Reads all of them: not for every request. */
export async function usageByDay(
  database: Queryable,
  account: AccountId,
  period: UsagePeriod,
): Promise<DayUsage[]> {
  const days = new Map<string, DayUsage>();
  for await (const page of readUsage(database, account, period))
    for (const record of page) {
      if (record.state !== "settled") continue;
      const date = new Date(record.endedMs).toISOString().slice(0, "YYYY-MM-DD".length);
      const name = `${date} ${record.model}`;
      const before = days.get(name);
      days.set(name, {
        date,
        model: record.model,
        requests: (before?.requests ?? 0) + 1,
        chargedNusd: (before?.chargedNusd ?? 0n) + record.chargedNusd - record.refundedNusd,
        usage: sumOf(before?.usage ?? {}, record.outcome?.usage ?? {}),
      });
    }
  return [...days.values()].sort(
    (a, b) => b.date.localeCompare(a.date) || a.model.localeCompare(b.model),
  );
}

function sumOf(a: Usage, b: Usage): Usage {
  const sum: Record<string, number> = { ...a };
  for (const [dimension, count] of Object.entries(b))
    sum[dimension] = (sum[dimension] ?? 0) + count;
  return sum;
}
