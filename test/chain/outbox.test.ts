import assert from "node:assert/strict";
import { appendFile, mkdtemp, readFile, rm, truncate, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { memoryOutbox, type OutboxRecord, openOutboxFile } from "../../src/chain/outbox.ts";

const GENESIS = `0x${"0".repeat(64)}`;
const INCLUSION = { blockHash: `0x${"2".repeat(64)}`, blockNumber: 12 };

function record(purpose: string, more: Partial<OutboxRecord> = {}): OutboxRecord {
  return {
    purpose,
    genesis: GENESIS,
    hash: `0x${"1".repeat(64)}`,
    signer: "5GrwvaEF5zXb26Fz9rcQpDWS57CtERHpNehXCPcNoHGKutQY",
    nonce: 7,
    anchor: { number: 3, hash: `0x${"3".repeat(64)}` },
    lastBlock: 66,
    bytes: "0x00",
    ...more,
  };
}

async function folder(t: TestContext): Promise<string> {
  const path = await mkdtemp(join(tmpdir(), "daybreak-outbox-"));
  t.after(() => rm(path, { recursive: true, force: true }));
  return join(path, "outbox");
}

test("openOutboxFile() gives back what was put, without what was removed, in order", async (t) => {
  const directory = await folder(t);
  const outbox = await openOutboxFile(directory);
  await Promise.all(["a", "b", "c"].map((purpose) => outbox.put(record(purpose))));
  await outbox.remove(record("b"));
  const { bytes: _sent, ...sent } = record("a");
  const included = { ...sent, inclusion: INCLUSION };
  await outbox.put(included);
  await outbox.put(record("a", { genesis: "0xother" }));
  await outbox.close();

  const again = await openOutboxFile(directory);
  t.after(() => again.close());
  assert.deepEqual(again.records(GENESIS), [record("c"), included]);
  assert.deepEqual(again.of(GENESIS, "a"), included);
  assert.equal(again.of("0xother", "a")?.inclusion, undefined, "each chain has its own purposes");
  assert.equal(again.of(GENESIS, "b"), undefined);
});

test("openOutboxFile() drops a last line that was cut short, whatever its length", async (t) => {
  const directory = await folder(t);
  const file = join(directory, "extrinsics.jsonl");
  const outbox = await openOutboxFile(directory);
  await outbox.put(record("a"));
  const whole = (await readFile(file)).length;
  await outbox.put(record("b"));
  await outbox.close();
  const { length } = await readFile(file);
  for (const cut of [length - 1, whole + 1]) {
    await truncate(file, cut);
    const again = await openOutboxFile(directory);
    assert.deepEqual(
      again.records(GENESIS).map(({ purpose }) => purpose),
      ["a"],
    );
    await again.put(record("b"));
    await again.close();
  }
  const last = await openOutboxFile(directory);
  t.after(() => last.close());
  assert.equal(last.records(GENESIS).length, 2);
});

test("openOutboxFile() refuses a damaged file, and one that is in use", async (t) => {
  const directory = await folder(t);
  const file = join(directory, "extrinsics.jsonl");
  const outbox = await openOutboxFile(directory);
  await outbox.put(record("a"));
  await assert.rejects(openOutboxFile(directory), { name: "ConfigError", message: /in use/ });
  await outbox.close();
  const good = await readFile(file, "utf8");
  for (const bad of ["{}\n", '{"v":2,"put":{"genesis":"g","purpose":"p"}}\n', "\n", "x\n"]) {
    await writeFile(file, bad);
    await appendFile(file, good);
    await assert.rejects(openOutboxFile(directory), { name: "ConfigError", message: /line 1/ });
    assert.equal(await readFile(file, "utf8"), bad + good, "it is left as it is");
  }
});

test("an outbox file does not grow with what is done", async (t) => {
  const directory = await folder(t);
  const outbox = await openOutboxFile(directory);
  t.after(() => outbox.close());
  await outbox.put(record("stays"));
  for (let i = 0; i < 130; i++) {
    await outbox.put(record("passes"));
    await outbox.remove(record("passes"));
  }
  const lines = (await readFile(join(directory, "extrinsics.jsonl"), "utf8")).split("\n").length;
  assert(lines < 220, `${lines} lines`);
  assert.equal(outbox.records(GENESIS).length, 1);
});

test("an outbox forgets the oldest included record first, and none that is open", async () => {
  const outbox = memoryOutbox();
  await outbox.put(record("open"));
  for (let i = 0; i < 10_001; i++) await outbox.put(record(`p${i}`, { inclusion: INCLUSION }));
  assert.equal(outbox.of(GENESIS, "p0"), undefined);
  assert(outbox.of(GENESIS, "p1") !== undefined);
  assert(outbox.of(GENESIS, "open") !== undefined);
  assert.equal(outbox.records(GENESIS).length, 10_001);
});
