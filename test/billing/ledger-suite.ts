/** What holds of a ledger on every SQL store. */
import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { auditLedger } from "../../src/billing/audit.ts";
import { type Ledger, openLedger } from "../../src/billing/ledger.ts";
import { RouterError } from "../../src/core/errors.ts";
import { type AccountId, type Hotkey, newRequestId } from "../../src/core/ids.ts";
import { nanoUsd } from "../../src/core/money.ts";
import type { Database } from "../../src/runtime/database.ts";
import { DatabaseError } from "../../src/runtime/queryable.ts";
import { checkLedgerProperty } from "./ledger-property.ts";
import { fundedAccount, holdOrder, MINERS, settleOrder, silent } from "./stores.ts";

/** @param open a fresh, empty database. @param runs of the property. */
export function ledgerSuite(store: string, open: () => Promise<Database>, runs: number): void {
  describe(`ledger on ${store}`, () => {
    let database: Database;
    let ledger: Ledger;
    before(async () => {
      database = await open();
      ledger = await openLedger({ database, gateway: "gw", log: silent });
    });
    after(async () => {
      const rows = await auditLedger(database);
      await ledger.close();
      await database.close();
      assert.deepEqual(
        rows.filter((row) => !row.ok),
        [],
      );
      assert.equal(rows.length, 33);
    });

    test("hold() reserves, settle() charges and frees the rest", async () => {
      const account = await fundedAccount(database, 1_000n);
      const hold = holdOrder(account, 600n);
      assert.deepEqual(await ledger.hold(hold), { ok: true });
      assert.deepEqual(await ledger.balance(account), {
        postedNusd: 1_000n,
        heldNusd: 600n,
        depositedNusd: 1_000n,
        chargedNusd: 0n,
      });
      const miner = MINERS[1] as Hotkey;
      const accrued = await accruedOf(database, miner);
      const order = settleOrder(hold.request, 400n, 380n, { miner });
      assert.equal(await ledger.settle(order), "settled");
      assert.deepEqual(await ledger.balance(account), {
        postedNusd: 600n,
        heldNusd: 0n,
        depositedNusd: 1_000n,
        chargedNusd: 400n,
      });
      assert.equal((await accruedOf(database, miner)) - accrued, 380n);
      const record = await ledger.requestOf(hold.request, account);
      assert.equal(record?.state, "settled");
      assert.equal(record.chargedNusd, 400n);
      assert.equal(record.minerNusd, 380n);
      assert.deepEqual(record.row, order.row);
      assert.equal(record.leaf, order.leaf);
      assert.deepEqual(await ledger.requestOf(`up-${hold.request}`, account), record);
      const stranger = await fundedAccount(database, 0n);
      assert.equal(await ledger.requestOf(hold.request, stranger), undefined);
    });

    test("settle() clips the charge to the hold and the miner's amount to the charge", async () => {
      const account = await fundedAccount(database, 1_000n);
      const hold = holdOrder(account, 500n);
      await ledger.hold(hold);
      assert.equal(await ledger.settle(settleOrder(hold.request, 900n, 700n)), "settled");
      const record = await ledger.requestOf(hold.request, account);
      assert.equal(record?.chargedNusd, 500n);
      assert.equal(record.minerNusd, 500n);
    });

    test("settle() of the same request twice charges once", async () => {
      const account = await fundedAccount(database, 1_000n);
      const hold = holdOrder(account, 500n);
      await ledger.hold(hold);
      const leaves = await ledger.leafCount();
      const results = await Promise.all([
        ledger.settle(settleOrder(hold.request, 100n, 90n)),
        ledger.settle(settleOrder(hold.request, 100n, 90n)),
        ledger.release(hold.request, "late"),
      ]);
      assert.deepEqual(results, ["settled", "already_ended", "already_ended"]);
      assert.equal((await ledger.balance(account)).chargedNusd, 100n);
      assert.equal(await ledger.leafCount(), leaves + 1n);
    });

    test("release() frees the hold and remembers why", async () => {
      const account = await fundedAccount(database, 1_000n);
      const hold = holdOrder(account, 1_000n);
      await ledger.hold(hold);
      assert.equal(await ledger.release(hold.request, "no miner", { attempts: 3 }), "released");
      assert.equal(await ledger.settle(settleOrder(hold.request, 1n, 1n)), "already_ended");
      assert.equal((await ledger.balance(account)).heldNusd, 0n);
      const record = await ledger.requestOf(hold.request, account);
      assert.equal(record?.state, "released");
      assert.equal(record.reason, "no miner");
      assert.deepEqual(record.row, { attempts: 3 });
      assert.equal(record.leaf, undefined);
    });

    test("a release that is called before its hold is acknowledged ends the hold", async () => {
      const account = await fundedAccount(database, 1_000n);
      const hold = holdOrder(account, 1_000n);
      const [held, released] = await Promise.all([
        ledger.hold(hold),
        ledger.release(hold.request, "client left"),
      ]);
      assert.deepEqual([held, released], [{ ok: true }, "released"]);
    });

    test("hold() refuses what does not fit, and a smaller one behind it still fits", async () => {
      const account = await fundedAccount(database, 1_000n);
      // The first goes out alone; the others wait for it and are decided in one batch.
      const verdicts = await Promise.all(
        [100n, 950n, 800n, 101n, 100n, 1n].map((amount) => ledger.hold(holdOrder(account, amount))),
      );
      assert.deepEqual(
        verdicts.map((verdict) => verdict.ok),
        [true, false, true, false, true, false],
      );
      const refused = verdicts[1];
      assert.ok(refused?.ok === false && refused.refusal === "insufficient_credit");
      assert.equal(refused.availableNusd, 900n);
    });

    test("hold() takes credit that ends in the same batch set free", async () => {
      const account = await fundedAccount(database, 1_000n);
      const first = holdOrder(account, 1_000n);
      await ledger.hold(first);
      // Keeps one batch in flight, so that the next two orders share a batch.
      const busy = ledger.note(`busy ${first.request}`, 1);
      const held = ledger.hold(holdOrder(account, 1_000n));
      const released = ledger.release(first.request, "done");
      await busy;
      assert.deepEqual(await Promise.all([released, held]), ["released", { ok: true }]);
    });

    test("hold() of the same request is ok once more only when everything is the same", async () => {
      const account = await fundedAccount(database, 1_000n);
      const other = await fundedAccount(database, 1_000n);
      const hold = holdOrder(account, 300n);
      const conflict = { ok: false, refusal: "conflict" };
      assert.deepEqual(await ledger.hold(hold), { ok: true });
      assert.deepEqual(await ledger.hold(hold), { ok: true });
      assert.deepEqual(await ledger.hold({ ...hold, amount: nanoUsd(301n) }), conflict);
      assert.deepEqual(await ledger.hold({ ...hold, account: other }), conflict);
      assert.deepEqual(await ledger.hold({ ...hold, fingerprint: "another" }), conflict);
      assert.equal((await ledger.balance(account)).heldNusd, 300n);
      await ledger.settle(settleOrder(hold.request, 1n, 1n));
      assert.deepEqual(await ledger.hold(hold), conflict);
    });

    test("an acknowledgement that is lost after the commit changes nothing", async () => {
      const account = await fundedAccount(database, 1_000n);
      let losses = 0;
      const unreliable: Database = {
        ...database,
        query: async <Row extends object>(sql: string, params?: readonly unknown[]) => {
          const rows = await database.query<Row>(sql, params);
          if (sql.includes("apply_batch") && losses < 3) {
            losses += 1;
            throw new DatabaseError("the connection was lost");
          }
          return rows;
        },
      };
      const again = await openLedger({ database: unreliable, gateway: "unreliable", log: silent });
      const hold = holdOrder(account, 1_000n);
      assert.deepEqual(await again.hold(hold), { ok: true });
      assert.equal(losses, 3);
      losses = 2;
      assert.equal(await again.settle(settleOrder(hold.request, 10n, 9n)), "settled");
      losses = 2;
      await again.note("noted once", 4);
      assert.equal(losses, 3);
      const second = holdOrder(account, 500n);
      await again.hold(second);
      losses = 2;
      assert.equal(await again.release(second.request, "done"), "released");
      assert.equal(await again.leafCount(), 2n);
      assert.equal((await ledger.balance(account)).chargedNusd, 10n);
      assert.equal((await ledger.balance(account)).heldNusd, 0n);
      await again.close();
    });

    test("a hold that is given up while its commit is unknown does not stay held", async () => {
      const account = await fundedAccount(database, 1_000n);
      // The first batch is committed, its acknowledgement is lost, and nothing reaches the database after that.
      let isDown = false;
      let isBack = false;
      const unreliable: Database = {
        ...database,
        query: async <Row extends object>(sql: string, params?: readonly unknown[]) => {
          if (isDown) throw new DatabaseError("connection refused");
          const rows = await database.query<Row>(sql, params);
          if (!sql.includes("apply_batch") || isBack) return rows;
          isDown = true;
          throw new DatabaseError("connection lost");
        },
      };
      const options = { gateway: "given-up", log: silent, holdWaitMs: 100 };
      const impatient = await openLedger({ database: unreliable, ...options });
      const refused = impatient.hold(holdOrder(account, 400n));
      await assert.rejects(refused, isCode("ledger_unavailable"));
      assert.equal((await ledger.balance(account)).heldNusd, 400n);
      await assert.rejects(impatient.hold(holdOrder(account, 1n)), isCode("ledger_unavailable"));
      isBack = true;
      isDown = false;
      await impatient.close();
      assert.equal((await ledger.balance(account)).heldNusd, 0n);
    });

    test("competing holds of one batch are decided by one statement", async () => {
      const account = await fundedAccount(database, 1_000n);
      let statements = 0;
      const counted: Database = {
        ...database,
        query: async <Row extends object>(sql: string, params?: readonly unknown[]) => {
          statements += 1;
          return await database.query<Row>(sql, params);
        },
      };
      const own = await openLedger({ database: counted, gateway: "counted", log: silent });
      statements = 0;
      const first = own.note("first", 1);
      const verdicts = await Promise.all(
        [600n, 600n, 400n, 1n].map((amount) => own.hold(holdOrder(account, amount))),
      );
      await first;
      assert.deepEqual(
        verdicts.map(({ ok }) => ok),
        [true, false, true, false],
      );
      assert.equal(statements, 2);
      await own.close();
    });

    test("an order that the database refuses fails alone", async () => {
      const account = await fundedAccount(database, 1_000n);
      const good = holdOrder(account, 400n);
      const bad = { ...holdOrder(account, 400n), expiresMs: Number.NaN };
      const last = holdOrder(account, 400n);
      const results = await Promise.allSettled([
        ledger.note(`before ${good.request}`, 1),
        ledger.hold(good),
        ledger.hold(bad),
        ledger.hold(last),
      ]);
      assert.deepEqual(
        results.map(({ status }) => status),
        ["fulfilled", "fulfilled", "rejected", "fulfilled"],
      );
      assert.equal((await ledger.balance(account)).heldNusd, 800n);
      await assert.rejects(ledger.hold(holdOrder("acct_none" as AccountId, 1n)), /no such account/);
    });

    test("text that PostgreSQL cannot store is stored without what it cannot", async () => {
      const account = await fundedAccount(database, 1_000n);
      const hold = holdOrder(account, 10n);
      await ledger.hold(hold);
      const order = settleOrder(hold.request, 1n, 1n);
      const odd = { ...order.row, upstreamId: "a\0b\ud800", finishReason: "\0" };
      assert.equal(await ledger.settle({ ...order, row: odd }), "settled");
      const record = await ledger.requestOf("ab\ufffd", account);
      assert.equal(record?.request, hold.request);
      assert.equal(record.row?.finishReason, "\0");
    });

    test("refund() gives back the protocol's part first, never more than the charge, once per number", async () => {
      const account = await fundedAccount(database, 1_000n);
      const miner = MINERS[2] as Hotkey;
      const hold = holdOrder(account, 1_000n);
      await ledger.hold(hold);
      await assert.rejects(ledger.refund(hold.request, 0, nanoUsd(1n)), isCode("invalid_request"));
      await ledger.settle(settleOrder(hold.request, 500n, 450n, { miner }));
      const accrued = await accruedOf(database, miner);
      assert.equal(await ledger.refund(hold.request, 0, nanoUsd(40n)), true);
      assert.equal(await ledger.refund(hold.request, 0, nanoUsd(40n)), false);
      assert.equal(await accruedOf(database, miner), accrued);
      assert.equal(await ledger.refund(hold.request, 1, nanoUsd(60n)), true);
      assert.equal((await accruedOf(database, miner)) - accrued, -50n);
      const conflict = isCode("request_id_conflict");
      await assert.rejects(ledger.refund(hold.request, 1, nanoUsd(61n)), conflict);
      await assert.rejects(
        ledger.refund(hold.request, 2, nanoUsd(401n)),
        isCode("invalid_request"),
      );
      assert.equal(await ledger.refund(hold.request, 2, nanoUsd(400n)), true);
      assert.deepEqual(await ledger.balance(account), {
        postedNusd: 1_000n,
        heldNusd: 0n,
        depositedNusd: 1_000n,
        chargedNusd: 0n,
      });
    });

    test("expire() frees holds that are past their time, and openHolds() lists the others", async () => {
      const account = await fundedAccount(database, 1_000n);
      const expiresMs = 1_000_000;
      const old = holdOrder(account, 100n, { expiresMs });
      const young = holdOrder(account, 100n);
      await Promise.all([ledger.hold(old), ledger.hold(young)]);
      assert.equal(await ledger.expire(expiresMs), 0);
      assert.equal(await ledger.expire(expiresMs + 1), 1);
      assert.equal(await ledger.settle(settleOrder(old.request, 1n, 1n)), "already_ended");
      assert.equal((await ledger.requestOf(old.request, account))?.state, "expired");
      const open = await ledger.openHolds();
      assert.ok(open.some(({ request }) => request === young.request));
      assert.ok(!open.some(({ request }) => request === old.request));
      assert.deepEqual(await ledger.openHolds(0), []);
    });

    test("leaves() returns settled and noted leaves in order, without gaps", async () => {
      const log = await openLedger({ database, gateway: "log", log: silent });
      const account = await fundedAccount(database, 10_000n);
      const holds = Array.from({ length: 20 }, () => holdOrder(account, 10n));
      await Promise.all(holds.map((hold) => log.hold(hold)));
      await Promise.all([
        ...holds.map((hold) => log.settle(settleOrder(hold.request, 1n, 1n, { epoch: 3 }))),
        log.note("note", 3),
        log.note("note", 3),
      ]);
      await log.note("note", 3);
      assert.equal(await log.leafCount(), 21n);
      const leaves = await log.leaves(0n, 100);
      assert.deepEqual(
        leaves.map(({ index }) => index),
        Array.from({ length: 21 }, (_, i) => BigInt(i)),
      );
      assert.deepEqual(
        new Set(leaves.map(({ leaf }) => leaf)),
        new Set(["note", ...holds.map(({ request }) => `leaf of ${request}`)]),
      );
      assert.deepEqual(await log.leaves(20n, 1), leaves.slice(20));
      assert.deepEqual(await log.leaves(5n, 2), leaves.slice(5, 7));
      await log.close();
    });

    test("closeLogEpoch() keeps what was recorded first", async () => {
      const first = { epoch: 5, size: 10n, root: "aa", sums: "bb" };
      assert.deepEqual(await ledger.closeLogEpoch(first), { ...first, published: undefined });
      const other = { epoch: 5, size: 11n, root: "cc", sums: "dd" };
      assert.deepEqual(await ledger.closeLogEpoch(other), { ...first, published: undefined });
      await ledger.closeLogEpoch({ ...other, epoch: 6 });
      await ledger.markLogEpochPublished(5, "0xblock");
      assert.deepEqual(await ledger.logEpochs(10), [
        { ...other, epoch: 6, published: undefined },
        { ...first, published: "0xblock" },
      ]);
    });

    for (const table of ["journal", "transfer", "log_leaf"]) {
      test(`${table} is append-only`, async () => {
        const refused = /append-only/;
        await assert.rejects(database.exec(`DELETE FROM ledger.${table}`), refused);
        await assert.rejects(database.exec(`TRUNCATE ledger.${table} CASCADE`), refused);
        const column = table === "transfer" ? "amount" : "epoch";
        await assert.rejects(database.exec(`UPDATE ledger.${table} SET ${column} = 1`), refused);
      });
    }

    test("a journal that does not balance cannot be written", async () => {
      const account = await fundedAccount(database, 5n);
      const one = `ledger.acct_of(10, '${account}')`;
      const post = (debit: string, credit: string, ledgerNumber: number, amount: number) =>
        database.exec(
          `SELECT ledger.post('x:${newRequestId(0)}', 'deposit', NULL, NULL, ARRAY[${ledgerNumber}]::smallint[],
             ARRAY[${debit}], ARRAY[${credit}], ARRAY[${amount}]::bigint[])`,
        );
      const clearing = "ledger.system_acct(1, 40)";
      await assert.rejects(post(one, "ledger.system_acct(2, 40)", 1, 1), /leaves its ledger/);
      await assert.rejects(post(one, one, 1, 1), /check constraint/);
      await assert.rejects(post(one, clearing, 1, 6), /check constraint/);
      await post(one, clearing, 1, 5);
    });

    test("no order of events breaks the books", async () => {
      await checkLedgerProperty(database, runs);
    });
  });
}

async function accruedOf(database: Database, miner: Hotkey): Promise<bigint> {
  const [row] = await database.query<{ balance: bigint }>(
    "SELECT credits - debits AS balance FROM ledger.acct WHERE ledger = 1 AND code = 20 AND owner = $1",
    [miner],
  );
  return row?.balance ?? 0n;
}

function isCode(code: string): (error: unknown) => boolean {
  return (error) => error instanceof RouterError && error.code === code;
}
