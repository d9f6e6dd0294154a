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

test("openTimelocked() refuses a ciphertext that opens but was not made by the rules", () => {
  const secret = new Uint8Array(32).fill(1);
  // The same esk, sigma and body; U is r·G2 in the first, 12345·G2 in the second.
  const honest = hex(
    "ab9e1293fa46ff926f45be6a0685558e6234138124e5868b9c507d4ee88b672fa30b2594df61f8456287" +
      "6be964a8f6b00bf206edf264eee42b381f8b4302b4182c7e0c7587ddd2c96f30ce5a44e3ed65a16e516d" +
      "48015891e9936d51bd5a137b2000000000000000dba5a0bdfec0093cfa301e8042075038c341261f8d18" +
      "727b986958bd5cf6500a20000000000000006688a7c77bf932f188f546db7f6cca42c5ab1075a69ba2d5" +
      "82f1e5334cc80b092e0000000000000012000000000000006c25eda151d3fa2cee8171b974040c044ae1" +
      "0c0000000000000004040404040404040404040408000000000000004145535f47434d5f",
  );
  const forged = hex(
    "849d5b3d40fe475b145eebf53d97981bde5a64dea2964807f82561e709e804fee3ecfb5356631b2dedbe" +
      "82d3d1dad0bb037ece3ecc512226a1e56fbe0b33aab2080ab467d14aadeff5dcd8adc6613b926bc97601" +
      "a4a1f1287793757b10d68a9320000000000000004b5d9cc021250e8342bf1545787221bc7e1a448d2c60" +
      "2f2f262eb7d5663d893620000000000000006688a7c77bf932f188f546db7f6cca42c5ab1075a69ba2d5" +
      "82f1e5334cc80b092e0000000000000012000000000000006c25eda151d3fa2cee8171b974040c044ae1" +
      "0c0000000000000004040404040404040404040408000000000000004145535f47434d5f",
  );
  const signature = signRound(secret, 7n);
  assert.equal(Buffer.from(openTimelocked(honest, signature)).toString(), "hi");
  assert.equal(Buffer.from(decryptWith(signature, honest)).toString(), "hi");
  assert.throws(() => openTimelocked(forged, signature), /not one for this round/);
});
