import assert from "node:assert/strict";
import { test } from "node:test";
import { chainIdOf, formatSignInMessage } from "../../src/core/sign-in-message.ts";

test("formatSignInMessage() is the text of CAIP-122", () => {
  const text = formatSignInMessage({
    domain: "gateway.example:8080",
    address: "5GrwvaEF5zXb26Fz9rcQpDWS57CtERHpNehXCPcNoHGKutQY",
    statement: "Link this wallet.",
    uri: "https://gateway.example:8080/v1/wallets",
    chainId: chainIdOf("0x2f0555cc76fc2840a25a6ea3b9637146806f1f44b090c175ffde2a7e5ab36c03"),
    nonce: "0123456789abcdef",
    issuedMs: 0,
    expiresMs: 300_000,
  });
  assert.equal(
    text,
    `gateway.example:8080 wants you to sign in with your Bittensor account:
5GrwvaEF5zXb26Fz9rcQpDWS57CtERHpNehXCPcNoHGKutQY

Link this wallet.

URI: https://gateway.example:8080/v1/wallets
Version: 1
Chain ID: polkadot:2f0555cc76fc2840a25a6ea3b9637146
Nonce: 0123456789abcdef
Issued At: 1970-01-01T00:00:00.000Z
Expiration Time: 1970-01-01T00:05:00.000Z`,
  );
});
