import assert from "node:assert/strict";
import { once } from "node:events";
import { mkdtemp, rm } from "node:fs/promises";
import { type AddressInfo, connect, createServer, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { WebSocketServer } from "ws";
import type { Head } from "../../src/chain/block-state.ts";
import { openSubtensor, type Subtensor } from "../../src/chain/subtensor.ts";
import {
  ALICE,
  CONNECT_TIMEOUT_MS,
  eventually,
  freshKeypair,
  LOG,
  openLocalChain,
  TAO,
} from "./local-chain.ts";
import { openNodeProxy } from "./node-proxy.ts";

async function client(endpoint: string): Promise<Subtensor> {
  return await openSubtensor({
    endpoints: [endpoint],
    connectTimeoutMs: CONNECT_TIMEOUT_MS,
    log: LOG,
  });
}

async function folder(t: TestContext): Promise<string> {
  const path = await mkdtemp(join(tmpdir(), "daybreak-chain-"));
  t.after(() => rm(path, { recursive: true, force: true }));
  return path;
}

test("a client goes on when its node restarts on the same port", async (t) => {
  const dataDir = await folder(t);
  const first = await openLocalChain({ dataDir });
  const { port } = first;
  const chain = await client(first.url);
  const heads: Head[] = [];
  chain.onFinalizedHead((head) => heads.push(head));
  const to = freshKeypair().address;
  await chain.submit({ kind: "transfer", to, rao: TAO }, ALICE, "finalized");
  await first.close();

  // A read and a call that begin while the node is away end well after its return.
  const balance = chain.freeBalance(to);
  const sent = chain.submit({ kind: "transfer", to, rao: TAO }, ALICE);
  const second = await openLocalChain({ dataDir, port });
  t.after(async () => {
    await chain.close();
    await second.close();
  });
  assert.equal(second.genesisHash, chain.genesisHash);
  assert((await balance) >= TAO);
  await sent;
  assert.equal(await chain.freeBalance(to), 2n * TAO);

  const before = heads.length;
  await eventually(async () => (heads.length > before + 1 ? true : undefined));
  const numbers = heads.map(({ number }) => number);
  assert.deepEqual(
    numbers,
    [...new Set(numbers)].sort((a, b) => a - b),
    "finalized heads only grow",
  );
});

test("a client fails for good when another chain answers at its endpoint", async (t) => {
  const first = await openLocalChain({ dataDir: await folder(t) });
  const { port } = first;
  const chain = await client(first.url);
  await first.close();
  const waiting = assert.rejects(chain.finalizedHead(), { name: "WrongGenesis" });
  const other = await openLocalChain({ dataDir: await folder(t), port });
  t.after(async () => {
    await chain.close();
    await other.close();
  });
  assert.notEqual(other.genesisHash, chain.genesisHash);
  await waiting;
  await assert.rejects(chain.freeBalance(ALICE.address), {
    name: "WrongGenesis",
    message: new RegExp(other.genesisHash),
  });
  await assert.rejects(chain.submit({ kind: "remark", bytes: Buffer.from("x") }, ALICE), {
    name: "WrongGenesis",
  });
});

test("onFinalizedHead() goes on over a new socket and repeats nothing", async (t) => {
  const node = await openLocalChain({ blockMs: 600_000 });
  const proxy = await openNodeProxy(node.url, {});
  const chain = await client(proxy.url);
  t.after(async () => {
    await chain.close();
    await proxy.close();
    await node.close();
  });
  const numbers: number[] = [];
  chain.onFinalizedHead(({ number }) => numbers.push(number));
  const remark = { kind: "remark", bytes: Buffer.from("x") } as const;
  // Each call makes a block, and finality is one block behind.
  for (const _ of [1, 2, 3]) await chain.submit(remark, ALICE);
  await eventually(async () => (numbers.at(-1) === 2 ? true : undefined));
  proxy.drop();
  assert.equal((await chain.finalizedHead()).number, 2);
  for (const _ of [1, 2]) await chain.submit(remark, ALICE);
  await eventually(async () => (numbers.at(-1) === 4 ? true : undefined));
  assert.deepEqual(numbers, [...new Set(numbers)]);
});

test("a node that swallows answers is left for a new connection, and its caller told", async (t) => {
  const node = await openLocalChain();
  let isFirstMute = false;
  const proxy = await openNodeProxy(node.url, {
    onAnswer: (answer, connection) => (isFirstMute && connection === 1 ? undefined : answer),
  });
  const chain = await openSubtensor({
    endpoints: [proxy.url],
    connectTimeoutMs: CONNECT_TIMEOUT_MS,
    rpcTimeoutMs: 1_000,
    log: LOG,
  });
  t.after(async () => {
    await chain.close();
    await proxy.close();
    await node.close();
  });
  isFirstMute = true;
  await assert.rejects(chain.finalizedHead(), { name: "Timeout" });
  // The endpoint rests a moment first.
  const head = await eventually(() => chain.finalizedHead().catch(() => undefined));
  assert.equal(await chain.blockHash(head.number), head.hash);
});

test("openSubtensor() gives up when nothing listens", async () => {
  const server = createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address() as AddressInfo;
  server.close();
  await once(server, "close");
  await assert.rejects(
    openSubtensor({ endpoints: [`ws://127.0.0.1:${port}`], connectTimeoutMs: 400, log: LOG }),
    { name: "Unreachable", message: new RegExp(`127.0.0.1:${port}`) },
  );
});

test("openSubtensor() gives up on a peer that accepts and says nothing", async () => {
  const server = createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address() as AddressInfo;
  const sockets = new Set<{ destroy(): void }>();
  server.on("connection", (socket) => sockets.add(socket));
  await assert.rejects(
    openSubtensor({ endpoints: [`ws://127.0.0.1:${port}`], connectTimeoutMs: 300, log: LOG }),
    { name: "Unreachable" },
  );
  for (const socket of sockets) socket.destroy();
  server.close();
  await once(server, "close");
});

for (const { name, answer } of [
  { name: "text that is not JSON", answer: () => "hello" },
  { name: "JSON that is not JSON-RPC", answer: () => "[1,2]" },
  { name: "an update without parameters", answer: () => '{"jsonrpc":"2.0","method":"x"}' },
  {
    name: "no genesis block",
    answer: (id: number) => JSON.stringify({ jsonrpc: "2.0", id, result: null }),
  },
  {
    name: "an error",
    answer: (id: number) =>
      JSON.stringify({ jsonrpc: "2.0", id, error: { code: -32601, message: "Method not found" } }),
  },
]) {
  test(`openSubtensor() gives up on a peer that answers ${name}`, async () => {
    const server = new WebSocketServer({ port: 0, host: "127.0.0.1" });
    await once(server, "listening");
    server.on("connection", (socket) => {
      socket.on("message", (data: Buffer) => {
        socket.send(answer((JSON.parse(data.toString()) as { id: number }).id));
      });
    });
    const { port } = server.address() as AddressInfo;
    await assert.rejects(
      openSubtensor({ endpoints: [`ws://127.0.0.1:${port}`], connectTimeoutMs: 400, log: LOG }),
      { name: "Unreachable" },
    );
    for (const socket of server.clients) socket.terminate();
    server.close();
    await once(server, "close");
  });
}

test("close() does not wait for a dead peer, and lets go of its socket", async (t) => {
  const node = await openLocalChain();
  const { port } = new URL(node.url);
  let isFrozen = false;
  const tunnel = createServer((near) => {
    const far = connect(Number(port), "127.0.0.1");
    near.on("error", () => far.destroy());
    near.on("data", (bytes) => isFrozen || far.write(bytes));
    far.on("data", (bytes) => isFrozen || near.write(bytes));
    near.on("close", () => far.destroy());
  }).listen(0, "127.0.0.1");
  await once(tunnel, "listening");
  t.after(async () => {
    tunnel.close();
    await node.close();
  });
  const accepted = once(tunnel, "connection");
  const chain = await client(`ws://127.0.0.1:${(tunnel.address() as AddressInfo).port}`);
  const [near] = (await accepted) as [Socket];
  isFrozen = true;
  const waiting = assert.rejects(chain.finalizedHead(), { name: "Closed" });
  const gone = once(near, "close");
  await chain.close();
  await waiting;
  await gone; // only the client can end it: the closing handshake stays unanswered
});

test("garbage in the middle of a connection costs only that connection", async (t) => {
  const node = await openLocalChain();
  let garbage = 0;
  const proxy = await openNodeProxy(node.url, {
    onAnswer: (answer) => (garbage-- > 0 ? "\u0000garbage" : answer),
  });
  const chain = await client(proxy.url);
  t.after(async () => {
    await chain.close();
    await proxy.close();
    await node.close();
  });
  garbage = 1;
  assert.equal(await chain.blockHash(0), chain.genesisHash);
});
