import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { ApiPromise, WsProvider } from "@polkadot/api";
import type { ApiOptions } from "@polkadot/api/types";
import { Keyring } from "@polkadot/keyring";
import { ChainError } from "../../src/chain/chain-error.ts";
import { openSubtensor, type Subtensor } from "../../src/chain/subtensor.ts";
import { encodeLogRoot } from "../../src/core/commitment.ts";
import type { Netuid } from "../../src/core/ids.ts";
import {
  ALICE,
  BOB,
  CONNECT_TIMEOUT_MS,
  eventually,
  freshKeypair,
  hotkey,
  LOG,
  openChainAndClient,
  openSubnet,
  rateLimitToPass,
  TAO,
} from "./local-chain.ts";

const TEMPO = 20;

describe("a subnet", () => {
  const cleanups: (() => Promise<void>)[] = [];
  const owner = freshKeypair();
  const validator = freshKeypair();
  const miner = freshKeypair();
  let chain: Subtensor;
  let netuid: Netuid;

  before(async () => {
    const opened = await openChainAndClient(
      { after: (close) => cleanups.push(close as () => Promise<void>) },
      { tempo: TEMPO, blockMs: 50 },
    );
    chain = opened.chain;
    netuid = await openSubnet(chain, hotkey(owner.address));
  });
  after(async () => {
    for (const cleanup of cleanups) await cleanup();
  });

  test("metagraph() lists neurons by uid, with owners, stake and hyperparameters", async () => {
    await chain.submit({ kind: "burned_register", netuid, hotkey: validator.address }, ALICE);
    const { blockHash } = await chain.submit(
      { kind: "burned_register", netuid, hotkey: miner.address },
      BOB,
    );
    await chain.submit(
      { kind: "add_stake", netuid, hotkey: validator.address, rao: 100n * TAO },
      ALICE,
    );
    const graph = await chain.metagraph(netuid);
    assert.deepEqual(
      graph.neurons.map(({ uid, hotkey, coldkey }) => ({ uid, hotkey, coldkey })),
      [
        { uid: 0, hotkey: owner.address, coldkey: ALICE.address },
        { uid: 1, hotkey: validator.address, coldkey: ALICE.address },
        { uid: 2, hotkey: miner.address, coldkey: BOB.address },
      ],
    );
    assert.equal(graph.ownerHotkey, owner.address);
    assert.equal(graph.ownerColdkey, ALICE.address);
    assert.equal(graph.tempo, TEMPO);
    assert.equal(graph.commitRevealEnabled, false);
    assert.equal(graph.weightsRateLimitBlocks, TEMPO / 2);
    assert.equal(graph.maxWeightsLimit, 65_535);
    assert.equal(typeof graph.weightsVersionKey, "bigint");
    const stakes = graph.neurons.map(({ stakeRao }) => stakeRao > 0n);
    assert.deepEqual(stakes, [false, true, false]);
    assert.equal((await chain.header(graph.blockHash)).number, graph.block);

    // At the earlier block the stake does not exist yet, and all else is of that block.
    const past = await chain.metagraph(netuid, blockHash);
    assert.equal(past.blockHash, blockHash);
    assert.equal(past.neurons.length, 3);
    assert(past.block < graph.block);
    assert(past.neurons.every(({ stakeRao }) => stakeRao === 0n));
    const { parentHash } = await chain.header(blockHash);
    assert.equal((await chain.metagraph(netuid, parentHash)).neurons.length, 2);
  });

  test("metagraph() and epochOf() refuse a subnet or block that does not exist", async () => {
    const nowhere = 4_000 as Netuid;
    for (const read of [chain.metagraph(nowhere), chain.epochOf(nowhere), chain.weights(nowhere)]) {
      await assert.rejects(read, { name: "SubnetNotExists" });
    }
    await assert.rejects(chain.metagraph(netuid, `0x${"ab".repeat(32)}`), ChainError);
  });

  test("commitments() gives back Raw and BigRaw fields byte for byte", async () => {
    const root = encodeLogRoot({
      epoch: 7,
      size: 2n ** 40n,
      root: new Uint8Array(32).fill(1),
      sums: new Uint8Array(32).fill(2),
    });
    assert.equal(root.length, 81);
    const big = Uint8Array.from({ length: 300 }, (_, i) => i % 251);
    const fields = [big, root, new Uint8Array(0)];
    const before = await chain.finalizedHead();
    const { blockNumber } = await chain.submit({ kind: "set_commitment", netuid, fields }, owner);
    const all = await chain.commitments(netuid);
    assert.deepEqual([...all.keys()], [owner.address]);
    const own = await chain.commitmentOf(netuid, hotkey(owner.address));
    assert.deepEqual(own, all.get(hotkey(owner.address)));
    assert.equal(own?.block, blockNumber);
    assert.deepEqual(
      own?.fields.map((field) => Buffer.from(field)),
      fields.map((field) => Buffer.from(field)),
    );
    assert.equal(await chain.commitmentOf(netuid, hotkey(BOB.address)), undefined);
    assert.equal((await chain.commitments(netuid, before.hash)).size, 0);
  });

  test("set_commitment refuses fields that the chain cannot hold", async () => {
    for (const fields of [[new Uint8Array(513)], Array(4).fill(new Uint8Array(1))]) {
      await assert.rejects(chain.submit({ kind: "set_commitment", netuid, fields }, owner));
    }
  });

  test("weights() gives back what set_weights set, scaled to 65535", async () => {
    assert.equal((await chain.weights(netuid)).size, 0);
    await rateLimitToPass(chain, netuid);
    const { blockHash, blockNumber } = await chain.submit(
      { kind: "set_weights", netuid, uids: [2, 0, 1], weights: [50, 100, 1], versionKey: 0n },
      owner,
    );
    const set = await chain.weights(netuid, blockHash);
    assert.deepEqual([...set.keys()], [0]);
    const pairs = new Map(set.get(0));
    assert.equal(pairs.get(0), 65_535);
    assert(Math.abs((pairs.get(2) ?? 0) - 65_535 / 2) <= 1);
    const graph = await chain.metagraph(netuid, blockHash);
    assert.equal(graph.neurons[0]?.lastUpdate, blockNumber);
  });

  test("alphaPriceRao() of a past block does not change when stake moves the price", async () => {
    const head = await chain.finalizedHead();
    const then = await chain.alphaPriceRao(netuid, head.hash);
    assert(then > 0n);
    await chain.submit(
      { kind: "add_stake", netuid, hotkey: owner.address, rao: 10_000n * TAO },
      ALICE,
    );
    assert((await chain.alphaPriceRao(netuid)) > then);
    assert.equal(await chain.alphaPriceRao(netuid, head.hash), then);
  });

  test("minerEmissions appear in the block in which the epoch index grows", async () => {
    // The owner's hotkey has stake and weights by now; an epoch gives it the permit, the next one pays by its weights.
    const { epoch, facts, paid } = await eventually(async () => {
      const epoch = await chain.epochOf(netuid);
      const hash = await chain.blockHash(epoch.lastEpochBlock);
      assert(hash !== undefined);
      const facts = await chain.blockFacts(hash);
      const paid = facts.minerEmissions.find((each) => each.netuid === netuid);
      return paid?.emissions.some((rao) => rao > 0n) ? { epoch, facts, paid } : undefined;
    });
    const graph = await chain.metagraph(netuid, facts.head.hash);
    assert.equal(graph.epochIndex, epoch.index);
    assert.equal(graph.lastEpochBlock, facts.head.number);
    assert.equal(paid.emissions.length, graph.neurons.length);
    assert.deepEqual(
      graph.neurons.map(({ incentive }) => incentive > 0),
      paid.emissions.map((rao) => rao > 0n),
    );
    const before = await chain.epochOf(netuid, facts.head.parentHash);
    assert.equal(before.index, epoch.index - 1);
    assert.deepEqual((await chain.blockFacts(facts.head.parentHash)).minerEmissions, []);
  });

  test("subnets() finds a subnet by its owner's hotkey, also in the past", async () => {
    const found = (await chain.subnets()).find((each) => each.ownerHotkey === owner.address);
    assert.equal(found?.netuid, netuid);
    const genesis = await chain.subnets(chain.genesisHash);
    assert(genesis.every((each) => each.netuid !== netuid));
  });
});

test("heads: numbers, hashes and parents agree, and finality grows", async (t) => {
  const { chain } = await openChainAndClient(t, { blockMs: 30, finalityLagBlocks: 2 });
  assert.equal(await chain.blockHash(0), chain.genesisHash);
  assert.equal(await chain.blockHash(4_000_000), undefined);
  const seen: { number: number; hash: string; parentHash: string }[] = [];
  const stop = chain.onFinalizedHead((head) => seen.push(head));
  const heads = await eventually(async () => (seen.length >= 5 ? [...seen] : undefined));
  stop();
  for (const [i, head] of heads.entries()) {
    assert.equal(await chain.blockHash(head.number), head.hash);
    assert.deepEqual(await chain.header(head.hash), head);
    if (head.number > 0) {
      assert.equal(await chain.blockHash(head.number - 1), head.parentHash);
    }
    if (i > 0) assert(head.number > (heads[i - 1]?.number ?? 0));
  }
  const finalized = await chain.finalizedHead();
  const count = seen.length;
  await eventually(async () =>
    (await chain.finalizedHead()).number > finalized.number + 1 ? true : undefined,
  );
  assert(seen.length - count <= 1, "a stopped listener is not called");
});

test("a listener that throws does not stop the others", async (t) => {
  const { chain } = await openChainAndClient(t, { blockMs: 30 });
  let calls = 0;
  chain.onFinalizedHead(() => {
    throw new Error("a bug of the caller");
  });
  chain.onFinalizedHead(() => calls++);
  await eventually(async () => (calls >= 2 ? true : undefined));
});

test("blockFacts() credits what moved: batches whole, failed, interrupted and forced", async (t) => {
  const { url, chain } = await openChainAndClient(t);
  // The published client sends the calls that this project never makes.
  const provider = new WsProvider(url);
  // WsProvider's own typings clash with exactOptionalPropertyTypes (@polkadot/api 16.5.6).
  const api = await ApiPromise.create({
    provider: provider as NonNullable<ApiOptions["provider"]>,
    noInitWarn: true,
  });
  const alice = new Keyring({ type: "sr25519" }).addFromUri("//Alice");
  const { balances, utility } = api.tx;
  assert(balances && utility);
  const to = freshKeypair().address;
  const transfer = (amount: bigint) => balances["transferKeepAlive"]?.(to, amount);
  const tooMuch = transfer(2n ** 62n);
  const batches = [
    { name: "batchAll", calls: [transfer(2n * TAO), transfer(3n * TAO)], credited: [2n, 3n] },
    { name: "batchAll", calls: [transfer(5n * TAO), tooMuch], credited: [] },
    { name: "batch", calls: [transfer(7n * TAO), tooMuch, transfer(11n * TAO)], credited: [7n] },
    { name: "forceBatch", calls: [tooMuch, transfer(13n * TAO)], credited: [13n] },
  ];
  let expected = 0n;
  try {
    for (const { name, calls, credited } of batches) {
      const hash = await new Promise<string>((resolve, reject) => {
        utility[name]?.(calls)
          .signAndSend(alice, { nonce: -1 }, ({ status, isError }) => {
            if (status.isFinalized) resolve(status.asFinalized.toHex());
            else if (isError) reject(new Error(status.type));
          })
          .catch(reject);
      });
      const facts = await chain.blockFacts(hash);
      assert.deepEqual(
        facts.transfers.map((each) => ({ from: each.from, to: each.to, rao: each.rao })),
        credited.map((amount) => ({ from: ALICE.address, to, rao: amount * TAO })),
        name,
      );
      assert(facts.transfers.every(({ extrinsicIndex }) => extrinsicIndex === 1));
      const positions = facts.transfers.map(({ eventIndex }) => eventIndex);
      assert.equal(new Set(positions).size, positions.length);
      assert.equal(facts.head.hash, hash);
      assert(Math.abs(facts.timestampMs - Date.now()) < 60_000);
      for (const amount of credited) expected += amount * TAO;
      assert.equal(await chain.freeBalance(to, hash), expected);
    }
  } finally {
    await api.disconnect(); // before the node goes, or it reports that to the console
  }
});

test("freeBalance() of an unused address is zero, and of a past block what it was", async (t) => {
  const { chain } = await openChainAndClient(t);
  const to = freshKeypair().address;
  assert.equal(await chain.freeBalance(to), 0n);
  const { blockHash } = await chain.submit({ kind: "transfer", to, rao: TAO }, ALICE);
  assert.equal(await chain.freeBalance(to, blockHash), TAO);
  assert.equal(await chain.freeBalance(to, (await chain.header(blockHash)).parentHash), 0n);
});

test("openSubtensor() prints nothing and close() is idempotent and ends all calls", async (t) => {
  const printed: unknown[] = [];
  for (const method of ["log", "warn", "error", "info", "debug"] as const) {
    t.mock.method(console, method, (...args: unknown[]) => printed.push(args));
  }
  const { url, chain } = await openChainAndClient(t);
  const second = await openSubtensor({
    endpoints: [url],
    connectTimeoutMs: CONNECT_TIMEOUT_MS,
    log: LOG,
  });
  const running = chain.submit(
    { kind: "transfer", to: freshKeypair().address, rao: 2n ** 62n },
    ALICE,
  );
  await assert.rejects(running, ChainError);
  const endless = assert.rejects(
    eventually(async () => void (await second.finalizedHead())),
    { name: "Closed" },
  );
  await Promise.all([second.close(), second.close()]);
  await endless;
  await assert.rejects(second.finalizedHead(), { name: "Closed" });
  await assert.rejects(second.submit({ kind: "remark", bytes: Buffer.from("x") }, ALICE), {
    name: "Closed",
  });
  assert.deepEqual(printed, []);
});
