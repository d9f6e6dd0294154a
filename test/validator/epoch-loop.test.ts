import assert from "node:assert/strict";
import { cp, readFile, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { test } from "node:test";
import type { Hotkey } from "../../src/core/ids.ts";
import { signingKey } from "../../src/core/jws.ts";
import { encodeEpochFile } from "../../src/usage-log/epoch-file.ts";
import { openUsageLogWriter } from "../../src/usage-log/writer.ts";
import {
  blockOf,
  DEADLINE,
  type Enclave,
  handled,
  hotkeyNamed,
  MINER_1,
  MINER_2,
  newEnclave,
  openWorld,
  reportOf,
  USD,
  until,
  VALIDATORS,
  type World,
} from "./world.ts";

const inWorld = (name: string, run: (world: World) => Promise<void>) =>
  test(name, async () => {
    const world = await openWorld();
    try {
      await run(world);
    } finally {
      await world.close();
    }
  });

const usd = (amount: number) => (USD * BigInt(amount)).toString();

inWorld("an honest epoch sets the weights that pay it and burn the rest", async (world) => {
  const [a, b] = [world.enclaveOf(MINER_1), world.enclaveOf(MINER_2)];
  await world.honestEpoch(
    1,
    new Map([
      [a, 100],
      [b, 50],
    ]),
  );
  const loop = await world.openValidator("v");
  world.advanceTo(blockOf(1) + DEADLINE - 1);
  await handled(loop, world);
  assert.deepEqual(loop.reports(), [], "the root's deadline has not passed");
  world.advanceTo(blockOf(1) + DEADLINE);
  const report = await reportOf(loop, 1);
  assert.equal(report.verdict, "accepted");
  assert.equal(report.block, blockOf(1));
  assert.equal(report.price_nusd, (20n * USD).toString());
  assert.equal(report.pool_nusd, usd(400));
  assert.equal(report.burn_bps, 6_250);
  assert.deepEqual(report.sums, { [MINER_1]: usd(100), [MINER_2]: usd(50) });
  assert.deepEqual(report.planned, report.sums);
  // By hand: shares 1/4, 1/8 and 5/8 burned; T = 104854 makes the burn entry 65535.
  assert.deepEqual(report.weights, [65_535, 26_213, 13_106, 0, 0, 0]);
  const call = await until("weights", () => world.weightCalls[0]);
  assert.deepEqual(call.weights, report.weights);

  // The chain pays by these weights at the end of the next epoch; what rounding left is planned again.
  await world.honestEpoch(2, new Map());
  world.advanceTo(blockOf(2) + DEADLINE);
  const next = await reportOf(loop, 2);
  assert.equal(next.verdict, "accepted");
  const [paid, owed] = [BigInt(next.paid[MINER_1] ?? 0), BigInt(next.owed[MINER_1] ?? 0)];
  assert.equal(paid + owed, 100n * USD);
  assert(owed > 0n && owed < USD / 100n, `one step of u16 is left, not ${owed}`);
  assert.equal(next.planned[MINER_1], owed.toString());
});

/** One thing that is wrong with an epoch, and what becomes of it. */
interface Attack {
  readonly name: string;
  readonly run: (world: World, honest: Enclave, rogue: Enclave) => Promise<void>;
  readonly verdict: "accepted" | "refused";
  readonly reason?: string;
  readonly refusals?: Record<string, number>;
  /** Credited to the honest miner, USD. */
  readonly honest: number;
}

const claim = (honest: number, rogue: number) =>
  new Map<Hotkey, bigint>([
    [MINER_1, USD * BigInt(honest)],
    [MINER_2, USD * BigInt(rogue)],
  ]);

/** An epoch of one honest leaf and one that is wrong in `change`. */
const leafAttack =
  (change: Parameters<World["leaf"]>[2], rogueClaim = 1) =>
  async (world: World, honest: Enclave, rogue: Enclave) => {
    const leaves = [world.leaf(honest, 1), world.leaf(rogue, 1, change)];
    world.commit(1, await world.closeEpoch(1, leaves, claim(1, rogueClaim)));
  };

const ATTACKS: readonly Attack[] = [
  {
    name: "a forged receipt signature costs only its own leaf",
    run: leafAttack({ receiptKey: signingKey() }),
    verdict: "accepted",
    refusals: { bad_receipt_signature: 1 },
    honest: 1,
  },
  {
    name: "an amount above the quoted price earns nothing",
    run: leafAttack({ countersignature: { amt: (USD + 1n).toString() } }, 0),
    verdict: "accepted",
    refusals: { wrong_amount: 1 },
    honest: 1,
  },
  {
    name: "an amount above the quoted price, also in the sums, costs only its own leaf",
    run: async (world, honest, rogue) => {
      const leaves = [
        world.leaf(honest, 1),
        world.leaf(rogue, 1, { countersignature: { amt: (2n * USD).toString() } }),
      ];
      world.commit(1, await world.closeEpoch(1, leaves, claim(1, 2)));
    },
    verdict: "accepted",
    refusals: { wrong_amount: 1 },
    honest: 1,
  },
  {
    name: "a leaf that the gateway did not sign earns nothing",
    run: leafAttack({ gatewayKey: signingKey() }, 0),
    verdict: "accepted",
    refusals: { bad_countersignature: 1 },
    honest: 1,
  },
  {
    name: "an enclave without evidence earns nothing, and the gateway may say so",
    run: async (world, honest) => {
      const leaves = [world.leaf(honest, 1), world.leaf(newEnclave(MINER_2), 1)];
      world.commit(1, await world.closeEpoch(1, leaves, claim(1, 0)));
    },
    verdict: "accepted",
    refusals: { unknown_enclave: 1 },
    honest: 1,
  },
  {
    name: "free credit earns nothing",
    run: leafAttack({ countersignature: { promo: true } }, 0),
    verdict: "accepted",
    refusals: {},
    honest: 1,
  },
  {
    name: "the same receipt twice is paid once",
    run: async (world, honest) => {
      const leaf = world.leaf(honest, 1);
      world.commit(1, await world.closeEpoch(1, [leaf, leaf], claim(1, 0)));
    },
    verdict: "accepted",
    refusals: { duplicate_receipt: 1 },
    honest: 1,
  },
  {
    name: "sums that are not those of the leaves void the epoch",
    run: async (world, honest) => {
      world.commit(1, await world.closeEpoch(1, [world.leaf(honest, 1)], claim(2, 0)));
    },
    verdict: "refused",
    reason: "sums_differ",
    honest: 0,
  },
  {
    name: "a miner in the sums without a leaf voids the epoch",
    run: async (world, honest) => {
      world.commit(1, await world.closeEpoch(1, [world.leaf(honest, 1)], claim(1, 1)));
    },
    verdict: "refused",
    reason: "sums_differ",
    honest: 0,
  },
  {
    name: "an edited leaf voids the epoch",
    run: async (world, honest) => {
      world.commit(1, await world.closeEpoch(1, [world.leaf(honest, 1)], claim(1, 0)));
      const path = join(world.logDirectory, "tile/entries/000.p/1");
      const bytes = await readFile(path);
      bytes[100] = (bytes[100] ?? 0) ^ 1;
      await writeFile(path, bytes);
    },
    verdict: "refused",
    reason: "root_mismatch",
    honest: 0,
  },
  {
    name: "an epoch file that was changed after the commitment voids the epoch",
    run: async (world, honest) => {
      world.commit(1, await world.closeEpoch(1, [world.leaf(honest, 1)], claim(1, 0)));
      const path = join(world.logDirectory, "epoch/1.json");
      await writeFile(path, `${await readFile(path, "utf8")} `);
    },
    verdict: "refused",
    reason: "epoch_file_mismatch",
    honest: 0,
  },
  {
    name: "retail prices of another version void the epoch",
    run: async (world, honest) => {
      const file = await world.closeEpoch(1, [world.leaf(honest, 1)], claim(1, 0));
      const other = { ...file, catalogue: "another" };
      await world.writer.putEpoch(1, encodeEpochFile(other));
      world.commit(1, other);
    },
    verdict: "refused",
    reason: "other_catalogue",
    honest: 0,
  },
  {
    name: "a root of another epoch is no root",
    run: async (world, honest) => {
      const file = await world.closeEpoch(1, [world.leaf(honest, 1)], claim(1, 0));
      world.commit(1, file, { epoch: 2 });
    },
    verdict: "refused",
    reason: "missing_root",
    honest: 0,
  },
  {
    name: "a gateway that announces nothing has no log",
    run: async () => undefined,
    verdict: "refused",
    reason: "missing_announcement",
    honest: 0,
  },
];

for (const { name, run, verdict, reason, refusals, honest } of ATTACKS) {
  inWorld(name, async (world) => {
    await run(world, world.enclaveOf(MINER_1), world.enclaveOf(MINER_2));
    const loop = await world.openValidator("v");
    world.advanceTo(blockOf(1) + DEADLINE);
    const report = await reportOf(loop, 1);
    assert.deepEqual(
      { verdict: report.verdict, reason: report.reason, sums: report.sums },
      { verdict, reason, sums: honest === 0 ? {} : { [MINER_1]: usd(honest) } },
    );
    if (refusals !== undefined) assert.deepEqual(report.refusals, refusals);
    assert.equal(report.weights[0], 65_535);
    assert.equal(report.weights[2], 0, "nothing for the rogue");
    const call = await until("weights", () => world.weightCalls[0]);
    assert.deepEqual(call.weights, report.weights);
  });
}

inWorld("a receipt of an earlier epoch is not paid again", async (world) => {
  const a = world.enclaveOf(MINER_1);
  const leaf = world.leaf(a, 1);
  world.commit(1, await world.closeEpoch(1, [leaf], claim(1, 0)));
  const loop = await world.openValidator("v");
  world.advanceTo(blockOf(1) + DEADLINE);
  await reportOf(loop, 1);
  world.commit(2, await world.closeEpoch(2, [leaf], claim(1, 0)));
  world.advanceTo(blockOf(2) + DEADLINE);
  const report = await reportOf(loop, 2);
  assert.deepEqual(report.refusals, { duplicate_receipt: 1 });
  assert.deepEqual(report.sums, {});
});

inWorld("two receipts for one position are equivocation, also across epochs", async (world) => {
  const a = world.enclaveOf(MINER_1);
  world.commit(1, await world.closeEpoch(1, [world.leaf(a, 1)], claim(1, 0)));
  const loop = await world.openValidator("v");
  world.advanceTo(blockOf(1) + DEADLINE);
  await reportOf(loop, 1);
  a.seq = 0;
  world.commit(2, await world.closeEpoch(2, [world.leaf(a, 2)], claim(1, 0)));
  world.advanceTo(blockOf(2) + DEADLINE);
  assert.deepEqual((await reportOf(loop, 2)).refusals, { equivocation: 1 });
});

inWorld(
  "a log that was rolled back or rewritten counts nothing, and counts again once it goes on",
  async (world) => {
    const a = world.enclaveOf(MINER_1);
    const first = await world.closeEpoch(1, [world.leaf(a, 1), world.leaf(a, 1)], claim(2, 0));
    world.commit(1, first);
    const loop = await world.openValidator("v");
    world.advanceTo(blockOf(1) + DEADLINE);
    await reportOf(loop, 1);

    // Another log under the same key: shorter, then as long but different.
    const keep = join(world.directory, "kept");
    await cp(world.logDirectory, keep, { recursive: true });
    await rm(world.logDirectory, { recursive: true });
    const rewritten = await openUsageLogWriter({
      directory: world.logDirectory,
      origin: "log.example",
      key: world.gatewayKey,
    });
    for (const [epoch, leaves, reason] of [
      [2, 1, "log_shrank"],
      [3, 3, "root_mismatch"],
    ] as const) {
      await rewritten.append(
        Array.from({ length: leaves - Number(rewritten.size()) }, () => world.leaf(a, epoch)),
      );
      await rewritten.publishCheckpoint();
      const file = {
        ...first,
        epoch,
        first: reason === "log_shrank" ? 0n : 2n,
        size: rewritten.size(),
        root: rewritten.root(),
        sums: claim(1, 0),
      };
      await rewritten.putEpoch(epoch, encodeEpochFile(file));
      world.commit(epoch, file);
      world.advanceTo(blockOf(epoch) + DEADLINE);
      const report = await reportOf(loop, epoch);
      assert.deepEqual([report.verdict, report.reason], ["refused", reason]);
      assert.deepEqual(report.sums, {});
    }

    await rm(world.logDirectory, { recursive: true });
    await cp(keep, world.logDirectory, { recursive: true });
    await world.honestEpoch(4, new Map([[a, 3]]));
    world.advanceTo(blockOf(4) + DEADLINE);
    const report = await reportOf(loop, 4);
    assert.equal(report.verdict, "accepted");
    assert.deepEqual(report.sums, { [MINER_1]: usd(3) });
  },
);

inWorld("receipts of an epoch whose root came too late are paid with the next", async (world) => {
  const a = world.enclaveOf(MINER_1);
  await world.closeEpoch(1, [world.leaf(a, 1)], claim(1, 0));
  const loop = await world.openValidator("v");
  const zero = await world.openValidator("v2", VALIDATORS[1]);
  world.advanceTo(blockOf(1) + DEADLINE);
  assert.equal((await reportOf(loop, 1)).reason, "missing_announcement");
  await reportOf(zero, 1);
  await world.honestEpoch(2, new Map([[a, 2]]));
  world.advanceTo(blockOf(2) + DEADLINE);
  const report = await reportOf(loop, 2);
  // A validator that has seen no root yet begins with the epoch's own leaves.
  assert.deepEqual(report.sums, { [MINER_1]: usd(2) });
  await world.closeEpoch(3, [world.leaf(a, 3)], claim(1, 0));
  world.advanceTo(blockOf(3) + DEADLINE);
  assert.equal((await reportOf(loop, 3)).reason, "missing_root");
  await world.honestEpoch(4, new Map([[a, 5]]));
  world.advanceTo(blockOf(4) + DEADLINE);
  assert.deepEqual((await reportOf(loop, 4)).sums, { [MINER_1]: usd(6) });
});

inWorld("a log that does not answer is waited for, then counts as empty", async (world) => {
  const a = world.enclaveOf(MINER_1);
  await world.honestEpoch(1, new Map([[a, 1]]));
  await world.honestEpoch(2, new Map([[a, 2]]));
  world.logIsDown = true;
  const loop = await world.openValidator("v");
  world.advanceTo(blockOf(1) + DEADLINE);
  await handled(loop, world);
  assert.deepEqual(loop.reports(), []);
  world.logIsDown = false;
  world.advanceTo(blockOf(1) + DEADLINE + 1);
  assert.deepEqual((await reportOf(loop, 1)).sums, { [MINER_1]: usd(1) });
  world.logIsDown = true;
  world.advanceTo(blockOf(2) + DEADLINE);
  await handled(loop, world);
  assert.equal(loop.reports().length, 1);
  world.advanceTo(blockOf(2) + 14);
  const report = await reportOf(loop, 2);
  assert.deepEqual([report.verdict, report.reason], ["refused", "log_unreachable"]);
});

inWorld(
  "two validators reach the same states, also when one is restarted at every step",
  async (world) => {
    const [a, b] = [world.enclaveOf(MINER_1), world.enclaveOf(MINER_2, { route: "resale" })];
    const steady = await world.openValidator("steady");
    let other = await world.openValidator("restarted", VALIDATORS[1]);
    for (const [epoch, usage] of [
      new Map([
        [a, 100],
        [b, 30],
      ]),
      new Map([[b, 700]]),
      new Map([[a, 20]]),
      new Map<Enclave, number>(),
    ].entries()) {
      await world.honestEpoch(epoch + 1, usage);
      world.advanceTo(blockOf(epoch + 1) + DEADLINE);
      const [mine, theirs] = [await reportOf(steady, epoch + 1), await reportOf(other, epoch + 1)];
      const facts = ({ state_hash, weights, planned, paid, owed }: typeof mine) =>
        JSON.stringify({ state_hash, weights, planned, paid, owed });
      assert.equal(facts(mine), facts(theirs), `epoch ${epoch + 1}`);
      await other.close();
      other = await world.openValidator("restarted", VALIDATORS[1]);
      await handled(other, world);
    }
    assert.deepEqual(
      other.reports().map(({ epoch }) => epoch),
      [1, 2, 3, 4],
      "no epoch twice",
    );
  },
);

inWorld("a validator that was down catches up in order", async (world) => {
  const a = world.enclaveOf(MINER_1);
  const steady = await world.openValidator("steady");
  const before = await world.openValidator("down", VALIDATORS[1]);
  await world.honestEpoch(1, new Map([[a, 10]]));
  world.advanceTo(blockOf(1) + DEADLINE);
  await reportOf(before, 1);
  await before.close();
  for (const epoch of [2, 3]) {
    await world.honestEpoch(epoch, new Map([[a, epoch]]));
    world.advanceTo(blockOf(epoch) + DEADLINE);
    await reportOf(steady, epoch);
  }
  await handled(steady, world);
  const calls = world.weightCalls.length;
  const back = await world.openValidator("down", VALIDATORS[1]);
  const report = await reportOf(back, 3);
  assert.deepEqual(
    back.reports().map(({ state_hash }) => state_hash),
    steady.reports().map(({ state_hash }) => state_hash),
  );
  const call = await until("weights", () => world.weightCalls[calls]);
  assert.deepEqual(call.weights, report.weights, "only the newest epoch's weights are set");
});

inWorld(
  "an epoch whose state the chain has discarded is void, and does not stop the next",
  async (world) => {
    const a = world.enclaveOf(MINER_1);
    await world.honestEpoch(1, new Map([[a, 100]]));
    const before = await world.openValidator("v");
    world.advanceTo(blockOf(1) + DEADLINE);
    await until("weights", () => world.weightCalls[0]);
    await handled(before, world);
    await before.close();
    const late = 20;
    for (let epoch = 2; epoch <= late; epoch += 1) await world.honestEpoch(epoch, new Map());
    world.oldestState = blockOf(late) + DEADLINE - 256;
    world.advanceTo(blockOf(late) + DEADLINE);
    const loop = await world.openValidator("v");
    const report = await reportOf(loop, late);
    assert.equal(report.verdict, "accepted");
    assert.deepEqual(
      loop.reports().map(({ epoch }) => epoch),
      Array.from({ length: late }, (_, i) => i + 1),
    );
    const second = loop.reports()[1];
    assert.deepEqual([second?.verdict, second?.reason], ["void", "state_gone"]);
    // The plan of epoch 1 was due in the epoch that nobody saw: it counts as paid, or it would be paid twice.
    assert.equal(second?.paid[MINER_1], usd(100));
    assert.deepEqual(second?.owed, {});
  },
);

inWorld(
  "a validator that dies between saving and setting weights sets them once it is back",
  async (world) => {
    const a = world.enclaveOf(MINER_1);
    await world.honestEpoch(1, new Map([[a, 1]]));
    world.refuseWeights = "SettingWeightsTooFast";
    const first = await world.openValidator("v");
    world.advanceTo(blockOf(1) + DEADLINE);
    const report = await reportOf(first, 1);
    await handled(first, world);
    await first.close();
    assert.equal(world.weightCalls.length, 0);
    world.refuseWeights = undefined;
    const second = await world.openValidator("v");
    const call = await until("weights", () => world.weightCalls[0]);
    assert.deepEqual(call.weights, report.weights);
    await handled(second, world);
    assert.equal(second.reports().length, 1);
    assert.equal(second.reports()[0]?.state_hash, report.state_hash);
    assert.equal(second.reports()[0]?.weights_block, call.block);
    world.advanceTo(world.head() + 3);
    await handled(second, world);
    assert.equal(world.weightCalls.length, 1);
  },
);

inWorld("weights wait for the chain's rate limit", async (world) => {
  const loop = await world.openValidator("v");
  world.advanceTo(blockOf(1) + DEADLINE);
  const first = await until("weights", () => world.weightCalls[0]);
  world.rateLimitBlocks = blockOf(2) + DEADLINE + 3 - first.block;
  for (let block = blockOf(2) + DEADLINE; block < first.block + world.rateLimitBlocks; block += 1) {
    world.advanceTo(block);
    await reportOf(loop, 2);
    await handled(loop, world);
    assert.equal(world.weightCalls.length, 1, `too fast at ${block}`);
  }
  world.advanceTo(first.block + world.rateLimitBlocks);
  await until("weights", () => world.weightCalls[1]);
});

inWorld("an epoch is on disk before its weights are on the chain", async (world) => {
  const onDisk: number[] = [];
  world.beforeWeights = async () => {
    const state = await readFile(join(world.directory, "v", "state.json"), "utf8");
    onDisk.push((JSON.parse(state) as { epoch: number }).epoch);
  };
  await world.openValidator("v");
  for (const epoch of [1, 2]) {
    world.advanceTo(blockOf(epoch) + DEADLINE);
    await until("weights", () => world.weightCalls[epoch - 1]);
  }
  assert.deepEqual(onDisk, [1, 2]);
});

inWorld(
  "a slot that changes hands in the epoch's block debits who had it before",
  async (world) => {
    const a = world.enclaveOf(MINER_1);
    await world.honestEpoch(1, new Map([[a, 100]]));
    const loop = await world.openValidator("v");
    world.advanceTo(blockOf(1) + DEADLINE);
    await until("weights", () => world.weightCalls[0]);
    const newcomer = hotkeyNamed("newcomer");
    world.reassignSlot(1, newcomer, blockOf(2));
    world.advanceTo(blockOf(2) + DEADLINE);
    const { paid } = await reportOf(loop, 2);
    assert((paid[MINER_1] ?? "0").startsWith("99"), "about 100 USD");
    assert.equal(paid[newcomer], undefined);
  },
);

inWorld("leaves that an earlier epoch had already are not taken again", async (world) => {
  const a = world.enclaveOf(MINER_1);
  await world.honestEpoch(1, new Map([[a, 1]]));
  const loop = await world.openValidator("v");
  world.advanceTo(blockOf(1) + DEADLINE);
  await reportOf(loop, 1);
  const file = { ...(await world.closeEpoch(2, [world.leaf(a, 2)], claim(2, 0))), first: 0n };
  await world.writer.putEpoch(2, encodeEpochFile(file));
  world.commit(2, file);
  world.advanceTo(blockOf(2) + DEADLINE);
  const report = await reportOf(loop, 2);
  assert.deepEqual([report.verdict, report.reason], ["refused", "overlapping_epochs"]);
});

inWorld(
  "no weights are set under commit-reveal, nor for a slot that changed hands",
  async (world) => {
    const a = world.enclaveOf(MINER_1);
    await world.honestEpoch(1, new Map([[a, 100]]));
    world.commitReveal = true;
    const loop = await world.openValidator("v");
    world.advanceTo(blockOf(1) + DEADLINE);
    const report = await reportOf(loop, 1);
    await handled(loop, world);
    assert.equal(world.weightCalls.length, 0);
    assert((report.weights[1] ?? 0) > 0);
    world.commitReveal = false;
    world.reassignSlot(1, hotkeyNamed("newcomer"));
    world.advanceTo(blockOf(1) + DEADLINE + 4);
    const call = await until("weights", () => world.weightCalls[0]);
    assert.deepEqual(call.weights, report.weights.with(1, 0));
  },
);

inWorld("usage above the pool is scaled down and carried", async (world) => {
  const [a, b] = [world.enclaveOf(MINER_1), world.enclaveOf(MINER_2)];
  await world.honestEpoch(
    1,
    new Map([
      [a, 600],
      [b, 200],
    ]),
  );
  const loop = await world.openValidator("v");
  world.advanceTo(blockOf(1) + DEADLINE);
  const report = await reportOf(loop, 1);
  assert.deepEqual(report.planned, { [MINER_1]: usd(300), [MINER_2]: usd(100) });
  assert.equal(report.burn_bps, 0);
  await until("weights", () => world.weightCalls[0]);
  await world.honestEpoch(2, new Map());
  world.advanceTo(blockOf(2) + DEADLINE);
  const next = await reportOf(loop, 2);
  assert.equal(BigInt(next.paid[MINER_1] ?? 0) + BigInt(next.owed[MINER_1] ?? 0), 600n * USD);
  assert(BigInt(next.planned[MINER_1] ?? 0) > 299n * USD);
});

inWorld(
  "probes are bought once per epoch, shown in its report, and never hold up the audit",
  async (world) => {
    const probed: number[] = [];
    const probe = async (epoch: number, gatewayUrl: string, signal: AbortSignal) => {
      assert.equal(gatewayUrl, "http://gateway.example");
      probed.push(epoch);
      if (epoch === 3)
        await new Promise((resolve) => {
          signal.addEventListener("abort", resolve);
        });
      return { epoch, attempted: epoch, succeeded: 0, skipped: 0, spent_nusd: "5", results: [] };
    };
    for (const epoch of [0, 1, 2, 3]) await world.honestEpoch(epoch, new Map());
    world.advanceTo(blockOf(0) + 2);
    const loop = await world.openValidator("v", undefined, { probe });
    await until("the first probes", () => loop.probe());
    world.advanceTo(blockOf(1) + 1);
    await until("the second", () => loop.probe()?.epoch === 2 || undefined);
    world.advanceTo(blockOf(1) + DEADLINE);
    assert.equal((await reportOf(loop, 1)).probe?.attempted, 1);
    for (const epoch of [2, 3]) {
      world.advanceTo(blockOf(epoch) + DEADLINE);
      assert.equal((await reportOf(loop, epoch)).probe?.attempted, epoch === 2 ? 2 : undefined);
    }
    assert.deepEqual(probed, [1, 2, 3]);
    await loop.close();
  },
);

inWorld("a damaged state file is refused with words that help", async (world) => {
  const loop = await world.openValidator("v");
  world.advanceTo(blockOf(1) + DEADLINE);
  await reportOf(loop, 1);
  await handled(loop, world);
  await loop.close();
  const path = join(world.directory, "v", "state.json");
  const text = await readFile(path, "utf8");
  for (const damaged of [
    text.slice(0, -10),
    text.replace('"v":1', '"v":2'),
    text.replace('"epoch":1', '"epoch":2'),
    "",
  ]) {
    await writeFile(path, damaged);
    await assert.rejects(world.openValidator("v"), /move it away/);
  }
  await writeFile(path, text.replace('"netuid":1', '"netuid":2'));
  await assert.rejects(world.openValidator("v"), /belongs to subnet 2/);
});
