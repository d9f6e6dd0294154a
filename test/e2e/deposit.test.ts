import assert from "node:assert/strict";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import { ApiPromise, HttpProvider, Keyring, WsProvider } from "@polkadot/api";
import type { ProviderInterface } from "@polkadot/rpc-provider/types";
import { u8aToHex, u8aWrapBytes } from "@polkadot/util";
import {
  cliResult,
  getJson,
  postJson,
  type RunningNetwork,
  startLocal,
  waitFor,
} from "./local-network.ts";

describe("deposits on a local network", () => {
  let network: RunningNetwork;
  let api: ApiPromise;
  before(async () => {
    network = await startLocal({ args: ["--miners", "0", "--validators", "0"] });
    // WsProvider's typings clash with exactOptionalPropertyTypes (@polkadot/api 16.5.6).
    const provider = new WsProvider(network.ready.chain_ws) as unknown as ProviderInterface;
    api = await ApiPromise.create({ provider, noInitWarn: true });
  });
  after(async () => {
    await api.disconnect();
    await network.stop();
  });

  test("TAO sent to an account's own address is credited once, at the recorded rate, when its block is final", async () => {
    const url = network.ready.base_url;
    const account = await postJson<{ api_key: string }>(
      `${url}/accounts`,
      network.ready.admin_key,
      { name: "depositor" },
    );
    const key = account.body.api_key;
    const deposit = await postJson<{ data: { address: string; qr: string } }>(
      `${url}/deposits`,
      key,
      {},
    );
    assert.equal(deposit.body.data.qr, deposit.body.data.address);

    const alice = new Keyring({ type: "sr25519" }).addFromUri("//Alice");
    const amount = 1_234_567_891n;
    await new Promise<void>((resolve, reject) => {
      api.tx["balances"]
        ?.["transferKeepAlive"]?.(deposit.body.data.address, amount)
        .signAndSend(alice, ({ status }) => {
          if (status.isFinalized) resolve();
        })
        .catch(reject);
    });
    const credits = async () =>
      (await getJson<{ data: { balance_nusd: string } }>(`${url}/credits`, key)).data.balance_nusd;
    await waitFor("the credit", async () => (await credits()) !== "0");
    assert.equal(await credits(), ((amount * 400_000_000_000n) / 1_000_000_000n).toString());
    const list = await getJson<{
      data: { state: string; amount_rao: string; amount_nusd: string }[];
    }>(`${url}/deposits`, key);
    assert.equal(list.data.length, 1);
    assert.equal(list.data[0]?.state, "credited");
    assert.equal(list.data[0]?.amount_rao, amount.toString());
    const metrics = await (await fetch(`${network.origin}/metrics`)).text();
    assert.match(metrics, /^daybreak_gateway_deposits_halted 0$/m);
    assert.match(metrics, /^daybreak_gateway_deposits_block [1-9]/m);
  });

  test("the chain answers JSON-RPC over http as well", async () => {
    const http = new HttpProvider(network.ready.chain_ws.replace("ws:", "http:"));
    assert.equal(await http.send("system_chain", []), "Bittensor");
  });

  test("a linked wallet pays to the common address; what nobody knows waits for the operator", async () => {
    const { base_url: url, admin_key: admin } = network.ready;
    const opened = await postJson<{ api_key: string; account_id: string }>(
      `${url}/accounts`,
      admin,
      { name: "depositor" },
    );
    const { api_key: key, account_id: account } = opened.body;
    const { data: to } = await getJson<{
      data: {
        address: string;
        qr_svg: string;
        minimum_rao: string;
        common: { address: string; memo: string };
      };
    }>(`${url}/deposits/address`, key);
    assert.match(to.qr_svg, /^<svg [^>]*viewBox/);
    assert.equal(to.common.memo, `daybreak:${account}`);
    assert.notEqual(to.common.address, to.address);

    const alice = new Keyring({ type: "sr25519" }).addFromUri("//Alice");
    const pay = async (amount: bigint): Promise<void> =>
      await new Promise<void>((resolve, reject) => {
        api.tx["balances"]
          ?.["transferKeepAlive"]?.(to.common.address, amount)
          .signAndSend(alice, ({ status }) => {
            if (status.isInBlock || status.isFinalized) resolve();
          })
          .catch(reject);
      });
    type Row = Readonly<Record<string, string | null>>;
    const listed = async (): Promise<Row[]> =>
      (await getJson<{ data: Row[] }>(`${url}/deposits`, key)).data;
    const statesOf = async (): Promise<unknown[]> => (await listed()).map(({ state }) => state);

    const unknown = 3_000_000_000n;
    await pay(unknown);
    const inSuspense = `${url}/ledger/deposits?state=suspense`;
    await waitFor("the deposit of nobody", async () => {
      const { data } = await getJson<{ data: Row[] }>(inSuspense, admin);
      return data.some(({ amount_rao }) => amount_rao === unknown.toString());
    });
    assert.equal((await fetch(inSuspense, { headers: bearer(key) })).status, 403);
    assert.deepEqual(await listed(), []);

    const { body: challenge } = await postJson<{ data: { nonce: string; message: string } }>(
      `${url}/wallets/challenge`,
      key,
      { address: alice.address },
    );
    const signature = u8aToHex(alice.sign(u8aWrapBytes(challenge.data.message)));
    const linked = await postJson(`${url}/wallets`, key, {
      nonce: challenge.data.nonce,
      signature,
    });
    assert.equal(linked.status, 201);
    assert.deepEqual(await statesOf(), ["suspense"]);

    await pay(2_000_000_000n);
    // In the newest block, which is not final yet.
    await waitFor("the new deposit", async () => (await listed()).length === 2);
    await waitFor("the credit", async () => (await statesOf())[0] === "credited");

    const data = join(network.directory, "data");
    const { stdout } = await cliResult(["deposits", "list", "--data", data]);
    assert.match(stdout, /^\S+:0x\w+:\d+ {2}\S+ {2}suspense {2}3 TAO {2}from 5/);
    const id = stdout.split(" ")[0] ?? "";
    const assign = async (owner: string) =>
      await cliResult(["deposits", "assign", id, owner, "--note", "ticket 17", "--data", data]);
    const refused = await assign("acct_00000000000000000000");
    assert.deepEqual(
      [refused.code, refused.stderr],
      [1, "daybreak: There is no account acct_00000000000000000000.\n"],
    );
    assert.equal((await assign(account)).code, 0);
    await waitFor("the second credit", async () =>
      (await statesOf()).every((state) => state === "credited"),
    );
    const { data: credits } = await getJson<{ data: { balance_nusd: string } }>(
      `${url}/credits`,
      key,
    );
    assert.equal(credits.balance_nusd, (5n * 400_000_000_000n).toString());

    const asked = await postJson<{ data: { id: string; memo: string } }>(
      `${url}/withdrawals`,
      key,
      {
        address: alice.address,
        amount_nusd: (400_000_000_000n / 2n).toString(),
      },
    );
    assert.equal(asked.status, 201);

    // The operator's commands work without a gateway too, on the folder itself.
    await api.disconnect();
    await network.stop();
    const waits = await cliResult(["withdrawals", "list", "--data", data]);
    const { id: withdrawal, memo } = asked.body.data;
    assert.ok(waits.stdout.startsWith(`pay 0.5 TAO to ${alice.address} with the memo ${memo}`));
    const rejected = await cliResult([
      "withdrawals",
      "reject",
      withdrawal,
      "--note",
      "ticket 20",
      "--data",
      data,
    ]);
    assert.equal(rejected.code, 0, rejected.stderr);
    const { code, stdout: audit } = await cliResult(["ledger", "audit", "--data", data]);
    assert.equal(code, 0, audit);
  });
});

function bearer(key: string): Record<string, string> {
  return { authorization: `Bearer ${key}` };
}
