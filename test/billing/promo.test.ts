import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { auditLedger } from "../../src/billing/audit.ts";
import { type Ledger, openLedger } from "../../src/billing/ledger.ts";
import { expirePromo, grantPromo, promoBalanceOf } from "../../src/billing/promo.ts";
import { RouterError } from "../../src/core/errors.ts";
import { type AccountId, newAccountId } from "../../src/core/ids.ts";
import { nanoUsd } from "../../src/core/money.ts";
import { type Database, openDatabase } from "../../src/runtime/database.ts";
import { fundedAccount, holdOrder, newCause, settleOrder, silent } from "./stores.ts";

const HOUR_MS = 3_600_000;

describe("promo credit", () => {
  let database: Database;
  let ledger: Ledger;
  /** Expiries of one test must not reach the grants of another. */
  let nextMs = Date.now() + HOUR_MS;
  before(async () => {
    database = await openDatabase({ log: silent });
    ledger = await openLedger({ database, gateway: "gw", log: silent });
  });
  after(async () => {
    const broken = (await auditLedger(database)).filter(({ ok }) => !ok);
    await ledger.close();
    await database.close();
    assert.deepEqual(broken, []);
  });

  const grantTo = async (account: AccountId, amount: bigint, expiresMs: number): Promise<void> => {
    await grantPromo(database, { id: newCause(), account, amount: nanoUsd(amount), expiresMs });
  };
  const balanceOf = async (code: number, owner = ""): Promise<bigint> => {
    const [row] = await database.query<{ balance: bigint }>(
      "SELECT credits - debits AS balance FROM ledger.acct WHERE ledger = 1 AND code = $1 AND owner = $2",
      [BigInt(code), owner],
    );
    return row?.balance ?? 0n;
  };

  test("is spent before other credit, by requests that fit it whole, and earns no miner anything", async () => {
    const account = await fundedAccount(database, 1_000n);
    const [expense, revenue] = [await balanceOf(32), await balanceOf(30)];
    await grantTo(account, 100n, (nextMs += HOUR_MS));
    const [first, second, third] = [60n, 60n, 40n].map((amount) => holdOrder(account, amount));
    assert(first !== undefined && second !== undefined && third !== undefined);
    const verdicts = await Promise.all([first, second, third].map((order) => ledger.hold(order)));
    // The second fits neither the rest of the promo credit nor a mixture of both.
    assert.deepEqual(verdicts, [
      { ok: true, promo: true },
      { ok: true },
      { ok: true, promo: true },
    ]);
    assert.deepEqual(
      (await ledger.openHolds())
        .filter(({ promo }) => promo)
        .map(({ request }) => request)
        .sort((a, b) => a.localeCompare(b)),
      [first.request, third.request].sort((a, b) => a.localeCompare(b)),
    );
    const miner = settleOrder(first.request, 0n, 0n).miner;
    const earned = await balanceOf(20, miner);
    for (const { request } of [first, second]) await ledger.settle(settleOrder(request, 50n, 45n));
    await ledger.release(third.request, "test");
    assert.equal((await balanceOf(20, miner)) - earned, 45n);
    // The protocol books the whole charge as revenue, and the grant as its expense.
    assert.equal((await balanceOf(30)) - revenue, 50n + 5n);
    assert.equal((await balanceOf(32)) - expense, -100n);
    assert.deepEqual(await promoBalanceOf(database, account), {
      postedNusd: 50n,
      heldNusd: 0n,
      grantedNusd: 100n,
      chargedNusd: 50n,
    });
    assert.equal((await ledger.balance(account)).postedNusd, 950n);
    const promo = await ledger.requestOf(first.request, account);
    assert.deepEqual([promo?.promo, promo?.minerNusd, promo?.chargedNusd], [true, 0n, 50n]);
    assert.equal((await ledger.requestOf(second.request, account))?.promo, false);
  });

  test("that is left expires with its grant, soonest first, and what is held as soon as it is free", async () => {
    const account = await fundedAccount(database, 0n);
    const soonMs = (nextMs += HOUR_MS);
    const lateMs = (nextMs += HOUR_MS);
    await grantTo(account, 100n, lateMs);
    await grantTo(account, 100n, soonMs);
    const spent = holdOrder(account, 30n);
    await ledger.hold(spent);
    await ledger.settle(settleOrder(spent.request, 30n, 0n));
    const held = holdOrder(account, 120n);
    await ledger.hold(held);
    const postedAt = async (nowMs: number): Promise<bigint> => {
      await expirePromo(database, nowMs);
      return (await promoBalanceOf(database, account)).postedNusd;
    };
    assert.equal(await postedAt(soonMs - 1), 170n);
    // 70 of the first grant are left, but only 50 are not held.
    assert.equal(await postedAt(soonMs), 120n);
    await ledger.release(held.request, "test");
    assert.equal(await postedAt(soonMs), 100n);
    assert.equal(await postedAt(lateMs - 1), 100n);
    assert.equal(await postedAt(lateMs), 0n);
    // What a refund brings back belongs to a grant that is over.
    await ledger.refund(spent.request, 0, nanoUsd(20n));
    assert.equal((await promoBalanceOf(database, account)).postedNusd, 20n);
    assert.equal(await postedAt(lateMs), 0n);
    assert.equal((await promoBalanceOf(database, account)).chargedNusd, 10n);
  });

  test("grantPromo() grants an id once, and refuses other terms and unknown accounts", async () => {
    const account = await fundedAccount(database, 0n);
    const grant = { id: "g", account, amount: nanoUsd(5n), expiresMs: (nextMs += HOUR_MS) };
    assert.equal(await grantPromo(database, grant), true);
    assert.equal(await grantPromo(database, grant), false);
    assert.equal((await promoBalanceOf(database, account)).grantedNusd, 5n);
    const isCode = (code: string) => (error: unknown) =>
      error instanceof RouterError && error.code === code;
    await assert.rejects(
      grantPromo(database, { ...grant, amount: nanoUsd(6n) }),
      isCode("request_id_conflict"),
    );
    await assert.rejects(
      grantPromo(database, { ...grant, id: "h", account: newAccountId() }),
      isCode("not_found"),
    );
  });
});
