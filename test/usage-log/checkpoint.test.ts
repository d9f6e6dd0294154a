import assert from "node:assert/strict";
import { createHash, createPublicKey, verify } from "node:crypto";
import { test } from "node:test";
import { signingKey } from "../../src/core/jws.ts";
import { signCheckpoint, verifyCheckpoint } from "../../src/usage-log/checkpoint.ts";

const key = signingKey();
const checkpoint = { origin: "log.example/gateway-1", size: 12_345n, root: Buffer.alloc(32, 7) };

/** A note parser after the text of C2SP signed-note, independent of the one under test. */
function openNote(note: string, publicKey: Buffer): { text: string; name: string } {
  const match = /^((?:.|\n)*\n)\n— (\S+) ([A-Za-z0-9+/=]+)\n$/u.exec(note);
  assert(match, "a text, an empty line, one signature line");
  const [, text = "", name = "", base64 = ""] = match;
  const blob = Buffer.from(base64, "base64");
  assert.equal(blob.length, 68);
  const id = createHash("sha256")
    .update(Buffer.concat([Buffer.from(name), Buffer.of(0x0a, 0x01), publicKey]))
    .digest();
  assert.deepEqual(blob.subarray(0, 4), id.subarray(0, 4));
  const spki = Buffer.concat([Buffer.from("302a300506032b6570032100", "hex"), publicKey]);
  const object = createPublicKey({ key: spki, format: "der", type: "spki" });
  assert(verify(null, Buffer.from(text), object, blob.subarray(4)));
  return { text, name };
}

test("signCheckpoint() writes a note that an independent parser opens", () => {
  const { text, name } = openNote(
    signCheckpoint(checkpoint, key),
    Buffer.from(key.jwk.x, "base64url"),
  );
  assert.equal(name, checkpoint.origin);
  assert.equal(text, `log.example/gateway-1\n12345\n${Buffer.alloc(32, 7).toString("base64")}\n`);
});

test("verifyCheckpoint() reads what signCheckpoint() wrote", () => {
  const note = Buffer.from(signCheckpoint(checkpoint, key));
  assert.deepEqual(verifyCheckpoint(note, key), checkpoint);
});

test("verifyCheckpoint() passes over signatures of others", () => {
  const [text = "", line = ""] = signCheckpoint(checkpoint, key).split("\n\n");
  const witness = `— witness.example ${Buffer.alloc(76, 1).toString("base64")}`;
  assert.deepEqual(
    verifyCheckpoint(Buffer.from(`${text}\n\n${witness}\n${line}`), key),
    checkpoint,
  );
  assert.equal(verifyCheckpoint(Buffer.from(`${text}\n\n${witness}\n`), key), undefined);
});

test("verifyCheckpoint() refuses other keys, and every change of a byte", () => {
  const note = Buffer.from(signCheckpoint(checkpoint, key));
  assert.equal(verifyCheckpoint(note, signingKey()), undefined);
  for (let at = 0; at < note.length; at += 1) {
    const changed = Buffer.from(note);
    changed[at] = (changed[at] ?? 0) ^ 0x01;
    assert.equal(verifyCheckpoint(changed, key), undefined, `byte ${at}`);
    assert.equal(verifyCheckpoint(note.subarray(0, at), key), undefined, `cut at ${at}`);
  }
});

for (const [why, text] of [
  ["a size with a leading zero", `o\n012\n${Buffer.alloc(32).toString("base64")}\n`],
  ["a short root", `o\n12\n${Buffer.alloc(31).toString("base64")}\n`],
  ["an extension line", `o\n12\n${Buffer.alloc(32).toString("base64")}\nmore\n`],
] as const) {
  test(`verifyCheckpoint() refuses ${why}`, () => {
    const signed = signCheckpoint({ ...checkpoint, origin: "o" }, key);
    const line = signed.slice(signed.indexOf("\n\n"));
    assert.equal(verifyCheckpoint(Buffer.from(text.slice(0, -1) + line), key), undefined);
  });
}

test("signCheckpoint() refuses a name that a note cannot carry", () => {
  for (const origin of ["", "two words", "a+b", "a\nb"])
    assert.throws(() => signCheckpoint({ ...checkpoint, origin }, key), /cannot be named/);
});
