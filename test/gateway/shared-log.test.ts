import assert from "node:assert/strict";
import { copyFile, mkdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import { test } from "node:test";
import { parseLogRoot } from "../../src/core/commitment.ts";
import { signingKey } from "../../src/core/jws.ts";
import { CATALOGUE_VERSION } from "../../src/core/models.ts";
import { logEnds } from "../../src/gateway/shared-log.ts";
import type { Database } from "../../src/runtime/database.ts";
import {
  CHAT_MODEL,
  openTestGateway,
  openTestMiner,
  sharedDatabase,
  type TestGateway,
  temporaryFolder,
  testNetwork,
  until,
  untilServing,
} from "./fixture.ts";

test("gateways of one key write the same log, whoever ends an epoch, and one that lost it writes it anew", async (t) => {
  const network = testNetwork();
  await openTestMiner(t, network);
  // As on a server: gateways that start do not take the others for gone, and share their side files.
  const database: Database = { ...(await sharedDatabase()), kind: "postgres" };
  const options = { database, signingKey: signingKey() };
  const one = await openTestGateway(t, network, options);
  const two = await openTestGateway(t, network, options);
  const both = [one, two];
  for (const gateway of both) await untilServing(gateway, 1);
  const { apiKey } = await one.customer();
  const ask = async (gateway: TestGateway) => {
    const answer = await fetch(`${gateway.url}/v1/chat/completions`, {
      method: "POST",
      headers: { authorization: `Bearer ${apiKey}` },
      body: JSON.stringify({ model: CHAT_MODEL, messages: [{ role: "user", content: "hi" }] }),
    });
    assert.equal(answer.status, 200);
    await answer.arrayBuffer();
  };
  const rootOf = () => parseLogRoot(network.chain.commitmentOf(one.hotkey)?.[1] ?? Buffer.alloc(0));

  const roots: { epoch: number; size: bigint }[] = [];
  for (let round = 0; round < 3; round += 1) {
    // Some of them are settled while the epoch ends, at whichever gateway sees it first.
    const asked = Promise.all(
      Array.from({ length: 8 }, async (_, i) => await ask(i % 2 === 0 ? one : two)),
    );
    network.chain.runEpoch();
    await asked;
    const epoch = network.chain.epoch();
    await until(`the root of epoch ${epoch}`, () => rootOf()?.epoch === epoch);
    const root = rootOf();
    assert(root !== undefined);
    roots.push(root);
  }
  network.chain.runEpoch();
  const last = network.chain.epoch();
  await until("the last root", () => rootOf()?.epoch === last);
  assert.equal(rootOf()?.size, 24n);

  // It has a checkpoint of its own, and lost the tiles behind it.
  const folder = temporaryFolder(t);
  await mkdir(join(folder, "log"));
  await copyFile(join(one.folder, "log", "checkpoint"), join(folder, "log", "checkpoint"));
  const three = await openTestGateway(t, network, { ...options, folder });
  const fileOf = async ({ folder }: TestGateway, path: string): Promise<string | undefined> =>
    await readFile(join(folder, "log", path), "hex").catch(() => undefined);
  const checkpoint = await fileOf(one, "checkpoint");
  for (const gateway of [one, two, three]) {
    await until("the whole log", async () => (await fileOf(gateway, "checkpoint")) === checkpoint);
    for (const { epoch, size } of [...roots, { epoch: last, size: 24n }]) {
      for (const path of [
        `epoch/${epoch}.json`,
        `tile/0/000.p/${size}`,
        `tile/entries/000.p/${size}`,
      ]) {
        if (size === 0n && path.startsWith("tile")) continue;
        await until(`${path} everywhere`, async () => (await fileOf(gateway, path)) !== undefined);
        assert.equal(await fileOf(gateway, path), await fileOf(one, path), path);
      }
    }
  }
  const ends = await database.query<{ epoch: number; first: bigint; size: bigint }>(
    "SELECT epoch, first, size FROM gateway.log_end WHERE log = $1 ORDER BY epoch",
    [options.signingKey.kid],
  );
  ends.forEach(({ first }, i) => assert.equal(first, ends[i - 1]?.size ?? 0n));
  // They wait for the gateway that ended the epoch to have done their work.
  await database.query("UPDATE jobs.outbox SET due_at = now() WHERE id LIKE $1 || '/%'", [
    options.signingKey.kid,
  ]);
  await until("every epoch's job to end", async () => {
    const jobs = await database.query<{ state: string }>(
      "SELECT state FROM jobs.outbox WHERE id LIKE $1 || '/%'",
      [options.signingKey.kid],
    );
    assert.equal(jobs.length, ends.length);
    return jobs.every(({ state }) => state === "done");
  });
  // Evidence and quotes that only another gateway has on its disk are served all the same.
  const [side] = await database.query<{ name: string; content: string }>(
    "SELECT name, content FROM gateway.side_file WHERE log = $1 AND kind = 'quote'",
    [options.signingKey.kid],
  );
  assert(side !== undefined);
  await database.query(
    "INSERT INTO gateway.side_file (log, kind, name, content) VALUES ($1, 'quote', $2, $3)",
    [options.signingKey.kid, "A".repeat(43), side.content],
  );
  for (const [name, status] of [
    ["A".repeat(43), 200],
    ["B".repeat(43), 404],
  ] as const)
    assert.equal((await fetch(`${three.url}/log/quote/${name}.json`)).status, status);

  // One that ends an epoch and dies leaves the root to the others.
  const next = network.chain.epoch() + 1;
  const dead = logEnds(database, options.signingKey.kid);
  assert.equal(await dead.decide(next, CATALOGUE_VERSION), true);
  assert.equal(await dead.decide(next, CATALOGUE_VERSION), false);
  network.chain.runEpoch();
  await database.query("UPDATE jobs.outbox SET due_at = now() WHERE id = $1", [
    `${options.signingKey.kid}/${next}`,
  ]);
  await until("its root", () => rootOf()?.epoch === next);
});
