import assert from "node:assert/strict";
import { test } from "node:test";
import OpenAI from "openai";
import { expirePromo, grantPromo } from "../../src/billing/promo.ts";
import { nanoUsd } from "../../src/core/money.ts";
import { decodeClaims } from "../../src/core/signed-claims.ts";
import {
  CHAT_MODEL,
  openTestGateway,
  openTestMiner,
  testNetwork,
  untilServing,
} from "./fixture.ts";

interface Credits {
  readonly data: Readonly<Record<string, string | number>>;
}

test("a request that promo credit pays earns its miner nothing, and its leaf says so", async (t) => {
  const network = testNetwork();
  await openTestMiner(t, network);
  const gateway = await openTestGateway(t, network);
  await untilServing(gateway, 1);
  const { apiKey, account } = await gateway.customer(1_000_000_000n);
  const openai = new OpenAI({ apiKey, baseURL: `${gateway.url}/v1`, maxRetries: 0 });
  const ask = async (): Promise<{ id: string; cost: bigint }> => {
    const { response } = await openai.chat.completions
      .create({ model: CHAT_MODEL, messages: [{ role: "user", content: "hi" }] })
      .withResponse();
    return {
      id: response.headers.get("x-generation-id") ?? "",
      cost: BigInt(response.headers.get("x-daybreak-cost-nusd") ?? 0),
    };
  };
  const credits = async (): Promise<Credits["data"]> =>
    ((await gateway.get("/v1/credits", apiKey)).json as Credits).data;
  const expiresMs = Date.now() + 3_600_000;
  await grantPromo(gateway.database, {
    id: "welcome",
    account,
    amount: nanoUsd(500_000_000n),
    expiresMs,
  });
  assert.equal((await credits())["total_credits"], 1.5);

  const free = await ask();
  assert(free.cost > 0n);
  assert.deepEqual(await credits(), {
    total_credits: 1.5,
    total_usage: Number(free.cost) / 1e9,
    balance_nusd: (1_500_000_000n - free.cost).toString(),
    held_nusd: "0",
    available_nusd: (1_500_000_000n - free.cost).toString(),
    promo_nusd: (500_000_000n - free.cost).toString(),
  });
  await expirePromo(gateway.database, expiresMs);
  assert.equal((await credits())["promo_nusd"], "0");
  const paid = await ask();
  assert.equal((await credits())["balance_nusd"], (1_000_000_000n - paid.cost).toString());

  const leaves = await gateway.ledger.leaves(0n, 10);
  const signed = leaves.map(({ leaf }) => decodeClaims(leaf.split("\n")[1] ?? "")?.payload);
  assert.deepEqual(
    signed.map((claims) => [claims?.["promo"], claims?.["amt"] === "0"]),
    [
      [true, true],
      [false, false],
    ],
  );
  for (const [{ id }, isPromo] of [
    [free, true],
    [paid, false],
  ] as const) {
    const { json } = await gateway.get(`/v1/generation?id=${id}`, apiKey);
    const { data } = json as { data: { promo: boolean; miner_nusd: string } };
    assert.deepEqual([data.promo, data.miner_nusd === "0"], [isPromo, isPromo]);
  }
});
