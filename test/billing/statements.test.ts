import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import fc from "fast-check";
import { createAccount } from "../../src/billing/accounts.ts";
import { auditLedger } from "../../src/billing/audit.ts";
import { type Ledger, openLedger } from "../../src/billing/ledger.ts";
import { expirePromo, grantPromo, promoBalanceOf } from "../../src/billing/promo.ts";
import { drawStatement } from "../../src/billing/statements.ts";
import type { AccountId, RequestId } from "../../src/core/ids.ts";
import { nanoUsd } from "../../src/core/money.ts";
import { type Database, openDatabase } from "../../src/runtime/database.ts";
import { fundedAccount, holdOrder, newCause, settleOrder, silent } from "./stores.ts";

const RUNS = 15;
const MONTHS = 3;
const DAY_MS = 86_400_000;
const MODELS = ["anthropic/claude-haiku-4-5", "openai/gpt-5-mini"];
/** The first and the last moment of a month belong to it. */
const MOMENTS = [0, 1, 15 * DAY_MS, -1];

const step = fc.record({
  kind: fc.constantFrom("deposit", "charge", "charge", "charge", "refund", "grant", "expire"),
  amount: fc.bigInt(1n, 400n),
  pick: fc.nat(20),
  moment: fc.nat(MOMENTS.length - 1),
  /** Events come in order, so that no month begins below zero. */
  nextMonth: fc.integer({ min: 0, max: 5 }).map((n) => n === 0),
});

interface Model {
  deposits: bigint;
  charges: Map<string, { requests: number; amount: bigint; promo: bigint }>;
  refunds: bigint;
  granted: bigint;
  expired: bigint;
}

describe("drawStatement()", () => {
  let database: Database;
  let ledger: Ledger;
  before(async () => {
    database = await openDatabase({ log: silent });
    ledger = await openLedger({ database, gateway: "gw", log: silent });
    // Time is the database's own; histories of months are moved back to where they belong.
    await database.exec("ALTER TABLE ledger.journal DISABLE TRIGGER append_only");
  });
  after(async () => {
    const broken = (await auditLedger(database)).filter(({ ok }) => !ok);
    await ledger.close();
    await database.close();
    assert.deepEqual(broken, []);
  });

  const startOf = (month: number): number => Date.UTC(2025, month);

  /** Moves everything that has just happened to a moment. */
  const moveTo = async (atMs: number): Promise<void> => {
    await database.query(
      "UPDATE ledger.journal SET at = to_timestamp($1::bigint / 1000.0) WHERE at > now() - interval '1 day'",
      [BigInt(atMs)],
    );
    await database.query(
      "UPDATE ledger.ended SET ended_ms = $1 WHERE ended_ms > ledger.now_ms() - 86400000",
      [BigInt(atMs)],
    );
  };

  test("adds up to the last nano-USD over random histories of months, for one account among others", async () => {
    const reached = new Set<string>();
    const property = fc.asyncProperty(
      fc.array(step, { minLength: 20, maxLength: 40 }),
      async (steps) => {
        const account = await fundedAccount(database, 0n);
        const other = await fundedAccount(database, 500n);
        const months = Array.from({ length: MONTHS }, (): Model => {
          return { deposits: 0n, charges: new Map(), refunds: 0n, granted: 0n, expired: 0n };
        });
        const settled: { request: RequestId; left: bigint; refunds: number }[] = [];
        let at = 0;
        for (const { kind, amount, pick, moment, nextMonth } of steps) {
          if (nextMonth) at = Math.min(at + 1, MONTHS - 1);
          const model = months[at] as Model;
          const offset = MOMENTS[moment] as number;
          const momentMs = offset < 0 ? startOf(at + 1) + offset : startOf(at) + offset;
          if (kind === "deposit") {
            await credit(database, account, amount);
            model.deposits += amount;
          } else if (kind === "charge") {
            const name = MODELS[pick % MODELS.length] as string;
            const order = holdOrder(account, amount);
            const verdict = await ledger.hold({ ...order, row: { ...order.row, model: name } });
            if (!verdict.ok) continue;
            const charge = amount - BigInt(pick % 3) > 0n ? amount - BigInt(pick % 3) : amount;
            await ledger.settle(settleOrder(order.request, charge, charge / 2n));
            settled.push({ request: order.request, left: charge, refunds: 0 });
            const before = model.charges.get(name) ?? { requests: 0, amount: 0n, promo: 0n };
            model.charges.set(name, {
              requests: before.requests + 1,
              amount: before.amount + charge,
              promo: before.promo + (verdict.promo === true ? charge : 0n),
            });
            reached.add(verdict.promo === true ? "charge:promo" : "charge:paid");
          } else if (kind === "refund") {
            const request = settled[pick % Math.max(settled.length, 1)];
            if (request === undefined || request.left === 0n) continue;
            const back = amount < request.left ? amount : request.left;
            await ledger.refund(request.request, request.refunds, nanoUsd(back));
            request.left -= back;
            request.refunds += 1;
            model.refunds += back;
          } else if (kind === "grant") {
            const expiresMs = Date.now() + DAY_MS;
            const grant = { id: newCause(), account, amount: nanoUsd(amount), expiresMs };
            await grantPromo(database, grant);
            model.granted += amount;
          } else {
            const { postedNusd } = await promoBalanceOf(database, account);
            await expirePromo(database, Date.now() + 2 * DAY_MS);
            const taken = postedNusd - (await promoBalanceOf(database, account)).postedNusd;
            if (taken === 0n) continue;
            model.expired += taken;
          }
          reached.add(kind);
          await moveTo(momentMs);
        }
        const stranger = holdOrder(other, 10n);
        await ledger.hold(stranger);
        await ledger.settle(settleOrder(stranger.request, 10n, 5n));
        await moveTo(startOf(1));

        let balance = 0n;
        for (const [month, model] of months.entries()) {
          const period = { fromMs: startOf(month), toMs: startOf(month + 1) };
          const statement = await drawStatement(database, account, period);
          const charged = [...model.charges.values()].reduce((sum, row) => sum + row.amount, 0n);
          assert.equal(statement.openingNusd, balance);
          balance += model.deposits - charged + model.refunds + model.granted - model.expired;
          const { deposits, ...rest } = statement;
          assert.deepEqual(rest, {
            openingNusd: statement.openingNusd,
            closingNusd: balance,
            depositsNusd: model.deposits,
            chargesNusd: charged,
            refundsNusd: model.refunds,
            promoGrantedNusd: model.granted,
            promoExpiredNusd: model.expired,
            other: [],
            depositsNotShown: 0,
            charges: [...model.charges.entries()]
              .sort(([a], [b]) => (a < b ? -1 : 1))
              .map(([name, row]) => ({
                model: name,
                requests: row.requests,
                amountNusd: row.amount,
                promoNusd: row.promo,
              })),
          });
          assert.equal(
            deposits.reduce((sum, { amountNusd }) => sum + amountNusd, 0n),
            model.deposits,
          );
          for (const { amountRao, nanoUsdPerTao, amountNusd } of deposits)
            assert.equal((amountRao * nanoUsdPerTao) / 1_000_000_000n, amountNusd);
        }
        // What the last month ends with is what the account has.
        const paid = (await ledger.balance(account)).postedNusd;
        assert.equal(balance, paid + (await promoBalanceOf(database, account)).postedNusd);
        const whole = await drawStatement(database, account, {
          fromMs: startOf(0),
          toMs: startOf(MONTHS),
        });
        assert.deepEqual([whole.openingNusd, whole.closingNusd], [0n, balance]);
      },
    );
    await fc.assert(property, { numRuns: RUNS, endOnFailure: true });
    assert.deepEqual([...reached].sort(), [
      "charge",
      "charge:paid",
      "charge:promo",
      "deposit",
      "expire",
      "grant",
      "refund",
    ]);
  });

  test("names what it does not know by its kind, and an account without a history has zeros", async () => {
    const { id } = await createAccount(database, { name: "new" });
    const period = { fromMs: startOf(0), toMs: startOf(1) };
    assert.deepEqual(await drawStatement(database, id, period), {
      openingNusd: 0n,
      closingNusd: 0n,
      depositsNusd: 0n,
      chargesNusd: 0n,
      refundsNusd: 0n,
      promoGrantedNusd: 0n,
      promoExpiredNusd: 0n,
      other: [],
      deposits: [],
      depositsNotShown: 0,
      charges: [],
    });
    await credit(database, id, 50n);
    await moveTo(startOf(0));
    await database.exec("ALTER TABLE ledger.journal DROP CONSTRAINT journal_kind_check");
    await database.query(
      `SELECT ledger.post($1, 'wire', NULL, NULL, ARRAY[1]::smallint[], ARRAY[ledger.acct_of(10, $2)],
         ARRAY[ledger.system_acct(1, 40)], ARRAY[20]::bigint[])`,
      [newCause(), id],
    );
    await moveTo(startOf(1) - 1);
    const { closingNusd, depositsNusd, other } = await drawStatement(database, id, period);
    assert.deepEqual(other, [{ kind: "wire", amountNusd: -20n }]);
    assert.deepEqual([depositsNusd, closingNusd], [50n, 30n]);
  });

  test("a journal of two customers is refused", async () => {
    const accounts = [await fundedAccount(database, 5n), await fundedAccount(database, 5n)];
    await assert.rejects(
      database.query(
        `SELECT ledger.post($1, 'deposit', NULL, NULL, ARRAY[1]::smallint[], ARRAY[ledger.acct_of(10, $2)],
           ARRAY[ledger.acct_of(10, $3)], ARRAY[1]::bigint[])`,
        [newCause(), ...accounts],
      ),
      /several customers/,
    );
    await moveTo(startOf(0));
  });
});

/** A deposit as the scanner books it, of as many rao as make `amount` at 1 nano-USD each. */
async function credit(database: Database, account: AccountId, amount: bigint): Promise<void> {
  const id = newCause();
  await database.query(
    `SELECT ledger.post('dep:' || $1, 'deposit', NULL, NULL, ARRAY[2]::smallint[],
       ARRAY[ledger.system_acct(2, 51)], ARRAY[ledger.system_acct(2, 70)], ARRAY[$2::bigint])`,
    [id, amount],
  );
  await database.query(
    "INSERT INTO ledger.deposit_address (address, account) VALUES ('of ' || $1, $1) ON CONFLICT DO NOTHING",
    [account],
  );
  await database.query(
    `INSERT INTO ledger.deposit (id, account, attribution, state, block_number, block_hash, event_index, block_ms, sender,
                                 address, amount_rao, rate, amount_nusd, credited_at)
       VALUES ($1, $2, 'address', 'credited', 1, 'b', 0, 1, 's', 'of ' || $2, $3, 1000000000, $3, now())`,
    [id, account, amount],
  );
  await database.query(
    `SELECT ledger.post('credit:' || $1, 'credit', NULL, NULL, ARRAY[2, 1]::smallint[],
       ARRAY[ledger.system_acct(2, 70), ledger.system_acct(1, 40)],
       ARRAY[ledger.system_acct(2, 40), ledger.acct_of(10, $2)], ARRAY[$3, $3]::bigint[])`,
    [id, account, amount],
  );
}
