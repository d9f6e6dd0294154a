import assert from "node:assert/strict";
import { test } from "node:test";
import OpenAI from "openai";
import { budgetOf } from "../../src/billing/accounts.ts";
import { auditLedger } from "../../src/billing/audit.ts";
import { openLedger } from "../../src/billing/ledger.ts";
import { fundedAccount, holdOrder, settleOrder } from "../billing/stores.ts";
import {
  CHAT_MODEL,
  log,
  openTestGateway,
  openTestMiner,
  sharedDatabase,
  type TestGateway,
  testNetwork,
  untilServing,
} from "./fixture.ts";

interface KeyRow {
  readonly hash: string;
  readonly name: string;
  readonly disabled: boolean;
  readonly limit: number | null;
  readonly limit_remaining: number | null;
  readonly limit_reset: string | null;
  readonly usage: number;
  readonly expires_at: string | null;
}

async function ask(
  gateway: TestGateway,
  method: string,
  path: string,
  key: string,
  body?: unknown,
): Promise<{ status: number; json: { data: KeyRow; key?: string; error?: { message: string } } }> {
  const response = await fetch(`${gateway.url}/api/v1${path}`, {
    method,
    headers: { authorization: `Bearer ${key}` },
    ...(body === undefined ? {} : { body: JSON.stringify(body) }),
  });
  return { status: response.status, json: (await response.json()) as never };
}

const chat = { model: CHAT_MODEL, messages: [{ role: "user" as const, content: "hi" }] };

test("a management key makes, shows, changes and removes keys, and buys nothing itself", async (t) => {
  const network = testNetwork();
  await openTestMiner(t, network);
  const gateway = await openTestGateway(t, network);
  await untilServing(gateway, 1);
  const { apiKey, managementKey } = await gateway.customer();

  const made = await ask(gateway, "POST", "/keys", managementKey, {
    name: "ci",
    limit: 12.5,
    limit_reset: "monthly",
    expires_at: "2100-01-01T00:00:00Z",
  });
  assert.equal(made.status, 201);
  const { hash } = made.json.data;
  assert.equal(made.json.data.limit, 12.5);
  assert.equal(made.json.data.limit_remaining, 12.5);
  assert.equal(made.json.data.expires_at, "2100-01-01T00:00:00.000Z");
  const client = (key: string): OpenAI =>
    new OpenAI({ apiKey: key, baseURL: `${gateway.url}/v1`, maxRetries: 0 });
  await client(made.json.key ?? "").chat.completions.create(chat);
  const { json } = await ask(gateway, "GET", `/keys/${hash}`, managementKey);
  assert.ok(json.data.usage > 0);
  assert.equal(json.data.limit_remaining, 12.5 - json.data.usage);
  const own = await gateway.get("/v1/key", made.json.key);
  assert.equal((own.json as { data: KeyRow }).data.limit, 12.5);

  const list = await ask(gateway, "GET", "/keys", managementKey);
  assert.deepEqual((list.json.data as unknown as KeyRow[]).map(({ name }) => name).sort(), [
    "ci",
    "test",
  ]);
  const changed = await ask(gateway, "PATCH", `/keys/${hash}`, managementKey, {
    name: "renamed",
    disabled: true,
    limit: null,
  });
  assert.equal(changed.status, 200, JSON.stringify(changed.json));
  assert.deepEqual(
    [changed.json.data.name, changed.json.data.disabled, changed.json.data.limit],
    ["renamed", true, null],
  );
  assert.deepEqual((await ask(gateway, "DELETE", `/keys/${hash}`, managementKey)).json, {
    deleted: true,
  });
  assert.equal((await ask(gateway, "GET", `/keys/${hash}`, managementKey)).status, 404);

  await assert.rejects(client(managementKey).chat.completions.create(chat), /management/);
  assert.equal((await ask(gateway, "GET", "/keys", apiKey)).status, 403);
  const stranger = await gateway.customer();
  const theirs = await ask(gateway, "POST", "/keys", stranger.managementKey, { name: "theirs" });
  assert.equal(
    (await ask(gateway, "DELETE", `/keys/${theirs.json.data.hash}`, managementKey)).status,
    404,
  );
});

test("what is wrong with a key's fields is named", async (t) => {
  const gateway = await openTestGateway(t, testNetwork());
  const { managementKey } = await gateway.customer();
  for (const [body, expected] of [
    [{}, /name must be/],
    [{ name: "x".repeat(101) }, /name must be/],
    [{ name: "k", limit: -1 }, /limit must be a number/],
    [{ name: "k", limit: "5" }, /limit must be a number/],
    [{ name: "k", limit: 1e300 }, /limit must be a number/],
    [{ name: "k", limit: 5, limit_reset: "hourly" }, /limit_reset must be daily, weekly/],
    [{ name: "k", limit_reset: "daily" }, /limit_reset needs a limit/],
    [{ name: "k", expires_at: "soon" }, /expires_at must be a time/],
    [[], /must be a JSON object/],
  ] as const) {
    const { status, json } = await ask(gateway, "POST", "/keys", managementKey, body);
    assert.equal(status, 400, JSON.stringify(body));
    assert.match(json.error?.message ?? "", expected);
  }
});

test("an expired key is refused", async (t) => {
  const gateway = await openTestGateway(t, testNetwork());
  const { managementKey } = await gateway.customer();
  const made = await ask(gateway, "POST", "/keys", managementKey, {
    name: "old",
    expires_at: "2020-01-01T00:00:00Z",
  });
  const { status, json } = await gateway.get("/v1/key", made.json.key);
  assert.equal(status, 401);
  assert.match(JSON.stringify(json), /has expired/);
});

test("requests that race for a key's limit never spend more than it", async (t) => {
  const network = testNetwork();
  await openTestMiner(t, network);
  const gateway = await openTestGateway(t, network);
  await untilServing(gateway, 1);
  const { managementKey } = await gateway.customer();
  const probe = await ask(gateway, "POST", "/keys", managementKey, { name: "probe", limit: 1 });
  const client = (key: string | undefined): OpenAI =>
    new OpenAI({ apiKey: key ?? "", baseURL: `${gateway.url}/v1`, maxRetries: 0 });
  const bounded = { ...chat, max_completion_tokens: 400 };
  await client(probe.json.key).chat.completions.create(bounded);
  const cost = (await ask(gateway, "GET", `/keys/${probe.json.data.hash}`, managementKey)).json.data
    .usage;
  // About five answers' worth.
  const limit = Math.round(cost * 5 * 1e9) / 1e9;
  const made = await ask(gateway, "POST", "/keys", managementKey, { name: "small", limit });
  const results = await Promise.allSettled(
    Array.from({ length: 20 }, () => client(made.json.key).chat.completions.create(bounded)),
  );
  const refused = results.filter((result) => result.status === "rejected");
  for (const { reason } of refused) {
    assert.ok(reason instanceof OpenAI.APIError);
    assert.equal(reason.status, 403);
    assert.match(reason.message, /the key's limit leaves .* USD/);
  }
  assert.ok(refused.length >= 15, `${refused.length} refused`);
  const { data } = (await ask(gateway, "GET", `/keys/${made.json.data.hash}`, managementKey)).json;
  assert.ok(data.usage <= limit, `${data.usage} of ${limit}`);
  assert.deepEqual(
    (await auditLedger(gateway.database)).filter(({ ok }) => !ok),
    [],
  );
});

test("a limit starts anew with its period, and counts what a key has spent before it was set", async (t) => {
  const gateway = await openTestGateway(t, testNetwork());
  const { managementKey } = await gateway.customer();
  const made = await ask(gateway, "POST", "/keys", managementKey, { name: "k" });
  const { hash } = made.json.data;
  const database = await sharedDatabase();
  const ledger = await openLedger({ database, gateway: "keys", log });
  const account = await fundedAccount(database, 1_000_000n);
  const spend = async (amount: bigint) => {
    const order = holdOrder(account, amount);
    const hold = { ...order, row: { ...order.row, apiKeyId: hash } };
    const verdict = await ledger.hold(hold);
    if (verdict.ok) await ledger.settle(settleOrder(hold.request, amount, amount));
    return verdict;
  };
  assert.deepEqual(await spend(300n), { ok: true });
  const limit = { limit: 0.000_001, limit_reset: "daily" };
  const limited = await ask(gateway, "PATCH", `/keys/${hash}`, managementKey, limit);
  assert.equal(limited.json.data.limit_remaining, 0.000_000_7);
  assert.deepEqual(await spend(600n), { ok: true });
  assert.deepEqual(await spend(200n), { ok: false, refusal: "key_limit", availableNusd: 100n });

  // The requests and the limit are a day older now.
  await database.exec(
    `UPDATE ledger.ended SET ended_ms = ended_ms - 86400000 WHERE api_key = '${hash}';
     UPDATE ledger.key_budget SET period_ms = period_ms - 86400000 WHERE api_key = '${hash}'`,
  );
  assert.equal((await budgetOf(database, hash))?.spentNusd, 0n);
  assert.deepEqual(await spend(200n), { ok: true });
  assert.equal((await budgetOf(database, hash))?.spentNusd, 200n);
  assert.deepEqual(
    (await auditLedger(database)).filter(({ ok }) => !ok),
    [],
  );
  await ledger.close();
});
