import assert from "node:assert/strict";
import { type TestContext, test } from "node:test";
import { u8aWrapBytes } from "@polkadot/util";
import { encodeAddress } from "@polkadot/util-crypto";
import { linkWallet } from "../../src/billing/wallets.ts";
import { keypairOf, newSecret, verifySignedText } from "../../src/chain/keys.ts";
import { RouterError } from "../../src/core/errors.ts";
import type { AccountId } from "../../src/core/ids.ts";
import { openTestGateway, testNetwork } from "./fixture.ts";

interface Answer {
  readonly status: number;
  readonly retryAfter: string | null;
  readonly data: Readonly<Record<string, string>>;
  readonly list: readonly Readonly<Record<string, string>>[];
  /** `error.metadata.code` and `error.param`. */
  readonly refusal: readonly unknown[];
}

interface Challenge {
  readonly nonce: string;
  readonly message: string;
}

/** A gateway, and a customer of it as an HTTP client sees them. */
async function openWallets(t: TestContext) {
  const gateway = await openTestGateway(t, testNetwork());
  const newCustomer = async () => {
    const { apiKey, account } = await gateway.customer(0n);
    const send = async (method: string, path: string, body?: object): Promise<Answer> => {
      const response = await fetch(`${gateway.url}/v1${path}`, {
        method,
        headers: { authorization: `Bearer ${apiKey}` },
        ...(body === undefined ? {} : { body: JSON.stringify(body) }),
      });
      const json = (await response.json()) as {
        data?: unknown;
        error?: { param: unknown; metadata: { code: unknown } };
      };
      return {
        status: response.status,
        retryAfter: response.headers.get("retry-after"),
        data: json.data as Answer["data"],
        list: json.data as Answer["list"],
        refusal: [json.error?.metadata.code, json.error?.param],
      };
    };
    const challenge = async (address: string): Promise<Challenge> => {
      const { status, data } = await send("POST", "/wallets/challenge", { address });
      assert.equal(status, 200);
      return data as unknown as Challenge;
    };
    const link = async (nonce: string, signature: Uint8Array): Promise<Answer> =>
      await send("POST", "/wallets", { nonce, signature: hexOf(signature) });
    const addresses = async (): Promise<unknown[]> =>
      (await send("GET", "/wallets")).list.map(({ address }) => address);
    return { account, send, challenge, link, addresses };
  };
  return { gateway, newCustomer };
}

const hexOf = (bytes: Uint8Array): string => `0x${Buffer.from(bytes).toString("hex")}`;
const newWallet = () => {
  const pair = keypairOf(newSecret());
  return {
    address: pair.address,
    publicKeyHex: pair.publicKeyHex,
    /** As browser wallets do for `signRaw` with type "bytes". */
    signRaw: (text: string) => pair.sign(u8aWrapBytes(Buffer.from(text))),
    sign: (text: string) => pair.sign(Buffer.from(text)),
  };
};

test("a wallet is linked by its signature over a CAIP-122 text, wrapped or not, and can be unlinked", async (t) => {
  const { gateway, newCustomer } = await openWallets(t);
  const { account, send, challenge, link, addresses } = await newCustomer();
  const [browser, cli, typed] = [newWallet(), newWallet(), newWallet()];

  const { nonce, message } = await challenge(browser.address);
  const lines = message.split("\n");
  const { host } = new URL(gateway.url);
  assert.equal(lines[0], `${host} wants you to sign in with your Bittensor account:`);
  assert.equal(lines[1], browser.address);
  assert.match(lines[3] ?? "", new RegExp(`^Link this wallet to the Daybreak account ${account}:`));
  assert.ok(lines.includes(`URI: ${gateway.url}/v1/wallets`));
  assert.ok(lines.includes(`Nonce: ${nonce}`));
  const [issued, expires] = ["Issued At", "Expiration Time"].map((name) =>
    Date.parse(lines.find((line) => line.startsWith(name))?.slice(name.length + 2) ?? ""),
  );
  assert.equal((expires ?? 0) - (issued ?? 0), 300_000);

  const linked = await link(nonce, browser.signRaw(message));
  assert.equal(linked.status, 201);
  assert.equal(linked.data["address"], browser.address);
  // The same key under another network's prefix is the same wallet.
  const second = await challenge(encodeAddress(Buffer.from(cli.publicKeyHex, "hex"), 0));
  assert.equal((await link(second.nonce, cli.sign(second.message))).status, 201);
  const third = await challenge(typed.address);
  const withType = Buffer.concat([Uint8Array.of(1), typed.signRaw(third.message)]);
  assert.equal((await link(third.nonce, withType)).status, 201);
  assert.deepEqual(await addresses(), [browser.address, cli.address, typed.address]);
  // Linking it again changes nothing.
  const again = await challenge(browser.address);
  assert.equal((await link(again.nonce, browser.signRaw(again.message))).status, 201);
  assert.equal((await addresses()).length, 3);

  const other = encodeAddress(Buffer.from(browser.publicKeyHex, "hex"), 2);
  assert.equal((await send("DELETE", `/wallets/${other}`)).status, 200);
  assert.deepEqual((await send("DELETE", `/wallets/${other}`)).refusal, ["not_found", null]);
  assert.deepEqual(await addresses(), [cli.address, typed.address]);
});

test("a challenge is good for one attempt, of its account, with its wallet's signature", async (t) => {
  const { newCustomer } = await openWallets(t);
  const [mine, theirs] = [await newCustomer(), await newCustomer()];
  const [wallet, stranger] = [newWallet(), newWallet()];
  const refused = ["challenge_refused", "nonce"];

  const used = await mine.challenge(wallet.address);
  assert.equal((await mine.link(used.nonce, wallet.signRaw(used.message))).status, 201);
  assert.deepEqual((await mine.link(used.nonce, wallet.signRaw(used.message))).refusal, refused);
  assert.deepEqual((await mine.link("00", wallet.signRaw(used.message))).refusal, refused);

  const first = await mine.challenge(stranger.address);
  assert.deepEqual(
    (await theirs.link(first.nonce, stranger.signRaw(first.message))).refusal,
    refused,
    "another account cannot use it",
  );
  const wrong = ["signature_refused", "signature"];
  assert.deepEqual((await mine.link(first.nonce, wallet.signRaw(first.message))).refusal, wrong);
  assert.deepEqual(
    (await mine.link(first.nonce, stranger.signRaw(first.message))).refusal,
    refused,
    "a wrong signature uses it up",
  );
  const third = await newCustomer();
  const changed = await third.challenge(stranger.address);
  const text = changed.message.replace(third.account, theirs.account);
  assert.deepEqual((await third.link(changed.nonce, stranger.signRaw(text))).refusal, wrong);
  const short = await third.challenge(stranger.address);
  const cut = stranger.signRaw(short.message).subarray(1);
  assert.deepEqual((await third.link(short.nonce, cut)).refusal, wrong);

  const taken = await theirs.challenge(wallet.address);
  assert.deepEqual(
    (await theirs.link(taken.nonce, wallet.signRaw(taken.message))).refusal,
    ["conflict", null],
    "it is linked to the first account",
  );
  assert.deepEqual(await theirs.addresses(), []);
});

test("a challenge ends after five minutes, and is bound to the domain that asked", async (t) => {
  const { gateway, newCustomer } = await openWallets(t);
  const { account, challenge } = await newCustomer();
  const wallet = newWallet();
  for (const { url, laterMs } of [
    { url: gateway.url, laterMs: 300_000 },
    { url: "https://elsewhere.example", laterMs: 0 },
  ]) {
    const { nonce, message } = await challenge(wallet.address);
    await assert.rejects(
      linkWallet(gateway.database, {
        account: account as AccountId,
        nonce,
        signature: hexOf(wallet.signRaw(message)),
        url,
        nowMs: Date.now() + laterMs,
        verify: verifySignedText,
      }),
      (error) => error instanceof RouterError && error.code === "challenge_refused",
    );
  }
});

test("what is no address, no signature or no JSON is refused, and attempts are limited", async (t) => {
  const { gateway, newCustomer } = await openWallets(t);
  const { send, challenge } = await newCustomer();
  const wallet = newWallet();
  for (const address of [
    "",
    "5Grw",
    `${wallet.address}x`,
    "0".repeat(48),
    7,
    wallet.publicKeyHex,
  ]) {
    const { status, refusal } = await send("POST", "/wallets/challenge", { address });
    assert.deepEqual([status, ...refusal], [400, "invalid_request", "address"]);
  }
  for (const body of [{ nonce: "0" }, { signature: "0x00" }, { nonce: 1, signature: "0x00" }]) {
    assert.equal((await send("POST", "/wallets", body)).refusal[0], "invalid_request");
  }
  const noKey = await fetch(`${gateway.url}/v1/wallets`);
  assert.equal(noKey.status, 401);
  await noKey.body?.cancel();

  for (let i = 0; i < 10; i += 1) await challenge(wallet.address);
  const limited = await send("POST", "/wallets/challenge", { address: wallet.address });
  assert.deepEqual([limited.status, limited.refusal[0]], [429, "rate_limited"]);
  assert.ok(Number(limited.retryAfter) >= 1);
});

test("an account has at most 20 open challenges and 20 wallets", async (t) => {
  const { gateway, newCustomer } = await openWallets(t);
  const { account, send, link, challenge, addresses } = await newCustomer();
  await gateway.database.query(
    `INSERT INTO ledger.linked_wallet (nonce, address, account, message, signature, linked_ms)
       SELECT 'n' || n || $1, 'w' || n || $1, $1, 'w' || n || $1 || ' n' || n || $1, $2, 1 FROM generate_series(1, 20) n`,
    [account, new Uint8Array(64)],
  );
  const wallet = newWallet();
  const { nonce, message } = await challenge(wallet.address);
  assert.match((await link(nonce, wallet.signRaw(message))).refusal.join(), /^invalid_request/);
  assert.equal((await addresses()).length, 20);
  await gateway.database.query(
    `INSERT INTO ledger.wallet_challenge (nonce, purpose, account, address, domain, message, issued_ms, expires_ms)
       SELECT 'c' || n || $1, 'link', $1, 'w', 'd', 'm', 1, $2 FROM generate_series(1, 20) n`,
    [account, Date.now() + 60_000],
  );
  const full = await send("POST", "/wallets/challenge", { address: wallet.address });
  assert.deepEqual([full.status, full.retryAfter], [429, "300"]);
});
