import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { test } from "node:test";
import { setTimeout as delay } from "node:timers/promises";
import { grantPromo, promoBalanceOf } from "../../src/billing/promo.ts";
import { parseLogRoot } from "../../src/core/commitment.ts";
import { verifyingKey } from "../../src/core/jws.ts";
import { nanoUsd } from "../../src/core/money.ts";
import { claimsHashOf, decodeClaims, verifyClaims } from "../../src/core/signed-claims.ts";
import { openLogger } from "../../src/runtime/logger.ts";
import { openLogReader } from "../../src/usage-log/reader.ts";
import {
  CHAT_MODEL,
  failing,
  openTestGateway,
  openTestMiner,
  sharedDatabase,
  type TestGateway,
  temporaryFolder,
  testNetwork,
  until,
  untilServing,
} from "./fixture.ts";

const body = (fields: object = {}): string =>
  JSON.stringify({ model: CHAT_MODEL, messages: [{ role: "user", content: "hi" }], ...fields });

const ask = (gateway: TestGateway, apiKey: string, fields: object = {}) =>
  fetch(`${gateway.url}/v1/chat/completions`, {
    method: "POST",
    headers: { authorization: `Bearer ${apiKey}` },
    body: body(fields),
  });

for (const isPromo of [false, true])
  test(`a request of ${isPromo ? "promo" : "paid"} credit whose gateway died between answer and settlement is settled once, by the relay's receipt`, async (t) => {
    const network = testNetwork();
    const miner = await openTestMiner(t, network);
    const folder = temporaryFolder(t);
    const database = await sharedDatabase();
    let dead = false;
    const first = await openTestGateway(t, network, {
      folder,
      database,
      drainMs: 0,
      // What the ledger sees of a process that is killed: nothing more.
      ledgerSeam: (ledger) => ({
        ...ledger,
        settle: (order) => (dead ? new Promise(() => undefined) : ledger.settle(order)),
        release: (request, reason) =>
          dead ? new Promise(() => undefined) : ledger.release(request, reason),
      }),
    });
    await untilServing(first, 1);
    const { apiKey, account } = await first.customer(isPromo ? 0n : undefined);
    if (isPromo)
      await grantPromo(database, {
        id: "recovered",
        account,
        amount: nanoUsd(1_000_000_000n),
        expiresMs: Date.now() + 3_600_000,
      });
    const balance = async () =>
      isPromo ? await promoBalanceOf(database, account) : await second.ledger.balance(account);
    dead = true;
    const answer = ask(first, apiKey).catch(() => undefined);
    await until("the hold", async () => (await first.ledger.openHolds()).length === 1);
    await until("the upstream to have answered", () => miner.upstream.seen.length === 1);
    await delay(50);
    await first.close();
    await answer;
    const { signingKey } = first;

    const second = await openTestGateway(t, network, { folder, database, signingKey });
    assert.equal((await second.ledger.openHolds()).length, 1);
    await until("the request to be settled", async () => {
      const { heldNusd, chargedNusd } = await balance();
      return heldNusd === 0n && chargedNusd > 0n;
    });
    const { chargedNusd } = await balance();
    const leaves = await second.ledger.leaves(0n, 10);
    assert.equal(leaves.length, 1);
    const receipt = decodeClaims(leaves[0]?.leaf.split("\n")[0] ?? "")?.payload;
    assert.equal(receipt?.["status"], "complete");
    const signed = decodeClaims(leaves[0]?.leaf.split("\n")[1] ?? "")?.payload;
    assert.equal(signed?.["promo"], isPromo);
    assert.equal(signed["amt"] === "0", isPromo);
    // Another round finds nothing more to do.
    await delay(100);
    assert.equal((await balance()).chargedNusd, chargedNusd);
  });

test("a receipt that tells another usage than the provider's own is not paid, and its miner is ejected", async (t) => {
  const network = testNetwork();
  const liar = await openTestMiner(t, network, { discountBps: 5_000, inflate: true });
  const honest = await openTestMiner(t, network);
  const gateway = await openTestGateway(t, network);
  await untilServing(gateway, 2);
  const { apiKey, account } = await gateway.customer();
  const answer = await ask(gateway, apiKey);
  assert.equal(answer.status, 502);
  await until("the hold to be released", async () => {
    const { heldNusd, chargedNusd } = await gateway.ledger.balance(account);
    assert.equal(chargedNusd, 0n);
    return heldNusd === 0n;
  });
  const { json } = await gateway.get("/v1/network/miners");
  const shown = (json as { data: { hotkey: string; state: string; reason: { code: string } }[] })
    .data;
  const found = shown.find(({ hotkey }) => hotkey === liar.hotkey);
  assert.equal(found?.state, "ejected");
  assert.equal(found.reason.code, "usage_mismatch");
  const next = await ask(gateway, apiKey);
  assert.equal(next.headers.get("x-daybreak-miner"), honest.hotkey);
});

test("receipts go into a log whose root is on the chain when the epoch ends, across a restart", async (t) => {
  const network = testNetwork();
  const miner = await openTestMiner(t, network);
  const folder = temporaryFolder(t);
  const database = await sharedDatabase();
  const first = await openTestGateway(t, network, { folder, database });
  await untilServing(first, 1);
  const { apiKey } = await first.customer();
  for (let i = 0; i < 3; i++) assert.equal((await ask(first, apiKey)).status, 200);
  miner.upstream.answer = failing(500);
  assert.equal((await ask(first, apiKey)).status, 502);
  await until("the failed attempt's receipt", async () => (await first.ledger.leafCount()) === 4n);
  network.chain.runEpoch();
  const e = network.chain.epoch();
  const rootOf = () =>
    parseLogRoot(network.chain.commitmentOf(first.hotkey)?.[1] ?? Buffer.alloc(0));
  await until("the root on the chain", () => rootOf()?.epoch === e);
  const root = rootOf();
  assert.equal(root?.size, 4n);

  const key = verifyingKey(first.signingKey.jwk);
  assert(key !== undefined);
  const reader = openLogReader(async (path) => {
    const answer = await fetch(`${first.url}/log/${path}`);
    return answer.status === 200 ? Buffer.from(await answer.arrayBuffer()) : undefined;
  }, key);
  const edge = await reader.edgeAt(4n);
  assert.equal(edge.size, 4n);
  const file = await reader.epochFile(e, root.sums);
  assert.equal(Buffer.from(file.root).toString("hex"), Buffer.from(root.root).toString("hex"));
  const leaves = await first.ledger.leaves(0n, 10);
  let earned = 0n;
  for (const { leaf } of leaves) {
    const [receipt = "", countersignature = ""] = leaf.split("\n");
    assert(verifyClaims(receipt, "usage-receipt", miner.enclave.receiptKey) !== undefined);
    const signed = verifyClaims(countersignature, "countersign", key);
    assert.equal(signed?.["receipt"], claimsHashOf(receipt));
    earned += BigInt(String(signed["amt"]));
    const quote = String(decodeClaims(receipt)?.payload["quote"]);
    assert(await reader.side("quote", quote));
  }
  assert(earned > 0n);
  assert.equal(file.sums.get(miner.hotkey), earned);
  assert(await reader.side("evidence", miner.enclave.id()));
  const escape = await fetch(`${first.url}/log/..%2fsigning-key.pem`);
  assert.equal(escape.status, 404);

  await first.close();
  // Two epochs run while nobody is there: the newest is closed, and none twice.
  network.chain.runEpoch();
  network.chain.runEpoch();
  const { signingKey } = first;
  const second = await openTestGateway(t, network, { folder, database, signingKey });
  await until("the newest root", () => rootOf()?.epoch === network.chain.epoch());
  assert.equal(rootOf()?.size, 4n);
  const epochs = await second.ledger.logEpochs(10);
  assert.deepEqual(
    epochs.map(({ epoch }) => epoch),
    [e + 2, e, e - 1],
  );
  const written = JSON.parse(
    await readFile(join(folder, "log", `epoch/${e + 2}.json`), "utf8"),
  ) as {
    first: number;
    receipts: number;
  };
  assert.deepEqual([written.first, written.receipts], [4, 0]);
});

test("a prompt leaves no trace in logs, metrics or the database", async (t) => {
  const network = testNetwork();
  const miner = await openTestMiner(t, network);
  const canary = `canary-${"q".repeat(24)}-${Date.now()}`;
  const folder = temporaryFolder(t);
  const logFile = join(folder, "gateway.log");
  const gateway = await openTestGateway(t, network, {
    folder,
    log: openLogger("gateway", "trace", logFile),
  });
  await untilServing(gateway, 1);
  const { apiKey } = await gateway.customer();
  const messages = [{ role: "user", content: canary }];
  assert.equal((await ask(gateway, apiKey, { messages })).status, 200);
  await (await ask(gateway, apiKey, { messages, stream: true })).text();
  assert.equal((await ask(gateway, apiKey, { messages, model: canary })).status, 404);
  assert.equal(
    (await ask(gateway, apiKey, { messages, [canary]: 1, temperature: {} })).status,
    200,
  );
  miner.upstream.answer = failing(400, canary);
  assert.equal((await ask(gateway, apiKey, { messages })).status, 400);
  miner.upstream.answer = failing(500, canary);
  assert.equal((await ask(gateway, apiKey, { messages })).status, 502);
  const metrics = await (await fetch(`${gateway.url}/metrics`)).text();
  assert(metrics.includes("daybreak_gateway_requests_total"));
  assert(!metrics.includes(canary) && !metrics.includes(apiKey));
  const tables = await gateway.database.query<{ name: string }>(
    "SELECT table_name AS name FROM information_schema.tables WHERE table_schema = 'ledger' AND table_type = 'BASE TABLE'",
  );
  assert(tables.length > 5);
  for (const { name } of tables) {
    const [row] = await gateway.database.query<{ found: bigint }>(
      `SELECT count(*) AS found FROM ledger.${name} x WHERE x::text LIKE $1 OR x::text LIKE $2`,
      [`%${canary}%`, `%${apiKey}%`],
    );
    assert.equal(row?.found, 0n, name);
  }
  await gateway.close();
  await delay(100);
  const logged = await readFile(logFile, "utf8");
  assert(logged.includes("request.ended"));
  assert(!logged.includes(canary) && !logged.includes(apiKey));
});
