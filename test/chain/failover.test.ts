import assert from "node:assert/strict";
import { suite, type TestContext, test } from "node:test";
import { openEndpointRota } from "../../src/chain/endpoint-rota.ts";
import { openSubtensor, type Subtensor } from "../../src/chain/subtensor.ts";
import { CONNECT_TIMEOUT_MS, eventually, LOG, openLocalChain } from "./local-chain.ts";
import { type NodeProxy, type NodeProxyRules, openNodeProxy } from "./node-proxy.ts";

const RPC_TIMEOUT_MS = 1_000;
/** Longer than a call may take, so that a call that gets no answer ends before the watchdog does. */
const STALLED_MS = 1_500;

type Devchain = Awaited<ReturnType<typeof openLocalChain>>;

/** Two ways to one chain and a client that knows both; `openAtConnect` tells how many connections were open at each new one. */
async function openTwoWays(
  t: TestContext,
  options: { first?: NodeProxyRules; second?: NodeProxyRules; connectTimeoutMs?: number },
): Promise<{
  node: Devchain;
  first: NodeProxy;
  second: NodeProxy;
  chain: Subtensor;
  openAtConnect: number[];
}> {
  const node = await openLocalChain({ blockMs: 100 });
  const openAtConnect: number[] = [];
  const proxies: NodeProxy[] = [];
  const counted = (own: NodeProxyRules = {}): NodeProxyRules => ({
    ...own,
    refuse() {
      openAtConnect.push(proxies.reduce((sum, proxy) => sum + proxy.open(), 0));
      return own.refuse?.();
    },
  });
  const first = await openNodeProxy(node.url, counted(options.first));
  const second = await openNodeProxy(node.url, counted(options.second));
  proxies.push(first, second);
  const chain = await openSubtensor({
    endpoints: [first.url, second.url],
    connectTimeoutMs: options.connectTimeoutMs ?? CONNECT_TIMEOUT_MS,
    rpcTimeoutMs: RPC_TIMEOUT_MS,
    stalledMs: STALLED_MS,
    log: LOG,
  });
  t.after(async () => {
    await chain.close();
    await first.close();
    await second.close();
    await node.close();
  });
  return { node, first, second, chain, openAtConnect };
}

/** Waits until finalized heads arrive beyond the newest one. */
async function headsGoOn(chain: Subtensor): Promise<void> {
  const heads = Promise.withResolvers<void>();
  let seen = 0;
  const stop = chain.onFinalizedHead(() => {
    seen += 1;
    if (seen === 2) heads.resolve();
  });
  await heads.promise;
  stop();
}

/** The genesis hash, or undefined while there is no connection. */
async function answer(chain: Subtensor): Promise<string | undefined> {
  return await chain.blockHash(0).catch(() => undefined);
}

// Together, because they mostly wait for limits to pass.
suite("failover", { concurrency: 4 }, () => {
  test("a dropped connection moves to the next endpoint at once, and goes on when that drops too", async (t) => {
    const { first, second, chain, openAtConnect } = await openTwoWays(t, {});
    assert.deepEqual([first.open(), second.open()], [1, 0]);
    first.drop();
    assert.equal(await chain.blockHash(0), chain.genesisHash);
    assert.deepEqual([first.open(), second.open()], [0, 1]);
    await headsGoOn(chain);
    second.drop();
    assert.equal(await eventually(() => answer(chain)), chain.genesisHash);
    assert.equal(first.open() + second.open(), 1);
    assert.deepEqual(openAtConnect, [0, 0, 0], "never two connections");
  });

  test("a node that answers but has no new blocks is left for the next endpoint", async (t) => {
    let isStuck = false;
    const { first, second, chain, openAtConnect } = await openTwoWays(t, {
      first: { onAnswer: (answer) => (isStuck && /_newHead"/.test(answer) ? undefined : answer) },
    });
    await headsGoOn(chain);
    isStuck = true;
    // It still answers, so no call notices.
    while (second.open() === 0) assert.equal(await chain.blockHash(0), chain.genesisHash);
    await headsGoOn(chain);
    assert.equal(first.open(), 0);
    assert.deepEqual(openAtConnect, [0, 0]);
  });

  test("a node that tells of blocks but not of their finality is left as well", async (t) => {
    let isStuck = false;
    const { first, second, chain } = await openTwoWays(t, {
      first: {
        onAnswer: (answer) => (isStuck && /_finalizedHead"/.test(answer) ? undefined : answer),
      },
    });
    await headsGoOn(chain);
    isStuck = true;
    await headsGoOn(chain);
    assert.deepEqual([first.open(), second.open()], [0, 1]);
  });

  test("a chain whose finality pauses is no reason to leave its node", async (t) => {
    const node = await openLocalChain({ blockMs: 100, finalityLagBlocks: 1_000 });
    const proxy = await openNodeProxy(node.url, {});
    const chain = await openSubtensor({
      endpoints: [proxy.url],
      connectTimeoutMs: CONNECT_TIMEOUT_MS,
      stalledMs: 1_000,
      log: LOG,
    });
    t.after(async () => {
      await chain.close();
      await proxy.close();
      await node.close();
    });
    // Twice the limit.
    await eventually(() => chain.blockHash(22));
    assert.equal(proxy.attempts(), 1);
  });

  test("a node that repeats one block for ever is left as well", async (t) => {
    let repeated: string | undefined;
    const { second, chain } = await openTwoWays(t, {
      first: {
        onAnswer(answer) {
          if (!/_newHead"/.test(answer)) return answer;
          repeated ??= answer;
          return repeated;
        },
      },
    });
    await eventually(async () => (second.open() === 1 ? true : undefined));
    await headsGoOn(chain);
  });

  for (const { name, fail } of [
    { name: "frozen", fail: (proxy: NodeProxy) => proxy.freeze() },
    { name: "half-closed", fail: (proxy: NodeProxy) => proxy.halfClose() },
  ]) {
    test(`a ${name} socket is given up within the limits, and closed before the next is opened`, async (t) => {
      const { first, second, chain, openAtConnect } = await openTwoWays(t, {});
      fail(first);
      const startedMs = performance.now();
      // A frozen socket costs the call; one whose end is seen does not.
      await chain.blockHash(0).catch((error: Error) => assert.equal(error.name, "Timeout"));
      assert(performance.now() - startedMs < 5 * RPC_TIMEOUT_MS);
      await eventually(async () => (second.open() === 1 ? true : undefined));
      await headsGoOn(chain);
      assert.equal(await chain.blockHash(0), chain.genesisHash);
      assert.deepEqual(openAtConnect, [0, 0], "the dead one is gone first");
      assert.equal(first.attempts(), 1);
    });
  }

  test("a frozen socket is noticed by its missing blocks alone", async (t) => {
    const { first, second, chain } = await openTwoWays(t, {});
    first.freeze();
    await headsGoOn(chain);
    assert.equal(second.open(), 1);
  });

  test("an endpoint that answers 429 is left alone for as long as it says", async (t) => {
    const { first, second, chain } = await openTwoWays(t, {
      first: {
        refuse: () => ({
          status: 429,
          headers: { "retry-after": new Date(Date.now() + 60_000).toUTCString() },
        }),
      },
    });
    assert.deepEqual([first.attempts(), second.open()], [1, 1]);
    second.drop();
    // The second endpoint rests a moment, and the first is not asked meanwhile.
    assert.equal(await eventually(() => answer(chain)), chain.genesisHash);
    assert.equal(first.attempts(), 1);
  });

  test("the only endpoint is not asked again before its Retry-After is over", async (t) => {
    const node = await openLocalChain();
    const attemptsMs: number[] = [];
    const proxy = await openNodeProxy(node.url, {
      refuse() {
        attemptsMs.push(performance.now());
        return attemptsMs.length > 1 ? undefined : { status: 429, headers: { "retry-after": "1" } };
      },
    });
    t.after(async () => {
      await proxy.close();
      await node.close();
    });
    const chain = await openSubtensor({
      endpoints: [proxy.url],
      connectTimeoutMs: CONNECT_TIMEOUT_MS,
      log: LOG,
    });
    await chain.close();
    const [refusedMs = 0, acceptedMs = 0] = attemptsMs;
    assert.equal(attemptsMs.length, 2);
    assert(acceptedMs - refusedMs >= 990, `${acceptedMs - refusedMs} ms`);
  });

  test("a call that is refused for its rate is answered by the next endpoint", async (t) => {
    let isLimited = false;
    const { first, second, chain } = await openTwoWays(t, {
      first: {
        answer(request) {
          if (!isLimited) return undefined;
          const { id } = JSON.parse(request) as { id: number };
          return JSON.stringify({ jsonrpc: "2.0", id, error: { code: 429, message: "slow down" } });
        },
      },
    });
    isLimited = true;
    assert.equal(await chain.blockHash(0), chain.genesisHash);
    assert.deepEqual([first.open(), second.open()], [0, 1]);
  });

  test("an endpoint of another chain is never used, and the others go on", async (t) => {
    const node = await openLocalChain();
    const other = await openLocalChain({ tempo: 7 });
    const first = await openNodeProxy(node.url, {});
    const wrong = await openNodeProxy(other.url, {});
    assert.notEqual(node.genesisHash, other.genesisHash);
    const chain = await openSubtensor({
      endpoints: [first.url, wrong.url],
      connectTimeoutMs: CONNECT_TIMEOUT_MS,
      log: LOG,
    });
    t.after(async () => {
      await chain.close();
      await first.close();
      await wrong.close();
      await node.close();
      await other.close();
    });
    // Each time the first rests longer, so that the other would be asked again if it could be.
    for (const _ of [1, 2]) {
      first.drop();
      assert.equal(await chain.blockHash(0), node.genesisHash);
    }
    assert.deepEqual([first.attempts(), wrong.attempts(), wrong.open()], [3, 1, 0]);
  });

  test("a first endpoint that says nothing does not keep a client from starting", async (t) => {
    const { second, chain } = await openTwoWays(t, {
      first: { onAnswer: () => undefined },
      connectTimeoutMs: 3_000,
    });
    assert.equal(second.open(), 1);
    assert.equal(await chain.blockHash(0), chain.genesisHash);
  });

  test("an update that is no header costs its connection, not the process", async (t) => {
    let isBroken = false;
    const { second, chain } = await openTwoWays(t, {
      first: {
        onAnswer: (answer) => (isBroken ? answer.replaceAll('"result"', '"error"') : answer),
      },
    });
    isBroken = true;
    await eventually(async () => (second.open() === 1 ? true : undefined));
    await headsGoOn(chain);
  });

  test("openEndpointRota() rests 1 to 60 s with jitter, and prefers the earlier of those that have rested", () => {
    let random = 0;
    const rota = openEndpointRota(["ws://a/secret-key", "ws://b"], () => random);
    const turn = (nowMs: number) => {
      const next = rota.next(nowMs);
      return [next?.endpoint.shown, next?.waitMs];
    };
    const a = rota.next(0)?.endpoint;
    assert(a !== undefined);
    assert.deepEqual(turn(0), ["ws://a", 0], "without what may be a key");
    rota.failed(a, 0);
    assert.deepEqual(turn(0), ["ws://b", 0]);
    assert.deepEqual(turn(500), ["ws://a", 0], "half a second at least");
    const b = rota.next(0)?.endpoint;
    assert(b !== undefined);
    rota.exclude(b);
    random = 0.999_999_999;
    const rests: number[] = [];
    for (let i = 0; i < 8; i++) {
      rota.failed(a, 0);
      rests.push(Math.round(rota.next(0)?.waitMs ?? 0));
    }
    assert.deepEqual(rests, [2_000, 4_000, 8_000, 16_000, 32_000, 60_000, 60_000, 60_000]);
    rota.worked(a);
    rota.failed(a, 0);
    assert.equal(Math.round(rota.next(0)?.waitMs ?? 0), 1_000);
    rota.failed(a, 0, 5_000);
    assert.equal(rota.next(0)?.waitMs, 5_000, "as long as it asks for");
    rota.failed(a, 0, 86_400_000);
    assert.equal(rota.next(0)?.waitMs, 600_000, "within reason");
    rota.exclude(a);
    assert.equal(rota.next(0), undefined);
  });
});
