import assert from "node:assert/strict";
import { type TestContext, test } from "node:test";
import { openSubtensor } from "../../src/chain/subtensor.ts";
import {
  ALICE,
  CONNECT_TIMEOUT_MS,
  freshKeypair,
  LOG,
  openLocalChain,
  TAO,
} from "./local-chain.ts";
import { type NodeProxyRules, openNodeProxy } from "./node-proxy.ts";

const NEW_VERSION = 426;

/** A chain whose runtime can be upgraded while the client runs; `metadataReads` counts what is asked of it. */
async function openParts(t: TestContext, rules: NodeProxyRules = {}) {
  const node = await openLocalChain({ blockMs: 50 });
  let metadataReads = 0;
  const proxy = await openNodeProxy(node.url, {
    ...rules,
    onRequest(request, drop) {
      if (request.includes("Metadata_metadata_at_version")) metadataReads += 1;
      rules.onRequest?.(request, drop);
    },
  });
  const chain = await openSubtensor({
    endpoints: [proxy.url],
    connectTimeoutMs: CONNECT_TIMEOUT_MS,
    log: LOG,
  });
  t.after(async () => {
    await chain.close();
    await proxy.close();
    await node.close();
  });
  return { node, proxy, chain, metadataReads: () => metadataReads };
}

test("a client signs, reads and submits over a runtime upgrade, on the same connection", async (t) => {
  const { node, proxy, chain, metadataReads } = await openParts(t);
  const to = freshKeypair().address;
  const call = { kind: "transfer", to, rao: TAO } as const;
  const before = await chain.submit(call, ALICE, "finalized");
  assert.equal(metadataReads(), 1);
  node.upgradeRuntime(NEW_VERSION);
  node.produceBlock();
  const after = await chain.submit(call, ALICE, "finalized");
  assert.equal(metadataReads(), 2, "the new version's metadata is read, once");
  assert.equal(await chain.freeBalance(to), 2n * TAO);
  // Blocks of either side are still decoded, each with its own version.
  for (const { blockHash } of [before, after])
    assert.equal((await chain.blockFacts(blockHash)).transfers.length, 1);
  assert.equal(metadataReads(), 2);
  assert.equal(proxy.attempts(), 1);
});

test("a call that was signed just before an upgrade is signed again", async (t) => {
  let upgrade: (() => void) | undefined;
  const submissions: string[] = [];
  const { node, chain } = await openParts(t, {
    answer(request) {
      if (!request.includes("author_submitExtrinsic")) return undefined;
      submissions.push(request);
      upgrade?.(); // before the node sees it
      upgrade = undefined;
      return undefined;
    },
  });
  upgrade = () => {
    node.upgradeRuntime(NEW_VERSION);
    node.produceBlock();
  };
  const to = freshKeypair().address;
  await chain.submit({ kind: "transfer", to, rao: TAO }, ALICE);
  assert.equal(submissions.length, 2);
  assert.equal(await chain.freeBalance(to), TAO);
});

test("an upgrade that brings an unknown signed extension stops signing, not reading", async (t) => {
  let isUpgraded = false;
  const known = Buffer.from("DrandPriority").toString("hex");
  const unknown = Buffer.from("FoundPriority").toString("hex");
  const { node, chain } = await openParts(t, {
    onAnswer: (answer) => (isUpgraded ? answer.replaceAll(known, unknown) : answer),
  });
  const call = { kind: "remark", bytes: Buffer.from("x") } as const;
  await chain.submit(call, ALICE);
  isUpgraded = true;
  node.upgradeRuntime(NEW_VERSION);
  node.produceBlock();
  await assert.rejects(chain.submit(call, ALICE), {
    name: "UnknownSignedExtension",
    message: /FoundPriority/,
  });
  assert((await chain.freeBalance(ALICE.address)) > 0n);
});
