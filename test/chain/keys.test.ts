import assert from "node:assert/strict";
import { test } from "node:test";
import { encodeAddress } from "@polkadot/util-crypto";
import {
  addressOf,
  canonicalAddressOf,
  deriveDepositAddress,
  keypairOf,
  newSecret,
  publicKeyHexOf,
  verifySignedText,
  verifySr25519,
} from "../../src/chain/keys.ts";

const ALICE = "5GrwvaEF5zXb26Fz9rcQpDWS57CtERHpNehXCPcNoHGKutQY";
const ALICE_HEX = "d43593c715fdd31c61141abd04a99fd6822c8558854ccde39a5684e7a56da27d";
const SEED = `0x${"5e".repeat(32)}`;
const PHRASE = "bottom drive obey lake curtain smoke basket hold race lonely fit walk";

test("keypairOf() knows the development keys, seeds, mnemonics and paths", () => {
  assert.equal(keypairOf("//Alice").address, ALICE);
  assert.equal(keypairOf("//Alice").publicKeyHex, ALICE_HEX);
  assert.equal(keypairOf(`${PHRASE}//Alice`).address, ALICE);
  assert.notEqual(keypairOf(SEED).address, keypairOf(`${SEED}//a`).address);
  assert.notEqual(keypairOf(`${SEED}//a`).address, keypairOf(`${SEED}//a/b`).address);
  assert.notEqual(keypairOf(newSecret()).address, keypairOf(newSecret()).address);
});

for (const secret of ["", "Alice", "0x1234", `${SEED}00`, `${PHRASE} extra`, "5e".repeat(32)]) {
  test(`keypairOf() refuses ${JSON.stringify(secret).slice(0, 20)} and does not repeat it`, () => {
    assert.throws(
      () => keypairOf(secret),
      (error: Error) => secret === "" || !error.message.includes(secret),
    );
  });
}

test("deriveDepositAddress() equals the derivation from the secret for 50 accounts", () => {
  const secret = newSecret();
  const treasury = keypairOf(`${secret}//deposits`);
  const seen = new Set<string>();
  for (let index = 0; index < 50; index++) {
    const address = deriveDepositAddress(treasury.publicKeyHex, index);
    assert.equal(address, keypairOf(`${secret}//deposits/acct-${index}`).address);
    seen.add(address);
  }
  assert.equal(seen.size, 50);
});

test("deriveDepositAddress() refuses indices and keys that are none", () => {
  for (const index of [-1, 0.5, Number.NaN, 2 ** 53]) {
    assert.throws(() => deriveDepositAddress(ALICE_HEX, index));
  }
  for (const key of ["", "0x", `0x${ALICE_HEX}`, ALICE_HEX.slice(2), ALICE]) {
    assert.throws(() => deriveDepositAddress(key, 0));
  }
});

test("verifySignedText() accepts a text as it is and as wallets wrap it, under any prefix, and no other", () => {
  const pair = keypairOf(newSecret());
  const key = Buffer.from(pair.publicKeyHex, "hex");
  for (const signed of ["text", "<Bytes>text</Bytes>"]) {
    const signature = pair.sign(Buffer.from(signed));
    for (const prefix of [0, 2, 42])
      assert(verifySignedText("text", signature, encodeAddress(key, prefix)), signed);
    assert(!verifySignedText("text.", signature, pair.address));
    assert(!verifySignedText("text", signature, ALICE));
    assert(!verifySignedText("text", signature.subarray(1), pair.address));
  }
  assert(!verifySignedText("text", pair.sign(Buffer.from("<Bytes>text")), pair.address));
});

test("canonicalAddressOf() gives one text for one key", () => {
  for (const prefix of [0, 2, 42])
    assert.equal(canonicalAddressOf(encodeAddress(Buffer.from(ALICE_HEX, "hex"), prefix)), ALICE);
  assert.throws(() => canonicalAddressOf(ALICE_HEX));
});

test("verifySr25519() accepts exactly the signed bytes", () => {
  const pair = keypairOf(newSecret());
  const message = Buffer.from("statement");
  const signature = pair.sign(message);
  assert.equal(signature.length, 64);
  assert(verifySr25519(message, signature, pair.publicKeyHex));
  assert(!verifySr25519(Buffer.from("statemenT"), signature, pair.publicKeyHex));
  assert(!verifySr25519(message, signature, keypairOf(newSecret()).publicKeyHex));
  for (const at of [0, 31, 32, 62]) {
    const flipped = Uint8Array.from(signature, (byte, i) => (i === at ? byte ^ 1 : byte));
    assert(!verifySr25519(message, flipped, pair.publicKeyHex));
  }
});

test("verifySr25519() does not look inside <Bytes>", () => {
  const pair = keypairOf(newSecret());
  const signature = pair.sign(Buffer.from("<Bytes>text</Bytes>"));
  assert(!verifySr25519(Buffer.from("text"), signature, pair.publicKeyHex));
  assert(
    !verifySr25519(
      Buffer.from("<Bytes>text</Bytes>"),
      pair.sign(Buffer.from("text")),
      pair.publicKeyHex,
    ),
  );
});

test("verifySr25519() is false for malformed keys and signatures", () => {
  const pair = keypairOf(newSecret());
  const message = Buffer.from("m");
  const signature = pair.sign(message);
  for (const bad of [
    new Uint8Array(0),
    signature.subarray(1),
    Buffer.concat([signature, signature]),
  ]) {
    assert.equal(verifySr25519(message, bad, pair.publicKeyHex), false);
  }
  for (const bad of [
    "",
    "zz".repeat(32),
    pair.address,
    `0x${pair.publicKeyHex}`,
    "ff".repeat(32),
  ]) {
    assert.equal(verifySr25519(message, signature, bad), false);
  }
});

test("publicKeyHexOf() reads any prefix and addressOf() writes prefix 42", () => {
  assert.equal(publicKeyHexOf(ALICE), ALICE_HEX);
  assert.equal(addressOf(ALICE_HEX), ALICE);
  const polkadot = encodeAddress(Buffer.from(ALICE_HEX, "hex"), 0);
  assert.notEqual(polkadot, ALICE);
  assert.equal(publicKeyHexOf(polkadot), ALICE_HEX);
});

for (const { name, address } of [
  { name: "a wrong checksum", address: ALICE.replace("5Grw", "5Grv") },
  { name: "a missing character", address: ALICE.slice(0, -1) },
  { name: "hex", address: ALICE_HEX },
  { name: "0x-hex", address: `0x${ALICE_HEX}` },
  { name: "nothing", address: "" },
  { name: "a 33-byte key", address: encodeAddress(new Uint8Array(33), 42) },
  { name: "a short account index", address: encodeAddress(new Uint8Array(8), 42) },
  { name: "letters outside base58", address: ALICE.replace("G", "0") },
]) {
  test(`publicKeyHexOf() refuses ${name}`, () => {
    assert.throws(() => publicKeyHexOf(address));
  });
}
