import assert from "node:assert/strict";
import { test } from "node:test";
import {
  newBeaconSecret,
  openTimelocked,
  publicKeyOf,
  signRound,
  TimelockError,
} from "../../src/devchain/timelock.ts";
import { decryptWith, encryptTo } from "./tlock-oracle.ts";

const hex = (text: string) => Buffer.from(text, "hex");
const MESSAGE = Buffer.from("weights payload 123");
/** Drand's quicknet and what it published for round 1000. */
const QUICKNET_KEY = hex(
  "83cf0f2896adee7eb8b5f01fcad3912212c437e0073e911fb90022d3e760183c8c4b450b6a0a6c3ac6a5776a2d1064510d1fec758c921cc22b0e17e63aaf4bcb5ed66304de9cf809bd274ca73bab4af5a6e9c76a4bc09e76eae8991ef5ece45a",
);
const QUICKNET_ROUND = 1_000n;
const QUICKNET_SIGNATURE = hex(
  "b44679b9a59af2ec876b1a6b1ad52ea9b1615fc3982b19576350f93447cb1125e342b73a8dd2bacbe47e4b6b63ed5e39",
);

test("openTimelocked() opens what Rust encrypted to a published round of quicknet", () => {
  const ciphertext = encryptTo(QUICKNET_KEY, QUICKNET_ROUND, MESSAGE);
  assert.deepEqual(Buffer.from(openTimelocked(ciphertext, QUICKNET_SIGNATURE)), MESSAGE);
});

test("signRound() signs like drand: Rust opens with it what was encrypted to the public key", () => {
  const secret = newBeaconSecret();
  const ciphertext = encryptTo(publicKeyOf(secret), 7n, MESSAGE);
  const signature = signRound(secret, 7n);
  assert.deepEqual(Buffer.from(decryptWith(signature, ciphertext)), MESSAGE);
  assert.deepEqual(Buffer.from(openTimelocked(ciphertext, signature)), MESSAGE);
});

test("openTimelocked() refuses another round's signature and every damage", () => {
  const secret = newBeaconSecret();
  const ciphertext = encryptTo(publicKeyOf(secret), 7n, MESSAGE);
  const signature = signRound(secret, 7n);
  const refused = (bytes: Uint8Array, by = signature) =>
    assert.throws(() => openTimelocked(bytes, by), TimelockError);
  refused(ciphertext, signRound(secret, 8n));
  refused(
    ciphertext,
    signature.map((byte, i) => (i === 20 ? byte ^ 1 : byte)),
  );
  for (const length of [0, 1, 95, 96, 103, 104, 135, 136, ciphertext.length - 1])
    refused(ciphertext.subarray(0, length));
  // The point, a length, V, W, the body, the nonce, the suite.
  for (const at of [0, 50, 96, 103, 110, 150, 190, ciphertext.length - 30, ciphertext.length - 1])
    refused(ciphertext.map((byte, i) => (i === at ? byte ^ 1 : byte)));
});
