import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { auditDatabase, auditLedger } from "../../src/billing/audit.ts";
import { openLedger } from "../../src/billing/ledger.ts";
import { migrateBilling } from "../../src/billing/schema.ts";
import { RouterError } from "../../src/core/errors.ts";
import type { RequestId } from "../../src/core/ids.ts";
import { openDatabase } from "../../src/runtime/database.ts";
import { ConfigError } from "../../src/runtime/settings.ts";
import { ledgerSuite } from "./ledger-suite.ts";
import {
  findPostgres,
  fundedAccount,
  holdOrder,
  type PostgresServer,
  settleOrder,
  silent,
  startPostgres,
} from "./stores.ts";

const bin = findPostgres();
if (bin === undefined) {
  console.log(
    "skipped: no PostgreSQL under /usr/lib/postgresql, so the races of several sessions are not tested",
  );
} else {
  describe("a PostgreSQL server", () => {
    let server: PostgresServer;
    before(async () => {
      server = await startPostgres(bin);
    });
    after(async () => {
      await server.close();
    });

    ledgerSuite(
      "PostgreSQL",
      async () => await openDatabase({ url: await server.newDatabase(), log: silent }),
      30,
    );

    test("eight racing gateways end each hold exactly once, without a deadlock", async () => {
      const url = await server.newDatabase();
      const databases = await Promise.all(
        Array.from({ length: 8 }, () => openDatabase({ url, log: silent })),
      );
      const [database] = databases;
      assert.ok(database !== undefined);
      await Promise.all(databases.map((each) => migrateBilling(each)));
      const ledgers = await Promise.all(
        databases.map((each, i) => openLedger({ database: each, gateway: `gw${i}`, log: silent })),
      );
      const accounts = await Promise.all([1, 2, 3].map(() => fundedAccount(database, 100_000n)));
      const tally = { held: 0, refused: 0, settled: 0, released: 0, expired: 0 };
      const open: RequestId[] = [];
      const random = (n: number): number => Math.floor(Math.random() * n);
      const endMs = Date.now() + 1_500;
      const race = async (ledger: (typeof ledgers)[number]): Promise<void> => {
        while (Date.now() < endMs) {
          const account = accounts[random(accounts.length)];
          assert.ok(account !== undefined);
          // Some holds are past their time at once, so that expiry races with their other ends.
          const expiresMs = random(2) === 0 ? 1 : Date.now() + 60_000;
          const hold = holdOrder(account, BigInt(1 + random(20_000)), { expiresMs });
          const victim = open[open.length - 1 - random(Math.min(open.length, 20))];
          const isRelease = random(2) === 0;
          await Promise.all([
            ledger.hold(hold).then((verdict) => {
              tally[verdict.ok ? "held" : "refused"] += 1;
              if (verdict.ok) open.push(hold.request);
            }),
            victim === undefined
              ? undefined
              : isRelease
                ? ledger.release(victim, "race").then((result) => {
                    if (result === "released") tally.released += 1;
                  })
                : ledger.settle(settleOrder(victim, BigInt(random(9_000)), 50n)).then((result) => {
                    if (result === "settled") tally.settled += 1;
                  }),
            random(10) > 0
              ? undefined
              : ledger.expire(2).then((n) => {
                  tally.expired += n;
                }),
          ]);
        }
      };
      await Promise.all(ledgers.flatMap((ledger) => [1, 2].map(() => race(ledger))));
      const rows = await database.query<{ state: number; n: bigint }>(
        "SELECT state, count(*) AS n FROM ledger.request GROUP BY state",
      );
      const countOf = (state: number): number =>
        Number(rows.find((row) => row.state === state)?.n ?? 0n);
      assert.equal(countOf(1), tally.settled);
      assert.equal(countOf(2), tally.released);
      assert.equal(countOf(3), tally.expired);
      assert.equal(countOf(0) + countOf(1) + countOf(2) + countOf(3), tally.held);
      for (const [what, n] of Object.entries(tally)) assert.ok(n > 10, `only ${n} ${what}`);
      const [stats] = await database.query<{ deadlocks: bigint }>(
        "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()",
      );
      assert.equal(stats?.deadlocks, 0n);
      assert.deepEqual(
        (await auditLedger(database)).filter((row) => !row.ok),
        [],
      );
      await Promise.all(ledgers.map((ledger) => ledger.close()));
      await Promise.all(databases.map((each) => each.close()));
      assert.equal((await auditDatabase({ url, log: silent })).ok, true);
    });

    test("while the server is down, settlements wait and new holds are refused", async () => {
      const url = await server.newDatabase();
      const database = await openDatabase({ url, log: silent });
      const ledger = await openLedger({ database, gateway: "gw", log: silent, holdWaitMs: 300 });
      const account = await fundedAccount(database, 1_000n);
      const hold = holdOrder(account, 600n);
      await ledger.hold(hold);
      await server.crash();
      const settled = ledger.settle(settleOrder(hold.request, 500n, 400n));
      await assert.rejects(
        ledger.hold(holdOrder(account, 1n)),
        (error) => error instanceof RouterError && error.code === "ledger_unavailable",
      );
      await assert.rejects(ledger.balance(account), RouterError);
      await server.start();
      assert.equal(await settled, "settled");
      assert.deepEqual(await ledger.hold(holdOrder(account, 500n)), { ok: true });
      assert.equal((await ledger.balance(account)).chargedNusd, 500n);
      await ledger.close();
      await database.close();
    });

    test("auditDatabase() refuses a database without a ledger, and does not make one", async () => {
      const url = await server.newDatabase();
      await assert.rejects(auditDatabase({ url, log: silent }), /There is no ledger in postgres:/);
      const database = await openDatabase({ url, log: silent });
      assert.deepEqual(await database.query("SELECT to_regclass('ledger.acct')::text AS t"), [
        { t: null },
      ]);
      await database.close();
    });
  });
}

test("openDatabase() says what is wrong with an unreachable server, without its password", async () => {
  const url = "postgres://user:secret-password@127.0.0.1:1/name";
  await assert.rejects(openDatabase({ url, log: silent }), (error) => {
    assert.ok(error instanceof ConfigError);
    assert.match(error.message, /127\.0\.0\.1:1\/name cannot be used \(ECONNREFUSED/);
    assert.doesNotMatch(error.message, /secret-password/);
    return true;
  });
  await assert.rejects(openDatabase({ url: "nonsense", log: silent }), ConfigError);
});
