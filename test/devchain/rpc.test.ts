import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import { WebSocket } from "ws";
import { openChain } from "../../src/devchain/chain.ts";
import { openDevchain } from "../../src/devchain/devchain.ts";
import { ConfigError } from "../../src/runtime/settings.ts";
import {
  ALICE,
  BOB,
  call,
  freeOf,
  type LocalClient,
  openLocalClient,
  post,
  TAO,
  withDeadline,
} from "./local-client.ts";

interface Answer {
  readonly id: unknown;
  readonly result?: unknown;
  readonly error?: { readonly code: number; readonly message: string };
}

describe("the JSON-RPC server", () => {
  let local: LocalClient;
  before(async () => {
    local = await openLocalClient({ finalityLagBlocks: 3 });
  });
  after(() => local.close());
  const ask = async (body: unknown) => (await post(local.chain.url, body)) as Answer;
  const http = () => local.chain.url.replace("ws", "http");

  test("serves an unmodified ApiPromise over WebSocket", async () => {
    const { api, chain } = local;
    assert.equal(api.genesisHash.toHex(), chain.genesisHash);
    assert.equal(api.runtimeVersion.specName.toString(), "node-subtensor");
    assert.equal(api.registry.chainSS58, 42);
    assert.deepEqual(api.registry.chainTokens, ["TAO"]);
    const version = await api.call["core"]?.["version"]?.();
    const { specVersion } = (version?.toJSON() ?? {}) as { specVersion?: number };
    assert.equal(specVersion, 425);
  });

  test("tells clients the time between two blocks", async () => {
    const slotOf = ({ consts }: LocalClient["api"]) => String(consts["aura"]?.["slotDuration"]);
    assert.equal(slotOf(local.api), "12000");
    assert.equal(String(local.api.consts["timestamp"]?.["minimumPeriod"]), "6000");
    const quick = await openLocalClient({ blockMs: 50 });
    assert.equal(slotOf(quick.api), "50");
    await quick.close();
  });

  test("serves metadata 14 by its method, and 14 and 15 by version, and no other", async () => {
    const { rpc } = local;
    const atVersion = async (version: number) =>
      (await rpc(
        "state_call",
        "Metadata_metadata_at_version",
        `0x${version.toString(16).padStart(2, "0")}000000`,
      )) as string;
    assert.equal(
      await rpc("state_call", "Metadata_metadata_versions", "0x"),
      "0x080e0000000f000000",
    );
    const v14 = (await rpc("state_getMetadata")) as string;
    assert.equal(v14.slice(0, 12), "0x6d6574610e");
    // Option(Some) ‖ length Compact of four bytes ‖ metadata
    for (const [version, metadata] of [
      [14, v14.slice(2)],
      [15, "6d6574610f"],
    ] as const) {
      const answer = await atVersion(version);
      assert.equal(answer.slice(0, 4), "0x01");
      assert(answer.slice(12).startsWith(metadata), `version ${version}`);
    }
    for (const version of [0x10, 0x11]) assert.equal(await atVersion(version), "0x00");
  });

  test("answers single requests and batches over HTTP", async () => {
    const one = await ask({ jsonrpc: "2.0", id: "a", method: "chain_getBlockHash", params: [0] });
    assert.deepEqual(one, { jsonrpc: "2.0", id: "a", result: local.chain.genesisHash });
    const many = (await post(local.chain.url, [
      { jsonrpc: "2.0", id: 1, method: "system_chain" },
      { jsonrpc: "2.0", id: 2, method: "no_such" },
    ])) as Answer[];
    assert.deepEqual(many[0], { jsonrpc: "2.0", id: 1, result: "Bittensor" });
    assert.equal(many[1]?.error?.code, -32_601);
  });

  test("lists its methods, and each answers without parameters instead of failing inside", async () => {
    const { methods } = (await local.rpc("rpc_methods")) as { methods: string[] };
    assert(methods.length > 40);
    for (const method of methods) {
      const answer = await ask({ jsonrpc: "2.0", id: 1, method });
      assert.notEqual(answer.error?.code, -32_603, `${method}: ${answer.error?.message}`);
    }
  });

  for (const { name, body, code } of [
    { name: "text that is no JSON", body: "{", code: -32_700 },
    { name: "nested lists without end", body: "[".repeat(100_000), code: -32_700 },
    { name: "null", body: "null", code: -32_600 },
    { name: "a number", body: "7", code: -32_600 },
    { name: "an empty batch", body: "[]", code: -32_600 },
    { name: "a batch that is too long", body: JSON.stringify(Array(300).fill({})), code: -32_600 },
    { name: "no method", body: '{"id":1}', code: -32_600 },
    { name: "a method that is no text", body: '{"id":1,"method":{}}', code: -32_600 },
    {
      name: "named parameters",
      body: '{"id":1,"method":"system_chain","params":{"a":1}}',
      code: -32_602,
    },
    { name: "a method of every object", body: '{"id":1,"method":"__proto__"}', code: -32_601 },
    { name: "the constructor", body: '{"id":1,"method":"constructor"}', code: -32_601 },
    {
      name: "a subscription over HTTP",
      body: '{"id":1,"method":"chain_subscribeNewHeads"}',
      code: -32_601,
    },
    {
      name: "a runtime function of every object",
      body: '{"id":1,"method":"state_call","params":["Core_toString","0x"]}',
      code: 4003,
    },
    {
      name: "a runtime API of every object",
      body: '{"id":1,"method":"state_call","params":["constructor_name","0x"]}',
      code: 4003,
    },
    {
      name: "arguments that are too short",
      body: '{"id":1,"method":"state_call","params":["NeuronInfoRuntimeApi_get_neurons_lite","0x"]}',
      code: 4003,
    },
    {
      name: "an unknown block",
      body: `{"id":1,"method":"state_getStorage","params":["0x00","0x${"11".repeat(32)}"]}`,
      code: 4003,
    },
    {
      name: "half a byte",
      body: '{"id":1,"method":"state_getStorage","params":["0x0"]}',
      code: -32_602,
    },
    {
      name: "a key that is no text",
      body: '{"id":1,"method":"state_getStorage","params":[[]]}',
      code: -32_602,
    },
    {
      name: "a negative block",
      body: '{"id":1,"method":"chain_getBlockHash","params":[-1]}',
      code: -32_602,
    },
    {
      name: "a block number like 1e300",
      body: '{"id":1,"method":"chain_getBlockHash","params":[1e300]}',
      code: -32_602,
    },
    {
      name: "an address that is none",
      body: '{"id":1,"method":"system_accountNextIndex","params":["5abc"]}',
      code: -32_602,
    },
    {
      name: "a page that is too long",
      body: '{"id":1,"method":"state_getKeysPaged","params":["0x",1000000]}',
      code: -32_602,
    },
  ]) {
    test(`answers ${name} with ${code}`, async () => {
      assert.equal((await ask(body)).error?.code, code);
      assert.equal(await local.rpc("system_chain"), "Bittensor");
    });
  }

  test("refuses long bodies, other content types, other verbs and foreign pages", async () => {
    const json = { "content-type": "application/json" };
    const long = await fetch(http(), {
      method: "POST",
      headers: json,
      body: " ".repeat(2 << 20),
    }).then(
      ({ status }) => status,
      () => 413, // The connection may be closed before all of it was sent.
    );
    assert.equal(long, 413);
    assert.equal((await fetch(http(), { method: "POST", body: "{}" })).status, 415);
    assert.equal((await fetch(http())).status, 405);
    const foreign = new WebSocket(local.chain.url, { origin: "https://evil.example" });
    const [error] = await withDeadline(
      new Promise<Error[]>((resolve) => foreign.once("error", (...args) => resolve(args))),
    );
    assert.match(error?.message ?? "", /401/);
  });

  test("survives hostile WebSocket messages and bounds subscriptions", async () => {
    const socket = new WebSocket(local.chain.url);
    await withDeadline(new Promise((resolve) => socket.once("open", resolve)));
    const answers: Answer[] = [];
    const received = new Promise<void>((resolve) => {
      socket.on("message", (data: Buffer) => {
        const message = JSON.parse(data.toString()) as Answer & { method?: string };
        if (message.method === undefined) answers.push(message);
        if (answers.length === 1_202) resolve();
      });
    });
    socket.send("\u0000");
    socket.send(Buffer.from([0xff, 0xfe]));
    for (let id = 0; id < 1_200; id++)
      socket.send(JSON.stringify({ jsonrpc: "2.0", id, method: "state_subscribeRuntimeVersion" }));
    await withDeadline(received);
    assert.deepEqual(
      answers.slice(0, 2).map(({ error }) => error?.code),
      [-32_700, -32_700],
    );
    assert.equal(answers.filter(({ result }) => result !== undefined).length, 1_024);
    assert.equal(answers.at(-1)?.error?.code, -32_006);
    const closed = new Promise((resolve) => socket.once("close", resolve));
    socket.on("error", () => undefined);
    socket.send("x".repeat(2 << 20));
    await withDeadline(closed);
    assert.equal(await local.rpc("system_chain"), "Bittensor");
  });

  test("bounds the storage keys that one connection watches", async () => {
    const socket = new WebSocket(local.chain.url);
    await withDeadline(new Promise((resolve) => socket.once("open", resolve)));
    const keys = Array.from({ length: 1_000 }, (_, i) => `0x${i.toString(16).padStart(8, "0")}`);
    const codes: (number | undefined)[] = [];
    const received = new Promise<void>((resolve) => {
      socket.on("message", (data: Buffer) => {
        const message = JSON.parse(data.toString()) as Answer & { method?: string };
        if (message.method !== undefined) return;
        codes.push(message.error?.code);
        if (codes.length === 20) resolve();
      });
    });
    for (let id = 0; id < 20; id++)
      socket.send(
        JSON.stringify({ jsonrpc: "2.0", id, method: "state_subscribeStorage", params: [keys] }),
      );
    await withDeadline(received);
    assert.equal(codes.filter((code) => code === undefined).length, 16);
    assert.equal(codes.at(-1), -32_006);
    socket.terminate();
  });

  test("a busy port is a ConfigError that names it", async () => {
    const { port } = local.chain;
    await assert.rejects(
      openDevchain({
        host: "127.0.0.1",
        port,
        blockMs: 0,
        tempo: 20,
        finalityLagBlocks: 0,
        endowed: [],
      }),
      (error) => error instanceof ConfigError && error.message.includes(String(port)),
    );
  });
});

describe("blocks", () => {
  let local: LocalClient;
  before(async () => {
    local = await openLocalClient({ finalityLagBlocks: 3 });
  });
  after(() => local.close());

  test("follow each other, by the hash that polkadot-js computes from the header", async () => {
    const { api, chain } = local;
    for (let i = 0; i < 5; i++) chain.produceBlock();
    let hash = await api.rpc.chain.getBlockHash();
    for (;;) {
      const header = await api.rpc.chain.getHeader(hash);
      assert.equal(header.hash.toHex(), hash.toHex());
      if (header.number.toNumber() === 0) break;
      const { block } = await api.rpc.chain.getBlock(hash);
      assert.equal(block.extrinsics[0]?.method.method, "set");
      hash = header.parentHash;
    }
    assert.equal(hash.toHex(), chain.genesisHash);
  });

  test("carry a time that grows even when they come at once", async () => {
    const { api, chain } = local;
    const now = async () => Number(String(await api.query["timestamp"]?.["now"]?.()));
    const first = await now();
    chain.produceBlock();
    chain.produceBlock();
    assert((await now()) >= first + 2);
    assert(Math.abs((await now()) - Date.now()) < 5_000);
  });

  test("are final as many blocks later as asked, and both heads are announced", async () => {
    const { api, chain } = local;
    const finals: number[] = [];
    const heads: number[] = [];
    const stopFinals = await api.rpc.chain.subscribeFinalizedHeads((header) => {
      finals.push(header.number.toNumber());
    });
    const stopHeads = await api.rpc.chain.subscribeNewHeads((header) => {
      heads.push(header.number.toNumber());
    });
    const last = chain.produceBlock();
    await withDeadline(
      (async () => {
        while (heads.at(-1) !== last || finals.at(-1) !== last - 3)
          await new Promise((resolve) => setImmediate(resolve));
      })(),
    );
    const finalHash = await api.rpc.chain.getFinalizedHead();
    assert.equal((await api.rpc.chain.getHeader(finalHash)).number.toNumber(), last - 3);
    stopFinals();
    stopHeads();
  });

  test("finalize a transaction only after the lag", async () => {
    const { api, chain } = local;
    const statuses: string[] = [];
    const signed = await call(api, "balances", "transferKeepAlive", BOB.address, TAO).signAsync(
      ALICE,
      {
        nonce: -1,
      },
    );
    let block = 0;
    const done = new Promise<number>((resolve, reject) => {
      signed
        .send((result) => {
          const { status } = result;
          const { blockNumber } = result as { blockNumber?: { toNumber(): number } };
          statuses.push(status.type);
          if (status.isInBlock) {
            block = blockNumber?.toNumber() ?? 0;
            for (let i = 0; i < 3; i++) chain.produceBlock();
          }
          if (status.isFinalized) resolve(blockNumber?.toNumber() ?? -1);
        })
        .catch(reject);
    });
    assert.equal(await withDeadline(done), block);
    assert.deepEqual(statuses, ["Ready", "InBlock", "Finalized"]);
  });

  test("keep 256 blocks of state, and say when one is gone", async () => {
    const { api, chain, rpc, send } = local;
    const balances: { number: number; hash: string; free: bigint }[] = [];
    for (let i = 0; i < 3; i++) {
      const { blockHash, blockNumber } = await send(
        call(api, "balances", "transferKeepAlive", BOB.address, TAO),
        ALICE,
      );
      const free = await freeOf(await api.at(blockHash), BOB.address);
      balances.push({ number: blockNumber, hash: blockHash, free });
    }
    assert.equal((balances[2]?.free ?? 0n) - (balances[0]?.free ?? 0n), 2n * TAO);
    const first = balances[0];
    assert(first !== undefined);
    while (chain.produceBlock() < first.number + 256);
    for (const { hash, free } of balances)
      assert.equal(await freeOf(await api.at(hash), BOB.address), free);
    chain.produceBlock();
    const body = {
      jsonrpc: "2.0",
      id: 1,
      method: "state_getStorage",
      params: ["0x00", first.hash],
    };
    const gone = (await post(chain.url, body)) as Answer;
    assert.match(gone.error?.message ?? "", /State already discarded/);
    assert.equal(await rpc("chain_getHeader", first.hash), null);
    assert.equal(await rpc("chain_getBlockHash", first.number), first.hash);
    assert.equal(await rpc("chain_getBlockHash", 0), chain.genesisHash);
    assert.equal(await rpc("chain_getBlockHash", 1_000_000), null);
  });

  test("leave memory flat while nothing happens", async () => {
    const chain = openChain({
      dataDir: undefined,
      fileBytesMax: 0,
      tempo: 20,
      slotMs: 12_000,
      finalityLagBlocks: 0,
      endowed: [],
      log: undefined,
    });
    setFlagsFromString("--expose-gc");
    const collectGarbage = runInNewContext("gc") as () => void;
    const usedAfter = (blocks: number) => {
      for (let i = 0; i < blocks; i++) chain.produce();
      collectGarbage();
      return process.memoryUsage().heapUsed;
    };
    // The first 2400 blocks fill the table of block hashes.
    const before_ = usedAfter(3_000);
    const grown = usedAfter(6_000) - before_;
    // Remembered keys come and go; 6000 kept blocks would be more than this.
    assert(grown < 3 << 20, `${grown} bytes`);
    await chain.close();
  });
});
