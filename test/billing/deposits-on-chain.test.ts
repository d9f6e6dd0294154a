import assert from "node:assert/strict";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import type { KeyringPair } from "@polkadot/keyring/types";
import { createAccount } from "../../src/billing/accounts.ts";
import { assignDeposit } from "../../src/billing/assign-deposit.ts";
import { auditLedger } from "../../src/billing/audit.ts";
import type { Deposit } from "../../src/billing/deposit.ts";
import { memoOf } from "../../src/billing/deposit-owner.ts";
import {
  type DepositScanner,
  listDeposits,
  listDepositsIn,
  openDepositScanner,
} from "../../src/billing/deposits.ts";
import { openLedger } from "../../src/billing/ledger.ts";
import { createWalletChallenge, linkWallet, unlinkWallet } from "../../src/billing/wallets.ts";
import {
  listRequestedWithdrawals,
  listWithdrawals,
  rejectWithdrawal,
  requestWithdrawal,
} from "../../src/billing/withdrawals.ts";
import { deriveDepositAddress, keypairOf, verifySignedText } from "../../src/chain/keys.ts";
import { openSubtensor, type Subtensor } from "../../src/chain/subtensor.ts";
import { sweepDeposits } from "../../src/chain/sweep-deposits.ts";
import { RouterError } from "../../src/core/errors.ts";
import type { AccountId } from "../../src/core/ids.ts";
import { nanoUsd, rao } from "../../src/core/money.ts";
import { type Database, openDatabase } from "../../src/runtime/database.ts";
import { CONNECT_TIMEOUT_MS, eventually, LOG } from "../chain/local-chain.ts";
import { openNodeProxy } from "../chain/node-proxy.ts";
import {
  ALICE,
  BOB,
  call,
  type LocalClient,
  openLocalClient,
  pairOf,
  post,
  TAO,
  type Tx,
} from "../devchain/local-client.ts";
import { holdOrder } from "./stores.ts";

const TREASURY = keypairOf("//Treasury//deposits").publicKeyHex;
/** 400 USD per TAO. */
const RATE = 400_000_000_000n;
const MINIMUM = rao(10_000_000n);
const FINALITY_LAG = 2;
/** More than anyone has. */
const TOO_MUCH = 2n ** 62n;

const COLD = pairOf("//Cold").address;
const HOT = pairOf("//Hot");

const addressOf = (index: number): string => deriveDepositAddress(TREASURY, index);
const COMMON = addressOf(0);

interface Customer {
  readonly id: AccountId;
  readonly address: string;
}

/** A chain whose blocks come with transactions only, an unmodified polkadot-js that pays, and our scanner. */
describe("deposits on a chain", () => {
  let local: LocalClient;
  let database: Database;
  /** Moves a hook's events out of the extrinsic they came from; the local chain has no hook that pays. */
  let isInHook = false;
  let proxy: Awaited<ReturnType<typeof openNodeProxy>>;
  let chain: Subtensor;
  let scanner: DepositScanner;
  let customer: Customer;
  let other: Customer;

  before(async () => {
    local = await openLocalClient({ finalityLagBlocks: FINALITY_LAG });
    database = await openDatabase({ log: LOG });
    proxy = await openNodeProxy(local.chain.url, {
      // Transfers of extrinsic 1, as SCALE: phase ApplyExtrinsic(1), pallet 5, event 2; a hook's phase is Finalization.
      onAnswer: (answer) => (isInHook ? answer.replaceAll("00010000000502", "010502") : answer),
    });
    chain = await openSubtensor({
      endpoints: [proxy.url],
      connectTimeoutMs: CONNECT_TIMEOUT_MS,
      log: LOG,
    });
    scanner = await openDepositScanner({
      database,
      chain,
      addressOf,
      treasury: { hot: HOT.address, cold: COLD },
      rateNanoUsdPerTao: () => RATE,
      minimumRao: MINIMUM,
      log: LOG,
    });
    customer = await newCustomer();
    other = await newCustomer();
  });
  after(async () => {
    await scanner.close();
    await chain.close();
    await proxy.close();
    await local.close();
    const broken = (await auditLedger(database)).filter(({ ok }) => !ok);
    await database.close();
    assert.deepEqual(broken, []);
  });

  const newCustomer = async (): Promise<Customer> => {
    const { id, index } = await createAccount(database, { name: "customer" });
    return { id, address: addressOf(index) };
  };
  const transfer = (to: string, amount: bigint) =>
    call(local.api, "balances", "transferKeepAlive", to, amount);
  const remark = (text: string) => call(local.api, "system", "remarkWithEvent", text);
  const batch = (kind: "batch" | "batchAll" | "forceBatch", ...calls: Tx[]) =>
    call(local.api, "utility", kind, calls);
  const sudo = (inner: Tx) => call(local.api, "sudo", "sudo", inner);

  const finalize = async (): Promise<void> => {
    let head = 0;
    for (let i = 0; i < FINALITY_LAG; i += 1) head = local.chain.produceBlock();
    await eventually(async () => scanner.scannedTo() >= head - FINALITY_LAG || undefined);
  };
  /** Sends it, waits until its block is booked, and shows what came of it. */
  const pay = async (tx: Tx, from = ALICE): Promise<Row[]> => {
    const { blockHash } = await local.send(tx, from);
    await finalize();
    return await rowsOf(blockHash);
  };
  const rowsOf = async (blockHash: string): Promise<Row[]> => {
    const all = await Promise.all(
      (["suspense", "below_minimum", "finalized", "credited"] as const).map((state) =>
        listDepositsIn(database, state),
      ),
    );
    return all
      .flat()
      .filter((deposit) => deposit.blockHash === blockHash)
      .toSorted((a, b) => eventOf(a) - eventOf(b))
      .map(({ account, attribution, state, amountRao, memo }) => ({
        account,
        attribution,
        state,
        amountRao,
        memo,
      }));
  };
  const eventOf = ({ id }: Deposit): number => Number(id.split(":")[2]);
  type Row = Pick<Deposit, "account" | "attribution" | "state" | "memo"> & { amountRao: bigint };
  const row = (amountRao: bigint, over: Partial<Row> = {}): Row => ({
    account: undefined,
    attribution: undefined,
    state: "suspense",
    memo: undefined,
    ...over,
    amountRao,
  });
  const byAddress = (amount: bigint): Row =>
    row(amount, { account: customer.id, attribution: "address", state: "credited" });
  const byMemo = (amount: bigint): Row => ({
    ...byAddress(amount),
    attribution: "memo",
    memo: memoOf(customer.id),
  });
  /** What the books say an address of ours has. */
  const booked = async (code: number): Promise<bigint> => {
    const [found] = await database.query<{ rao: bigint }>(
      "SELECT debits - credits AS rao FROM ledger.acct WHERE ledger = 2 AND code = $1",
      [code],
    );
    return found?.rao ?? 0n;
  };
  const link = async (wallet: KeyringPair, account: AccountId): Promise<void> => {
    const { address } = wallet;
    const url = "https://gateway.example";
    const asked = { account, address, url, chainId: "polkadot:0", nowMs: 1 };
    const { nonce, message } = await createWalletChallenge(database, asked);
    const signature = `0x${Buffer.from(wallet.sign(message)).toString("hex")}`;
    const answer = { account, nonce, signature, url, nowMs: 2, verify: verifySignedText };
    await linkWallet(database, answer);
  };
  const creditOf = async ({ id }: Customer): Promise<bigint> => {
    const [found] = await database.query<{ credit: bigint }>(
      "SELECT credits - debits AS credit FROM ledger.acct WHERE owner = $1",
      [id],
    );
    return found?.credit ?? 0n;
  };

  test("a transfer to an account's own address is its, also beside a memo that names another", async () => {
    assert.deepEqual(await pay(transfer(customer.address, TAO)), [byAddress(TAO)]);
    assert.equal(await creditOf(customer), RATE);
    const memo = memoOf(other.id);
    const rows = await pay(batch("batchAll", transfer(customer.address, TAO), remark(memo)));
    assert.deepEqual(rows, [{ ...byAddress(TAO), memo }]);
  });

  test("a failed batch_all brings nothing", async () => {
    const rows = await pay(
      batch(
        "batchAll",
        transfer(customer.address, TAO),
        remark(memoOf(customer.id)),
        transfer(customer.address, TOO_MUCH),
      ),
    );
    assert.deepEqual(rows, []);
  });

  test("an interrupted batch brings what ran; the memo after the failure did not", async () => {
    const rows = await pay(
      batch(
        "batch",
        transfer(customer.address, TAO),
        transfer(COMMON, 2n * TAO),
        transfer(COMMON, TOO_MUCH),
        remark(memoOf(customer.id)),
        transfer(customer.address, TAO),
      ),
    );
    assert.deepEqual(rows, [byAddress(TAO), row(2n * TAO)]);
  });

  test("a force_batch brings all but what failed, and its memo", async () => {
    const rows = await pay(
      batch(
        "forceBatch",
        transfer(COMMON, TOO_MUCH),
        transfer(COMMON, 3n * TAO),
        remark(memoOf(customer.id)),
      ),
    );
    assert.deepEqual(rows, [byMemo(3n * TAO)]);
  });

  test("two equal transfers in one extrinsic, and in one block, are two deposits", async () => {
    const twice = batch(
      "batchAll",
      transfer(customer.address, TAO),
      transfer(customer.address, TAO),
    );
    assert.deepEqual(await pay(twice), [byAddress(TAO), byAddress(TAO)]);
    const before_ = await creditOf(customer);
    const signed = await Promise.all(
      [ALICE, BOB].map((from) => transfer(customer.address, TAO).signAsync(from, { nonce: -1 })),
    );
    // In one message, so that one block has both.
    await post(
      local.chain.url,
      signed.map((tx, id) => ({
        jsonrpc: "2.0",
        id,
        method: "author_submitExtrinsic",
        params: [tx.toHex()],
      })),
    );
    await finalize();
    await eventually(async () => (await creditOf(customer)) > before_ || undefined);
    const [newest] = await listDeposits(database, customer.id);
    assert.deepEqual(await rowsOf(newest?.blockHash ?? ""), [byAddress(TAO), byAddress(TAO)]);
    assert.equal(await creditOf(customer), before_ + 2n * RATE);
  });

  test("dust is recorded and not credited", async () => {
    const dust = MINIMUM - 1n;
    assert.deepEqual(await pay(transfer(customer.address, dust)), [
      { ...byAddress(dust), state: "below_minimum" },
    ]);
    assert.deepEqual(await pay(transfer(COMMON, 1n)), [row(1n, { state: "below_minimum" })]);
  });

  test("a memo counts in nested calls, for its own sender's transfers", async () => {
    const force = (from: string) =>
      sudo(call(local.api, "balances", "forceTransfer", from, COMMON, TAO));
    const memo = remark(memoOf(customer.id));
    assert.deepEqual(await pay(batch("batchAll", force(ALICE.address), memo)), [byMemo(TAO)]);
    assert.deepEqual(await pay(batch("batchAll", force(BOB.address), memo)), [row(TAO)]);
  });

  test("a nested call that failed brings nothing", async () => {
    const force = call(local.api, "balances", "forceTransfer", BOB.address, COMMON, TOO_MUCH);
    assert.deepEqual(await pay(sudo(force)), []);
  });

  test("a memo without its event is none", async () => {
    const memo = memoOf(customer.id);
    const silent = call(local.api, "system", "remark", memo);
    assert.deepEqual(await pay(batch("batchAll", transfer(COMMON, TAO), silent)), [row(TAO)]);
    // Root cannot remark: the inner call fails, the extrinsic does not. Another remark's event is not this one's.
    const failed = sudo(remark(memo));
    const rows = await pay(batch("batchAll", transfer(COMMON, TAO), failed, remark("thanks")));
    assert.deepEqual(rows, [row(TAO, { memo: "thanks" })]);
  });

  test("a memo of nobody, and two memos that contradict each other, leave it in suspense", async () => {
    const nobody = "daybreak:acct_00000000000000000000";
    assert.deepEqual(await pay(batch("batchAll", transfer(COMMON, TAO), remark(nobody))), [
      row(TAO, { memo: nobody }),
    ]);
    const memos = [customer, other].map(({ id }) => memoOf(id));
    assert.deepEqual(
      await pay(batch("batchAll", transfer(COMMON, TAO), ...memos.map((memo) => remark(memo)))),
      [row(TAO, { memo: memos.join(" ") })],
    );
    // Said twice, or beside other remarks, it is still one.
    const said = [memoOf(customer.id), memoOf(customer.id), "hello", "x".repeat(200)];
    assert.deepEqual(
      await pay(batch("batchAll", transfer(COMMON, TAO), ...said.map((memo) => remark(memo)))),
      [byMemo(TAO)],
    );
  });

  test("a transfer that no extrinsic made is credited", async () => {
    isInHook = true;
    try {
      assert.deepEqual(await pay(transfer(customer.address, TAO)), [byAddress(TAO)]);
      // A hook has no memo, whatever the extrinsics of the block say.
      const memo = remark(memoOf(customer.id));
      assert.deepEqual(await pay(batch("batchAll", transfer(COMMON, TAO), memo)), [row(TAO)]);
    } finally {
      isInHook = false;
    }
  });

  test("a linked wallet's transfer to the common address is its account's; a memo comes first", async () => {
    const wallet = pairOf("//Wallet");
    await local.send(transfer(wallet.address, 100n * TAO), ALICE);
    assert.deepEqual(await pay(transfer(COMMON, TAO), wallet), [row(TAO)]);
    await link(wallet, other.id);
    const [waits] = await listDeposits(database, other.id);
    assert.equal(waits?.state, "suspense", "what came before the link is shown and not credited");
    const byWallet = row(TAO, { account: other.id, attribution: "wallet", state: "credited" });
    assert.deepEqual(await pay(transfer(COMMON, TAO), wallet), [byWallet]);
    const memo = remark(memoOf(customer.id));
    assert.deepEqual(await pay(batch("batchAll", transfer(COMMON, TAO), memo), wallet), [
      byMemo(TAO),
    ]);
    assert.deepEqual(await pay(transfer(customer.address, TAO), wallet), [byAddress(TAO)]);
    await unlinkWallet(database, { account: other.id, address: wallet.address, nowMs: 3 });
    assert.deepEqual(await pay(transfer(COMMON, TAO), wallet), [row(TAO)]);
  });

  test("assignDeposit() credits what was in suspense or below the minimum, once, at its block's rate", async () => {
    const late = await newCustomer();
    await pay(transfer(COMMON, 7n * TAO));
    await pay(transfer(late.address, 600n));
    const [unknown] = await listDepositsIn(database, "suspense");
    const [dust] = await listDepositsIn(database, "below_minimum");
    assert.equal(unknown?.amountRao, 7n * TAO);
    assert.ok(dust !== undefined);
    const assign = async (deposit: string, to: string): Promise<void> =>
      await assignDeposit(database, { deposit, account: to as AccountId, note: "ticket 17" });
    await assert.rejects(assign("none", late.id), coded("not_found"));
    await assert.rejects(assign(unknown.id, "acct_none"), coded("not_found"));
    await assert.rejects(assign(dust.id, other.id), coded("conflict"));
    assert.equal(await creditOf(late), 0n);
    await assign(unknown.id, late.id);
    await assign(unknown.id, late.id);
    await assign(dust.id, late.id);
    await assert.rejects(assign(unknown.id, other.id), coded("conflict"));
    await finalize();
    await eventually(async () => ((await creditOf(late)) > 0n ? true : undefined));
    await assign(unknown.id, late.id);
    assert.equal(await creditOf(late), 7n * RATE + 240_000n);
    const deposits = await listDeposits(database, late.id);
    assert.deepEqual(
      deposits.map(({ state, attribution }) => [state, attribution]),
      [
        ["credited", "operator"],
        ["credited", "operator"],
      ],
    );
    const journals = await database.query<{ meta: unknown }>(
      "SELECT meta FROM ledger.journal WHERE cause = $1",
      [`assign:${unknown.id}`],
    );
    assert.deepEqual(journals, [{ meta: { account: late.id, note: "ticket 17" } }]);
  });

  test("a deposit is seen before its block is final, and gone with a block that is retracted", async () => {
    const seen = (): readonly Deposit[] => scanner.seen(customer.id);
    const credit = await creditOf(customer);
    const { blockHash } = await local.send(
      batch("batchAll", transfer(customer.address, TAO), transfer(other.address, TAO)),
      ALICE,
    );
    await eventually(async () => (seen().length > 0 ? true : undefined));
    assert.deepEqual(
      seen().map(({ state, blockHash: hash, amountRao, rateNanoUsdPerTao }) => [
        state,
        hash,
        amountRao,
        rateNanoUsdPerTao,
      ]),
      [["seen", blockHash, TAO, undefined]],
    );
    local.chain.retractBlock();
    local.chain.produceBlock();
    await eventually(async () => (seen().length === 0 ? true : undefined));
    await finalize();
    assert.deepEqual(await rowsOf(blockHash), []);
    assert.equal(await creditOf(customer), credit);

    // Sent again, it is in another block; the books never see both.
    const again = await local.send(transfer(customer.address, TAO), BOB);
    await eventually(async () => (seen().length > 0 ? true : undefined));
    const [first] = seen();
    await finalize();
    assert.deepEqual(seen(), []);
    assert.deepEqual(await rowsOf(again.blockHash), [byAddress(TAO)]);
    assert.equal((await listDeposits(database, customer.id))[0]?.id, first?.id);
    assert.equal(await creditOf(customer), credit + RATE);
  });

  test("a withdrawal is paid by a transfer that names it, to the rao, once", async () => {
    const wallet = pairOf("//Wallet/2");
    const saver = await newCustomer();
    await local.send(transfer(wallet.address, 100n * TAO), ALICE);
    await local.send(transfer(HOT.address, 50n * TAO), ALICE);
    await link(wallet, saver.id);
    await pay(transfer(COMMON, 10n * TAO), wallet);
    await pay(transfer(saver.address, 10n * TAO));
    const request = async (amount: bigint, address = wallet.address) =>
      await requestWithdrawal(database, {
        account: saver.id,
        address,
        amount: nanoUsd(amount),
        rateNanoUsdPerTao: 2n * RATE,
        minimumRao: MINIMUM,
        nowMs: 5,
      });
    // Only to a linked wallet, what it brought, while it is unused.
    await assert.rejects(request(RATE, ALICE.address), coded("invalid_request"));
    await assert.rejects(request(10n * RATE + 1n), coded("invalid_request"));
    await assert.rejects(request(1n), coded("invalid_request"));
    const ledger = await openLedger({ database, gateway: "gw", log: LOG });
    try {
      assert.deepEqual(await ledger.hold(holdOrder(saver.id, 15n * RATE)), { ok: true });
      await assert.rejects(request(6n * RATE), coded("insufficient_credit"));
      const first = await request(4n * RATE);
      const second = await request(1n * RATE);
      await assert.rejects(request(1n * RATE), coded("insufficient_credit"));
      assert.deepEqual([first.amountRao, first.state], [2n * TAO, "requested"]);
      assert.deepEqual(
        (await listRequestedWithdrawals(database)).map(({ id }) => id).toSorted(),
        [first.id, second.id].toSorted(),
      );
      assert.deepEqual(await ledger.balance(saver.id), {
        postedNusd: 15n * RATE,
        heldNusd: 15n * RATE,
        depositedNusd: 15n * RATE,
        chargedNusd: 0n,
      });

      const payment = (amount: bigint, memo: string, to = wallet.address) =>
        batch("batchAll", transfer(to, amount), remark(memo));
      const stateOf = async (id: string) =>
        (await listWithdrawals(database, saver.id)).find((each) => each.id === id);
      // Another amount, another address, another payer: it still waits.
      await pay(payment(2n * TAO - 1n, first.memo), HOT);
      await pay(payment(2n * TAO, first.memo, BOB.address), HOT);
      await pay(payment(2n * TAO, first.memo), ALICE);
      assert.equal((await stateOf(first.id))?.state, "requested");
      const { blockHash, blockNumber } = await local.send(payment(2n * TAO, first.memo), HOT);
      await finalize();
      const paid = await stateOf(first.id);
      assert.deepEqual(
        [paid?.state, paid?.blockHash, paid?.blockNumber],
        ["paid", blockHash, blockNumber],
      );
      const { transfers } = await chain.blockFacts(blockHash);
      assert.deepEqual(
        transfers.filter(({ eventIndex }) => eventIndex === paid?.eventIndex).map(({ to }) => to),
        [wallet.address],
        "the proof leads to the transfer",
      );
      // Paid again, it is the operator's own TAO.
      await pay(payment(2n * TAO, first.memo), HOT);

      await rejectWithdrawal(database, { id: second.id, note: "ticket 18", nowMs: 6 });
      await rejectWithdrawal(database, { id: second.id, note: "again", nowMs: 7 });
      const reject = async (id: string): Promise<void> =>
        await rejectWithdrawal(database, { id, note: "", nowMs: 8 });
      await assert.rejects(reject(first.id), coded("conflict"));
      await assert.rejects(reject("wd_none"), coded("not_found"));
      assert.equal((await stateOf(second.id))?.note, "ticket 18");
      assert.deepEqual(await ledger.balance(saver.id), {
        postedNusd: 16n * RATE,
        heldNusd: 15n * RATE,
        depositedNusd: 16n * RATE,
        chargedNusd: 0n,
      });
    } finally {
      await ledger.close();
    }
  });

  test("a sweep to the cold wallet, its fees and the operator's own TAO are in the books to the rao", async (t) => {
    await pay(transfer(customer.address, 2n * TAO));
    const folder = mkdtempSync(join(tmpdir(), "daybreak-sweep-"));
    t.after(() => rmSync(folder, { recursive: true }));
    const treasuryFile = join(folder, "treasury");
    writeFileSync(treasuryFile, "//Treasury//deposits\n");
    const ownBefore = await booked(80);
    const config = { chain: [proxy.url], treasuryFile, to: COLD, accounts: 4, minimumTao: TAO };
    // Blocks come with transactions only, and a sweep waits for finality.
    const clock = setInterval(() => local.chain.produceBlock(), 20);
    t.after(() => clearInterval(clock));
    const lines = await sweepDeposits(config, LOG);
    assert.equal(lines.length, 4, lines.join("\n"));
    const nothing = await sweepDeposits(config, LOG);
    assert.match(nothing[1] ?? "", /^nothing to sweep/);
    clearInterval(clock);

    await pay(transfer(HOT.address, 50n * TAO));
    await pay(transfer(BOB.address, 5n * TAO), HOT);
    // No deposit: it is ours already.
    assert.deepEqual(await pay(transfer(customer.address, 3n * TAO), HOT), []);
    const failed = await local.send(transfer(BOB.address, TOO_MUCH), HOT);
    assert.match(failed.error ?? "", /FundsUnavailable/);
    await finalize();

    const { hash } = await chain.finalizedHead();
    const onChain = async (...addresses: string[]): Promise<bigint> => {
      const free = await Promise.all(addresses.map((address) => chain.freeBalance(address, hash)));
      return free.reduce((sum, each) => sum + each, 0n);
    };
    assert.equal(await booked(50), await onChain(HOT.address));
    assert.equal(await booked(51), await onChain(...[0, 1, 2, 3, 4].map(addressOf)));
    assert.equal(await booked(52), await onChain(COLD));
    assert.ok((await booked(52)) > 30n * TAO);
    assert.ok((await booked(53)) > 0n, "fees");
    assert.equal((await booked(80)) - ownBefore, -45n * TAO, "brought 50, took 5");
  });
});

function coded(code: string) {
  return (error: unknown): boolean => error instanceof RouterError && error.code === code;
}
