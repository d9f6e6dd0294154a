import assert from "node:assert/strict";
import { type TestContext, test } from "node:test";
import { encodeAddress } from "@polkadot/util-crypto";
import { keypairOf, newSecret } from "../../src/chain/keys.ts";
import { ADMIN_KEY, openTestGateway, testNetwork } from "./fixture.ts";

/** 400 USD per TAO, as the test gateway has it. */
const RATE = 400_000_000_000n;

interface Answer {
  readonly status: number;
  readonly data: Readonly<Record<string, string>> & readonly Readonly<Record<string, string>>[];
  /** `error.metadata.code` and `error.param`. */
  readonly refusal: readonly unknown[];
}

/** A gateway and a customer with one linked wallet, from which 2 TAO came, and with other credit. */
async function openDepositor(t: TestContext, otherCredit = 0n) {
  const gateway = await openTestGateway(t, testNetwork());
  const { apiKey, account } = await gateway.customer(otherCredit);
  const send = async (
    method: string,
    path: string,
    { body, key = apiKey }: { body?: object; key?: string } = {},
  ): Promise<Answer> => {
    const response = await fetch(`${gateway.url}/v1${path}`, {
      method,
      headers: { authorization: `Bearer ${key}` },
      ...(body === undefined ? {} : { body: JSON.stringify(body) }),
    });
    const json = (await response.json()) as {
      data: Answer["data"];
      error?: { param: unknown; metadata: { code: unknown } };
    };
    const { data, error } = json;
    return { status: response.status, data, refusal: [error?.metadata.code, error?.param] };
  };
  const pair = keypairOf(newSecret());
  const { address } = pair;
  const { data } = await send("POST", "/wallets/challenge", { body: { address } });
  const signature = `0x${Buffer.from(pair.sign(Buffer.from(data["message"] ?? ""))).toString("hex")}`;
  await send("POST", "/wallets", { body: { nonce: data["nonce"], signature } });
  await gateway.database.query(
    `WITH taken AS (SELECT ledger.post('dep:' || $1, 'deposit', NULL, NULL, ARRAY[2]::smallint[],
        ARRAY[ledger.system_acct(2, 51)], ARRAY[ledger.system_acct(2, 70)], ARRAY[$3::bigint]) AS done)
     SELECT ledger.post('credit:' || $1, 'credit', NULL, NULL, ARRAY[2, 1]::smallint[],
        ARRAY[ledger.system_acct(2, 70), ledger.system_acct(1, 40)],
        ARRAY[ledger.system_acct(2, 40), ledger.acct_of(10, $2)], ARRAY[$3::bigint, $4::bigint]) FROM taken WHERE done`,
    [`of ${account}`, account, 2_000_000_000n, 2n * RATE],
  );
  await gateway.database.query(
    `INSERT INTO ledger.deposit (id, account, attribution, state, block_number, block_hash, event_index, block_ms, sender,
                                 address, amount_rao, rate, amount_nusd, credited_at)
       VALUES ('of ' || $1::text, $1, 'wallet', 'credited', 1, 'block', 0, 1, $2, 'common', 2000000000, $3, $4, now())`,
    [account, address, RATE, 2n * RATE],
  );
  return { gateway, send, pair, account };
}

test("unused credit is set aside for a linked wallet, and comes back when the operator rejects it", async (t) => {
  const { send, pair, account } = await openDepositor(t);
  const amount_nusd = RATE.toString();
  // Any network's prefix names the same wallet.
  const address = encodeAddress(Buffer.from(pair.publicKeyHex, "hex"), 0);
  const made = await send("POST", "/withdrawals", { body: { amount_nusd, address } });
  assert.equal(made.status, 201);
  const { id = "", ...rest } = made.data;
  assert.deepEqual(
    [rest["state"], rest["address"], rest["amount_rao"], rest["memo"]],
    ["requested", pair.address, "1000000000", `daybreak:${id}`],
  );
  const creditsOf = async () => (await send("GET", "/credits")).data["available_nusd"];
  assert.equal(await creditsOf(), amount_nusd);

  const operator = { key: ADMIN_KEY };
  const waits = await send("GET", "/ledger/withdrawals", operator);
  assert.ok(waits.data.some((row) => row["id"] === id && row["account"] === account));
  assert.equal((await send("GET", "/ledger/withdrawals")).status, 403);
  const path = `/ledger/withdrawals/${id}/reject`;
  assert.equal((await send("POST", path, { body: { note: "n" } })).status, 403);
  assert.equal((await send("POST", path, { ...operator, body: {} })).status, 400);
  const reject = { ...operator, body: { note: "ticket 19" } };
  assert.equal((await send("POST", path, reject)).status, 200);
  assert.deepEqual((await send("POST", "/ledger/withdrawals/wd_0/reject", reject)).refusal, [
    "not_found",
    null,
  ]);
  const [listed] = (await send("GET", "/withdrawals")).data;
  assert.deepEqual([listed?.["state"], listed?.["note"]], ["rejected", "ticket 19"]);
  assert.equal(await creditsOf(), (2n * RATE).toString());
});

test("what waits to be paid counts against what the wallet brought", async (t) => {
  const { send, pair } = await openDepositor(t, 10n * RATE);
  const ask = async (amount: bigint): Promise<number> => {
    const body = { amount_nusd: amount.toString(), address: pair.address };
    return (await send("POST", "/withdrawals", { body })).status;
  };
  assert.equal(await ask(2n * RATE + 1n), 400);
  assert.equal(await ask(RATE), 201);
  assert.equal(await ask(RATE + 1n), 400);
  assert.equal(await ask(RATE), 201);
});

test("a withdrawal has a whole positive amount within its limits, and five may wait", async (t) => {
  const { send, pair } = await openDepositor(t);
  const ask = async (amount_nusd: unknown, address: unknown = pair.address): Promise<unknown[]> => {
    const { status, refusal } = await send("POST", "/withdrawals", {
      body: { amount_nusd, address },
    });
    return [status, ...refusal];
  };
  const bad = [400, "invalid_request", "amount_nusd"];
  for (const amount of [1, "0", "-1", "1.5", "1e9", "", "9".repeat(19), "1"])
    assert.deepEqual(await ask(amount), bad, String(amount));
  const enough = (RATE / 10n).toString();
  assert.deepEqual(await ask(enough, "5Grw"), [400, "invalid_request", "address"]);
  const stranger = keypairOf(newSecret()).address;
  assert.deepEqual(await ask(enough, stranger), [400, "invalid_request", null]);
  assert.deepEqual(await ask((2n * RATE + 1n).toString()), [400, "invalid_request", null]);
  for (let i = 0; i < 5; i += 1) assert.equal((await ask(enough))[0], 201);
  assert.deepEqual(await ask(enough), [429, "rate_limited", null]);
});
