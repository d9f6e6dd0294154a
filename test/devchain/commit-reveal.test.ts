import assert from "node:assert/strict";
import { after, before, beforeEach, describe, test } from "node:test";
import type { ApiPromise } from "@polkadot/api";
import type { KeyringPair } from "@polkadot/keyring/types";
import type { EventRecord } from "@polkadot/types/interfaces";
import { blake2AsHex } from "@polkadot/util-crypto/blake2";
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
import { encryptTo } from "./tlock-oracle.ts";

const TEMPO = 12;
const NETUID = 1;
/** Where the second mechanism's vectors are. */
const SECOND_INDEX = NETUID + 4_096;
const SLOT_MS = 12_000;
const VERSION = 4;
const OWNER = pairOf("//Reveal/owner");
const VALIDATOR = pairOf("//Reveal/validator");
const MINER = pairOf("//Reveal/miner");
const VALIDATOR_UID = 1;
const MINER_UID = 2;

describe("commit-reveal", () => {
  let local: LocalClient;
  let api: ApiPromise;
  before(async () => {
    local = await openLocalClient({ tempo: TEMPO });
    ({ api } = local);
    const tx = (method: string, ...args: unknown[]) =>
      call(api, "subtensorModule", method, ...args);
    const { send } = local;
    await send(tx("registerNetwork", OWNER.address), ALICE);
    const { error } = await send(
      call(api, "utility", "batchAll", [
        ...[VALIDATOR, MINER].map(({ address }) => tx("burnedRegister", NETUID, address)),
        tx("addStake", VALIDATOR.address, NETUID, 100n * TAO),
        call(api, "balances", "transferKeepAlive", VALIDATOR.address, TAO),
      ]),
      BOB,
    );
    assert.equal(error, undefined);
    await setStorage(local, "subtensorModule", "commitRevealWeightsEnabled", [NETUID], true);
    await setStorage(local, "subtensorModule", "mechanismCountCurrent", [NETUID], 2);
  });
  after(() => local.close());
  /** Begins each test right after an epoch. */
  beforeEach(async () => {
    await untilEpoch();
    await makeBlocks(1);
  });

  const number = async (item: string, ...keys: unknown[]) =>
    Number(await query(api, "subtensorModule", item, ...keys));
  const weightsAt = async (index: number) =>
    await query(api, "subtensorModule", "weights", index, VALIDATOR_UID);
  const submit = async (method: string, ...args: unknown[]) =>
    await local.send(call(api, "subtensorModule", method, ...args), VALIDATOR);
  const refusal = async (method: string, ...args: unknown[]) =>
    await local.refusalOf(call(api, "subtensorModule", method, ...args), VALIDATOR);

  /** @param stepMs time from block to block; a round of the beacon is 3 s. */
  async function makeBlocks(count: number, stepMs = 3_000): Promise<void> {
    if (count > 0) assert(await local.rpc("dev_newBlock", { count, stepMs }));
  }

  /** Names of the chain's own events, in the newest block. */
  async function newestEvents(): Promise<string[]> {
    const records = (await api.query["system"]?.["events"]?.()) as unknown as EventRecord[];
    return [...records].map(({ event }) => event.method);
  }

  /** The round that a validator encrypts to, with what it knows of the real chain: 12 seconds per block. */
  async function revealRound(): Promise<bigint> {
    const next = await api.call["subnetInfoRuntimeApi"]?.["getNextEpochStartBlock"]?.(NETUID);
    const head = (await api.rpc.chain.getHeader()).number.toNumber();
    const now = Number(await query(api, "timestamp", "now"));
    const { genesisTime, period } = await beacon();
    const at = now / 1_000 + (Number(String(next)) + 3 - head) * (SLOT_MS / 1_000);
    return BigInt(Math.floor((at - genesisTime) / period));
  }

  async function beacon(): Promise<{ publicKey: Buffer; genesisTime: number; period: number }> {
    const config = (await query(api, "drand", "beaconConfig")) as {
      publicKey: string;
      genesisTime: number;
      period: number;
    };
    return { ...config, publicKey: Buffer.from(config.publicKey.slice(2), "hex") };
  }

  async function sealed(
    round: bigint,
    uids: number[],
    values: number[],
    hotkey: KeyringPair = VALIDATOR,
  ): Promise<string> {
    const payload = Buffer.concat([
      api.createType("Bytes", `0x${Buffer.from(hotkey.publicKey).toString("hex")}`).toU8a(),
      api.createType("Vec<u16>", uids).toU8a(),
      api.createType("Vec<u16>", values).toU8a(),
      api.createType("u64", 0).toU8a(),
    ]);
    const { publicKey } = await beacon();
    return `0x${Buffer.from(encryptTo(publicKey, round, payload)).toString("hex")}`;
  }

  const clearWeights = async () =>
    await setStorage(local, "subtensorModule", "weights", [NETUID, VALIDATOR_UID], []);

  /** Makes blocks up to the one before the next epoch. */
  async function untilEpoch(stepMs?: number): Promise<void> {
    const next = await api.call["subnetInfoRuntimeApi"]?.["getNextEpochStartBlock"]?.(NETUID);
    const head = (await api.rpc.chain.getHeader()).number.toNumber();
    await makeBlocks(Number(String(next)) - 1 - head, stepMs);
  }

  test("a timelocked commit is revealed by the chain itself in the next epoch", async () => {
    await clearWeights();
    const round = await revealRound();
    const commit = await sealed(round, [0, MINER_UID], [1, 3]);
    const { error, records, blockNumber } = await submit(
      "commitTimelockedWeights",
      NETUID,
      commit,
      round,
      VERSION,
    );
    assert.equal(error, undefined);
    const committed = records.find(({ event }) => event.method === "TimelockedWeightsCommitted");
    assert.deepEqual(committed?.event.data.toJSON(), [
      VALIDATOR.address,
      NETUID,
      blake2AsHex(commit),
      Number(round),
    ]);
    const epoch = await number("subnetEpochIndex", NETUID);
    const stored = (await query(
      api,
      "subtensorModule",
      "timelockedWeightCommits",
      NETUID,
      epoch,
    )) as unknown[];
    assert.deepEqual(stored, [[VALIDATOR.address, blockNumber, commit, Number(round)]]);
    const lastUpdate = (await query(api, "subtensorModule", "lastUpdate", NETUID)) as number[];
    assert.equal(lastUpdate[VALIDATOR_UID], blockNumber);

    await untilEpoch(SLOT_MS);
    assert.deepEqual(await weightsAt(NETUID), []);
    // The pulse of the round comes a few blocks into the epoch.
    let waited = 0;
    while (!(await newestEvents()).includes("TimelockedWeightsRevealed")) {
      await makeBlocks(1, SLOT_MS);
      waited += 1;
      assert(waited < TEMPO, "nothing was revealed");
    }
    assert.deepEqual(await weightsAt(NETUID), [
      [0, 21_845],
      [MINER_UID, 65_535],
    ]);
    assert((await newestEvents()).includes("WeightsSet"));
    assert.deepEqual(
      await query(api, "subtensorModule", "timelockedWeightCommits", NETUID, epoch),
      [],
    );
    assert.notEqual(await query(api, "drand", "pulses", round), null);
    // A reveal is no new commit.
    const after_ = (await query(api, "subtensorModule", "lastUpdate", NETUID)) as number[];
    assert.equal(after_[VALIDATOR_UID], blockNumber);
  });

  test("a commit whose round is over when the epoch ends counts in that epoch", async () => {
    await clearWeights();
    const round = BigInt(String(await query(api, "drand", "lastStoredRound"))) + 1n;
    const commit = await sealed(round, [MINER_UID], [7]);
    assert.equal(
      (await submit("commitTimelockedMechanismWeights", NETUID, 0, commit, round, VERSION)).error,
      undefined,
    );
    await untilEpoch();
    await makeBlocks(1);
    const events = await newestEvents();
    const revealed = events.indexOf("TimelockedWeightsRevealed");
    assert(
      revealed >= 0 && revealed < events.indexOf("IncentiveAlphaEmittedToMiners"),
      events.join(),
    );
  });

  test("the second mechanism has commits and weights of its own", async () => {
    const round = BigInt(String(await query(api, "drand", "lastStoredRound"))) + 1n;
    const commit = await sealed(round, [MINER_UID], [7]);
    const first = await weightsAt(NETUID);
    assert.equal(
      (await submit("commitTimelockedMechanismWeights", NETUID, 1, commit, round, VERSION)).error,
      undefined,
    );
    await untilEpoch();
    await makeBlocks(1);
    assert.deepEqual(await weightsAt(SECOND_INDEX), [[MINER_UID, 65_535]]);
    assert.deepEqual(await weightsAt(NETUID), first);
    assert.equal(
      (await submit("commitTimelockedMechanismWeights", NETUID, 2, commit, round + 99n, VERSION))
        .error,
      "MechanismDoesNotExist",
    );
  });

  test("a round that is too late, and another hotkey's payload, lose the weights without a word", async () => {
    await clearWeights();
    const soon = BigInt(String(await query(api, "drand", "lastStoredRound"))) + 1n;
    const foreign = await sealed(soon, [MINER_UID], [7], MINER);
    const late = soon + 1_000n;
    const never = await sealed(late, [MINER_UID], [7]);
    const commit = async (bytes: string, round: bigint) =>
      (await submit("commitTimelockedWeights", NETUID, bytes, round, VERSION)).error;
    await setStorage(local, "subtensorModule", "weightsSetRateLimit", [NETUID], 0);
    const epoch = await number("subnetEpochIndex", NETUID);
    assert.equal(await commit(foreign, soon), undefined);
    assert.equal(await commit("0x00", soon), undefined);
    assert.equal(await commit(never, late), undefined);
    const waiting = async () =>
      ((await query(api, "subtensorModule", "timelockedWeightCommits", NETUID, epoch)) as unknown[])
        .length;
    assert.equal(await waiting(), 3);
    await untilEpoch();
    await makeBlocks(1);
    assert.equal(await waiting(), 1);
    await untilEpoch();
    assert.equal(await waiting(), 1);
    await makeBlocks(1);
    assert.equal(await waiting(), 0);
    assert.deepEqual(await weightsAt(NETUID), []);
  });

  test("a timelocked commit is checked as on the real chain", async () => {
    const limit = 5;
    await setStorage(local, "subtensorModule", "weightsSetRateLimit", [NETUID], 0);
    const last = BigInt(String(await query(api, "drand", "lastStoredRound")));
    const far = last + 1_000n;
    const commit = async (round: bigint, version = VERSION) =>
      (await submit("commitTimelockedWeights", NETUID, "0x00", round, version)).error;
    assert.equal(await commit(far, 3), "IncorrectCommitRevealVersion");
    assert.equal(
      await refusal("commitTimelockedWeights", NETUID, "0x00", last - 1n, VERSION),
      "Custom error: 15",
    );
    assert.equal(await refusal("commitTimelockedWeights", 9, "0x00", far, VERSION), undefined);
    const stranger = call(
      api,
      "subtensorModule",
      "commitTimelockedWeights",
      NETUID,
      "0x00",
      far,
      4,
    );
    assert.equal((await local.send(stranger, BOB)).error, "HotKeyNotRegisteredInSubNet");
    // In one block, so that no epoch comes between them.
    const one = call(
      api,
      "subtensorModule",
      "commitTimelockedWeights",
      NETUID,
      "0x00",
      far,
      VERSION,
    );
    const many = async (count: number) =>
      (await local.send(call(api, "utility", "batchAll", Array(count).fill(one)), VALIDATOR)).error;
    await untilEpoch();
    await makeBlocks(1);
    assert.equal(await many(11), "TooManyUnrevealedCommits");
    assert.equal(await many(10), undefined);
    await setStorage(local, "subtensorModule", "weightsSetRateLimit", [NETUID], limit);
    assert.equal(await commit(far), "CommittingWeightsTooFast");
    assert.equal(
      (await submit("setWeights", NETUID, [MINER_UID], [1], 0)).error,
      "CommitRevealEnabled",
    );
    await setStorage(local, "subtensorModule", "commitRevealWeightsEnabled", [NETUID], false);
    assert.equal(await commit(far), "CommitRevealDisabled");
    assert.equal(
      (await submit("commitWeights", NETUID, blake2AsHex("0x"))).error,
      "CommitRevealDisabled",
    );
    await setStorage(local, "subtensorModule", "commitRevealWeightsEnabled", [NETUID], true);
  });

  test("a hashed commit is revealed by its validator, in the next epoch only", async () => {
    await clearWeights();
    await setStorage(local, "subtensorModule", "weightsSetRateLimit", [NETUID], 0);
    const salt = [1, 2, 3];
    const hashOf = (index: number, values: number[]) =>
      blake2AsHex(
        Buffer.concat([
          VALIDATOR.publicKey,
          api.createType("u16", index).toU8a(),
          ...[[MINER_UID], values, salt].map((list) => api.createType("Vec<u16>", list).toU8a()),
          api.createType("u64", 0).toU8a(),
        ]),
      );
    const reveal = (values: number[]) =>
      ["revealWeights", NETUID, [MINER_UID], values, salt, 0] as const;
    assert.equal(await refusal(...reveal([7])), "Custom error: 16");
    for (const value of [7, 8])
      assert.equal(
        (await submit("commitWeights", NETUID, hashOf(NETUID, [value]))).error,
        undefined,
      );
    const second = hashOf(SECOND_INDEX, [9]);
    assert.equal((await submit("commitMechanismWeights", NETUID, 1, second)).error, undefined);
    assert.equal(await refusal(...reveal([8])), "Custom error: 17");
    assert.equal(await refusal(...reveal([9])), "Custom error: 16");

    await untilEpoch();
    await makeBlocks(1);
    const { error, events } = await submit(...reveal([8]));
    assert.equal(error, undefined);
    assert(events.includes("subtensorModule.WeightsRevealed"));
    assert.deepEqual(await weightsAt(NETUID), [[MINER_UID, 65_535]]);
    // The commit before it went with it.
    assert.equal(await refusal(...reveal([7])), "Custom error: 16");
    assert.equal(
      await query(api, "subtensorModule", "weightCommits", NETUID, VALIDATOR.address),
      null,
    );
    // A batch takes only what it names, and nothing if one part is wrong.
    for (const value of [5, 6])
      assert.equal(
        (await submit("commitWeights", NETUID, hashOf(NETUID, [value]))).error,
        undefined,
      );
    await untilEpoch();
    await makeBlocks(1);
    const batch = (...values: number[]) =>
      [
        "batchRevealWeights",
        NETUID,
        values.map(() => [MINER_UID]),
        values.map((value) => [value]),
        values.map(() => salt),
        values.map(() => 0),
      ] as const;
    assert.equal(await refusal(...batch(5, 4)), "Custom error: 16");
    assert.equal(
      await refusal("batchRevealWeights", NETUID, [[1]], [], [], []),
      "Custom error: 18",
    );
    const { records } = await submit(...batch(6, 5));
    const revealed = records.find(({ event }) => event.method === "WeightsBatchRevealed");
    assert.deepEqual(revealed?.event.data.toJSON(), [
      VALIDATOR.address,
      NETUID,
      [hashOf(NETUID, [6]), hashOf(NETUID, [5])],
    ]);

    await untilEpoch();
    await makeBlocks(1);
    const expired = ["revealMechanismWeights", NETUID, 1, [MINER_UID], [9], salt, 0] as const;
    assert.equal(await refusal(...expired), "Custom error: 17");
  });

  test("the beacon goes on after a long pause, with the rounds that someone waits for", async () => {
    const last = Number(await query(api, "drand", "lastStoredRound"));
    const awaited = last + 10;
    await submit("commitTimelockedWeights", NETUID, "0x00", awaited, VERSION);
    const now = Number(await query(api, "timestamp", "now"));
    await local.rpc("dev_timeTravel", now + 3_600_000);
    await local.rpc("dev_newBlock");
    const newest = Number(await query(api, "drand", "lastStoredRound"));
    assert(newest >= last + 1_200, `${newest} after ${last}`);
    assert.notEqual(await query(api, "drand", "pulses", newest), null);
    assert.notEqual(await query(api, "drand", "pulses", awaited), null);
    assert.equal(await query(api, "drand", "pulses", awaited + 1), null);
  });
});
