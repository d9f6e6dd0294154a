import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import type { ApiPromise } from "@polkadot/api";
import { u8aToHex } from "@polkadot/util";
import {
  ALICE,
  BOB,
  call,
  errorName,
  type LocalClient,
  openLocalClient,
  pairOf,
  query,
  setStorage,
  TAO,
} from "./local-client.ts";

const TEMPO = 20;
const NETUID = 1;
const OTHER = 2;
const OWNER = pairOf("//Calls/owner");
const VALIDATOR = pairOf("//Calls/validator");
const MINER = pairOf("//Calls/miner");

describe("the calls and answers that the Python SDK uses", () => {
  let local: LocalClient;
  let api: ApiPromise;
  before(async () => {
    local = await openLocalClient({ tempo: TEMPO });
    ({ api } = local);
    for (const hotkey of [OWNER, pairOf("//Calls/owner2")])
      assert.equal(await failureOf("registerNetwork", [hotkey.address], ALICE), undefined);
  });
  after(() => local.close());

  const send = async (method: string, args: readonly unknown[], signer = BOB) =>
    await local.send(call(api, "subtensorModule", method, ...args), signer);
  const failureOf = async (method: string, args: readonly unknown[], signer = BOB) =>
    (await send(method, args, signer)).error;
  const read = async (section: string, method: string, ...args: unknown[]): Promise<unknown> => {
    const found = api.call[section]?.[method];
    assert(found !== undefined, `${section}.${method}`);
    return (await found(...args)).toJSON();
  };
  const stakeOf = async (coldkey: string, netuid: number): Promise<bigint> => {
    const info = (await read(
      "stakeInfoRuntimeApi",
      "getStakeInfoForHotkeyColdkeyNetuid",
      VALIDATOR.address,
      coldkey,
      netuid,
    )) as { stake: number };
    return BigInt(info.stake);
  };
  const price = async (netuid: number) =>
    Number(await read("swapRuntimeApi", "currentAlphaPrice", netuid));

  test("register_limit() registers at most at the price it names", async () => {
    const burn = Number(await query(api, "subtensorModule", "burn", NETUID));
    const args = [NETUID, VALIDATOR.address] as const;
    assert.equal(
      await failureOf("registerLimit", [...args, burn - 1]),
      "RegistrationPriceLimitExceeded",
    );
    assert.equal(await failureOf("registerLimit", [...args, burn]), undefined);
    assert.equal(await failureOf("registerLimit", [NETUID, MINER.address, burn]), undefined);
  });

  test("the price of a registration rises with each and falls with time, if the owner lets it", async () => {
    const burn = async () => Number(await query(api, "subtensorModule", "burn", OTHER));
    const register = async (name: string) =>
      await failureOf("burnedRegister", [OTHER, pairOf(`//Calls/${name}`).address]);
    const fixed = await burn();
    assert.equal(await register("p"), undefined);
    assert.equal(await burn(), fixed);
    const mult = ((126n << 64n) / 100n).toString();
    await setStorage(local, "subtensorModule", "burnIncreaseMult", [OTHER], { bits: mult });
    assert.equal(await register("q"), undefined);
    assert(Math.abs((await burn()) - fixed * 1.26) < 2);
    await setStorage(local, "subtensorModule", "burnHalfLife", [OTHER], 8);
    const high = await burn();
    for (let i = 0; i < 8; i++) local.chain.produceBlock();
    assert(Math.abs((await burn()) - high / 2) < 10, `${await burn()} from ${high}`);
    for (let i = 0; i < 100; i++) local.chain.produceBlock();
    assert.equal(await burn(), 500_000);
    await setStorage(local, "subtensorModule", "maxBurn", [OTHER], 550_000);
    await setStorage(local, "subtensorModule", "burnHalfLife", [OTHER], 0);
    assert.equal(await register("r"), undefined);
    assert.equal(await burn(), 550_000);
  });

  test("add_stake_limit() and remove_stake_limit() keep the price, whole or in part", async () => {
    const start = await price(NETUID);
    const limit = Math.floor(start * 1.01);
    const add = [VALIDATOR.address, NETUID, 100n * TAO, limit] as const;
    assert.equal(await failureOf("addStakeLimit", [...add, false]), "SlippageTooHigh");
    assert.equal(await price(NETUID), start);
    assert.equal(await failureOf("addStakeLimit", [...add, true]), undefined);
    const raised = await price(NETUID);
    assert(raised <= limit && raised >= limit - 2, `${raised} of ${limit}`);
    const staked = await stakeOf(BOB.address, NETUID);
    const remove = [VALIDATOR.address, NETUID, staked, start + 10] as const;
    assert.equal(await failureOf("removeStakeLimit", [...remove, false]), "SlippageTooHigh");
    assert.equal(await failureOf("removeStakeLimit", [...remove, true]), undefined);
    const lowered = await price(NETUID);
    assert(lowered >= start + 10 && lowered <= start + 12, `${lowered} from ${start}`);
    assert((await stakeOf(BOB.address, NETUID)) > 0n);
  });

  test("transfer_stake() gives alpha away, through the pools if to another subnet", async () => {
    assert.equal(await failureOf("addStake", [VALIDATOR.address, NETUID, 100n * TAO]), undefined);
    const own = await stakeOf(BOB.address, NETUID);
    const alpha = 10n * TAO;
    const transfer = (into: number, amount = alpha) =>
      [MINER.address, VALIDATOR.address, NETUID, into, amount] as const;
    const { error, records } = await send("transferStake", transfer(NETUID));
    assert.equal(error, undefined);
    assert.equal(await stakeOf(BOB.address, NETUID), own - alpha);
    assert.equal(await stakeOf(MINER.address, NETUID), alpha);
    const event = records.find(({ event: { method } }) => method === "StakeTransferred");
    const tao = BigInt(String(event?.event.data[5]));
    assert.equal(tao, (alpha * BigInt(await price(NETUID))) / TAO);

    const before_ = await price(NETUID);
    assert.equal(await failureOf("transferStake", transfer(OTHER)), undefined);
    assert.equal(await stakeOf(BOB.address, NETUID), own - 2n * alpha);
    assert((await stakeOf(MINER.address, OTHER)) > 0n);
    assert((await price(NETUID)) < before_);
    assert.equal(
      await failureOf("transferStake", transfer(NETUID, own)),
      "NotEnoughStakeToWithdraw",
    );
    assert.equal(await failureOf("transferStake", transfer(9)), "SubnetNotExists");
    await setStorage(local, "subtensorModule", "transferToggle", [NETUID], false);
    assert.equal(await failureOf("transferStake", transfer(NETUID)), "TransferDisallowed");
    await setStorage(local, "subtensorModule", "transferToggle", [NETUID], true);

    const listed = (await read("stakeInfoRuntimeApi", "getStakeInfoForColdkey", MINER.address)) as {
      netuid: number;
      hotkey: string;
    }[];
    assert.deepEqual(
      listed.map(({ netuid, hotkey }) => [netuid, hotkey]),
      [
        [NETUID, VALIDATOR.address],
        [OTHER, VALIDATOR.address],
      ],
    );
  });

  test("serve_axon_tls() keeps the key of the certificate beside the axon", async () => {
    const axon = [NETUID, 1, 0x01020304, 8_091, 4, 0, 0, 0] as const;
    const key = new Uint8Array(32).fill(9);
    const certificate = u8aToHex(Uint8Array.of(1, ...key));
    assert.equal(await failureOf("serveAxonTls", [...axon, certificate], MINER), undefined);
    assert.deepEqual(
      await query(api, "subtensorModule", "neuronCertificates", NETUID, MINER.address),
      { publicKey: u8aToHex(key), algorithm: 1 },
    );
    const served = (await query(api, "subtensorModule", "axons", NETUID, MINER.address)) as {
      port: number;
    };
    assert.equal(served.port, 8_091);
  });

  test("batch_set_weights() sets what it can and reports the rest", async () => {
    for (let i = 0; i < TEMPO; i++) local.chain.produceBlock();
    const rows = [[[2, 5]], [[0, 5]]];
    const { error, records } = await send(
      "batchSetWeights",
      [[NETUID, OTHER], rows, [0, 0]],
      VALIDATOR,
    );
    assert.equal(error, undefined);
    assert.deepEqual(await query(api, "subtensorModule", "weights", NETUID, 1), [[2, 65_535]]);
    const own = records.filter(({ event }) => event.section === "subtensorModule");
    assert.deepEqual(
      own.map(({ event }) => event.method),
      ["WeightsSet", "BatchCompletedWithErrors", "BatchWeightItemFailed", "BatchWeightsCompleted"],
    );
    const [netuid, reason] = own[2]?.event.data ?? [];
    assert.deepEqual(
      [String(netuid), errorName(api, reason)],
      ["2", "HotKeyNotRegisteredInSubNet"],
    );
    assert.equal(
      await failureOf("batchSetWeights", [[NETUID], [], []], VALIDATOR),
      "InputLengthsUnequal",
    );
  });

  test("an epoch says which part of the miners' pay was withheld, and counts it as the subnet asks", async () => {
    const half = 1n << 31n;
    const flow = async (recycleOrBurn: string) => {
      await setStorage(local, "subtensorModule", "recycleOrBurn", [NETUID], recycleOrBurn);
      for (let i = 0; i < TEMPO; i++) local.chain.produceBlock();
      const weights = [NETUID, [0, 2], [1, 1], 0];
      assert.equal(await failureOf("setWeights", weights, VALIDATOR), undefined);
      const epoch = async () =>
        Number(await query(api, "subtensorModule", "subnetEpochIndex", NETUID));
      const begun = await epoch();
      let before_ = 0n;
      while ((await epoch()) === begun) {
        before_ = BigInt(String(await query(api, "subtensorModule", "subnetAlphaOut", NETUID)));
        local.chain.produceBlock();
      }
      const out = BigInt(String(await query(api, "subtensorModule", "subnetAlphaOut", NETUID)));
      const burned = (await query(api, "subtensorModule", "minerBurned", NETUID)) as {
        bits: string;
      };
      const bits = BigInt(burned.bits);
      assert(half - bits < 1n << 16n && bits <= half, `${bits}`);
      return out - before_;
    };
    const emitted = BigInt(TEMPO) * TAO;
    const withheld = (emitted * 41n) / 200n;
    const burned = await flow("Burn");
    assert(emitted - burned < 10n, `${burned} of ${emitted}`);
    const recycled = await flow("Recycle");
    assert(
      recycled - (emitted - withheld) < 10n && recycled >= emitted - withheld - 10n,
      `${recycled}`,
    );
  });

  test("the metagraph, the rules and the neurons of a subnet come in one answer each", async () => {
    const graph = (await read("subnetInfoRuntimeApi", "getMetagraph", NETUID)) as Record<
      string,
      unknown
    >;
    assert.deepEqual(
      graph["hotkeys"],
      [OWNER, VALIDATOR, MINER].map(({ address }) => address),
    );
    assert.equal(graph["ownerHotkey"], OWNER.address);
    assert.equal(graph["tempo"], TEMPO);
    assert.equal((graph["incentives"] as number[]).length, 3);
    assert.equal((graph["axons"] as { port: number }[])[2]?.port, 8_091);
    assert.equal(await read("subnetInfoRuntimeApi", "getMetagraph", 9), null);
    const second = (await read("subnetInfoRuntimeApi", "getMechagraph", NETUID, 0)) as object;
    assert.deepEqual(second, graph);
    assert.equal(await read("subnetInfoRuntimeApi", "getMechagraph", NETUID, 1), null);

    const rules = (await read("subnetInfoRuntimeApi", "getSubnetHyperparamsV3", NETUID)) as {
      name: string;
      value: object;
    }[];
    const named = new Map(
      rules.map(({ name, value }) => [Buffer.from(name.slice(2), "hex").toString(), value]),
    );
    assert.deepEqual(named.get("tempo"), { u16: TEMPO });
    assert.deepEqual(named.get("commit_reveal_weights_enabled"), { bool: false });

    const neurons = (await read("neuronInfoRuntimeApi", "getNeurons", NETUID)) as {
      weights: number[][];
    }[];
    assert.deepEqual(neurons[1]?.weights, [
      [0, 65_535],
      [2, 65_535],
    ]);
    const prices = (await read("swapRuntimeApi", "currentAlphaPriceAll")) as { netuid: number }[];
    assert.deepEqual(
      prices.map(({ netuid }) => netuid),
      [NETUID, OTHER],
    );
    const cost = await read("subnetRegistrationRuntimeApi", "getNetworkRegistrationCost");
    assert.equal(cost, await query(api, "subtensorModule", "subnetLocked", NETUID));
  });
});
