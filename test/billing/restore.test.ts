/** The restore drill of docs/operator.md: a backup that was never restored is a hope. */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { cpSync } from "node:fs";
import path from "node:path";
import { test } from "node:test";
import { auditDatabase } from "../../src/billing/audit.ts";
import { openLedger } from "../../src/billing/ledger.ts";
import type { AccountId } from "../../src/core/ids.ts";
import { type Database, openDatabase } from "../../src/runtime/database.ts";
import {
  findPostgres,
  fundedAccount,
  holdOrder,
  settleOrder,
  silent,
  startPostgres,
  temporaryFolder,
} from "./stores.ts";

/** A customer with one settled request and one open hold. */
async function fill(database: Database): Promise<AccountId> {
  const ledger = await openLedger({ database, gateway: "gw", log: silent });
  const account = await fundedAccount(database, 1_000n);
  const settled = holdOrder(account, 100n);
  await ledger.hold(settled);
  await ledger.settle(settleOrder(settled.request, 60n, 50n));
  await ledger.hold(holdOrder(account, 300n));
  await ledger.close();
  return account;
}

async function assertWhole(
  where: { readonly url: string } | { readonly directory: string },
  account: AccountId,
): Promise<void> {
  const { ok, lines } = await auditDatabase({ ...where, log: silent });
  assert.ok(ok, lines.join("\n"));
  const database = await openDatabase({ ...where, log: silent });
  const ledger = await openLedger({ database, gateway: "gw", log: silent });
  const { postedNusd, heldNusd } = await ledger.balance(account);
  assert.deepEqual([postedNusd, heldNusd], [940n, 300n]);
  await ledger.close();
  await database.close();
}

test("the folder of a stopped embedded database is a backup", async () => {
  const { directory, remove } = temporaryFolder();
  try {
    const live = path.join(directory, "live");
    const database = await openDatabase({ directory: live, log: silent });
    const account = await fill(database);
    await database.close();
    const copy = path.join(directory, "copy");
    cpSync(live, copy, { recursive: true });
    await assertWhole({ directory: copy }, account);
  } finally {
    remove();
  }
});

const bin = findPostgres();
if (bin === undefined) {
  console.log("skipped: no PostgreSQL under /usr/lib/postgresql, so no dump is restored");
} else {
  test("a dump of a running PostgreSQL restores into an empty database", async () => {
    const server = await startPostgres(bin);
    try {
      const [from, to] = [await server.newDatabase(), await server.newDatabase()];
      const database = await openDatabase({ url: from, log: silent });
      const account = await fill(database);
      const dump = spawnSync(path.join(bin, "pg_dump"), ["--format=custom", from], {
        maxBuffer: 64 * 1_048_576,
      });
      assert.equal(dump.status, 0, dump.stderr.toString());
      // What happens after the dump is not in it.
      await database.close();
      const restore = spawnSync(
        path.join(bin, "pg_restore"),
        ["--exit-on-error", "--single-transaction", "--no-owner", "--dbname", to],
        { input: dump.stdout },
      );
      assert.equal(restore.status, 0, restore.stderr.toString());
      await assertWhole({ url: to }, account);
    } finally {
      await server.close();
    }
  });
}
