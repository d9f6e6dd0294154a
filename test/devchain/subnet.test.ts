import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import type { ApiPromise } from "@polkadot/api";
import {
  ALICE,
  BOB,
  call,
  freeOf,
  type LocalClient,
  openLocalClient,
  pairOf,
  query,
  setStorage,
  TAO,
  type Tx,
  withDeadline,
} from "./local-client.ts";

const TEMPO = 20;
/** So long that no epoch runs: nobody earns stake, and with it a permit. */
const LONG_TEMPO = 50_000;
const NETUID = 1;
const RATE_LIMIT_BLOCKS = 10;
const LONG_RATE_LIMIT_BLOCKS = 100;

const OWNER = pairOf("//Subnet/owner");
const VALIDATOR = pairOf("//Subnet/validator");
const SECOND_VALIDATOR = pairOf("//Subnet/validator2");
const MINERS = ["a", "b", "c"].map((name) => pairOf(`//Subnet/miner/${name}`));
const MINER_A = pairOf("//Subnet/miner/a");
const STRANGER = pairOf("//Subnet/stranger");

/** A subnet: uid 0 owner, 1 and 2 validators with 100 and 300 TAO of stake, 3, 4 and 5 miners. */
async function openSubnet(tempo: number): Promise<LocalClient> {
  const local = await openLocalClient({ tempo });
  const { api, send } = local;
  const tx = (section: string, method: string, ...args: unknown[]) =>
    call(api, section, method, ...args);
  const outcomes = [
    await send(tx("subtensorModule", "registerNetwork", OWNER.address), ALICE),
    await send(
      tx("utility", "batchAll", [
        ...[VALIDATOR, SECOND_VALIDATOR, ...MINERS].map(({ address }) =>
          tx("subtensorModule", "burnedRegister", NETUID, address),
        ),
        tx("subtensorModule", "addStake", VALIDATOR.address, NETUID, 100n * TAO),
        tx("subtensorModule", "addStake", SECOND_VALIDATOR.address, NETUID, 300n * TAO),
      ]),
      BOB,
    ),
  ];
  for (const { error } of outcomes) assert.equal(error, undefined);
  return local;
}

/** Makes blocks until the rate limit has passed for everyone. */
function passRateLimit({ chain }: LocalClient): void {
  for (let i = 0; i < LONG_RATE_LIMIT_BLOCKS; i++) chain.produceBlock();
}

async function neuronsOf(api: ApiPromise): Promise<Record<string, unknown>[]> {
  const found = await api.call["neuronInfoRuntimeApi"]?.["getNeuronsLite"]?.(NETUID);
  return found?.toJSON() as Record<string, unknown>[];
}

describe("a subnet", () => {
  let local: LocalClient;
  let api: ApiPromise;
  before(async () => {
    local = await openSubnet(TEMPO);
    api = local.api;
  });
  after(() => local.close());
  const tx = (method: string, ...args: unknown[]): Tx =>
    call(api, "subtensorModule", method, ...args);

  test("register_network makes the owner uid 0 and sets it up without commit-reveal", async () => {
    assert.equal(await query(api, "subtensorModule", "subnetOwnerHotkey", NETUID), OWNER.address);
    assert.equal(await query(api, "subtensorModule", "subnetOwner", NETUID), ALICE.address);
    assert.equal(await query(api, "subtensorModule", "uids", NETUID, OWNER.address), 0);
    assert.equal(await query(api, "subtensorModule", "commitRevealWeightsEnabled", NETUID), false);
    assert.equal(await query(api, "subtensorModule", "tempo", NETUID), TEMPO);
    assert.equal(
      await query(api, "subtensorModule", "weightsSetRateLimit", NETUID),
      RATE_LIMIT_BLOCKS,
    );
  });

  test("getNeuronsLite() and getNeuronLite() show every neuron", async () => {
    const neurons = await neuronsOf(api);
    assert.deepEqual(
      neurons.map(({ hotkey }) => hotkey),
      [OWNER, VALIDATOR, SECOND_VALIDATOR, ...MINERS].map(({ address }) => address),
    );
    assert.deepEqual(
      neurons.map(({ validatorPermit }) => validatorPermit),
      [false, true, true, false, false, false],
    );
    const one = await api.call["neuronInfoRuntimeApi"]?.["getNeuronLite"]?.(NETUID, 1);
    assert.deepEqual(one?.toJSON(), neurons[1]);
    const none = await api.call["neuronInfoRuntimeApi"]?.["getNeuronLite"]?.(NETUID, 99);
    assert.equal(none?.toJSON(), null);
  });

  test("burned_register takes the burn and is refused twice, on root, on no subnet and without money", async () => {
    const { send } = local;
    const register = (netuid: number, hotkey: string) => tx("burnedRegister", netuid, hotkey);
    const { error } = await send(register(NETUID, OWNER.address), ALICE);
    assert.equal(error, "HotKeyAlreadyRegisteredInSubNet");
    assert.equal(
      (await send(register(0, STRANGER.address), ALICE)).error,
      "RegistrationNotPermittedOnRootSubnet",
    );
    assert.equal((await send(register(9, STRANGER.address), ALICE)).error, "SubnetNotExists");
    const poor = pairOf("//Subnet/poor");
    await send(call(api, "balances", "transferKeepAlive", poor.address, TAO / 20n), ALICE);
    assert.equal(
      (await send(register(NETUID, STRANGER.address), poor)).error,
      "NotEnoughBalanceToStake",
    );
    const other = await send(tx("registerNetwork", VALIDATOR.address), ALICE);
    assert.equal(other.error, "NonAssociatedColdKey");
  });

  test("start_call is the owner's, once", async () => {
    const { send } = local;
    assert.equal((await send(tx("startCall", NETUID), BOB)).error, "BadOrigin");
    assert.equal((await send(tx("startCall", 9), ALICE)).error, "SubnetNotExists");
    const { events, error } = await send(tx("startCall", NETUID), ALICE);
    assert.equal(error, undefined);
    assert(events.includes("subtensorModule.FirstEmissionBlockNumberSet"));
    assert.equal(
      (await send(tx("startCall", NETUID), ALICE)).error,
      "FirstEmissionBlockNumberAlreadySet",
    );
  });

  test("add_stake and remove_stake move the price and come back to it", async () => {
    const { send } = local;
    const price = async () =>
      BigInt(String(await api.call["swapRuntimeApi"]?.["currentAlphaPrice"]?.(NETUID)));
    const stake = async () =>
      BigInt(
        String(await query(api, "subtensorModule", "totalHotkeyAlpha", MINER_A.address, NETUID)),
      );
    const [priceBefore, stakeBefore, free] = [
      await price(),
      await stake(),
      await freeOf(api, BOB.address),
    ];
    await send(tx("addStake", MINER_A.address, NETUID, 50n * TAO), BOB);
    const bought = (await stake()) - stakeBefore;
    assert(bought > 0n);
    assert((await price()) > priceBefore);
    assert((await freeOf(api, BOB.address)) < free - 50n * TAO);
    const { events } = await send(tx("removeStake", MINER_A.address, NETUID, bought), BOB);
    assert(events.includes("subtensorModule.StakeRemoved"));
    assert.equal(await stake(), stakeBefore);
    assert((await price()) - priceBefore <= 1n);
    for (const { method, args, signer, error } of [
      {
        method: "addStake",
        args: [MINER_A.address, 9, TAO],
        signer: BOB,
        error: "SubnetNotExists",
      },
      {
        method: "addStake",
        args: [MINER_A.address, NETUID, 1],
        signer: BOB,
        error: "AmountTooLow",
      },
      {
        method: "addStake",
        args: [STRANGER.address, NETUID, TAO],
        signer: BOB,
        error: "HotKeyAccountNotExists",
      },
      {
        method: "addStake",
        args: [MINER_A.address, NETUID, 2n ** 62n],
        signer: BOB,
        error: "NotEnoughBalanceToStake",
      },
      {
        method: "removeStake",
        args: [VALIDATOR.address, NETUID, 1],
        signer: ALICE,
        error: "NotEnoughStakeToWithdraw",
      },
      {
        method: "removeStake",
        args: [VALIDATOR.address, NETUID, 1],
        signer: BOB,
        error: "InsufficientLiquidity",
      },
    ])
      assert.equal((await send(tx(method, ...args), signer)).error, error);
  });

  test("serve_axon is free, and the pool refuses what the real chain refuses", async () => {
    const { send, refusalOf } = local;
    const axon = (ip: bigint, port = 8_091, type = 4, netuid = NETUID) =>
      tx("serveAxon", netuid, 1, ip, port, type, 0, 0, 0);
    const PUBLIC = 0x08080808n;
    for (const { name, call: refused, signer, custom } of [
      { name: "loopback", call: axon(0x7f000001n), signer: MINER_A, custom: 11 },
      { name: "IPv6 loopback", call: axon(1n, 8_091, 6), signer: MINER_A, custom: 11 },
      { name: "port 0", call: axon(PUBLIC, 0), signer: MINER_A, custom: 13 },
      { name: "IP type 5", call: axon(PUBLIC, 1, 5), signer: MINER_A, custom: 255 },
      { name: "a stranger", call: axon(PUBLIC), signer: STRANGER, custom: 10 },
    ])
      assert.equal(await refusalOf(refused, signer), `Custom error: ${custom}`, name);
    // The miner has no balance: the call costs nothing.
    assert.equal(await freeOf(api, MINER_A.address), 0n);
    const { error, events } = await send(axon(PUBLIC), MINER_A);
    assert.equal(error, undefined);
    assert(events.includes("subtensorModule.AxonServed"));
    const info = await query(api, "subtensorModule", "axons", NETUID, MINER_A.address);
    assert.equal((info as { port: number }).port, 8_091);
    assert.equal(await refusalOf(axon(PUBLIC), MINER_A), "Custom error: 12");
  });

  test("set_commitment keeps up to three fields and limits the space of an epoch", async () => {
    const { send, refusalOf } = local;
    const commit = (fields: unknown[], netuid = NETUID) =>
      call(api, "commitments", "setCommitment", netuid, { fields });
    const raw = { Raw18: `0x${Buffer.from("https://miner.test").toString("hex")}` };
    const big = { BigRaw: `0x${"ab".repeat(512)}` };
    assert.equal((await send(commit([raw]), STRANGER)).error, "AccountNotAllowedCommit");
    const { blockNumber, events } = await send(commit([raw, big, { Raw0: "0x" }]), MINER_A);
    assert(events.includes("commitments.Commitment"));
    assert(!events.includes("balances.Withdraw"));
    const stored = await query(api, "commitments", "commitmentOf", NETUID, MINER_A.address);
    const { block, info } = stored as { block: number; info: { fields: Record<string, string>[] } };
    assert.equal(block, blockNumber);
    const texts = info.fields.map((field) => Object.values(field)[0]);
    assert.deepEqual(texts.slice(0, 2), [raw.Raw18, big.BigRaw]);
    const tooLong = await refusalOf(commit([{ BigRaw: `0x${"ab".repeat(513)}` }]), MINER_A);
    assert.match(tooLong ?? "", /513 items, at most 512/);
    const four = await refusalOf(commit([raw, raw, raw, raw]), MINER_A);
    assert.match(four ?? "", /at most 3/);
    // 530 bytes are used. 1536 more fit once, and then no more.
    assert.equal((await send(commit([big, big, big]), MINER_A)).error, undefined);
    assert.equal((await send(commit([big, big, big]), MINER_A)).error, "SpaceLimitExceeded");
    // An epoch later there is room again, and even one byte costs a hundred.
    for (let i = 0; i <= TEMPO; i++) local.chain.produceBlock();
    assert.equal((await send(commit([{ Raw1: "0x01" }]), MINER_A)).error, undefined);
    const used = await query(api, "commitments", "usedSpaceOf", NETUID, MINER_A.address);
    assert.equal((used as { usedSpace: number }).usedSpace, 100);
  });

  test("registering on a full subnet replaces the neuron that earned least, never the owner", async () => {
    const { send } = local;
    await setStorage(local, "subtensorModule", "maxAllowedUids", [NETUID], 6);
    await setStorage(local, "subtensorModule", "immunityPeriod", [NETUID], 0);
    local.chain.produceBlock();
    const { error } = await send(tx("burnedRegister", NETUID, STRANGER.address), BOB);
    assert.equal(error, undefined);
    const neurons = await neuronsOf(api);
    assert.equal(neurons.length, 6);
    const uid = neurons.findIndex(({ hotkey }) => hotkey === STRANGER.address);
    assert(uid >= 3, `uid ${uid}`);
    const gone = MINERS[uid - 3];
    assert.equal(await query(api, "subtensorModule", "uids", NETUID, gone?.address), null);
    assert.equal(neurons[0]?.["hotkey"], OWNER.address);
  });
});

describe("set_weights()", () => {
  let local: LocalClient;
  let api: ApiPromise;
  before(async () => {
    local = await openSubnet(LONG_TEMPO);
    api = local.api;
  });
  after(() => local.close());
  const weights = (uids: number[], values: number[], versionKey = 0, netuid = NETUID): Tx =>
    call(api, "subtensorModule", "setWeights", netuid, uids, values, versionKey);
  /** In a batch, where the pool does not look: the error has its name. */
  const inBlock = async (tx: Tx, signer = VALIDATOR) => {
    await local.send(call(api, "balances", "transferKeepAlive", signer.address, TAO), ALICE);
    return await local.send(call(api, "utility", "batchAll", [tx]), signer);
  };

  test("scales the largest value to 65535 and notes the block", async () => {
    passRateLimit(local);
    const { blockNumber, error, events } = await local.send(
      weights([3, 4, 5], [1, 2, 4]),
      VALIDATOR,
    );
    assert.equal(error, undefined);
    assert(events.includes("subtensorModule.WeightsSet"));
    assert.deepEqual(await query(api, "subtensorModule", "weights", NETUID, 1), [
      [3, 16_383],
      [4, 32_767],
      [5, 65_535],
    ]);
    const updates = await query(api, "subtensorModule", "lastUpdate", NETUID);
    assert.equal((updates as number[])[1], blockNumber);
  });

  test("is refused by the pool when it comes too soon, and by name in a block", async () => {
    passRateLimit(local);
    assert.equal((await local.send(weights([3], [1]), VALIDATOR)).error, undefined);
    assert.equal(await local.refusalOf(weights([3], [1]), VALIDATOR), "Custom error: 6");
    assert.equal((await inBlock(weights([3], [1]))).error, "SettingWeightsTooFast");
  });

  test("is accepted again in the very block in which the rate limit has passed", async () => {
    passRateLimit(local);
    const { blockNumber } = await local.send(weights([3], [1]), VALIDATOR);
    // A transaction is judged by the block that it would be in, which is the next one.
    while (local.chain.produceBlock() < blockNumber + LONG_RATE_LIMIT_BLOCKS - 2);
    assert.equal(await local.refusalOf(weights([3], [2]), VALIDATOR), "Custom error: 6");
    local.chain.produceBlock();
    const again = await local.send(weights([3], [2]), VALIDATOR);
    assert.equal(again.blockNumber, blockNumber + LONG_RATE_LIMIT_BLOCKS);
  });

  test("set_mechanism_weights() is the same for mechanism 0, and there is no other", async () => {
    passRateLimit(local);
    const mechanism = (mecid: number) =>
      call(api, "subtensorModule", "setMechanismWeights", NETUID, mecid, [4], [7], 0);
    assert.equal((await local.send(mechanism(0), VALIDATOR)).error, undefined);
    assert.deepEqual(await query(api, "subtensorModule", "weights", NETUID, 1), [[4, 65_535]]);
    // The rate limit is asked first, and a mechanism that does not exist does not pass it: so on the real chain.
    assert.equal((await inBlock(mechanism(1))).error, "SettingWeightsTooFast");
  });

  test("fails with MechanismDoesNotExist on a subnet that does not exist", async () => {
    await setStorage(local, "subtensorModule", "commitRevealWeightsEnabled", [8], false);
    assert.equal((await inBlock(weights([3], [1], 0, 8))).error, "MechanismDoesNotExist");
  });

  for (const { error, uids, values, netuid, signer } of [
    { error: "CanNotSetRootNetworkWeights", uids: [3], values: [1], netuid: 0 },
    { error: "CommitRevealEnabled", uids: [3], values: [1], netuid: 7 },
    { error: "WeightVecNotEqualSize", uids: [3, 4], values: [1] },
    {
      error: "UidsLengthExceedUidsInSubNet",
      uids: [0, 1, 2, 3, 4, 5, 6],
      values: [1, 1, 1, 1, 1, 1, 1],
    },
    { error: "HotKeyNotRegisteredInSubNet", uids: [3], values: [1], signer: STRANGER },
    { error: "NeuronNoValidatorPermit", uids: [4], values: [1], signer: MINER_A },
    { error: "DuplicateUids", uids: [3, 3], values: [1, 1] },
    { error: "UidVecContainInvalidOne", uids: [3, 77], values: [1, 1] },
    { error: "WeightVecLengthIsLow", uids: [], values: [] },
  ]) {
    test(`fails with ${error}`, async () => {
      passRateLimit(local);
      const tx = weights(uids, values, 0, netuid);
      assert.equal((await inBlock(tx, signer)).error, error);
    });
  }

  test("lets a neuron without permit weigh itself, and the owner weigh anyone", async () => {
    passRateLimit(local);
    assert.equal((await local.send(weights([3], [9]), MINER_A)).error, undefined);
    assert.equal((await local.send(weights([3, 5], [1, 1]), OWNER)).error, undefined);
  });

  test("fails with IncorrectWeightVersionKey when the subnet asks for a newer one", async () => {
    await setStorage(local, "subtensorModule", "weightsVersionKey", [NETUID], 5);
    passRateLimit(local);
    assert.equal((await inBlock(weights([3], [1], 4))).error, "IncorrectWeightVersionKey");
    assert.equal((await inBlock(weights([3], [1], 5))).error, undefined);
    await setStorage(local, "subtensorModule", "weightsVersionKey", [NETUID], 0);
  });

  test("fails with WeightVecLengthIsLow below the subnet's minimum", async () => {
    await setStorage(local, "subtensorModule", "minAllowedWeights", [NETUID], 1_024);
    passRateLimit(local);
    assert.equal(
      (await inBlock(weights([0, 1, 2, 3, 4], [1, 1, 1, 1, 1]))).error,
      "WeightVecLengthIsLow",
    );
    // No more than there are neurons.
    const all = weights([0, 1, 2, 3, 4, 5], [0, 0, 0, 1, 1, 1]);
    assert.equal((await inBlock(all)).error, undefined);
    await setStorage(local, "subtensorModule", "minAllowedWeights", [NETUID], 1);
  });

  test("needs the stake threshold, but not from the owner", async () => {
    await setStorage(local, "subtensorModule", "stakeThreshold", [], 10n ** 18n);
    passRateLimit(local);
    assert.equal(await local.refusalOf(weights([3], [1]), VALIDATOR), "Custom error: 1");
    assert.equal((await inBlock(weights([3], [1]))).error, "NotEnoughStakeToSetWeights");
    assert.equal((await local.send(weights([3], [1]), OWNER)).error, undefined);
    await setStorage(local, "subtensorModule", "stakeThreshold", [], 0);
  });

  test("fails with CommitRevealEnabled on a subnet that has it", async () => {
    await setStorage(local, "subtensorModule", "commitRevealWeightsEnabled", [NETUID], true);
    passRateLimit(local);
    assert.equal((await local.send(weights([3], [1]), VALIDATOR)).error, "CommitRevealEnabled");
    await setStorage(local, "subtensorModule", "commitRevealWeightsEnabled", [NETUID], false);
  });

  test("two in one block: the pool learns that the second is invalid, and a third waits", async () => {
    passRateLimit(local);
    const nonce = (await api.rpc.system.accountNextIndex(SECOND_VALIDATOR.address)).toNumber();
    const calls = [weights([3], [1]), weights([3], [2]), call(api, "system", "remark", "0x00")];
    await local.send(
      call(api, "balances", "transferKeepAlive", SECOND_VALIDATOR.address, TAO),
      ALICE,
    );
    const signed = await Promise.all(
      calls.map((tx, i) => tx.signAsync(SECOND_VALIDATOR, { nonce: nonce + i })),
    );
    const statuses = signed.map(() => [] as string[]);
    const ended = signed.slice(0, 2).map(
      (tx, i) =>
        new Promise<void>((resolve, reject) => {
          tx.send(({ status }) => {
            statuses[i]?.push(status.type);
            if (status.isFinalized || status.isInvalid) resolve();
          }).catch(reject);
        }),
    );
    const third = signed[2];
    assert(third !== undefined);
    await local.rpc("author_submitExtrinsic", third.toHex());
    await withDeadline(Promise.all(ended));
    assert.deepEqual(
      statuses.map((seen) => seen.at(-1)),
      ["Finalized", "Invalid", undefined],
    );
    assert.deepEqual(await local.rpc("author_pendingExtrinsics"), [third.toHex()]);
  });
});
