import type { FastifyInstance } from "fastify";
import type { Statement } from "../../billing/statements.ts";
import { RouterError } from "../../core/errors.ts";
import type { AccountId } from "../../core/ids.ts";
import { formatNano } from "../../core/money.ts";
import type { Authenticator } from "../auth.ts";
import { csvLine } from "../csv.ts";
import type { EnterReport } from "../report-slots.ts";

/** No account is older. */
const YEAR_MIN = 2025;

export interface StatementDeps {
  readonly auth: Authenticator;
  readonly enterReport: EnterReport;
  readonly statementOf: (
    account: AccountId,
    period: { readonly fromMs: number; readonly toMs: number },
  ) => Promise<Statement>;
}

interface Month {
  readonly month: string;
  readonly fromMs: number;
  readonly toMs: number;
}

/** `GET /statements/{yyyy-mm}?format=json|csv`: what happened to the account's credit in a UTC month. */
export function statementRoutes(app: FastifyInstance, deps: StatementDeps): void {
  app.get<{ Params: { month: string }; Querystring: { format?: unknown } }>(
    "/statements/:month",
    async (request, reply) => {
      const { account } = await deps.auth.keyOf(request.raw.headers);
      const nowMs = Date.now();
      const month = monthIn(request.params.month, nowMs);
      const { format = "json" } = request.query;
      if (format !== "json" && format !== "csv") throw refusal("format", "must be json or csv");
      const leave = deps.enterReport(account);
      try {
        const statement = await deps.statementOf(account, month);
        if (format === "json") return { data: jsonOf(account, month, nowMs, statement) };
        reply.header("content-type", "text/csv; charset=utf-8");
        reply.header("content-disposition", `attachment; filename="statement-${month.month}.csv"`);
        return csvOf(month, statement);
      } finally {
        leave();
      }
    },
  );
}

function jsonOf(account: AccountId, month: Month, nowMs: number, statement: Statement) {
  return {
    account_id: account,
    month: month.month,
    from: new Date(month.fromMs).toISOString(),
    to: new Date(month.toMs).toISOString(),
    is_final: nowMs >= month.toMs,
    ...amountOf("opening", statement.openingNusd),
    ...amountOf("deposits", statement.depositsNusd),
    ...amountOf("charges", statement.chargesNusd),
    ...amountOf("refunds", statement.refundsNusd),
    ...amountOf("promo_granted", statement.promoGrantedNusd),
    ...amountOf("promo_expired", statement.promoExpiredNusd),
    ...amountOf(
      "other",
      statement.other.reduce((sum, { amountNusd }) => sum + amountNusd, 0n),
    ),
    ...amountOf("closing", statement.closingNusd),
    deposits: statement.deposits.map((deposit) => ({
      id: deposit.id,
      credited_at: new Date(deposit.atMs).toISOString(),
      amount_rao: deposit.amountRao.toString(),
      amount_tao: formatNano(deposit.amountRao),
      rate_nusd_per_tao: deposit.nanoUsdPerTao.toString(),
      ...amountOf("amount", deposit.amountNusd),
    })),
    deposits_not_shown: statement.depositsNotShown,
    charges: statement.charges.map(({ model, requests, amountNusd, promoNusd }) => ({
      model,
      requests,
      ...amountOf("amount", amountNusd),
      ...amountOf("promo", promoNusd),
    })),
    other: statement.other.map(({ kind, amountNusd }) => ({
      kind,
      ...amountOf("amount", amountNusd),
    })),
  };
}

function amountOf(name: string, nusd: bigint): Record<string, string> {
  return { [`${name}_nusd`]: nusd.toString(), [`${name}_usd`]: formatNano(nusd) };
}

const COLUMNS = [
  "line",
  "at",
  "reference",
  "requests",
  "amount_rao",
  "rate_nusd_per_tao",
  "credit_nusd",
  "debit_nusd",
  "credit_usd",
  "debit_usd",
];

/** The sum of the credits less that of the debits is the closing balance, but for its own line. */
function csvOf({ fromMs, toMs }: Month, statement: Statement): string {
  const line = (
    name: string,
    nusd: bigint,
    { at = "", reference = "", requests, rao, rate }: LineFacts = {},
  ): string => {
    const [credit, debit] = nusd < 0n ? [null, -nusd] : [nusd, null];
    return csvLine([
      name,
      at,
      reference,
      requests ?? null,
      rao ?? null,
      rate ?? null,
      credit,
      debit,
      credit === null ? null : formatNano(credit),
      debit === null ? null : formatNano(debit),
    ]);
  };
  const shown = statement.deposits.reduce((sum, { amountNusd }) => sum + amountNusd, 0n);
  return [
    csvLine(COLUMNS),
    line("opening balance", statement.openingNusd, { at: new Date(fromMs).toISOString() }),
    ...statement.deposits.map((deposit) =>
      line("deposit", deposit.amountNusd, {
        at: new Date(deposit.atMs).toISOString(),
        reference: deposit.id,
        rao: deposit.amountRao,
        rate: deposit.nanoUsdPerTao,
      }),
    ),
    line("other deposits", statement.depositsNusd - shown),
    ...statement.charges.map(({ model, requests, amountNusd }) =>
      line("charge", -amountNusd, { reference: model, requests }),
    ),
    line("refunds", statement.refundsNusd),
    line("promo credit granted", statement.promoGrantedNusd),
    line("promo credit expired", -statement.promoExpiredNusd),
    ...statement.other.map(({ kind, amountNusd }) =>
      line("other", amountNusd, { reference: kind }),
    ),
    line("closing balance", statement.closingNusd, { at: new Date(toMs).toISOString() }),
  ].join("");
}

interface LineFacts {
  readonly at?: string;
  readonly reference?: string;
  readonly requests?: number;
  readonly rao?: bigint;
  readonly rate?: bigint;
}

function monthIn(text: string, nowMs: number): Month {
  const match = /^(\d{4})-(0[1-9]|1[0-2])$/.exec(text);
  const [year, month] = [Number(match?.[1]), Number(match?.[2])];
  const fromMs = Date.UTC(year, month - 1);
  if (match === null || year < YEAR_MIN || fromMs > nowMs)
    throw refusal("month", "must be a UTC month that has begun, such as 2026-06");
  return { month: text, fromMs, toMs: Date.UTC(year, month) };
}

function refusal(param: string, message: string): RouterError {
  return new RouterError("invalid_request", `${param} ${message}.`, { details: { param } });
}
