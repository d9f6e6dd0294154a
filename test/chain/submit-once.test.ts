import assert from "node:assert/strict";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { openOutboxFile } from "../../src/chain/outbox.ts";
import { publishCommitment } from "../../src/chain/publish-commitment.ts";
import { openSubtensor, type Subtensor } from "../../src/chain/subtensor.ts";
import {
  ALICE,
  CONNECT_TIMEOUT_MS,
  eventually,
  freshKeypair,
  hotkey,
  LOG,
  type LocalChainOptions,
  openLocalChain,
  openSubnet,
  TAO,
} from "./local-chain.ts";
import { type NodeProxyRules, openNodeProxy } from "./node-proxy.ts";

/** What the node answers to an extrinsic that it takes. */
function taken(request: string): string {
  const { id } = JSON.parse(request) as { id: number };
  return JSON.stringify({ jsonrpc: "2.0", id, result: `0x${"0".repeat(64)}` });
}

function isSubmission(request: string): boolean {
  return request.includes("author_submitExtrinsic");
}

/** A chain, a proxy before it, and a client that keeps its outbox in a file and can be started again. */
async function openParts(t: TestContext, rules: NodeProxyRules, options: LocalChainOptions = {}) {
  const data = await mkdtemp(join(tmpdir(), "daybreak-once-"));
  const node = await openLocalChain(options);
  const proxy = await openNodeProxy(node.url, rules);
  let outbox = await openOutboxFile(data);
  const connect = async (): Promise<Subtensor> =>
    await openSubtensor({
      endpoints: [proxy.url],
      connectTimeoutMs: CONNECT_TIMEOUT_MS,
      log: LOG,
      outbox,
    });
  let chain = await connect();
  t.after(async () => {
    await chain.close();
    await outbox.close();
    await proxy.close();
    await node.close();
    await rm(data, { recursive: true, force: true });
  });
  return {
    node,
    proxy,
    chain: () => chain,
    records: () => outbox.records(node.genesisHash),
    /** Ends the client and starts another one, with only the file to tell it of the first. */
    async restart(meanwhile: () => void = () => undefined): Promise<void> {
      await chain.close();
      await outbox.close();
      meanwhile();
      outbox = await openOutboxFile(data);
      chain = await connect();
    },
  };
}

test("submitOnce() runs what a purpose names once, and says where ever after", async (t) => {
  const parts = await openParts(t, {});
  const to = freshKeypair().address;
  const pay = async () =>
    await parts.chain().submitOnce("pay-1", { kind: "transfer", to, rao: TAO }, ALICE, "finalized");
  const [first, second] = await Promise.all([pay(), pay()]);
  assert.deepEqual(second, first);
  assert.equal(await parts.chain().blockHash(first.blockNumber), first.blockHash);
  assert.deepEqual(await pay(), first);
  await parts.restart(() => {
    // Until the node has forgotten the block: the outbox has not.
    for (let i = 0; i < 330; i++) parts.node.produceBlock();
  });
  assert.deepEqual(await pay(), first);
  assert.equal(await parts.chain().freeBalance(to), TAO);
  const again = { kind: "transfer", to, rao: TAO } as const;
  await parts.chain().submitOnce("pay-2", again, ALICE);
  assert.equal(await parts.chain().freeBalance(to), 2n * TAO, "another purpose is another payment");
});

test("after a restart submitOnce() finds what was sent and never heard of, even 100 blocks later", async (t) => {
  let isMute = false;
  let isFirst = true;
  const arrived = Promise.withResolvers<void>();
  const parts = await openParts(t, {
    onRequest(request) {
      if (!isFirst || !isSubmission(request)) return;
      isFirst = false;
      isMute = true;
      arrived.resolve();
    },
    onAnswer: (answer) => (isMute ? undefined : answer),
  });
  const to = freshKeypair().address;
  const call = { kind: "transfer", to, rao: TAO } as const;
  const lost = assert.rejects(parts.chain().submitOnce("pay", call, ALICE), { name: "Closed" });
  await arrived.promise;
  assert.equal(parts.records().length, 1, "it is written before it is sent");
  await parts.restart(() => {
    isMute = false;
    for (let i = 0; i < 100; i++) parts.node.produceBlock();
  });
  await lost;
  const { blockHash } = await parts.chain().submitOnce("pay", call, ALICE, "finalized");
  const { transfers } = await parts.chain().blockFacts(blockHash);
  assert.deepEqual(
    transfers.map(({ to }) => to),
    [to],
  );
  assert.equal(await parts.chain().freeBalance(to), TAO);
  assert.equal(parts.records()[0]?.bytes, undefined, "there is nothing to send again");
});

test("after a restart submitOnce() sends what was signed and never sent", async (t) => {
  let isCut = true;
  const cut = Promise.withResolvers<void>();
  const parts = await openParts(t, {
    answer(request) {
      if (!isCut || !isSubmission(request)) return undefined;
      cut.resolve();
      return taken(request);
    },
  });
  const to = freshKeypair().address;
  const call = { kind: "transfer", to, rao: TAO } as const;
  const lost = assert.rejects(parts.chain().submitOnce("pay", call, ALICE), { name: "Closed" });
  await cut.promise;
  await parts.restart(() => (isCut = false));
  await lost;
  const [record] = parts.records();
  // Nobody asks for it: the outbox alone does it.
  await eventually(async () => (parts.records()[0]?.inclusion === undefined ? undefined : true));
  assert.equal(await parts.chain().freeBalance(to), TAO);
  assert.equal(parts.records()[0]?.hash, record?.hash, "the same extrinsic");
});

test("submitOnce() tells that an era has ended, and only then is the purpose free", async (t) => {
  let isCut = true;
  const extrinsics = new Set<string>();
  const parts = await openParts(t, {
    answer(request) {
      if (!isSubmission(request)) return undefined;
      extrinsics.add((JSON.parse(request) as { params: [string] }).params[0]);
      return isCut ? taken(request) : undefined;
    },
  });
  const to = freshKeypair().address;
  const call = { kind: "transfer", to, rao: TAO } as const;
  const lost = assert.rejects(parts.chain().submitOnce("pay", call, ALICE), { name: "Expired" });
  await eventually(async () => (parts.records().length === 1 ? true : undefined));
  for (let i = 0; i < 30; i++) parts.node.produceBlock();
  const joined = assert.rejects(parts.chain().submitOnce("pay", call, ALICE), { name: "Expired" });
  for (let i = 0; i < 40; i++) parts.node.produceBlock();
  await Promise.all([lost, joined]);
  await eventually(async () => (parts.records().length === 0 ? true : undefined));
  assert.equal(extrinsics.size, 1, "nothing else was signed for it");
  isCut = false;
  await parts.chain().submitOnce("pay", call, ALICE);
  assert.equal(await parts.chain().freeBalance(to), TAO);
});

test("submitOnce() frees a purpose that the chain refused, at once or in a block", async (t) => {
  const parts = await openParts(t, {}, { blockMs: 50 });
  const poor = freshKeypair();
  const call = { kind: "transfer", to: ALICE.address, rao: TAO } as const;
  await assert.rejects(parts.chain().submitOnce("pool", call, poor), { name: "Payment" });
  assert.equal(parts.records().length, 0);

  const much = { kind: "transfer", to: poor.address, rao: 2n ** 62n } as const;
  await assert.rejects(parts.chain().submitOnce("block", much, ALICE, "finalized"), {
    name: "FundsUnavailable",
  });
  assert.equal(parts.records().length, 0);
  await parts.chain().submitOnce("block", { ...much, rao: TAO }, ALICE);
  assert.equal(await parts.chain().freeBalance(poor.address), TAO);
});

test("an extrinsic whose answer was lost is not signed again, whatever a node says of it later", async (t) => {
  const extrinsics: string[] = [];
  const parts = await openParts(t, {
    answer(request) {
      if (!isSubmission(request)) return undefined;
      const { id, params } = JSON.parse(request) as { id: number; params: [string] };
      extrinsics.push(params[0]);
      if (extrinsics.length === 1) return undefined;
      const error = { code: 1014, message: "Priority is too low: (1 vs 1)" };
      return JSON.stringify({ jsonrpc: "2.0", id, error });
    },
    onRequest(request, drop) {
      if (isSubmission(request) && extrinsics.length === 1) setImmediate(drop);
    },
  });
  const to = freshKeypair().address;
  await parts.chain().submitOnce("pay", { kind: "transfer", to, rao: TAO }, ALICE, "finalized");
  assert.equal(await parts.chain().freeBalance(to), TAO);
  assert.equal(new Set(extrinsics).size, 1);
});

test("publishCommitment() sends each change once, also back to what was there before", async (t) => {
  let submissions = 0;
  const parts = await openParts(t, {
    onRequest: (request) => void (submissions += isSubmission(request) ? 1 : 0),
  });
  const owner = freshKeypair();
  const netuid = await openSubnet(parts.chain(), hotkey(owner.address));
  submissions = 0;
  const publish = async (text: string) =>
    await publishCommitment(parts.chain(), netuid, owner, [Buffer.from(text)]);
  const published = async () =>
    Buffer.from(
      (await parts.chain().commitmentOf(netuid, hotkey(owner.address)))?.fields[0] ?? [],
    ).toString();
  const [one, same] = await Promise.all([publish("a"), publish("a")]);
  assert.deepEqual(same, one);
  assert.equal(submissions, 1);
  for (const text of ["b", "a"]) {
    await publish(text);
    assert.equal(await published(), text);
  }
  assert.equal(submissions, 3);
});

test("what a node has forgotten is sent again to the one that takes over, in the order of its nonces", async (t) => {
  let isForgetful = true;
  const parts = await openParts(t, {
    answer: (request) => (isForgetful && isSubmission(request) ? taken(request) : undefined),
  });
  const to = freshKeypair().address;
  const call = { kind: "transfer", to, rao: TAO } as const;
  const first = parts.chain().submit(call, ALICE);
  await eventually(async () =>
    (await parts.chain().finalizedHead()).number > 2 ? true : undefined,
  );
  isForgetful = false;
  // The next call must not take the nonce of the first, which may live in the pool of some other node.
  const second = parts.chain().submit(call, ALICE);
  const blocks = await Promise.all([first, second]);
  assert.equal(await parts.chain().freeBalance(to), 2n * TAO);
  assert(blocks[0].blockNumber <= blocks[1].blockNumber);

  isForgetful = true;
  const third = parts.chain().submit(call, ALICE);
  await eventually(async () =>
    (await parts.chain().finalizedHead()).number > blocks[1].blockNumber + 2 ? true : undefined,
  );
  isForgetful = false;
  parts.proxy.drop();
  await third;
  assert.equal(await parts.chain().freeBalance(to), 3n * TAO);
});

for (const { name, error } of [
  {
    name: "1010 stale",
    error: { code: 1010, message: "Invalid Transaction", data: "Transaction is outdated" },
  },
  { name: "1014", error: { code: 1014, message: "Priority is too low: (1 vs 1)" } },
]) {
  test(`after ${name} a call is signed again with the node's own nonce`, async (t) => {
    let refusals = 0;
    const nonces: unknown[] = [];
    const parts = await openParts(t, {
      answer(request) {
        if (refusals > 0 || !isSubmission(request)) return undefined;
        refusals += 1;
        const { id } = JSON.parse(request) as { id: number };
        return JSON.stringify({ jsonrpc: "2.0", id, error });
      },
      onRequest(request) {
        if (request.includes("system_accountNextIndex")) nonces.push(request);
      },
    });
    const to = freshKeypair().address;
    const { blockNumber } = await parts
      .chain()
      .submitOnce("pay", { kind: "transfer", to, rao: TAO }, ALICE, "finalized");
    assert(blockNumber > 0);
    assert.deepEqual([refusals, nonces.length], [1, 2]);
    assert.equal(await parts.chain().freeBalance(to), TAO);
  });
}

test("1013, already imported, is success until the blocks say otherwise", async (t) => {
  let hidden = 0;
  let submissionId: number | undefined;
  const parts = await openParts(t, {
    onAnswer(answer) {
      const { id, result } = JSON.parse(answer) as { id?: number; result?: unknown };
      if (hidden > 0 || id !== submissionId || typeof result !== "string") return answer;
      hidden += 1;
      const error = { code: 1013, message: "Transaction is already imported" };
      return JSON.stringify({ jsonrpc: "2.0", id, error });
    },
    onRequest(request) {
      if (isSubmission(request)) submissionId = (JSON.parse(request) as { id: number }).id;
    },
  });
  const to = freshKeypair().address;
  await parts.chain().submitOnce("pay", { kind: "transfer", to, rao: TAO }, ALICE, "finalized");
  assert.equal(hidden, 1);
  assert.equal(await parts.chain().freeBalance(to), TAO);
});
