import assert from "node:assert/strict";
import { test } from "node:test";
import { fixedPrice, type PresentPrice, type TaoPrice } from "../../src/billing/price.ts";
import { addManualTick } from "../../src/billing/price-ticks.ts";
import { ADMIN_KEY, openTestGateway, type TestGateway, testNetwork } from "./fixture.ts";

async function post(gateway: TestGateway, path: string, apiKey: string, body: string = "") {
  const answer = await fetch(gateway.url + path, {
    method: "POST",
    headers: { authorization: `Bearer ${apiKey}`, "content-type": "application/json" },
    body,
  });
  return {
    status: answer.status,
    retryAfter: answer.headers.get("retry-after"),
    json: (await answer.json()) as {
      data?: Record<string, string>;
      error?: { message: string; metadata: { code: string } };
    },
  };
}

const networkPrice = async (gateway: TestGateway): Promise<unknown> =>
  ((await gateway.get("/v1/network")).json as { data: { tao_price: unknown } }).data.tao_price;

test("a gateway with a fixed price says so, quotes 1 % below it, and lets nobody set it", async (t) => {
  const gateway = await openTestGateway(t, testNetwork());
  assert.deepEqual(await networkPrice(gateway), {
    state: "fixed",
    nusd_per_tao: "400000000000",
    usd_per_tao: "400",
    sources: [],
    frozen_because: null,
    frozen_since: null,
  });
  const { apiKey, depositAddress } = await gateway.customer(0n);
  const { status, json } = await post(gateway, "/v1/deposits/quote", apiKey);
  assert.equal(status, 201);
  const { quote_id, created_at = "", expires_at = "", note, ...rest } = json.data ?? {};
  assert.ok(quote_id !== undefined && note !== undefined);
  assert.equal(Date.parse(expires_at) - Date.parse(created_at), 600_000);
  assert.deepEqual(rest, {
    address: depositAddress,
    rate_nusd_per_tao: "396000000000",
    rate_usd_per_tao: "396",
    maximum_rao: "1262626262",
    maximum_tao: "1.262626262",
  });
  const again = await post(gateway, "/api/v1/deposits/quote", apiKey);
  assert.equal(again.json.data?.["quote_id"], quote_id);
  assert.equal((await post(gateway, "/v1/deposits/quote", "sk-nobody-0123456789")).status, 401);
  const set = await post(gateway, "/v1/price", ADMIN_KEY, '{"usd_per_tao":"412.5"}');
  assert.equal(set.status, 400);
  assert.match(set.json.error?.message ?? "", /fixed by its settings/);
});

test("while the price is frozen, quotes are refused and the operator can set it by hand", async (t) => {
  const sinceMs = Date.UTC(2026, 5, 1);
  let present: PresentPrice = { state: "frozen", reason: "jump", sinceMs };
  const set: bigint[] = [];
  const price: TaoPrice = {
    ...fixedPrice(1n),
    present: () => present,
    setByHand: async (nanoUsdPerTao) => {
      set.push(nanoUsdPerTao);
      return set.length === 1;
    },
  };
  const gateway = await openTestGateway(t, testNetwork(), { price });
  assert.deepEqual(await networkPrice(gateway), {
    state: "frozen",
    nusd_per_tao: null,
    usd_per_tao: null,
    sources: [],
    frozen_because: "jump",
    frozen_since: "2026-06-01T00:00:00.000Z",
  });
  const { apiKey } = await gateway.customer(0n);
  const refused = await post(gateway, "/v1/deposits/quote", apiKey);
  assert.equal(refused.status, 503);
  assert.equal(refused.retryAfter, "30");
  assert.equal(refused.json.error?.metadata.code, "price_unavailable");
  const where = await post(gateway, "/v1/deposits", apiKey);
  assert.equal(where.status, 200);
  assert.equal(where.json.data?.["rate_nusd_per_tao"], null);

  assert.equal((await post(gateway, "/v1/price", apiKey, '{"usd_per_tao":"1"}')).status, 403);
  for (const body of [
    "",
    "{",
    "null",
    "[]",
    '{"usd_per_tao":412}',
    '{"usd_per_tao":"0"}',
    '{"usd_per_tao":"-1"}',
    '{"usd_per_tao":"1e3"}',
    '{"usd_per_tao":"1000000.1"}',
  ])
    assert.equal((await post(gateway, "/v1/price", ADMIN_KEY, body)).status, 400, body);
  assert.deepEqual(set, []);
  const first = await post(gateway, "/v1/price", ADMIN_KEY, '{"usd_per_tao":"412.5"}');
  assert.equal(first.status, 201);
  assert.deepEqual(first.json.data, { nusd_per_tao: "412500000000", usd_per_tao: "412.5" });
  const second = await post(gateway, "/v1/price", ADMIN_KEY, '{"usd_per_tao":"413"}');
  assert.equal(second.status, 400);
  assert.match(second.json.error?.message ?? "", /Try again in the next minute/);
  assert.deepEqual(set, [412_500_000_000n, 413_000_000_000n]);

  present = { state: "live", nanoUsdPerTao: 500_000_000_000n, sources: ["kraken", "mexc"] };
  assert.deepEqual(await networkPrice(gateway), {
    state: "live",
    nusd_per_tao: "500000000000",
    usd_per_tao: "500",
    sources: ["kraken", "mexc"],
    frozen_because: null,
    frozen_since: null,
  });
  const late = await post(gateway, "/v1/price", ADMIN_KEY, '{"usd_per_tao":"412.5"}');
  assert.match(late.json.error?.message ?? "", /only while it is frozen/);
  assert.equal(set.length, 2);
  const quoted = await post(gateway, "/v1/deposits/quote", apiKey);
  assert.equal(quoted.json.data?.["rate_usd_per_tao"], "495");
});

test("GET /price/ticks shows the recorded prices from a time on, or the newest", async (t) => {
  const gateway = await openTestGateway(t, testNetwork());
  const { apiKey } = await gateway.customer(0n);
  const startMs = Date.UTC(2026, 5, 1, 12);
  const ticks = async (query: string) =>
    ((await gateway.get(`/v1/price/ticks${query}`, apiKey)).json as { data: unknown[] }).data;
  assert.deepEqual(await ticks(""), []);
  for (let minute = 0; minute < 62; minute += 1)
    await addManualTick(gateway.database, {
      atMs: startMs + minute * 60_000,
      nanoUsdPerTao: BigInt(minute + 1),
    });
  const tick = (minute: number) => ({
    minute: new Date(startMs + minute * 60_000).toISOString(),
    nusd_per_tao: String(minute + 1),
    sources: { manual: { nusd_per_tao: String(minute + 1), used: true } },
  });
  const hour = (from: number) => Array.from({ length: 60 }, (_, i) => tick(from + i));
  assert.deepEqual(await ticks(""), hour(2));
  assert.deepEqual(await ticks("?from=2026-06-01T11:00:00Z"), hour(0));
  assert.deepEqual(await ticks("?from=2026-06-01T13:01:59.999Z"), [tick(61)]);
  assert.deepEqual(await ticks("?from=2026-06-01T13:02:00Z"), []);
  for (const query of ["?from=yesterday", "?from=", "?from=1969-01-01", "?from=1&from=2"])
    assert.equal((await gateway.get(`/v1/price/ticks${query}`, apiKey)).status, 400, query);
  assert.equal((await gateway.get("/v1/price/ticks")).status, 401);
});
