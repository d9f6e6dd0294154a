import assert from "node:assert/strict";
import { test } from "node:test";
import { chainErrorOf } from "../../src/chain/chain-error.ts";
import { keypairOf } from "../../src/chain/keys.ts";
import { openSubtensor } from "../../src/chain/subtensor.ts";
import {
  ALICE,
  BOB,
  CONNECT_TIMEOUT_MS,
  freshKeypair,
  hotkey,
  LOG,
  openChainAndClient,
  openLocalChain,
  openSubnet,
  rateLimitToPass,
  TAO,
} from "./local-chain.ts";
import { openNodeProxy } from "./node-proxy.ts";

test("submit() returns the block that holds the call", async (t) => {
  const { chain } = await openChainAndClient(t, { finalityLagBlocks: 3 });
  const to = freshKeypair().address;
  const { blockHash, blockNumber } = await chain
    .submit({ kind: "transfer", to, rao: 5n }, ALICE)
    .catch(
      // Below the existential deposit of 500 rao no account can be made.
      async (error: Error) => {
        assert.equal(error.name, "BelowMinimum");
        return await chain.submit({ kind: "transfer", to, rao: TAO }, ALICE);
      },
    );
  assert.equal(await chain.blockHash(blockNumber), blockHash);
  const { transfers } = await chain.blockFacts(blockHash);
  assert.deepEqual(
    transfers.map(({ to, rao }) => ({ to, rao })),
    [{ to, rao: TAO }],
  );
});

test("submit() waits for finality when asked", async (t) => {
  const { chain } = await openChainAndClient(t, { finalityLagBlocks: 3, blockMs: 50 });
  const call = { kind: "remark", bytes: Buffer.from("memo") } as const;
  const { blockNumber, blockHash } = await chain.submit(call, ALICE, "finalized");
  assert((await chain.finalizedHead()).number >= blockNumber);
  assert.equal(await chain.blockHash(blockNumber), blockHash);
});

test("submit() signs payloads above 256 bytes, which are hashed first", async (t) => {
  const { chain } = await openChainAndClient(t);
  await chain.submit({ kind: "remark", bytes: new Uint8Array(1_000) }, ALICE);
  await chain.submit({ kind: "remark", bytes: new Uint8Array(1) }, ALICE);
});

test("submit() batch_all is all or nothing and named by its inner error", async (t) => {
  const { chain } = await openChainAndClient(t);
  const to = freshKeypair().address;
  const small = { kind: "transfer", to, rao: TAO } as const;
  const large = { kind: "transfer", to, rao: 2n ** 62n } as const;
  await assert.rejects(chain.submit({ kind: "batch_all", calls: [small, large] }, ALICE), {
    name: "FundsUnavailable",
  });
  assert.equal(await chain.freeBalance(to), 0n);
  await chain.submit({ kind: "batch_all", calls: [small, small] }, ALICE);
  assert.equal(await chain.freeBalance(to), 2n * TAO);
});

test("submit() names what the chain refuses", async (t) => {
  const { chain } = await openChainAndClient(t, { tempo: 20, blockMs: 50 });
  const owner = freshKeypair();
  const stranger = freshKeypair();
  const netuid = await openSubnet(chain, hotkey(owner.address));
  const weights = { kind: "set_weights", netuid, uids: [0], weights: [1], versionKey: 0n } as const;
  await rateLimitToPass(chain, netuid);
  await chain.submit(weights, owner);
  const refusals = [
    { call: weights, by: owner, names: ["SettingWeightsTooFast", "RateLimitExceeded"] },
    {
      call: weights,
      by: stranger,
      names: ["HotKeyNotRegisteredInSubNet", "HotKeyNotRegisteredInNetwork"],
    },
    {
      call: { ...weights, uids: [0, 0], weights: [1, 1] },
      by: owner,
      names: ["DuplicateUids", "SettingWeightsTooFast", "RateLimitExceeded"],
    },
    {
      call: { kind: "burned_register", netuid, hotkey: owner.address },
      by: ALICE,
      names: ["HotKeyAlreadyRegisteredInSubNet"],
    },
    {
      call: { kind: "burned_register", netuid: 4_000, hotkey: stranger.address },
      by: ALICE,
      names: ["SubnetNotExists"],
    },
    {
      call: { kind: "set_commitment", netuid, fields: [Buffer.from("x")] },
      by: stranger,
      names: ["AccountNotAllowedCommit", "HotKeyNotRegisteredInNetwork"],
    },
    {
      call: { kind: "transfer", to: BOB.address, rao: TAO },
      by: stranger,
      names: ["FundsUnavailable", "Payment"],
    },
  ] as const;
  for (const { call, by, names } of refusals) {
    await assert.rejects(chain.submit(call, by), (error: Error) => {
      assert(
        names.some((name) => name === error.name),
        `${call.kind}: ${error.name}`,
      );
      return true;
    });
  }
});

test("ten parallel calls of one key all run, each once", async (t) => {
  const { chain } = await openChainAndClient(t);
  const to = freshKeypair().address;
  await Promise.all(
    Array.from({ length: 10 }, () => chain.submit({ kind: "transfer", to, rao: TAO }, ALICE)),
  );
  assert.equal(await chain.freeBalance(to), 10n * TAO);
});

test("two clients that share one key get all their calls through", async (t) => {
  const { url, chain } = await openChainAndClient(t);
  const other = await openSubtensor({
    endpoints: [url],
    connectTimeoutMs: CONNECT_TIMEOUT_MS,
    log: LOG,
  });
  const to = freshKeypair().address;
  try {
    await Promise.all(
      [chain, other, chain, other, chain, other].map((client) =>
        client.submit({ kind: "transfer", to, rao: TAO }, ALICE),
      ),
    );
    assert.equal(await chain.freeBalance(to), 6n * TAO);
  } finally {
    await other.close();
  }
});

test("a refused call does not block the calls after it", async (t) => {
  const { chain } = await openChainAndClient(t);
  const to = freshKeypair().address;
  const [refused, ran] = await Promise.allSettled([
    chain.submit({ kind: "transfer", to, rao: 2n ** 62n }, ALICE),
    chain.submit({ kind: "transfer", to, rao: TAO }, ALICE),
  ]);
  assert.equal(refused.status, "rejected");
  assert.equal(ran.status, "fulfilled");
});

test("submit() finds its call although the connection drops after it was sent", async (t) => {
  const node = await openLocalChain({ blockMs: 200 });
  let drops = 0;
  const proxy = await openNodeProxy(node.url, {
    onRequest(request, drop) {
      if (!request.includes("author_submitExtrinsic") || drops > 0) return;
      drops += 1;
      // The node has the call; the client never hears so and sends it again.
      setImmediate(drop);
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
  const to = freshKeypair().address;
  await chain.submit({ kind: "transfer", to, rao: TAO }, ALICE);
  assert.equal(drops, 1);
  assert.equal(await chain.freeBalance(to), TAO, "credited once");
});

test("submit() refuses to sign when the runtime adds an unknown signed extension", async (t) => {
  const node = await openLocalChain();
  const known = Buffer.from("DrandPriority").toString("hex");
  const unknown = Buffer.from("FoundPriority").toString("hex");
  const proxy = await openNodeProxy(node.url, {
    onAnswer: (answer) => answer.replaceAll(known, unknown),
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
  assert((await chain.freeBalance(ALICE.address)) > 0n, "reading needs no extension");
  await assert.rejects(chain.submit({ kind: "remark", bytes: Buffer.from("x") }, ALICE), {
    name: "UnknownSignedExtension",
    message: /FoundPriority/,
  });
});

for (const { code, message, data, name, says } of [
  {
    code: 1010,
    message: "Invalid Transaction",
    data: "Custom error: 6",
    name: "RateLimitExceeded",
    says: /Custom:6/,
  },
  {
    code: 1010,
    message: "Invalid Transaction",
    data: "Custom error: 10",
    name: "HotKeyNotRegisteredInNetwork",
    says: /Custom:10/,
  },
  {
    code: 1010,
    message: "Invalid Transaction",
    data: "Custom error: 200",
    name: "Custom:200",
    says: /Custom:200/,
  },
  {
    code: 1010,
    message: "1010: Invalid Transaction: Custom error: 3",
    data: "",
    name: "SubnetNotExists",
    says: /Custom:3/,
  },
  {
    code: 1010,
    message: "Invalid Transaction",
    data: "Transaction is outdated",
    name: "Stale",
    says: /outdated/,
  },
  {
    code: 1010,
    message: "Invalid Transaction",
    data: "Transaction has a bad signature",
    name: "BadProof",
    says: /bad/,
  },
  {
    code: 1010,
    message: "Invalid Transaction",
    data: "Inability to pay some fees, e.g. account balance too low",
    name: "Payment",
    says: /fees/,
  },
  {
    code: 1010,
    message: "Invalid Transaction",
    data: "Transaction has an ancient birth block",
    name: "AncientBirthBlock",
    says: /birth/,
  },
  {
    code: 1010,
    message: "Invalid Transaction",
    data: "something new",
    name: "Invalid",
    says: /something new/,
  },
  {
    code: 1012,
    message: "Transaction is temporarily banned",
    data: "",
    name: "TemporarilyBanned",
    says: /banned/,
  },
  { code: 1014, message: "Priority is too low", data: "", name: "PriorityTooLow", says: /low/ },
  { code: 1016, message: "Immediately Dropped", data: "", name: "PoolFull", says: /Dropped/ },
  {
    code: 4003,
    message: "Client error: UnknownBlock: State already discarded for 0x12",
    data: "",
    name: "StateDiscarded",
    says: /archive/,
  },
  {
    code: -32601,
    message: "Method not found",
    data: "",
    name: "Rpc:-32601",
    says: /x_y: Method not found/,
  },
]) {
  test(`chainErrorOf() names ${code} ${data || message} ${name}`, () => {
    const error = chainErrorOf("x_y", { code, message, data });
    assert.equal(error.name, name);
    assert.match(error.message, says);
  });
}

test("keypairs sign for the chain as polkadot-js's own do", async (t) => {
  const { chain } = await openChainAndClient(t);
  const derived = keypairOf("//Alice//child/soft");
  await chain.submit({ kind: "transfer", to: derived.address, rao: TAO }, ALICE);
  await chain.submit({ kind: "transfer", to: BOB.address, rao: TAO / 2n }, derived);
});
