import assert from "node:assert/strict";
import type { AccountId } from "../core/ids.ts";
import type { Queryable } from "../runtime/database.ts";

/** Deposits that a statement shows one by one; the others are in its sum. */
const DEPOSITS_SHOWN_MAX = 1_000;

/** A deposit as it was credited. */
export interface StatementDeposit {
  /** Of `GET /deposits`. */
  readonly id: string;
  readonly atMs: number;
  readonly amountRao: bigint;
  /** Nano-USD per TAO, of its block's minute, or quoted. */
  readonly nanoUsdPerTao: bigint;
  readonly amountNusd: bigint;
}

/** What one model cost in the period. */
export interface StatementCharge {
  readonly model: string;
  readonly requests: number;
  readonly amountNusd: bigint;
  /** The part that promo credit paid. */
  readonly promoNusd: bigint;
}

/**
 * What happened to an account's credit, with promo credit, in `[fromMs, toMs)`, nano-USD. It adds up: `openingNusd` + deposits
 * − charges + refunds + promo granted − promo expired + other = `closingNusd`.
 */
export interface Statement {
  readonly openingNusd: bigint;
  readonly closingNusd: bigint;
  readonly depositsNusd: bigint;
  readonly chargesNusd: bigint;
  readonly refundsNusd: bigint;
  readonly promoGrantedNusd: bigint;
  readonly promoExpiredNusd: bigint;
  /** By kind of journal; negative for what took credit away. */
  readonly other: readonly { readonly kind: string; readonly amountNusd: bigint }[];
  /** Oldest first, at most 1,000. */
  readonly deposits: readonly StatementDeposit[];
  readonly depositsNotShown: number;
  /** By model. */
  readonly charges: readonly StatementCharge[];
}

interface Line {
  readonly part: "balance" | "charge" | "journal" | "deposit";
  /** The model, the kind of the journal, or the id of the deposit. */
  readonly name: string;
  readonly is_after: boolean;
  readonly n: bigint;
  readonly amount: bigint;
  readonly promo: bigint;
  readonly rao: bigint | null;
  readonly rate: bigint | null;
  readonly at_ms: bigint | null;
}

/**
 * One statement of SQL, so that all of it is of one moment. What an account has now less what happened since is what it had
 * then: nothing before `$2` is read. Settlements are found through their requests, all other journals through their customer.
 */
const LINES = `
  WITH mine AS MATERIALIZED (
    SELECT id, credits - debits AS posted FROM ledger.acct WHERE ledger = 1 AND code IN (10, 12) AND owner = $1
  ), journals AS MATERIALIZED (
    SELECT j.id, j.kind, j.cause, j.at, j.at >= to_timestamp($3::bigint / 1000.0) AS is_after,
           sum(CASE WHEN t.credit = a.id THEN t.amount ELSE -t.amount END)::bigint AS amount
      FROM ledger.journal j JOIN ledger.transfer t ON t.journal = j.id JOIN mine a ON a.id IN (t.debit, t.credit)
     WHERE j.customer = $1 AND j.at >= to_timestamp($2::bigint / 1000.0)
     GROUP BY j.id
  ), deposits AS (
    SELECT d.id, j.at, j.amount, d.amount_rao, d.rate
      FROM journals j JOIN ledger.deposit d ON j.kind = 'credit' AND d.id = substr(j.cause, length('credit:') + 1)
     WHERE NOT j.is_after ORDER BY j.at, d.id LIMIT $4
  )
  SELECT 'balance' AS part, '' AS name, false AS is_after, count(*) AS n, COALESCE(sum(posted), 0)::bigint AS amount,
         0::bigint AS promo, NULL::bigint AS rao, NULL::bigint AS rate, NULL::bigint AS at_ms FROM mine
  UNION ALL
  SELECT 'charge', model, ended_ms >= $3, count(*), sum(charged)::bigint,
         COALESCE(sum(charged) FILTER (WHERE promo), 0)::bigint, NULL, NULL, NULL
    FROM ledger.ended WHERE account = $1 AND state = 1 AND ended_ms >= $2 GROUP BY 2, 3
  UNION ALL
  SELECT 'journal', kind, is_after, count(*), sum(amount)::bigint, 0, NULL, NULL, NULL FROM journals GROUP BY 2, 3
  UNION ALL
  SELECT 'deposit', id, false, 1, amount, 0, amount_rao, rate, (extract(epoch FROM at) * 1000)::bigint FROM deposits`;

/** Draws up an account's statement from the ledger's journals. Reads everything since `fromMs`: not for every request. */
export async function drawStatement(
  database: Queryable,
  account: AccountId,
  { fromMs, toMs }: { readonly fromMs: number; readonly toMs: number },
): Promise<Statement> {
  const lines = await database.query<Line>(LINES, [
    account,
    BigInt(fromMs),
    BigInt(toMs),
    BigInt(DEPOSITS_SHOWN_MAX),
  ]);
  const of = (part: Line["part"]): Line[] => lines.filter((line) => line.part === part);
  const within = (part: Line["part"]): Line[] => of(part).filter((line) => !line.is_after);
  const kinds = new Map(within("journal").map((line) => [line.name, line]));
  const take = (kind: string): bigint => {
    const amount = kinds.get(kind)?.amount ?? 0n;
    kinds.delete(kind);
    return amount;
  };
  const credited = kinds.get("credit")?.n ?? 0n;
  const depositsNusd = take("credit") + take("deposit");
  const refundsNusd = take("refund");
  const promoGrantedNusd = take("promo");
  const promoExpiredNusd = -take("promo_expiry");
  const other = [...kinds.values()].map(({ name, amount }) => ({ kind: name, amountNusd: amount }));
  const charges = within("charge");
  const deposits = of("deposit");
  const now = sumOf(of("balance"));
  const isLater = (line: Line): boolean => line.is_after;
  const closingNusd =
    now + sumOf(of("charge").filter(isLater)) - sumOf(of("journal").filter(isLater));
  return {
    openingNusd: closingNusd + sumOf(charges) - sumOf(within("journal")),
    closingNusd,
    depositsNusd,
    chargesNusd: sumOf(charges),
    refundsNusd,
    promoGrantedNusd,
    promoExpiredNusd,
    other,
    deposits: deposits.map(depositOf).sort((a, b) => a.atMs - b.atMs || (a.id < b.id ? -1 : 1)),
    depositsNotShown: Number(credited) - deposits.length,
    charges: charges
      .map(({ name, n, amount, promo }) => ({
        model: name,
        requests: Number(n),
        amountNusd: amount,
        promoNusd: promo,
      }))
      .sort((a, b) => a.model.localeCompare(b.model)),
  };
}

function sumOf(lines: readonly Line[]): bigint {
  return lines.reduce((sum, { amount }) => sum + amount, 0n);
}

function depositOf({ name, at_ms, rao, rate, amount }: Line): StatementDeposit {
  assert(at_ms !== null && rao !== null && rate !== null, "a credited deposit has a rate");
  return {
    id: name,
    atMs: Number(at_ms),
    amountRao: rao,
    nanoUsdPerTao: rate,
    amountNusd: amount,
  };
}
