import assert from "node:assert/strict";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import { openChain } from "../../src/devchain/chain.ts";
import { devMethods, isLoopback } from "../../src/devchain/dev-methods.ts";
import { openDevchain } from "../../src/devchain/devchain.ts";
import { openDevchainService } from "../../src/devchain/main.ts";
import { RpcError } from "../../src/devchain/rpc-params.ts";
import { openLogger } from "../../src/runtime/logger.ts";
import { ConfigError } from "../../src/runtime/settings.ts";
import {
  ALICE,
  BOB,
  call,
  clientOf,
  connect,
  freeOf,
  type LocalClient,
  openLocalClient,
  pairOf,
  post,
  query,
  TAO,
  withDeadline,
} from "./local-client.ts";

interface Answer {
  readonly result?: unknown;
  readonly error?: { readonly code: number; readonly message: string };
}

const pay = async ({ api, send }: LocalClient) => {
  const { error } = await send(call(api, "balances", "transferKeepAlive", BOB.address, TAO), ALICE);
  assert.equal(error, undefined);
};
const headOf = async ({ api }: LocalClient) => (await api.rpc.chain.getHeader()).number.toNumber();

describe("dev methods", () => {
  let local: LocalClient;
  before(async () => {
    local = await openLocalClient();
  });
  after(() => local.close());
  const ask = async (method: string, ...params: unknown[]) =>
    (await post(local.chain.url, { jsonrpc: "2.0", id: 1, method, params })) as Answer;
  const now = async () => Number(await query(local.api, "timestamp", "now"));

  test("dev_newBlock makes blocks, with the time between them that is asked for", async () => {
    const number = await headOf(local);
    const start = await now();
    const { result } = await ask("dev_newBlock", { count: 5, stepMs: 12_000 });
    assert.equal(await headOf(local), number + 5);
    assert.equal(result, (await local.api.rpc.chain.getBlockHash()).toHex());
    const passed = (await now()) - start;
    assert(passed >= 60_000 && passed < 60_500, `${passed}`);
    await ask("dev_newBlock");
    assert.equal(await headOf(local), number + 6);
  });

  test("dev_timeTravel sets the time of the next block, never back", async () => {
    const time = (await now()) + 86_400_000;
    assert.equal((await ask("dev_timeTravel", time)).result, time);
    await ask("dev_newBlock");
    const reached = await now();
    assert(reached >= time && reached < time + 5_000, `${reached - time}`);
    assert.match((await ask("dev_timeTravel", time)).error?.message ?? "", /must be after/);
  });

  test("dev_setStorage sets and removes keys in a block of its own", async () => {
    const { api } = local;
    const item = api.query["subtensorModule"]?.["stakeThreshold"];
    assert(item !== undefined);
    const key = item.key();
    const number = await headOf(local);
    await ask("dev_setStorage", [[key, "0x0700000000000000"]]);
    assert.equal(await query(api, "subtensorModule", "stakeThreshold"), 7);
    await ask("dev_setStorage", [[key, null]]);
    assert.equal(await query(api, "subtensorModule", "stakeThreshold"), 0);
    assert.equal(await headOf(local), number + 2);
  });

  for (const { name, method, params } of [
    { name: "too many blocks", method: "dev_newBlock", params: [{ count: 1e6 }] },
    { name: "options that are a list", method: "dev_newBlock", params: [[1]] },
    { name: "a pair of three", method: "dev_setStorage", params: [[["0x00", "0x00", "0x00"]]] },
    { name: "a value that is no hex", method: "dev_setStorage", params: [[["0x00", 7]]] },
    { name: "a time that is text", method: "dev_timeTravel", params: ["tomorrow"] },
    { name: "a snapshot that is none", method: "dev_restore", params: [{ format: "other" }] },
  ]) {
    test(`${method} refuses ${name}, and nothing happens`, async () => {
      const number = await headOf(local);
      assert.equal((await ask(method, ...params)).error?.code, -32_602);
      assert.equal(await headOf(local), number);
    });
  }
});

describe("a snapshot", () => {
  test("takes the chain back, on the disk too, and its clients see it", async () => {
    const dataDir = mkdtempSync(join(tmpdir(), "devchain-snapshot-"));
    const options = { dataDir, finalityLagBlocks: 2 };
    const local = await openLocalClient(options);
    const { api, rpc } = local;
    await pay(local);
    const number = await headOf(local);
    const hash = (await api.rpc.chain.getBlockHash()).toHex();
    const free = await freeOf(api, BOB.address);
    const snapshot = JSON.parse(JSON.stringify(await rpc("dev_snapshot"))) as unknown;

    await pay(local);
    await pay(local);
    const born = pairOf("//Dev/born").address;
    await local.send(call(api, "balances", "transferKeepAlive", born, TAO), ALICE);
    assert.equal(await freeOf(api, BOB.address), free + 2n * TAO);
    const seen: bigint[] = [];
    const item = api.query["system"]?.["account"];
    assert(item !== undefined);
    const back = new Promise<void>((resolve) => {
      void item(BOB.address, (account: { toJSON(): unknown }) => {
        const { data } = account.toJSON() as { data: { free: string | number } };
        if (seen.push(BigInt(data.free)) === 2) resolve();
      });
    });
    await rpc("dev_newBlock");
    while (seen.length === 0) await new Promise((resolve) => setImmediate(resolve));
    assert.equal(await rpc("dev_restore", snapshot), hash);
    await withDeadline(back);
    assert.deepEqual(seen, [free + 2n * TAO, free]);
    assert.equal(await headOf(local), number);
    assert.equal(await freeOf(api, born), 0n);
    assert.equal((await api.rpc.chain.getFinalizedHead()).toHex(), hash);
    await pay(local);
    assert.equal(await headOf(local), number + 1);
    assert.equal(await freeOf(api, BOB.address), free + TAO);
    await local.close();

    const reopened = await openLocalClient(options);
    assert.equal(await headOf(reopened), number + 1);
    assert.equal(await freeOf(reopened.api, BOB.address), free + TAO);
    await reopened.close();
    rmSync(dataDir, { recursive: true });
  });

  test("begins a new chain, and no other chain takes it", async () => {
    const first = await openLocalClient();
    await pay(first);
    const number = await headOf(first);
    const free = await freeOf(first.api, BOB.address);
    const snapshot = await first.rpc("dev_snapshot");
    await first.close();

    const open = async (json: unknown) =>
      await openDevchain({
        host: "127.0.0.1",
        port: 0,
        blockMs: 0,
        tempo: 20,
        finalityLagBlocks: 2,
        endowed: [],
        snapshot: json,
      });
    const chain = await open(snapshot);
    const second = clientOf(chain, await connect(chain.url));
    assert.equal(chain.genesisHash, first.chain.genesisHash);
    assert.equal(await headOf(second), number);
    assert.equal(await freeOf(second.api, BOB.address), free);
    await pay(second);
    assert.equal(await freeOf(second.api, BOB.address), free + TAO);
    await second.close();

    const third = await openLocalClient();
    const answer = (await post(third.chain.url, {
      jsonrpc: "2.0",
      id: 1,
      method: "dev_restore",
      params: [snapshot],
    })) as Answer;
    assert.match(answer.error?.message ?? "", /another chain/);
    await third.close();

    const cut = {
      ...(snapshot as object),
      data: String(Reflect.get(snapshot as object, "data")).slice(0, 400),
    };
    await assert.rejects(open(cut), ConfigError);
    await assert.rejects(open({ ...(snapshot as object), version: 2 }), /reads 1/);
  });
});

test("daybreak devchain begins a chain with a snapshot file, and says what is wrong with another", async () => {
  const directory = mkdtempSync(join(tmpdir(), "devchain-snapshot-"));
  const path = join(directory, "snapshot.json");
  const start = async () =>
    await openDevchainService(
      {
        host: "127.0.0.1",
        port: 0,
        data: undefined,
        snapshot: path,
        blockMs: 10_000,
        tempo: 20,
        finalityLagBlocks: 0,
        endowed: [],
      },
      openLogger("test", "silent"),
    );
  const first = await openLocalClient();
  writeFileSync(path, JSON.stringify(await first.rpc("dev_snapshot")));
  await first.close();
  const chain = await start();
  assert.equal(chain.genesisHash, first.chain.genesisHash);
  await chain.close();
  writeFileSync(path, "{");
  await assert.rejects(
    start(),
    (error) => error instanceof ConfigError && /cannot be read/.test(error.message),
  );
  rmSync(directory, { recursive: true });
});

test("dev methods are refused unless only this machine reaches the chain", async () => {
  for (const host of ["127.0.0.1", "127.9.9.9", "::1", "localhost"]) assert(isLoopback(host), host);
  for (const host of ["0.0.0.0", "::", "192.168.0.7", "127.0.0.1.evil.example", ""])
    assert(!isLoopback(host), host);
  const chain = openChain({
    dataDir: undefined,
    fileBytesMax: 0,
    tempo: 20,
    slotMs: 12_000,
    finalityLagBlocks: 0,
    endowed: [],
    log: undefined,
  });
  const methods = devMethods(chain, "0.0.0.0");
  assert.equal(methods.size, devMethods(chain, "127.0.0.1").size);
  for (const run of methods.values()) assert.throws(() => run([]), RpcError);
  assert.equal(chain.head().number, 0);
  await chain.close();
});
