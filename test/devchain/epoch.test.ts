import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import type { ApiPromise } from "@polkadot/api";
import type { EventRecord } from "@polkadot/types/interfaces";
import {
  ALICE,
  BOB,
  call,
  type LocalClient,
  openLocalClient,
  pairOf,
  query,
  setStorage,
  TAO,
} from "./local-client.ts";

const TEMPO = 12;
const NETUID = 1;
const OWNER = pairOf("//Epoch/owner");
const VALIDATORS = [pairOf("//Epoch/v1"), pairOf("//Epoch/v2")] as const;
const MINERS = [pairOf("//Epoch/m3"), pairOf("//Epoch/m4")] as const;
/** Uids: 0 owner, 1 and 2 validators, 3 and 4 miners. */
const UIDS = 5;

interface EpochFacts {
  readonly block: number;
  readonly index: number;
  readonly emissions: readonly bigint[];
  readonly phase: string;
}

describe("epochs", () => {
  let local: LocalClient;
  let api: ApiPromise;
  before(async () => {
    local = await openLocalClient({ tempo: TEMPO });
    ({ api } = local);
    const { send } = local;
    const tx = (method: string, ...args: unknown[]) =>
      call(api, "subtensorModule", method, ...args);
    await send(tx("registerNetwork", OWNER.address), ALICE);
    const { error } = await send(
      call(api, "utility", "batchAll", [
        ...[...VALIDATORS, ...MINERS].map(({ address }) => tx("burnedRegister", NETUID, address)),
        tx("addStake", VALIDATORS[0].address, NETUID, 100n * TAO),
        tx("addStake", VALIDATORS[1].address, NETUID, 300n * TAO),
      ]),
      BOB,
    );
    assert.equal(error, undefined);
  });
  after(() => local.close());

  const number = async (item: string) => Number(await query(api, "subtensorModule", item, NETUID));
  const stakeAt = async (at: { readonly query: ApiPromise["query"] }, hotkey: string) =>
    BigInt(String(await query(at, "subtensorModule", "totalHotkeyAlpha", hotkey, NETUID)));

  /** Makes blocks until the next epoch has run. */
  async function nextEpoch(): Promise<EpochFacts> {
    const index = await number("subnetEpochIndex");
    while ((await number("subnetEpochIndex")) === index) local.chain.produceBlock();
    const block = await number("lastEpochBlock");
    const hash = await api.rpc.chain.getBlockHash(block);
    const at = await api.at(hash);
    const records = (await at.query["system"]?.["events"]?.()) as unknown as EventRecord[];
    const paid = [...records].filter(
      ({ event }) => event.method === "IncentiveAlphaEmittedToMiners",
    );
    assert.equal(paid.length, 1);
    const [netuid, emissions] = paid[0]?.event.data ?? [];
    assert.equal(String(netuid), String(NETUID));
    return {
      block,
      index: await number("subnetEpochIndex"),
      emissions: [...(emissions as unknown as { toBigInt(): bigint }[])].map((rao) =>
        rao.toBigInt(),
      ),
      phase: paid[0]?.phase.type ?? "",
    };
  }

  test("run each tempo, count up, and are foretold", async () => {
    const first = await nextEpoch();
    const foretold = await api.call["subnetInfoRuntimeApi"]?.["getNextEpochStartBlock"]?.(NETUID);
    assert.equal(Number(String(foretold)), first.block + TEMPO);
    const second = await nextEpoch();
    assert.equal(second.block, first.block + TEMPO);
    assert.equal(second.index, first.index + 1);
    assert.equal(second.phase, "Initialization");
  });

  test("pay validators the miners' half while there are no weights", async () => {
    const { emissions, block } = await nextEpoch();
    assert.deepEqual(emissions, Array(UIDS).fill(0n));
    const hash = await api.rpc.chain.getBlockHash(block);
    const emitted = (await query(
      await api.at(hash),
      "subtensorModule",
      "emission",
      NETUID,
    )) as number[];
    const sum = emitted.reduce((total, rao) => total + BigInt(rao), 0n);
    const pool = (BigInt(TEMPO) * TAO * 82n) / 100n;
    assert(pool - sum < BigInt(UIDS) && sum <= pool, `${sum} of ${pool}`);
  });

  test("share the miners' half by stake-weighted rows, and burn the owner's part", async () => {
    // Row sums differ on purpose: each row counts by its shares.
    const set = (signer: (typeof VALIDATORS)[number], uids: number[], values: number[]) =>
      local.send(call(api, "subtensorModule", "setWeights", NETUID, uids, values, 0), signer);
    const rows: Record<number, Record<number, bigint>> = {
      1: { 0: 65_535n, 3: 65_535n },
      2: { 0: 21_845n, 3: 21_845n, 4: 65_535n },
    };
    // Set both well before the next epoch, which comes in a whole tempo.
    await nextEpoch();
    assert.equal((await set(VALIDATORS[0], [0, 3], [5, 5])).error, undefined);
    assert.equal((await set(VALIDATORS[1], [0, 3, 4], [1, 1, 3])).error, undefined);
    for (const [uid, row] of Object.entries(rows))
      assert.deepEqual(
        await query(api, "subtensorModule", "weights", NETUID, Number(uid)),
        Object.entries(row).map(([to, weight]) => [Number(to), Number(weight)]),
      );

    const { emissions, block } = await nextEpoch();
    const parent = await api.at(await api.rpc.chain.getBlockHash(block - 1));
    const at = await api.at(await api.rpc.chain.getBlockHash(block));
    const half = (BigInt(TEMPO) * TAO * 82n) / 100n / 2n;
    const stakes = {
      1: await stakeAt(parent, VALIDATORS[0].address),
      2: await stakeAt(parent, VALIDATORS[1].address),
    };
    // The same in exact fractions: share = Σ stake·w/rowSum ÷ Σ stake.
    const sums = { 1: 131_070n, 2: 109_225n };
    const common = sums[1] * sums[2];
    const rank = (uid: number) =>
      stakes[1] * (rows[1]?.[uid] ?? 0n) * sums[2] + stakes[2] * (rows[2]?.[uid] ?? 0n) * sums[1];
    const whole = (stakes[1] + stakes[2]) * common;
    for (let uid = 0; uid < UIDS; uid++) {
      const expected = (half * rank(uid)) / whole;
      const got = emissions[uid] ?? -1n;
      // Two roundings down.
      assert(expected - got <= 2n && got - expected <= 2n, `uid ${uid}: ${got}, not ${expected}`);
    }
    const total = emissions.reduce((sum, rao) => sum + rao, 0n);
    assert(total <= half && half - total < BigInt(UIDS));

    const incentive = (await query(at, "subtensorModule", "incentive", NETUID)) as number[];
    const shares = incentive.reduce((sum, share) => sum + share, 0);
    assert(shares <= 65_535 && shares > 65_535 - UIDS);
    assert.deepEqual(
      incentive.map((share) => share > 0),
      [true, false, false, true, true],
    );
    for (const [uid, { address }] of [
      [3, MINERS[0]],
      [4, MINERS[1]],
    ] as const) {
      const earned = (await stakeAt(at, address)) - (await stakeAt(parent, address));
      // A miner that has earned before has a permit, and so a dividend on top.
      assert(earned >= (emissions[uid] ?? 0n), `uid ${uid} earned ${earned}`);
    }
    // The owner gets its cut (and dividends on its stake), but not its incentive.
    const ownerEarned = (await stakeAt(at, OWNER.address)) - (await stakeAt(parent, OWNER.address));
    const cut = (BigInt(TEMPO) * TAO * 18n) / 100n;
    const dividends = (await query(at, "subtensorModule", "emission", NETUID)) as number[];
    const ownerDividend = BigInt(dividends[0] ?? 0) - (emissions[0] ?? 0n);
    assert.equal(ownerEarned, cut + ownerDividend);
    assert((emissions[0] ?? 0n) > half / 5n);
  });

  test("do not count a weight that is older than the neuron it is for", async () => {
    const replaced = pairOf("//Epoch/replaced");
    const { send } = local;
    await setStorage(local, "subtensorModule", "maxAllowedUids", [NETUID], UIDS);
    await setStorage(local, "subtensorModule", "immunityPeriod", [NETUID], 0);
    const register = call(api, "subtensorModule", "burnedRegister", NETUID, replaced.address);
    assert.equal((await send(register, BOB)).error, undefined);
    const uid = Number(await query(api, "subtensorModule", "uids", NETUID, replaced.address));
    const { emissions } = await nextEpoch();
    assert.equal(emissions[uid], 0n);
  });
});
