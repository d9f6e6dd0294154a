import { randomUUID } from "node:crypto";
import type { AccountId } from "../core/ids.ts";
import { NANO, type NanoUsd, nanoUsd, nanoUsdOfRao, type Rao, rao } from "../core/money.ts";
import type { Database, Queryable } from "../runtime/database.ts";
import { DatabaseError } from "../runtime/queryable.ts";
import type { RateSource } from "./price.ts";

/** How long a quoted rate holds, in milliseconds. */
const QUOTE_MS = 600_000;
/** Most that one quote covers: 500 USD. */
const QUOTE_NANO_USD_MAX = nanoUsd(500n * NANO);
/** What a quoted rate is of the price: 1 % less, for the risk of holding it. */
const QUOTED_PERCENT = 99n;
/** Quotes that one listing returns. */
const LISTED_MAX = 200;

/** A rate that is promised to an account for one deposit whose block falls into its time. */
export interface DepositQuote {
  readonly id: string;
  readonly account: AccountId;
  readonly nanoUsdPerTao: bigint;
  /** What it covers at most; the rest of a larger deposit gets the rate of its minute. */
  readonly maxRao: Rao;
  readonly createdMs: number;
  readonly expiresMs: number;
}

/** A deposit that used a quote. */
export interface QuoteUse {
  readonly quote: string;
  readonly deposit: string;
  readonly nanoUsdPerTao: bigint;
  readonly amountRao: Rao;
  readonly amountNusd: NanoUsd;
}

interface QuoteRow {
  readonly id: string;
  readonly account: AccountId;
  readonly rate: bigint;
  readonly rao_max: bigint;
  readonly created_ms: bigint;
  readonly expires_ms: bigint;
}

/**
 * Promises a rate for the account's next deposit: 1 % below the price, for ten minutes, for at most 500 USD.
 * An account has one open quote at a time, so that it cannot collect rates and choose among them: until it is used or has
 * expired, asking again returns it.
 *
 * @param nanoUsdPerTao the present price.
 */
export async function createDepositQuote(
  database: Database,
  account: AccountId,
  nanoUsdPerTao: bigint,
  nowMs: number,
): Promise<DepositQuote> {
  // A price of one nano-USD has no rate below it.
  const rate = (nanoUsdPerTao * QUOTED_PERCENT) / 100n || nanoUsdPerTao;
  return await database.transaction(async (tx) => {
    // Two requests at once would each find no open quote.
    await tx.query("SELECT FROM ledger.account WHERE id = $1 FOR NO KEY UPDATE", [account]);
    const [open] = await tx.query<QuoteRow>(
      "SELECT * FROM ledger.deposit_quote WHERE account = $1 AND deposit IS NULL AND expires_ms > $2",
      [account, nowMs],
    );
    if (open !== undefined) return quoteOf(open);
    const [made] = await tx.query<QuoteRow>(
      `INSERT INTO ledger.deposit_quote (id, account, rate, rao_max, created_ms, expires_ms)
         VALUES ($1, $2, $3, $4, $5, $6) RETURNING *`,
      [randomUUID(), account, rate, (QUOTE_NANO_USD_MAX * NANO) / rate, nowMs, nowMs + QUOTE_MS],
    );
    if (made === undefined) throw new Error("the quote was not inserted");
    return quoteOf(made);
  });
}

/** Deposits of one account that used a quote, newest first, at most 200. */
export async function listQuoteUses(database: Queryable, account: AccountId): Promise<QuoteUse[]> {
  const rows = await database.query<
    QuoteRow & { readonly deposit: string; readonly used_rao: bigint; readonly used_nusd: bigint }
  >(
    `SELECT * FROM ledger.deposit_quote WHERE account = $1 AND deposit IS NOT NULL
      ORDER BY created_ms DESC LIMIT $2`,
    [account, LISTED_MAX],
  );
  return rows.map((row) => ({
    quote: row.id,
    deposit: row.deposit,
    nanoUsdPerTao: row.rate,
    amountRao: rao(row.used_rao),
    amountNusd: nanoUsd(row.used_nusd),
  }));
}

/**
 * What a deposit is credited with, nano-USD, and at what rate: as far as an unused quote of its account whose time its
 * block is in covers it, at the quoted rate, and the quote is used up with `tx`; the rest at the rate of its block's time.
 *
 * @returns undefined, with the quote unused, while a rate that it needs is not known; also for dust that rounds to
 * nothing, which waits for a better price. `rate` is that of the rest, if there is one.
 */
export async function priceDeposit(
  tx: Queryable,
  deposit: {
    readonly id: string;
    readonly account: AccountId | undefined;
    readonly blockMs: number;
    readonly amountRao: Rao;
  },
  rateOf: RateSource,
): Promise<{ readonly rate: bigint; readonly worth: NanoUsd } | undefined> {
  const quote = await takeOpenQuote(tx, deposit.account, deposit.blockMs);
  const covered =
    quote === undefined
      ? rao(0n)
      : deposit.amountRao < quote.maxRao
        ? deposit.amountRao
        : quote.maxRao;
  const rest = rao(deposit.amountRao - covered);
  const restRate = rest === 0n ? undefined : await rateOf(tx, deposit.blockMs);
  const rate = rest === 0n ? quote?.nanoUsdPerTao : restRate;
  if (rate === undefined) return undefined;
  const coveredWorth = quote === undefined ? 0n : nanoUsdOfRao(covered, quote.nanoUsdPerTao);
  const worth = nanoUsd(coveredWorth + nanoUsdOfRao(rest, rate));
  if (worth === 0n) return undefined;
  if (quote !== undefined && coveredWorth > 0n) {
    const used = await tx.query(
      `UPDATE ledger.deposit_quote SET deposit = $2, used_rao = $3, used_nusd = $4
        WHERE id = $1 AND deposit IS NULL RETURNING id`,
      [quote.id, deposit.id, covered, coveredWorth],
    );
    if (used.length === 0) throw new DatabaseError(`quote ${quote.id} was used meanwhile`, "40001");
  }
  return { rate, worth };
}

/** The quote that a deposit of that block time uses; nobody else can use it before the transaction ends. */
async function takeOpenQuote(
  tx: Queryable,
  account: AccountId | undefined,
  blockMs: number,
): Promise<DepositQuote | undefined> {
  const find = async (): Promise<QuoteRow | undefined> => {
    const [row] = await tx.query<QuoteRow>(
      `SELECT * FROM ledger.deposit_quote
        WHERE account = $1 AND deposit IS NULL AND $2 BETWEEN created_ms AND expires_ms
        ORDER BY created_ms LIMIT 1`,
      [account, blockMs],
    );
    return row;
  };
  if ((await find()) === undefined) return undefined;
  // The lock under which the books change, and no lock of the row's own: two of them, taken in another order by another
  // scanner, would be a deadlock. It may have waited for one who used the quote.
  await tx.query("SELECT ledger.take_turn()");
  const row = await find();
  return row === undefined ? undefined : quoteOf(row);
}

function quoteOf(row: QuoteRow): DepositQuote {
  return {
    id: row.id,
    account: row.account,
    nanoUsdPerTao: row.rate,
    maxRao: rao(row.rao_max),
    createdMs: Number(row.created_ms),
    expiresMs: Number(row.expires_ms),
  };
}
