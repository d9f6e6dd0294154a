import assert from "node:assert/strict";
import { test } from "node:test";
import { apiKeyIdOf } from "../../src/billing/accounts.ts";
import { grantPromo } from "../../src/billing/promo.ts";
import { readUsage } from "../../src/billing/usage-records.ts";
import { type AccountId, generationIdOf, type RequestId } from "../../src/core/ids.ts";
import { nanoUsd } from "../../src/core/money.ts";
import { holdOrder, settleOrder } from "../billing/stores.ts";
import {
  openTestGateway,
  sharedDatabase,
  type TestGateway,
  testNetwork,
  until,
} from "./fixture.ts";

const DAY_MS = 86_400_000;
const EVER = { fromMs: 0, toMs: Number.MAX_SAFE_INTEGER };

interface UsageJson {
  readonly data: readonly Readonly<Record<string, string | number | boolean | null>>[];
  readonly has_more: boolean;
}
interface ActivityJson {
  readonly data: readonly Readonly<Record<string, string | number>>[];
}

/** A request that was charged; `day` moves its end that many days back. */
async function charge(
  gateway: TestGateway,
  customer: { readonly account: AccountId; readonly apiKey: string },
  {
    amount,
    model = "openai/gpt-5-mini",
    day = 0,
  }: { amount: bigint; model?: string; day?: number },
): Promise<RequestId> {
  const order = holdOrder(customer.account, amount);
  const row = { ...order.row, apiKeyId: apiKeyIdOf(customer.apiKey), model };
  assert.deepEqual(await gateway.ledger.hold({ ...order, row }), { ok: true });
  const settle = settleOrder(order.request, amount, amount / 2n);
  await gateway.ledger.settle({
    ...settle,
    leaf: `leaf ${order.request}`,
    row: { ...settle.row, usage: { input: 3, cache_read: 4, output: 5, reasoning: 6 } },
  });
  if (day > 0)
    await gateway.database.query("UPDATE ledger.ended SET ended_ms = ended_ms - $2 WHERE id = $1", [
      order.request,
      BigInt(day * DAY_MS),
    ]);
  return order.request;
}

const usageOf = async (gateway: TestGateway, key: string, query: string): Promise<UsageJson> => {
  const { status, json } = await gateway.get(`/v1/usage?${query}`, key);
  assert.equal(status, 200, JSON.stringify(json));
  return json as UsageJson;
};

test("the export has every request of the account, in order, and goes on after any of them", async (t) => {
  const gateway = await openTestGateway(t, testNetwork());
  const customer = await gateway.customer(1_000_000n);
  const other = await gateway.customer(1_000_000n);
  await charge(gateway, other, { amount: 7n });
  const ids: string[] = [];
  for (let i = 0; i < 5; i += 1)
    ids.push(generationIdOf(await charge(gateway, customer, { amount: 100n + BigInt(i) })));
  const [first] = ids;
  await gateway.ledger.refund(first?.slice("gen-".length) as RequestId, 0, nanoUsd(30n));
  const failed = holdOrder(customer.account, 50n);
  await gateway.ledger.hold(failed);
  await gateway.ledger.release(failed.request, "no_miner_available");
  // Requests of one batch end in the same millisecond, and then their ids decide.
  const all = await usageOf(gateway, customer.apiKey, "");
  assert.equal(all.has_more, false);
  assert.equal(all.data.length, 6);
  assert.deepEqual(
    new Set(all.data.map(({ id }) => id)),
    new Set([...ids, generationIdOf(failed.request)]),
  );
  const row = all.data.find(({ id }) => id === first);
  assert.deepEqual(
    [row?.["cost_nusd"], row?.["cost_usd"], row?.["refunded_nusd"], row?.["refunded_usd"]],
    ["100", "0.0000001", "30", "0.00000003"],
  );
  assert.deepEqual(
    [row?.["tokens_prompt"], row?.["tokens_completion"], row?.["tokens_reasoning"]],
    [7, 11, 6],
  );
  assert.equal(row?.["api_key_name"], "test");
  const last = all.data.find(({ id }) => id === generationIdOf(failed.request));
  assert.deepEqual([last?.["state"], last?.["cost_nusd"]], ["released", "0"]);

  const walked: unknown[] = [];
  let after = "";
  for (;;) {
    const page = await usageOf(gateway, customer.apiKey, `limit=2${after}`);
    walked.push(...page.data);
    if (!page.has_more) break;
    assert.equal(page.data.length, 2);
    after = `&starting_after=${page.data.at(-1)?.["id"]}`;
  }
  assert.deepEqual(walked, all.data);
  const byKey = await usageOf(
    gateway,
    customer.apiKey,
    `api_key_hash=${apiKeyIdOf(customer.apiKey)}`,
  );
  assert.equal(byKey.data.length, 5);
  assert.equal((await usageOf(gateway, customer.apiKey, "to=2026-01-01")).data.length, 0);
  assert.equal((await usageOf(gateway, customer.apiKey, "from=2100-01-01")).data.length, 0);

  for (const [query, param] of [
    ["format=xml", "format"],
    ["limit=0", "limit"],
    ["limit=100001", "limit"],
    ["from=yesterday", "from"],
    ["to=1", "to"],
    ["starting_after=x", "starting_after"],
    [
      `starting_after=${(await usageOf(gateway, other.apiKey, "")).data[0]?.["id"]}`,
      "starting_after",
    ],
    ["api_key_hash=a&api_key_hash=b", "api_key_hash"],
  ]) {
    const { status, json } = await gateway.get(`/v1/usage?${query}`, customer.apiKey);
    assert.equal(status, 400, query);
    assert.equal((json as { error: { param: string } }).error.param, param);
  }
  assert.equal((await gateway.get("/v1/usage")).status, 401);
});

test("the CSV export has the same rows, and names that a spreadsheet would run are disarmed", async (t) => {
  const gateway = await openTestGateway(t, testNetwork());
  const customer = await gateway.customer(1_000_000n);
  const made = await fetch(`${gateway.url}/v1/keys`, {
    method: "POST",
    headers: { authorization: `Bearer ${customer.managementKey}` },
    body: JSON.stringify({ name: '=HYPERLINK("http://x","y")' }),
  });
  const { key } = (await made.json()) as { key: string };
  await charge(gateway, { account: customer.account, apiKey: key }, { amount: 100n });
  const answer = await fetch(`${gateway.url}/v1/usage?format=csv`, {
    headers: { authorization: `Bearer ${customer.apiKey}` },
  });
  assert.match(answer.headers.get("content-type") ?? "", /^text\/csv/);
  assert.match(answer.headers.get("content-disposition") ?? "", /attachment/);
  const lines = (await answer.text()).split("\r\n");
  assert.equal(lines.length, 3);
  const { data } = await usageOf(gateway, customer.apiKey, "");
  assert.equal(lines[0], Object.keys(data[0] ?? {}).join(","));
  const line = lines[1] ?? "";
  assert(line.includes(`"'=HYPERLINK(""http://x"",""y"")"`), line);
  assert(line.endsWith(",100,0.0000001,0,0,false"));
  const empty = await fetch(`${gateway.url}/v1/usage?format=csv&to=2026-01-01`, {
    headers: { authorization: `Bearer ${customer.apiKey}` },
  });
  assert.equal(await empty.text(), `${lines[0]}\r\n`);
});

test("readUsage() reads a page when it is asked for, and no row twice or never", async (t) => {
  const database = await sharedDatabase();
  const gateway = await openTestGateway(t, testNetwork(), { database });
  const { account, apiKey } = await gateway.customer(0n);
  // Many in each millisecond, so that pages end between equals.
  await database.query(
    `INSERT INTO ledger.ended (id, acct, amount, state, streamed, created_ms, ended_ms, gateway, account, api_key, model, surface)
       SELECT md5($1 || n)::uuid, ledger.acct_of(10, $1), 1, 2, false, 0, 5 + n / 300, 'g', $1, 'k', 'm', 'chat'
         FROM generate_series(1, 1200) n`,
    [account],
  );
  let queries = 0;
  const counting = {
    ...database,
    query: async <Row extends object>(sql: string, params?: readonly unknown[]) => {
      queries += 1;
      return await database.query<Row>(sql, params);
    },
  };
  const seen = new Map<string, number>();
  for await (const page of readUsage(counting, account, EVER)) {
    assert(page.length <= 500);
    for (const { request, endedMs } of page) seen.set(request, endedMs);
    if (seen.size === page.length) assert.equal(queries, 1);
  }
  assert.equal(seen.size, 1_200);
  assert.deepEqual(
    [...seen.values()],
    [...seen.values()].sort((a, b) => a - b),
  );
  assert.equal(queries, 3);

  // A reader that goes away stops the reading and leaves room for the next.
  const answer = await fetch(`${gateway.url}/v1/usage?from=1970-01-01`, {
    headers: { authorization: `Bearer ${apiKey}` },
  });
  await answer.body?.cancel();
  await until("the place to be free", async () => {
    return (await gateway.get("/v1/usage?limit=1", apiKey)).status === 200;
  });
  const whole = await usageOf(gateway, apiKey, "from=1970-01-01&limit=1200");
  assert.deepEqual(whole.data.length, 1_200);
  assert.equal(whole.has_more, false);
  const most = await usageOf(gateway, apiKey, "from=1970-01-01&limit=1000");
  assert.deepEqual([most.data.length, most.has_more], [1_000, true]);
});

test("the activity sums the last 30 completed days by day and model, in OpenRouter's fields", async (t) => {
  const gateway = await openTestGateway(t, testNetwork());
  const customer = await gateway.customer(1_000_000n);
  await charge(gateway, customer, { amount: 1_000n });
  await charge(gateway, customer, { amount: 100n, day: 1 });
  const refunded = await charge(gateway, customer, { amount: 60n, day: 1 });
  await gateway.ledger.refund(refunded, 0, nanoUsd(20n));
  await charge(gateway, customer, { amount: 5n, day: 1, model: "anthropic/claude-haiku-4-5" });
  await charge(gateway, customer, { amount: 7n, day: 2 });
  await charge(gateway, customer, { amount: 9n, day: 32 });
  const activity = async (query: string): Promise<ActivityJson["data"]> => {
    const { status, json } = await gateway.get(`/api/v1/activity?${query}`, customer.managementKey);
    assert.equal(status, 200, JSON.stringify(json));
    return (json as ActivityJson).data;
  };
  const dayOf = (back: number): string =>
    new Date(Date.now() - back * DAY_MS).toISOString().slice(0, 10);
  const rows = await activity("");
  assert.deepEqual(
    rows.map(({ date, model, requests, usage_nusd }) => [date, model, requests, usage_nusd]),
    [
      [dayOf(1), "anthropic/claude-haiku-4-5", 1, "5"],
      [dayOf(1), "openai/gpt-5-mini", 2, "140"],
      [dayOf(2), "openai/gpt-5-mini", 1, "7"],
    ],
  );
  assert.deepEqual(rows[1], {
    date: dayOf(1),
    model: "openai/gpt-5-mini",
    model_permaslug: "openai/gpt-5-mini",
    endpoint_id: "openai/gpt-5-mini",
    provider_name: "openai",
    usage: 140 / 1e9,
    byok_usage_inference: 0,
    requests: 2,
    prompt_tokens: 14,
    completion_tokens: 22,
    reasoning_tokens: 12,
    usage_nusd: "140",
  });
  assert.equal((await activity(`date=${dayOf(2)}`)).length, 1);
  assert.equal((await activity(`api_key_hash=${apiKeyIdOf(customer.apiKey)}`)).length, 3);
  assert.equal((await activity("api_key_hash=unknown")).length, 0);
  for (const date of [dayOf(0), dayOf(31), "2026-1-1", "today"]) {
    const { status } = await gateway.get(`/v1/activity?date=${date}`, customer.apiKey);
    assert.equal(status, 400, date);
  }
});

test("the monthly statement shows what happened to the account's credit, as JSON and as CSV", async (t) => {
  const gateway = await openTestGateway(t, testNetwork());
  const customer = await gateway.customer(1_000n);
  const request = await charge(gateway, customer, { amount: 300n });
  await gateway.ledger.refund(request, 0, nanoUsd(20n));
  await grantPromo(gateway.database, {
    id: "statement",
    account: customer.account,
    amount: nanoUsd(2_000_000_000n),
    expiresMs: Date.now() + DAY_MS,
  });
  const month = new Date().toISOString().slice(0, "YYYY-MM".length);
  const { status, json } = await gateway.get(`/v1/statements/${month}`, customer.apiKey);
  assert.equal(status, 200, JSON.stringify(json));
  const { data } = json as { data: Record<string, unknown> };
  assert.deepEqual(
    Object.fromEntries(Object.entries(data).filter(([name]) => name.endsWith("_nusd"))),
    {
      opening_nusd: "0",
      deposits_nusd: "1000",
      charges_nusd: "300",
      refunds_nusd: "20",
      promo_granted_nusd: "2000000000",
      promo_expired_nusd: "0",
      other_nusd: "0",
      closing_nusd: "2000000720",
    },
  );
  assert.equal(data["closing_usd"], "2.00000072");
  assert.equal(data["is_final"], false);
  assert.deepEqual(data["charges"], [
    {
      model: "openai/gpt-5-mini",
      requests: 1,
      amount_nusd: "300",
      amount_usd: "0.0000003",
      promo_nusd: "0",
      promo_usd: "0",
    },
  ]);
  const answer = await fetch(`${gateway.url}/v1/statements/${month}?format=csv`, {
    headers: { authorization: `Bearer ${customer.apiKey}` },
  });
  assert.match(answer.headers.get("content-disposition") ?? "", /statement-\d{4}-\d{2}\.csv/);
  const [head, ...lines] = (await answer.text()).trimEnd().split("\r\n");
  const columns = head?.split(",") ?? [];
  const amount = (line: string, column: string): bigint =>
    BigInt(line.split(",")[columns.indexOf(column)] ?? "");
  const net = (line: string): bigint => amount(line, "credit_nusd") - amount(line, "debit_nusd");
  const closing = lines.pop() ?? "";
  assert.match(closing, /^closing balance,/);
  assert.equal(
    lines.reduce((sum, line) => sum + net(line), 0n),
    net(closing),
  );
  assert(lines.includes("charge,,openai/gpt-5-mini,1,,,,300,,0.0000003"), lines.join("\n"));

  for (const path of ["2026-13", "2024-12", "2100-01", "now", `${month}?format=pdf`])
    assert.equal((await gateway.get(`/v1/statements/${path}`, customer.apiKey)).status, 400, path);
  assert.equal((await gateway.get(`/v1/statements/${month}`)).status, 401);
});
