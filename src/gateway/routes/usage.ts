import { Readable } from "node:stream";
import type { FastifyInstance } from "fastify";
import {
  type DayUsage,
  UnknownRequest,
  type UsagePeriod,
  type UsageRecord,
} from "../../billing/usage-records.ts";
import { RouterError } from "../../core/errors.ts";
import {
  type AccountId,
  generationIdOf,
  type RequestId,
  requestIdOf,
  requestOfGenerationId,
} from "../../core/ids.ts";
import { formatNano } from "../../core/money.ts";
import { inputTokensOf, outputTokensOf } from "../../core/pricing.ts";
import type { Authenticator } from "../auth.ts";
import { csvLine } from "../csv.ts";
import type { EnterReport } from "../report-slots.ts";
import { dollarsOf } from "./credits.ts";

const DAY_MS = 86_400_000;
/** What OpenRouter's activity covers, and an export without `from`. */
const DAYS = 30;
/** Rows of one export. */
const ROWS_MAX = 100_000;
const ROWS_DEFAULT = 10_000;
/** Longest value of a parameter, in characters. */
const PARAM_CHARS_MAX = 100;

export interface UsageDeps {
  readonly auth: Authenticator;
  readonly enterReport: EnterReport;
  /** Pages of the account's ended requests, in the order in which they ended. @throws UnknownRequest for a wrong `after`. */
  readonly usageOf: (
    account: AccountId,
    period: UsagePeriod,
    after: RequestId | undefined,
  ) => AsyncGenerator<readonly UsageRecord[], void>;
  readonly usageByDay: (account: AccountId, period: UsagePeriod) => Promise<readonly DayUsage[]>;
}

type Query = Readonly<Record<string, unknown>>;

/**
 * `GET /usage?from=&to=&starting_after=&limit=&format=`: single requests, as JSON or CSV.
 * `GET /activity?date=&api_key_hash=`: sums by day and model over the last 30 completed UTC days; fields as OpenRouter's.
 */
export function usageRoutes(app: FastifyInstance, deps: UsageDeps): void {
  app.get<{ Querystring: Query }>("/usage", async (request, reply) => {
    const { account } = await deps.auth.keyOf(request.raw.headers);
    const { query } = request;
    const format = formatIn(query["format"], ["json", "csv"]);
    const limit = limitIn(query["limit"]);
    const period = {
      fromMs: timeIn(query, "from") ?? Date.now() - DAYS * DAY_MS,
      toMs: timeIn(query, "to") ?? Number.MAX_SAFE_INTEGER,
      apiKeyId: textIn(query, "api_key_hash"),
    };
    const after = requestIn(query);
    // Whoever is gone already has had its `close`.
    if (reply.raw.destroyed) throw new RouterError("invalid_request", "The connection is closed.");
    const leave = deps.enterReport(account);
    reply.raw.once("close", leave);
    const pages = deps.usageOf(account, period, after);
    let first: IteratorResult<readonly UsageRecord[], void>;
    try {
      first = await pages.next();
    } catch (cause) {
      leave();
      if (!(cause instanceof UnknownRequest)) throw cause;
      throw refusal("starting_after", "must be the id of a request of this account that has ended");
    }
    const records = upTo(limit, first, pages, leave);
    reply.header("cache-control", "no-store");
    if (format === "csv") {
      reply.header("content-type", "text/csv; charset=utf-8");
      reply.header("content-disposition", 'attachment; filename="usage.csv"');
      return Readable.from(csvOf(records), { objectMode: false });
    }
    reply.header("content-type", "application/json; charset=utf-8");
    return Readable.from(jsonOf(records), { objectMode: false });
  });

  app.get<{ Querystring: Query }>("/activity", async (request) => {
    const { account } = await deps.auth.keyOf(request.raw.headers);
    const todayMs = Math.floor(Date.now() / DAY_MS) * DAY_MS;
    const apiKeyId = textIn(request.query, "api_key_hash");
    const period = { ...daysIn(request.query, todayMs), apiKeyId };
    const leave = deps.enterReport(account);
    try {
      const days = await deps.usageByDay(account, period);
      return { data: days.map(activityOf) };
    } finally {
      leave();
    }
  });
}

/** The first `limit` records in their pages; the last page says whether there are more. `done` is called before the last byte. */
async function* upTo(
  limit: number,
  first: IteratorResult<readonly UsageRecord[], void>,
  pages: AsyncGenerator<readonly UsageRecord[], void>,
  done: () => void,
): AsyncGenerator<{ readonly records: readonly UsageRecord[]; readonly hasMore: boolean }> {
  try {
    let left = limit;
    let page = first;
    while (page.done !== true) {
      const records = page.value.slice(0, left);
      left -= records.length;
      const isCut = records.length < page.value.length;
      const next = isCut ? undefined : await pages.next();
      yield { records, hasMore: isCut || (left === 0 && next?.done !== true) };
      if (next === undefined || left === 0) return;
      page = next;
    }
  } finally {
    done();
  }
}

async function* jsonOf(pages: ReturnType<typeof upTo>): AsyncGenerator<string> {
  let isFirst = true;
  let more = false;
  yield '{"data":[';
  for await (const { records, hasMore } of pages) {
    more = hasMore;
    yield `${isFirst ? "" : ","}${records.map((record) => JSON.stringify(rowOf(record))).join(",")}`;
    isFirst = false;
  }
  yield `],"has_more":${more}}`;
}

async function* csvOf(pages: ReturnType<typeof upTo>): AsyncGenerator<string> {
  let isFirst = true;
  for await (const { records } of pages) {
    const rows = records.map(rowOf);
    yield `${isFirst ? csvLine(COLUMNS) : ""}${rows.map((row) => csvLine(Object.values(row))).join("")}`;
    isFirst = false;
  }
  if (isFirst) yield csvLine(COLUMNS);
}

/** One request. What is unknown is null, which is an empty cell. */
function rowOf(record: UsageRecord) {
  const { outcome } = record;
  const usage = outcome?.usage ?? {};
  return {
    id: generationIdOf(record.request),
    created_at: new Date(record.createdMs).toISOString(),
    ended_at: new Date(record.endedMs).toISOString(),
    state: record.state,
    model: record.model,
    surface: record.surface,
    streamed: record.streamed,
    api_key_hash: record.apiKeyId,
    api_key_name: record.apiKeyLabel ?? null,
    provider_name: outcome?.hotkey ?? null,
    status: outcome?.status ?? null,
    finish_reason: outcome?.finishReason ?? null,
    upstream_id: outcome?.upstreamId ?? null,
    tokens_prompt: inputTokensOf(usage),
    tokens_completion: outputTokensOf(usage),
    tokens_reasoning: usage.reasoning ?? 0,
    tokens_cached: usage.cache_read ?? 0,
    latency_ms: outcome?.ttftMs ?? null,
    generation_time_ms: outcome?.durationMs ?? null,
    cost_nusd: record.chargedNusd.toString(),
    cost_usd: formatNano(record.chargedNusd),
    refunded_nusd: record.refundedNusd.toString(),
    refunded_usd: formatNano(record.refundedNusd),
    promo: record.promo,
  };
}

const COLUMNS = Object.keys(
  rowOf({
    request: "" as RequestId,
    state: "settled",
    createdMs: 0,
    endedMs: 0,
    model: "",
    surface: "",
    streamed: false,
    promo: false,
    apiKeyId: "",
    apiKeyLabel: undefined,
    chargedNusd: 0n,
    refundedNusd: 0n,
    outcome: undefined,
  }),
);

/** OpenRouter's fields. An endpoint is a model here: which miner served is chosen anew for every request. */
function activityOf({ date, model, requests, chargedNusd, usage }: DayUsage) {
  return {
    date,
    model,
    model_permaslug: model,
    endpoint_id: model,
    provider_name: model.split("/")[0] ?? model,
    usage: dollarsOf(chargedNusd),
    byok_usage_inference: 0,
    requests,
    prompt_tokens: inputTokensOf(usage),
    completion_tokens: outputTokensOf(usage),
    reasoning_tokens: usage.reasoning ?? 0,
    usage_nusd: chargedNusd.toString(),
  };
}

function formatIn<const Format extends string>(value: unknown, formats: readonly Format[]): Format {
  const format = formats.find((known) => known === (value ?? formats[0]));
  if (format === undefined) throw refusal("format", `must be ${formats.join(" or ")}`);
  return format;
}

function limitIn(value: unknown): number {
  if (value === undefined) return ROWS_DEFAULT;
  const limit = typeof value === "string" && /^\d{1,6}$/.test(value) ? Number(value) : 0;
  if (limit < 1 || limit > ROWS_MAX) throw refusal("limit", `must be from 1 to ${ROWS_MAX}`);
  return limit;
}

function textIn(query: Query, param: string): string | undefined {
  const value = query[param];
  if (value === undefined) return undefined;
  if (typeof value !== "string" || value === "" || value.length > PARAM_CHARS_MAX)
    throw refusal(param, `must be given once, in at most ${PARAM_CHARS_MAX} characters`);
  return value;
}

/** A date, which is its first moment in UTC, or a time. */
function timeIn(query: Query, param: string): number | undefined {
  const text = textIn(query, param);
  if (text === undefined) return undefined;
  const timeMs = /^\d{4}-\d{2}-\d{2}/.test(text) ? Date.parse(text) : Number.NaN;
  if (Number.isNaN(timeMs) || timeMs < 0)
    throw refusal(param, "must be a date or a time such as 2026-06-01 or 2026-06-01T12:00:00Z");
  return timeMs;
}

function requestIn(query: Query): RequestId | undefined {
  const text = textIn(query, "starting_after");
  if (text === undefined) return undefined;
  const request = requestOfGenerationId(text) ?? requestIdOf(text);
  if (request === undefined) throw refusal("starting_after", "must be the id of a request");
  return request;
}

/** One of the last 30 completed days, or all of them. */
function daysIn(query: Query, todayMs: number): { fromMs: number; toMs: number } {
  const earliestMs = todayMs - DAYS * DAY_MS;
  const text = textIn(query, "date");
  if (text === undefined) return { fromMs: earliestMs, toMs: todayMs };
  const dayMs = /^\d{4}-\d{2}-\d{2}$/.test(text) ? Date.parse(text) : Number.NaN;
  if (Number.isNaN(dayMs) || dayMs < earliestMs || dayMs >= todayMs)
    throw refusal("date", `must be one of the last ${DAYS} completed UTC days, as YYYY-MM-DD`);
  return { fromMs: dayMs, toMs: dayMs + DAY_MS };
}

function refusal(param: string, message: string): RouterError {
  return new RouterError("invalid_request", `${param} ${message}.`, { details: { param } });
}
