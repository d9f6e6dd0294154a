import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { apiKeyIdOf, createAccount, createApiKey, findApiKey } from "../../src/billing/accounts.ts";
import { migrateBilling } from "../../src/billing/schema.ts";
import { accountIdOf, newAccountId } from "../../src/core/ids.ts";
import { type Database, openDatabase } from "../../src/runtime/database.ts";
import { silent } from "./stores.ts";

describe("accounts", () => {
  let database: Database;
  before(async () => {
    database = await openDatabase({ log: silent });
    await migrateBilling(database);
  });
  after(async () => await database.close());

  test("createAccount() numbers accounts from 1", async () => {
    const first = await createAccount(database, { name: "a" });
    const second = await createAccount(database, { name: "b" });
    assert.deepEqual([first.index, second.index], [1, 2]);
    assert.equal(accountIdOf(first.id), first.id);
  });

  test("createApiKey() makes a key that is found by its hash and stored nowhere", async () => {
    const { id: account, index } = await createAccount(database, { name: "c" });
    const made = await createApiKey(database, account, { label: "laptop", management: true });
    assert.match(made.key, /^sk-db-v1-[\w-]{43}$/);
    assert.equal(made.id, apiKeyIdOf(made.key));
    const found = await findApiKey(database, made.id);
    assert.ok(found !== undefined && Math.abs(found.createdMs - Date.now()) < 60_000);
    assert.deepEqual(found, {
      id: made.id,
      account,
      accountIndex: index,
      label: "laptop",
      disabled: false,
      management: true,
      createdMs: found.createdMs,
      updatedMs: undefined,
      expiresMs: undefined,
    });
    assert.equal(await findApiKey(database, apiKeyIdOf(`${made.key}x`)), undefined);
    const rows = await database.query("SELECT * FROM ledger.api_key");
    assert.ok(!JSON.stringify(rows, (_, v: unknown) => String(v)).includes(made.key.slice(9)));
    const nobody = newAccountId();
    await assert.rejects(createApiKey(database, nobody, { label: "", management: false }));
  });
});
