import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { u8aToHex } from "@polkadot/util";
import { blake2AsHex } from "@polkadot/util-crypto";
import {
  ALICE,
  BOB,
  call,
  errorName,
  freeOf,
  type LocalClient,
  openLocalClient,
  pairOf,
  query,
  TAO,
} from "./local-client.ts";

/** More than anyone has. */
const TOO_MUCH = 2n ** 62n;

describe("transfers and batches", () => {
  let local: LocalClient;
  before(async () => {
    local = await openLocalClient();
  });
  after(() => local.close());
  const transfer = (to: string, rao: bigint) =>
    call(local.api, "balances", "transferKeepAlive", to, rao);
  const remark = (text: string) => call(local.api, "system", "remarkWithEvent", text);
  const batch = (kind: string, ...calls: unknown[]) => call(local.api, "utility", kind, calls);

  test("transfer_keep_alive moves money, makes the account and takes the fee", async () => {
    const { api, send } = local;
    const to = pairOf("//Transfers/1").address;
    const aliceBefore = await freeOf(api, ALICE.address);
    const tx = transfer(to, 5n * TAO);
    const { events, records, error } = await send(tx, ALICE);
    assert.equal(error, undefined);
    assert.deepEqual(events, [
      "balances.Withdraw",
      "system.NewAccount",
      "balances.Endowed",
      "balances.Transfer",
      "transactionPayment.TransactionFeePaid",
      "system.ExtrinsicSuccess",
    ]);
    const moved = records.find(({ event }) => event.method === "Transfer")?.event.data.toJSON();
    assert.deepEqual(moved, [ALICE.address, to, Number(5n * TAO)]);
    const [, fee] = records.find(({ event }) => event.method === "TransactionFeePaid")?.event
      .data ?? [undefined, undefined];
    assert.equal(await freeOf(api, to), 5n * TAO);
    assert.equal(await freeOf(api, ALICE.address), aliceBefore - 5n * TAO - BigInt(String(fee)));
  });

  test("the fee is what payment info foretells", async () => {
    const tx = transfer(BOB.address, TAO);
    const { partialFee } = await tx.paymentInfo(ALICE);
    const { records } = await local.send(transfer(BOB.address, TAO), ALICE);
    const paid = records.find(({ event }) => event.method === "TransactionFeePaid");
    assert.equal(String(paid?.event.data[1]), partialFee.toString());
  });

  test("a transfer to oneself changes nothing but the fee", async () => {
    const { api, send } = local;
    const before_ = await freeOf(api, BOB.address);
    const { records, events } = await send(transfer(BOB.address, 10n * TAO), BOB);
    const fee = records.find(({ event }) => event.method === "TransactionFeePaid")?.event.data[1];
    assert.equal(await freeOf(api, BOB.address), before_ - BigInt(String(fee)));
    assert(!events.includes("balances.Transfer"));
  });

  for (const { name, method, args, error } of [
    { name: "more than there is", method: "transferKeepAlive", args: [TOO_MUCH], error: "Funds" },
    {
      name: "less than an account needs",
      method: "transferKeepAlive",
      args: [499],
      error: "BelowMinimum",
    },
  ]) {
    test(`a transfer of ${name} fails with ${error} and keeps the fee`, async () => {
      const { api, send } = local;
      const to = pairOf(`//Transfers/${error}`).address;
      const aliceBefore = await freeOf(api, ALICE.address);
      const outcome = await send(call(api, "balances", method, to, ...args), ALICE);
      assert.match(outcome.error ?? "", new RegExp(error));
      assert.deepEqual(outcome.events, [
        "balances.Withdraw",
        "transactionPayment.TransactionFeePaid",
        "system.ExtrinsicFailed",
      ]);
      assert((await freeOf(api, ALICE.address)) < aliceBefore);
      assert.equal(await freeOf(api, to), 0n);
    });
  }

  test("transfer_all closes the account, keep-alive leaves the existential deposit", async () => {
    const { api, send } = local;
    const [keeper, leaver] = [pairOf("//Transfers/keeper"), pairOf("//Transfers/leaver")];
    await send(
      batch("batchAll", transfer(keeper.address, TAO), transfer(leaver.address, TAO)),
      ALICE,
    );
    await send(call(api, "balances", "transferAll", BOB.address, true), keeper);
    assert.equal(await freeOf(api, keeper.address), 500n);
    const { events } = await send(call(api, "balances", "transferAll", BOB.address, false), leaver);
    assert(events.includes("system.KilledAccount"));
    assert.equal(await freeOf(api, leaver.address), 0n);
  });

  test("batch_all with a remark emits each item, then the end", async () => {
    const { events, records } = await local.send(
      batch("batchAll", transfer(BOB.address, TAO), remark("pay:abc")),
      ALICE,
    );
    assert.deepEqual(events.slice(1, -2), [
      "balances.Transfer",
      "utility.ItemCompleted",
      "system.Remarked",
      "utility.ItemCompleted",
      "utility.BatchCompleted",
    ]);
    const hash = records.find(({ event }) => event.method === "Remarked")?.event.data[1]?.toHex();
    assert.equal(hash, blake2AsHex(u8aToHex(Buffer.from("pay:abc")), 256));
  });

  test("batch_all undoes everything when an item fails", async () => {
    const { api, send } = local;
    const to = pairOf("//Transfers/undone").address;
    const outcome = await send(batch("batchAll", transfer(to, TAO), transfer(to, TOO_MUCH)), ALICE);
    assert.match(outcome.error ?? "", /FundsUnavailable/);
    assert.deepEqual(outcome.events.slice(1, -2), []);
    assert.equal(await freeOf(api, to), 0n);
  });

  test("batch stops at a failure and keeps what came before", async () => {
    const { api, send } = local;
    const to = pairOf("//Transfers/interrupted").address;
    const outcome = await send(
      batch("batch", transfer(to, TAO), transfer(to, TOO_MUCH), remark("never")),
      ALICE,
    );
    assert.equal(outcome.error, undefined);
    assert.deepEqual(outcome.events.slice(1, -2), [
      "system.NewAccount",
      "balances.Endowed",
      "balances.Transfer",
      "utility.ItemCompleted",
      "utility.BatchInterrupted",
    ]);
    const interrupted = outcome.records.find(({ event }) => event.method === "BatchInterrupted");
    assert.equal(String(interrupted?.event.data[0]), "1");
    assert.match(errorName(api, interrupted?.event.data[1]), /FundsUnavailable/);
    assert.equal(await freeOf(api, to), TAO);
  });

  test("force_batch goes on after a failure and says that there was one", async () => {
    const { api, send } = local;
    const to = pairOf("//Transfers/forced").address;
    const { events } = await send(
      batch("forceBatch", transfer(to, TOO_MUCH), transfer(to, TAO), remark("reached")),
      ALICE,
    );
    assert.deepEqual(events.slice(1, -2), [
      "utility.ItemFailed",
      "system.NewAccount",
      "balances.Endowed",
      "balances.Transfer",
      "utility.ItemCompleted",
      "system.Remarked",
      "utility.ItemCompleted",
      "utility.BatchCompletedWithErrors",
    ]);
    assert.equal(await freeOf(api, to), TAO);
  });

  test("force_batch without a failure ends like the others", async () => {
    const { events } = await local.send(batch("forceBatch", remark("a")), ALICE);
    assert.equal(events.at(-3), "utility.BatchCompleted");
  });

  test("a batch in a batch is filtered", async () => {
    const { error } = await local.send(batch("batchAll", batch("batch", remark("a"))), ALICE);
    assert.equal(error, "CallFiltered");
  });

  test("only the sudo key has sudo, and its call may fail by itself", async () => {
    const { api, send } = local;
    const set = call(api, "balances", "forceSetBalance", BOB.address, 7n * TAO);
    assert.equal((await send(call(api, "sudo", "sudo", set), BOB)).error, "RequireSudo");
    assert.equal((await send(set, ALICE)).error, "BadOrigin");
    const done = await send(call(api, "sudo", "sudo", set), ALICE);
    assert(done.events.includes("balances.BalanceSet"));
    assert.equal(await freeOf(api, BOB.address), 7n * TAO);
    const signedOnly = call(api, "sudo", "sudo", remark("root cannot"));
    const { records, error } = await send(signedOnly, ALICE);
    assert.equal(error, undefined);
    const sudid = records.find(({ event }) => event.method === "Sudid")?.event.data[0];
    assert.match(sudid?.toString() ?? "", /badOrigin/i);
  });

  test("the total issuance is the sum of all balances", async () => {
    const { api } = local;
    const accounts = (await api.query["system"]?.["account"]?.entries()) ?? [];
    const sum = accounts.reduce((total, [, info]) => {
      const { data } = info.toJSON() as { data: { free: string | number } };
      return total + BigInt(data.free);
    }, 0n);
    assert(accounts.length > 5);
    assert.equal(BigInt(String(await query(api, "balances", "totalIssuance"))), sum);
  });
});
