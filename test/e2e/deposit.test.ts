import assert from "node:assert/strict";
import { test } from "node:test";
import { ApiPromise, HttpProvider, Keyring, WsProvider } from "@polkadot/api";
import type { ProviderInterface } from "@polkadot/rpc-provider/types";
import { getJson, postJson, startLocal, waitFor } from "./local-network.ts";

test("TAO sent to an account's own address is credited once, at the recorded rate, when its block is final", async () => {
  const network = await startLocal({ args: ["--miners", "1", "--validators", "0"] });
  // WsProvider's typings clash with exactOptionalPropertyTypes (@polkadot/api 16.5.6).
  const provider = new WsProvider(network.ready.chain_ws) as unknown as ProviderInterface;
  const api = await ApiPromise.create({ provider, noInitWarn: true });
  try {
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
  } finally {
    await api.disconnect();
    await network.stop();
  }
});

test("the chain answers JSON-RPC over http as well", async () => {
  const network = await startLocal({ args: ["--miners", "0", "--validators", "0"] });
  try {
    const http = new HttpProvider(network.ready.chain_ws.replace("ws:", "http:"));
    assert.equal(await http.send("system_chain", []), "Bittensor");
  } finally {
    await network.stop();
  }
});
