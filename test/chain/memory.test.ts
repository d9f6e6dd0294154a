import assert from "node:assert/strict";
import { once } from "node:events";
import type { AddressInfo } from "node:net";
import { test } from "node:test";
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import { compactToU8a, hexToU8a, u8aConcat } from "@polkadot/util";
import { blake2AsHex } from "@polkadot/util-crypto";
import { type WebSocket, WebSocketServer } from "ws";
import { openSubtensor } from "../../src/chain/subtensor.ts";
import { ALICE, CONNECT_TIMEOUT_MS, LOG, openLocalChain, TAO } from "./local-chain.ts";

/** Blocks before the first measurement: caches fill, code is compiled. */
const WARM_UP_BLOCKS = 1_000;
const BLOCKS = 10_000;
/** Blocks that are sent before the client's reads are waited for. */
const BLOCKS_AT_ONCE = 50;
/** 600 bytes per block. Tables that grow and code that is compiled late take half of it once; a kept block is more. */
const HEAP_GROWTH_BYTES_MAX = 6_000_000;
/** The allocator gives memory back late; a leak of 5 KB per block is more. */
const RSS_GROWTH_BYTES_MAX = 48_000_000;

/**
 * A node that makes blocks as fast as it is told to, keeps few of them, and answers the rest as a dev chain does: one
 * that ran 11,000 blocks itself would be measured as well.
 */
async function openFastNode(devchainUrl: string, genesisHash: string) {
  const server = new WebSocketServer({ port: 0, host: "127.0.0.1" });
  await once(server, "listening");
  const headers = new Map<string, unknown>();
  const answers = new Map<string, Promise<unknown>>();
  let parentHash = genesisHash;
  let number = 0;
  let client: WebSocket | undefined;

  const askDevchain = async (method: string, params: readonly unknown[]): Promise<unknown> => {
    const body = JSON.stringify({ jsonrpc: "2.0", id: 1, method, params });
    const headers = { "content-type": "application/json" };
    const response = await fetch(devchainUrl.replace("ws:", "http:"), {
      method: "POST",
      headers,
      body,
    });
    return ((await response.json()) as { result: unknown }).result;
  };
  /** The block does not matter to these: every one has the same state. */
  const answerOf = async (method: string, params: readonly unknown[]): Promise<unknown> => {
    if (method.startsWith("chain_subscribe")) return method;
    if (method === "chain_getBlockHash") return genesisHash;
    if (method === "chain_getHeader") return headers.get(String(params[0]));
    const [first, second] = params;
    const known = method === "state_call" ? [first, second] : Array.isArray(first) ? [first] : [];
    const key = JSON.stringify([method, known]);
    const answer = answers.get(key) ?? askDevchain(method, known);
    answers.set(key, answer);
    return await answer;
  };
  server.on("connection", (socket) => {
    client = socket;
    socket.on("message", (data: Buffer) => {
      const { id, method, params } = JSON.parse(data.toString()) as {
        id: number;
        method: string;
        params: unknown[];
      };
      answerOf(method, params).then(
        (result) => socket.send(JSON.stringify({ jsonrpc: "2.0", id, result })),
        () => socket.terminate(),
      );
    });
  });

  return {
    url: `ws://127.0.0.1:${(server.address() as AddressInfo).port}`,
    makeBlock(): void {
      number += 1;
      const root = `0x${number.toString(16).padStart(64, "0")}`;
      const header = {
        parentHash,
        number: `0x${number.toString(16)}`,
        stateRoot: root,
        extrinsicsRoot: root,
        digest: { logs: [] },
      };
      const encoded = [hexToU8a(parentHash), compactToU8a(number), hexToU8a(root), hexToU8a(root)];
      parentHash = blake2AsHex(u8aConcat(...encoded, Uint8Array.of(0)), 256);
      headers.set(parentHash, header);
      const [oldest] = headers.keys();
      if (headers.size > 2 * BLOCKS_AT_ONCE && oldest !== undefined) headers.delete(oldest);
      for (const [method, subscription] of [
        ["chain_newHead", "chain_subscribeNewHeads"],
        ["chain_finalizedHead", "chain_subscribeFinalizedHeads"],
      ]) {
        const params = { subscription, result: header };
        client?.send(JSON.stringify({ jsonrpc: "2.0", method, params }));
      }
    },
    async close(): Promise<void> {
      for (const socket of server.clients) socket.terminate();
      server.close();
      await once(server, "close");
    },
  };
}

/** What is reachable, and what the process holds, in bytes. */
function memoryInUse(): { heap: number; rss: number } {
  setFlagsFromString("--expose-gc");
  const collect = runInNewContext("gc") as () => void;
  for (let i = 0; i < 3; i++) collect();
  const { heapUsed, external, rss } = process.memoryUsage();
  return { heap: heapUsed + external, rss };
}

// Measured in this process, which also holds the node's side of the socket: reachable heap after garbage collection, and
// resident memory, at block 1,000 and 10,000 blocks later. The client hears of each block and reads storage at it.
test("a client's memory stays flat over 10,000 blocks", async (t) => {
  const devchain = await openLocalChain({ blockMs: 0 });
  const node = await openFastNode(devchain.url, devchain.genesisHash);
  const chain = await openSubtensor({
    endpoints: [node.url],
    connectTimeoutMs: CONNECT_TIMEOUT_MS,
    log: LOG,
  });
  t.after(async () => {
    await chain.close();
    await node.close();
    await devchain.close();
  });
  let blocks = 0;
  const reads: Promise<bigint>[] = [];
  let heard = Promise.withResolvers<void>();
  chain.onFinalizedHead((head) => {
    blocks += 1;
    reads.push(chain.freeBalance(ALICE.address, head.hash));
    if (reads.length === BLOCKS_AT_ONCE) heard.resolve();
  });
  const run = async (count: number): Promise<void> => {
    for (let i = 0; i < count; i += BLOCKS_AT_ONCE) {
      for (let j = 0; j < BLOCKS_AT_ONCE; j++) node.makeBlock();
      await heard.promise;
      for (const balance of await Promise.all(reads.splice(0)))
        assert.equal(balance, 1_000_000n * TAO);
      heard = Promise.withResolvers();
    }
  };
  await run(WARM_UP_BLOCKS);
  const before = memoryInUse();
  await run(BLOCKS);
  const after = memoryInUse();
  assert.equal(blocks, WARM_UP_BLOCKS + BLOCKS);
  t.diagnostic(
    `heap ${before.heap} → ${after.heap} bytes, resident ${before.rss} → ${after.rss} bytes`,
  );
  assert(after.heap - before.heap < HEAP_GROWTH_BYTES_MAX, `${after.heap - before.heap} bytes`);
  assert(after.rss - before.rss < RSS_GROWTH_BYTES_MAX, `${after.rss - before.rss} bytes`);
});
