import assert from "node:assert/strict";
import { test } from "node:test";
import { findApiKey } from "../../src/billing/accounts.ts";
import type {
  AccountJson,
  CreatedAccountJson,
  GrantJson,
} from "../../src/gateway/account-admin.ts";
import { accountLine, withAccounts } from "../../src/gateway/account-tools.ts";
import { authenticator } from "../../src/gateway/auth.ts";
import { runningIn } from "../../src/gateway/running-gateway.ts";
import { ADMIN_KEY, log, openTestGateway, type TestGateway, testNetwork } from "./fixture.ts";

async function ask<Data>(
  gateway: TestGateway,
  method: string,
  path: string,
  body?: object,
  key = ADMIN_KEY,
): Promise<{ status: number; json: { data: Data; error?: { message: string; param: string } } }> {
  const response = await fetch(`${gateway.url}/v1/accounts${path}`, {
    method,
    headers: { authorization: `Bearer ${key}` },
    ...(body === undefined ? {} : { body: JSON.stringify(body) }),
  });
  return { status: response.status, json: (await response.json()) as never };
}

test("an operator lists, credits, disables and enables accounts; nobody else does", async (t) => {
  const gateway = await openTestGateway(t, testNetwork());
  const customer = await gateway.customer(1_500_000_000n);
  const path = `/${customer.account}`;
  const grant = { id: "welcome", usd: "2.5", expires_at: "2035-01-01" };
  const granted = await ask<GrantJson>(gateway, "POST", `${path}/credits`, grant);
  assert.equal(granted.status, 201);
  assert.deepEqual(granted.json.data, {
    grant_id: "welcome",
    account_id: customer.account,
    amount_nusd: "2500000000",
    amount_usd: "2.5",
    expires_at: "2035-01-01T00:00:00.000Z",
    is_new: true,
  });
  const again = await ask<GrantJson>(gateway, "POST", `${path}/credits`, grant);
  assert.deepEqual([again.status, again.json.data.is_new], [200, false]);
  const other = await ask(gateway, "POST", `${path}/credits`, { ...grant, usd: "3" });
  assert.equal(other.status, 409);
  const shown = await ask<AccountJson>(gateway, "GET", path);
  assert.deepEqual(
    [shown.json.data.balance_nusd, shown.json.data.promo_nusd, shown.json.data.keys],
    ["4000000000", "2500000000", 2],
  );
  const list = await ask<AccountJson[]>(gateway, "GET", "");
  assert.deepEqual(
    list.json.data.find(({ account_id }) => account_id === customer.account),
    shown.json.data,
  );

  // Past the few seconds for which a gateway remembers a key.
  const keyWorks = async (): Promise<boolean> =>
    await authenticator((id) => findApiKey(gateway.database, id), [])
      .keyOf({ authorization: `Bearer ${customer.apiKey}` })
      .then(
        () => true,
        () => false,
      );
  assert.equal(await keyWorks(), true);
  const disabled = await ask<AccountJson>(gateway, "PATCH", path, { disabled: true });
  assert.equal(disabled.json.data.disabled, true);
  assert.equal(await keyWorks(), false);
  await ask(gateway, "PATCH", path, { disabled: false });
  assert.equal(await keyWorks(), true);

  for (const [method, at, body, status, param] of [
    ["GET", "?offset=x", undefined, 400, "offset"],
    ["POST", "", { name: " " }, 400, "name"],
    ["PATCH", path, { disabled: "yes" }, 400, "disabled"],
    ["POST", `${path}/credits`, { usd: 5 }, 400, "usd"],
    ["POST", `${path}/credits`, { usd: "0" }, 400, "usd"],
    ["POST", `${path}/credits`, { usd: "10000.000000001" }, 400, "usd"],
    ["POST", `${path}/credits`, { usd: "1", expires_at: "2020-01-01" }, 400, "expires_at"],
    ["POST", `${path}/credits`, { usd: "1", expires_at: "soon" }, 400, "expires_at"],
    ["POST", `${path}/credits`, { usd: "1", id: "" }, 400, "id"],
    ["GET", "/acct_00000000000000000000", undefined, 404, null],
    ["GET", "/nobody", undefined, 404, null],
  ] as const) {
    const { status: got, json } = await ask(gateway, method, at, body);
    assert.deepEqual([got, json.error?.param], [status, param], `${method} ${at}`);
  }
  for (const [method, at, body] of [
    ["GET", "", undefined],
    ["GET", path, undefined],
    ["PATCH", path, { disabled: true }],
    ["POST", `${path}/credits`, grant],
  ] as const)
    for (const key of [customer.apiKey, customer.managementKey])
      assert.equal((await ask(gateway, method, at, body, key)).status, 403, `${method} ${at}`);
});

test("withAccounts() asks the gateway that runs on the folder, and repeats what it says", async (t) => {
  const gateway = await openTestGateway(t, testNetwork());
  const place = {
    running: runningIn(gateway.folder),
    directory: undefined,
    url: undefined,
    log,
  };
  assert(place.running !== undefined);
  await withAccounts(place, async (accounts) => {
    const made: CreatedAccountJson = await accounts.create('a "b"\u001b[2J');
    const { status } = await gateway.get("/v1/credits", made.api_key);
    assert.equal(status, 200);
    const granted = await accounts.credit(made.account_id, { usd: "5" });
    assert.equal(granted.amount_usd, "5");
    const account = await accounts.setDisabled(made.account_id, true);
    assert.deepEqual(await accounts.show(made.account_id), account);
    assert.equal(
      accountLine(account),
      `${made.account_id}  disabled  "a \\"b\\"\\u001b[2J"  credit 5 USD  of it promo 5 USD  held 0 USD  keys 2`,
    );
    const { data } = await accounts.list("0");
    assert(data.some(({ account_id }) => account_id === made.account_id));
    await assert.rejects(accounts.show("acct_0"), /There is no such account/);
  });
});
