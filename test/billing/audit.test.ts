import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { after, before, describe, test } from "node:test";
import { createAccount, createApiKey, limitKey } from "../../src/billing/accounts.ts";
import { assignDeposit } from "../../src/billing/assign-deposit.ts";
import { auditLedger } from "../../src/billing/audit.ts";
import { memoOf } from "../../src/billing/deposit-owner.ts";
import { type Ledger, openLedger } from "../../src/billing/ledger.ts";
import { expirePromo, grantPromo } from "../../src/billing/promo.ts";
import { type AccountId, newRequestId, type RequestId } from "../../src/core/ids.ts";
import { nanoUsd } from "../../src/core/money.ts";
import { type Database, openDatabase } from "../../src/runtime/database.ts";
import { fundedAccount, holdOrder, settleOrder, silent } from "./stores.ts";

const ROLL_BACK = new Error("rolled back");

/** A credited deposit that nobody sent. */
const FORGED = [
  "deposits that differ from what was taken in",
  "deposits to an address that is not their account's",
];

/** Credits a deposit of 5 rao with 7 nano-USD. */
function creditOf(id: string): string {
  return `
  SELECT ledger.post('credit:${id}', 'credit', NULL, NULL, ARRAY[2, 1]::smallint[],
    ARRAY[ledger.system_acct(2, 70), ledger.system_acct(1, 40)],
    ARRAY[ledger.system_acct(2, 40), (SELECT ledger.acct_of(10, account) FROM ledger.deposit WHERE id = '${id}')],
    ARRAY[5, 7]);
  UPDATE ledger.deposit SET state = 'credited', rate = 1, amount_nusd = 7, credited_at = now() WHERE id = '${id}'`;
}

interface Ids {
  /** An account without deposits. */
  readonly account: AccountId;
  readonly open: RequestId;
  readonly settled: RequestId;
  /** Settled as well. */
  readonly second: RequestId;
  /** Settled and paid from promo credit. */
  readonly promo: RequestId;
  /** Of no request. */
  readonly other: RequestId;
}

/** What breaks the books, in SQL with the ids of requests, and every invariant that then fails. */
const DAMAGES: readonly {
  readonly damage: (ids: Ids) => string;
  readonly broken: readonly string[];
}[] = [
  {
    damage: () => "UPDATE ledger.acct SET credits = credits + 1 WHERE ledger = 2 AND code = 70",
    broken: [
      "TAO accounts sum to zero",
      "accounts that differ from their transfers",
      "rao in suspense without a deposit that waits",
    ],
  },
  {
    damage: () => "UPDATE ledger.acct SET credits = credits + 1 WHERE ledger = 1 AND code = 30",
    broken: ["USD accounts sum to zero", "accounts that differ from their transfers"],
  },
  {
    damage: () => `ALTER TABLE ledger.acct DROP CONSTRAINT acct_covers_held;
      UPDATE ledger.acct SET held = credits - debits + 1 WHERE code = 10`,
    broken: ["customers below what is held", "accounts that differ from their open holds"],
  },
  {
    damage: ({ open }) => `UPDATE ledger.hold SET amount = amount + 1 WHERE id = '${open}'`,
    broken: ["accounts that differ from their open holds"],
  },
  {
    damage: ({ settled }) =>
      `UPDATE ledger.ended SET charged = charged - 1 WHERE id = '${settled}'`,
    broken: [
      "settled requests that differ from their transfers",
      "settlements with other parties or shares than their request",
    ],
  },
  {
    damage: ({ settled }) => `DELETE FROM ledger.ended WHERE id = '${settled}'`,
    broken: [
      "settlements of requests that are not settled",
      "requests that differ from their refunds",
    ],
  },
  {
    damage: ({ settled }) => `UPDATE ledger.ended SET refunded = 0 WHERE id = '${settled}'`,
    broken: ["requests that differ from their refunds"],
  },
  {
    damage: () => `INSERT INTO ledger.deposit
      SELECT 'd', id, 'credited', 1, 'b', 0, 1, 's', 'x', 1, 1, 1, now(), 'address' FROM ledger.account LIMIT 1`,
    broken: ["deposits that differ from their credits", ...FORGED],
  },
  {
    damage: () =>
      `INSERT INTO ledger.journal (id, kind, cause) VALUES ('${randomUUID()}', 'deposit', 'dep:none')`,
    broken: ["deposits that differ from what was taken in"],
  },
  {
    damage: () => "UPDATE ledger.deposit SET amount_rao = 6 WHERE id = 'common'",
    broken: [
      "rao in suspense without a deposit that waits",
      "deposits that differ from what was taken in",
    ],
  },
  {
    damage: ({ account }) =>
      `${creditOf("wallet")}; UPDATE ledger.deposit SET account = '${account}' WHERE id = 'wallet'`,
    broken: [
      "deposits credited to another account than their own",
      "deposits from wallets that were never linked to their account",
    ],
  },
  ...["address = 'elsewhere'", "address = 'own'"].map((change) => ({
    damage: () => `UPDATE ledger.deposit SET ${change} WHERE id = 'common'`,
    broken: ["deposits to an address that is not their account's"],
  })),
  {
    damage: () => "UPDATE ledger.deposit SET memo = 'daybreak:another' WHERE id = 'memo'",
    broken: ["deposits by memo whose memo names another account"],
  },
  {
    damage: ({ account }) => `UPDATE ledger.linked_wallet SET account = '${account}'`,
    broken: [
      "deposits from wallets that were never linked to their account",
      "linked wallets whose signed text names another account or address",
    ],
  },
  {
    damage: ({ account }) =>
      `UPDATE ledger.deposit SET account = '${account}' WHERE id = 'assigned'`,
    broken: ["deposits that differ from the operator's decisions"],
  },
  {
    damage: () =>
      "UPDATE ledger.deposit SET account = NULL, attribution = NULL, state = 'suspense' WHERE id = 'assigned'",
    broken: ["deposits that differ from the operator's decisions"],
  },
  {
    damage: ({ account }) => `INSERT INTO ledger.wallet_challenge
      VALUES ('nonce', 'link', '${account}', 'wallet', 'domain', 'message', 1, 2)`,
    broken: ["challenges that could be used a second time"],
  },
  ...["amount_nusd = 3", "state = 'rejected', note = '', ended_ms = 1"].map((change) => ({
    damage: () => `UPDATE ledger.withdrawal SET ${change} WHERE id = 'wd_requested'`,
    broken: [
      "withdrawals that differ from their journals",
      "USD owed to withdrawals that nobody requested",
    ],
  })),
  ...[
    "block_number = NULL, block_hash = NULL, event_index = NULL, state = 'rejected', note = ''",
    "amount_rao = 3",
  ].map((change) => ({
    damage: () => `UPDATE ledger.withdrawal SET ${change} WHERE id = 'wd_paid'`,
    broken: ["withdrawals that differ from their journals"],
  })),
  {
    damage: () => "UPDATE ledger.withdrawal SET address = 'another' WHERE id = 'wd_paid'",
    broken: ["wallets that were paid more than they paid in"],
  },
  {
    damage: () => "UPDATE ledger.log_head SET size = size + 1",
    broken: ["gaps in the usage log"],
  },
  {
    damage: ({ settled }) => `INSERT INTO ledger.transfer VALUES ('${settled}', 3, 2, 130, 240, 5)`,
    broken: [
      "accounts that differ from their transfers",
      "settled requests that differ from their transfers",
      "transfers without their journal or an account of their ledger",
      "settlements with other parties or shares than their request",
    ],
  },
  {
    damage: ({ other }) => `INSERT INTO ledger.transfer VALUES ('${other}', 1, 1, 130, 140, 5)`,
    broken: [
      "accounts that differ from their transfers",
      "transfers without their journal or an account of their ledger",
    ],
  },
  {
    damage: ({ open }) => `UPDATE ledger.hold SET account = 'another' WHERE id = '${open}'`,
    broken: ["requests of an account that is not their customer's"],
  },
  {
    damage: ({ open, settled }) => `INSERT INTO ledger.hold
      SELECT '${settled}', acct, 1, streamed, created_ms, expires_ms, fingerprint, gateway, account, api_key, model, surface
        FROM ledger.hold WHERE id = '${open}';
      UPDATE ledger.acct SET held = held + 1 WHERE held > 0`,
    broken: ["requests that are open and ended"],
  },
  {
    damage: ({ settled }) => `UPDATE ledger.ended SET leaf = 7 WHERE id = '${settled}'`,
    broken: ["settled requests without a leaf of their own"],
  },
  {
    damage: ({ second }) => `UPDATE ledger.ended SET leaf = 0 WHERE id = '${second}'`,
    broken: ["settled requests without a leaf of their own"],
  },
  {
    damage: () => "DELETE FROM ledger.log_head",
    broken: ["gaps in the usage log"],
  },
  ...["held = held + 1", "spent = spent - 1"].map((change) => ({
    damage: () => `UPDATE ledger.key_budget SET ${change}`,
    broken: ["limited keys that differ from their requests"],
  })),
  {
    damage: ({ promo }) => `UPDATE ledger.ended SET miner_amount = 1 WHERE id = '${promo}'`,
    broken: [
      "settlements with other parties or shares than their request",
      "promo requests that earn a miner something",
    ],
  },
  {
    damage: ({ promo }) => `UPDATE ledger.ended SET promo = false WHERE id = '${promo}'`,
    broken: ["requests of an account that is not their customer's"],
  },
  ...["amount = amount + 1", "expired = expired + 1"].map((change) => ({
    damage: () => `UPDATE ledger.promo_grant SET ${change}`,
    broken: ["accounts whose promo grants differ from their journals"],
  })),
  ...["NULL", "'another'"].map((customer) => ({
    damage: () => `ALTER TABLE ledger.journal DISABLE TRIGGER append_only;
      UPDATE ledger.journal SET customer = ${customer} WHERE kind = 'promo'`,
    broken: ["journals that name another customer than their transfers"],
  })),
  {
    damage: () => "DELETE FROM ledger.promo_grant",
    broken: ["accounts whose promo grants differ from their journals"],
  },
  ...["created_ms = 16", "expires_ms = 14", "account = 'another'"].map((change) => ({
    damage:
      () => `${QUOTED_DEPOSIT}; ALTER TABLE ledger.deposit_quote DROP CONSTRAINT deposit_quote_account_fkey;
      UPDATE ledger.deposit_quote SET ${change}`,
    broken: ["quotes used by a deposit of another account or time, or one without credit"],
  })),
  ...["rate = 390000000000", "used_nusd = 1585", "used_rao = 3", "rao_max = 5"].map((change) => ({
    damage: () => `${QUOTED_DEPOSIT}; UPDATE ledger.deposit_quote SET ${change}`,
    broken: ["deposits that differ from their quoted rate"],
  })),
  ...["miner_amount = miner_amount - 1", "miner_acct = NULL", "acct = 130"].map((change) => ({
    damage: ({ settled }: Ids) => `UPDATE ledger.ended SET ${change} WHERE id = '${settled}'`,
    broken: [
      ...(change === "acct = 130" ? ["requests of an account that is not their customer's"] : []),
      "settlements with other parties or shares than their request",
    ],
  })),
];

/** One deposit in suspense of each kind, 5 rao each, and the wallet that one came from. */
async function fillDeposits(database: Database, account: AccountId): Promise<void> {
  await database.query(
    "INSERT INTO ledger.deposit_address (address, account) VALUES ('common', NULL), ('own', $1)",
    [account],
  );
  await database.query(
    "INSERT INTO ledger.linked_wallet VALUES ('nonce', 'wallet', $1::text, 'wallet nonce ' || $1::text, $2, 1)",
    [account, new Uint8Array(64)],
  );
  for (const { id, attribution, memo } of [
    { id: "common" },
    { id: "memo", attribution: "memo", memo: memoOf(account) },
    { id: "wallet", attribution: "wallet" },
    { id: "credited", attribution: "wallet" },
    { id: "assigned" },
  ]) {
    await database.query(
      `SELECT ledger.post('dep:' || $1, 'deposit', NULL, NULL, ARRAY[2]::smallint[],
         ARRAY[ledger.system_acct(2, 51)], ARRAY[ledger.system_acct(2, 70)], ARRAY[5])`,
      [id],
    );
    await database.query(
      `INSERT INTO ledger.deposit (id, account, attribution, state, block_number, block_hash, event_index, block_ms,
                                   sender, address, amount_rao, memo)
         VALUES ($1, $2, $3, $4, 1, 'block', 0, 1, 'wallet', 'common', 5, $5)`,
      [
        id,
        attribution === undefined ? undefined : account,
        attribution,
        attribution === undefined ? "suspense" : "finalized",
        memo,
      ],
    );
  }
  await assignDeposit(database, { deposit: "assigned", account, note: "" });
  await database.exec(creditOf("credited"));
  for (const id of ["wd_requested", "wd_paid", "wd_rejected"]) {
    const [row] = await database.query(
      "SELECT ledger.request_withdrawal($1, $2, 'wallet', 2, 1, 2, 1, 5) AS verdict",
      [id, account],
    );
    assert.deepEqual(row, { verdict: "requested" });
    if (id === "wd_paid")
      await database.query(
        "SELECT ledger.pay_withdrawal(ARRAY['wd_paid'], 'wallet', 2, 50, 1, 'block', 0, 1) AS id",
      );
    if (id === "wd_rejected")
      await database.query("SELECT ledger.reject_withdrawal($1, '', 1)", [id]);
  }
}
/** A credited deposit of 5 rao at 400 USD per TAO, and a quote that it used for 4 of them. */
const QUOTED_DEPOSIT = `
  SELECT ledger.post('dep:q', 'deposit', NULL, NULL, ARRAY[2]::smallint[],
    ARRAY[ledger.system_acct(2, 51)], ARRAY[ledger.system_acct(2, 70)], ARRAY[5]::bigint[]);
  INSERT INTO ledger.deposit (id, account, attribution, state, block_number, block_hash, event_index, block_ms, sender,
                              address, amount_rao, rate, amount_nusd, credited_at)
    SELECT 'q', account, 'address', 'credited', 1, 'b', 0, 15, 's', 'own', 5, 400000000000, 1984, now()
      FROM ledger.deposit_address WHERE address = 'own';
  SELECT ledger.post('credit:q', 'credit', NULL, NULL, ARRAY[2, 1]::smallint[],
    ARRAY[ledger.system_acct(2, 70), ledger.system_acct(1, 40)],
    ARRAY[ledger.system_acct(2, 40), ledger.acct_of(10, account)], ARRAY[5, 1984]::bigint[])
    FROM ledger.deposit WHERE id = 'q';
  INSERT INTO ledger.deposit_quote SELECT 'quote', account, 396000000000, 4, 10, 20, 'q', 4, 1584
    FROM ledger.deposit WHERE id = 'q'`;

describe("auditLedger()", () => {
  let database: Database;
  let ledger: Ledger;
  const other = newRequestId(0);
  let ids: Ids;
  before(async () => {
    database = await openDatabase({ log: silent });
    ledger = await openLedger({ database, gateway: "gw", log: silent });
    const account = await fundedAccount(database, 1_000n);
    const key = await createApiKey(database, account, { label: "limited", management: false });
    await limitKey(database, key.id, { amount: nanoUsd(500n), reset: "daily" });
    const [open, settled, second] = [1, 2, 3].map(() => holdOrder(account, 100n));
    const order = holdOrder(account, 100n);
    const limited = { ...order, row: { ...order.row, apiKeyId: key.id } };
    await ledger.hold(limited);
    assert(open !== undefined && settled !== undefined && second !== undefined);
    await Promise.all([ledger.hold(open), ledger.hold(settled), ledger.hold(second)]);
    await ledger.settle(settleOrder(settled.request, 50n, 40n));
    await ledger.settle(settleOrder(second.request, 50n, 0n));
    await ledger.settle(settleOrder(limited.request, 20n, 10n));
    await ledger.refund(settled.request, 0, nanoUsd(5n));
    const guest = await fundedAccount(database, 0n);
    const expiresMs = Date.now() + 60_000;
    await grantPromo(database, { id: "welcome", account: guest, amount: nanoUsd(70n), expiresMs });
    const promo = holdOrder(guest, 60n);
    assert.deepEqual(await ledger.hold(promo), { ok: true, promo: true });
    await ledger.settle(settleOrder(promo.request, 50n, 40n));
    await expirePromo(database, expiresMs);
    await fillDeposits(database, account);
    const idle = await createAccount(database, { name: "idle" });
    ids = {
      account: idle.id,
      open: open.request,
      settled: settled.request,
      second: second.request,
      promo: promo.request,
      other,
    };
  });
  after(async () => {
    await ledger.close();
    await database.close();
  });

  const brokenIn = async (queryable: Pick<Database, "query" | "exec">): Promise<string[]> =>
    (await auditLedger(queryable)).filter(({ ok }) => !ok).map(({ name }) => name);

  for (const [i, { damage, broken }] of DAMAGES.entries()) {
    test(`finds damage ${i + 1}: ${broken.at(-1)}`, async () => {
      assert.deepEqual(await brokenIn(database), []);
      let found: string[] = [];
      const damaged = database.transaction(async (tx) => {
        await tx.exec(damage(ids));
        found = await brokenIn(tx);
        throw ROLL_BACK;
      });
      await assert.rejects(damaged, ROLL_BACK);
      assert.deepEqual(found, broken);
    });
  }

  test("finds nothing in a deposit that used a quote", async () => {
    let found: string[] | undefined;
    const undone = database.transaction(async (tx) => {
      await tx.exec(QUOTED_DEPOSIT);
      found = await brokenIn(tx);
      throw ROLL_BACK;
    });
    await assert.rejects(undone, ROLL_BACK);
    assert.deepEqual(found, []);
  });

  test("has a damage for every invariant", async () => {
    const names = (await auditLedger(database)).map(({ name }) => name);
    const found = new Set(DAMAGES.flatMap(({ broken }) => broken));
    assert.deepEqual(
      names.filter((name) => !found.has(name)),
      [],
    );
  });
});
