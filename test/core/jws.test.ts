import assert from "node:assert/strict";
import { test } from "node:test";
import { CompactSign, calculateJwkThumbprint, compactVerify, importJWK } from "jose";
import {
  decodeJws,
  pemOf,
  signingKey,
  signJws,
  verifyingKey,
  verifyJws,
} from "../../src/core/jws.ts";

const key = signingKey();

test("signJws() is accepted by jose, which computes the same key id", async () => {
  const token = signJws("grant+jwt", { rid: "r", n: 1 }, key);
  const { payload, protectedHeader } = await compactVerify(
    token,
    await importJWK({ ...key.jwk, alg: "EdDSA" }),
  );
  assert.deepEqual(JSON.parse(Buffer.from(payload).toString()), { rid: "r", n: 1 });
  assert.deepEqual(protectedHeader, { alg: "EdDSA", typ: "grant+jwt", kid: key.kid });
  assert.equal(await calculateJwkThumbprint({ ...key.jwk }), key.kid);
});

test("verifyJws() accepts what jose signs", async () => {
  const token = await new CompactSign(Buffer.from('{"a":true}'))
    .setProtectedHeader({ alg: "EdDSA", typ: "grant+jwt", kid: key.kid })
    .sign(key.privateKey);
  assert.deepEqual(verifyJws(token, "grant+jwt", key), { a: true });
});

test("verifyJws() refuses another type, another key and every single changed character", () => {
  const token = signJws("grant+jwt", { rid: "r" }, key);
  assert.equal(verifyJws(token, "usage-receipt+jwt", key), undefined);
  assert.equal(verifyJws(token, "grant+jwt", signingKey()), undefined);
  for (let i = 0; i < token.length; i += 1) {
    // The last character of the signature carries four bits that base64url ignores; those must not matter either way.
    const changed = `${token.slice(0, i)}${token[i] === "A" ? "Q" : "A"}${token.slice(i + 1)}`;
    const payload = verifyJws(changed, "grant+jwt", key);
    if (payload !== undefined) {
      assert.equal(i, token.length - 1);
      assert.deepEqual(payload, { rid: "r" });
    }
  }
});

for (const [name, header] of [
  ["alg none", { alg: "none", typ: "grant+jwt", kid: key.kid }],
  ["alg HS256", { alg: "HS256", typ: "grant+jwt", kid: key.kid }],
  ["an embedded key", { alg: "EdDSA", typ: "grant+jwt", kid: key.kid, jwk: key.jwk }],
  ["a key address", { alg: "EdDSA", typ: "grant+jwt", kid: key.kid, jku: "https://example.com" }],
  ["no key id", { alg: "EdDSA", typ: "grant+jwt" }],
] as const) {
  test(`decodeJws() refuses a header with ${name}`, () => {
    const part = (value: object) => Buffer.from(JSON.stringify(value)).toString("base64url");
    assert.equal(decodeJws(`${part(header)}.${part({})}.${"A".repeat(86)}`), undefined);
  });
}

for (const token of ["", ".", "..", "a.b", "a.b.c.d", "!.!.!", "x".repeat(10_000)]) {
  test(`decodeJws() refuses ${JSON.stringify(token.slice(0, 12))} of length ${token.length}`, () => {
    assert.equal(decodeJws(token), undefined);
  });
}

test("a signing key survives PEM; anything but an Ed25519 key is refused", () => {
  assert.equal(signingKey(pemOf(key)).kid, key.kid);
  assert.throws(() => signingKey("nonsense"));
  for (const jwk of [
    undefined,
    {},
    { kty: "EC", crv: "P-256", x: key.jwk.x },
    { ...key.jwk, x: "short" },
  ]) {
    assert.equal(verifyingKey(jwk), undefined);
  }
});
