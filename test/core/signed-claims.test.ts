import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { compactVerify, importJWK } from "jose";
import { decodeJws, signingKey, signJws } from "../../src/core/jws.ts";
import {
  BATCH_CLAIMS_MAX,
  CLAIMS_TOKEN_CHARS_MAX,
  claimsHashOf,
  decodeClaims,
  encodeClaims,
  signClaims,
  verifyClaims,
} from "../../src/core/signed-claims.ts";
import {
  EMPTY_EDGE,
  grown,
  inclusionProof,
  leafHashOf,
  rootOf,
  verifyInclusion,
} from "../../src/usage-log/tree.ts";

const key = signingKey();
const stranger = signingKey();

function signed(n: number, by = key): string[] {
  const claims = Array.from({ length: n }, (_, i) => encodeClaims({ i, of: n }));
  return signClaims("usage-receipt", claims, by);
}

test("claims signed alone are a compact JWS that jose accepts", async () => {
  const [token = ""] = signed(1);
  const { payload, protectedHeader } = await compactVerify(
    token,
    await importJWK({ ...key.jwk, alg: "EdDSA" }),
  );
  assert.deepEqual(JSON.parse(Buffer.from(payload).toString()), { i: 0, of: 1 });
  assert.deepEqual(protectedHeader, { alg: "EdDSA", typ: "usage-receipt+jwt", kid: key.kid });
  assert.deepEqual(verifyClaims(token, "usage-receipt", key), { i: 0, of: 1 });
});

test("a batch is a JWS that jose accepts over the root of an RFC 6962 tree, at every size", async () => {
  for (const n of [2, 3, 4, 5, 7, 8, 9, 31, 32, 33, 255, BATCH_CLAIMS_MAX]) {
    const tokens = signed(n);
    const leaves = tokens.map((token) => leafHashOf(Buffer.from(token.split("~")[0] ?? "")));
    const root = rootOf(grown(EMPTY_EDGE, leaves));
    const [jws = ""] = new Set(tokens.map((token) => token.split("~")[3]));
    const { payload, protectedHeader } = await compactVerify(
      jws,
      await importJWK({ ...key.jwk, alg: "EdDSA" }),
    );
    assert.equal(protectedHeader.typ, "usage-receipt-batch+jwt");
    assert.deepEqual(JSON.parse(Buffer.from(payload).toString()), {
      v: 1,
      n,
      root: root.toString("base64url"),
    });
    for (const [i, token] of tokens.entries()) {
      const [, index, path = ""] = token.split("~");
      assert.equal(index, String(i));
      const proof = path.split(".").map((hash) => Buffer.from(hash, "base64url"));
      assert.deepEqual(proof, inclusionProof(i, leaves));
      assert(
        verifyInclusion({
          index: BigInt(i),
          size: BigInt(n),
          leafHash: leaves[i] ?? Buffer.alloc(0),
          proof,
          root,
        }),
      );
      assert.deepEqual(verifyClaims(token, "usage-receipt", key), { i, of: n });
      assert.equal(claimsHashOf(token), leaves[i]?.toString("base64url"));
      assert(token.length < CLAIMS_TOKEN_CHARS_MAX / 4);
    }
  }
});

test("claims have one hash, alone or in a batch", () => {
  const claims = encodeClaims({ a: 1 });
  const [alone = ""] = signClaims("grant", [claims], key);
  const [first = ""] = signClaims("grant", [claims, encodeClaims({ b: 2 })], key);
  assert.equal(claimsHashOf(alone), claims.hash);
  assert.equal(claimsHashOf(first), claimsHashOf(alone));
});

test("a batch of one kind, by one key, is neither another kind nor by another key, also when it was seen before", () => {
  const [token = ""] = signed(3);
  for (let round = 0; round < 2; round++) {
    assert.equal(verifyClaims(token, "countersign", key), undefined);
    assert.equal(verifyClaims(token, "usage-receipt", stranger), undefined);
    assert.notEqual(verifyClaims(token, "usage-receipt", key), undefined);
  }
  const forged = signed(3, stranger)[0] ?? "";
  assert.equal(verifyClaims(forged, "usage-receipt", key), undefined);
  assert.equal(verifyClaims(forged, "usage-receipt", { ...key, kid: stranger.kid }), undefined);
});

test("no changed, missing or added character of a token of a batch gives a valid one", () => {
  for (const token of [signed(5)[4] ?? "", signed(6)[2] ?? "", signed(1)[0] ?? ""]) {
    assert.notEqual(verifyClaims(token, "usage-receipt", key), undefined);
    for (let i = 0; i <= token.length; i += 1) {
      for (const c of ["", "A", "Q", "~", "0", "1", "=", "."]) {
        const changed = `${token.slice(0, i)}${c}${token.slice(i + 1)}`;
        if (changed !== token)
          assert.equal(verifyClaims(changed, "usage-receipt", key), undefined, `${i} ${c}`);
      }
      const longer = `${token.slice(0, i)}A${token.slice(i)}`;
      assert.equal(verifyClaims(longer, "usage-receipt", key), undefined, `${i} longer`);
    }
  }
});

test("parts of two batches do not make a third", () => {
  const [a, b] = [signed(4), signed(4, key).concat(signed(5))];
  const part = (token: string | undefined, i: number): string => token?.split("~")[i] ?? "";
  fc.assert(
    fc.property(
      fc.tuple(...Array.from({ length: 4 }, () => fc.tuple(fc.nat(1), fc.nat(3)))),
      (choices) => {
        const parts = choices.map(([which, i], at) => part((which === 0 ? a : b)[i], at));
        const token = parts.join("~");
        const payload = verifyClaims(token, "usage-receipt", key);
        if (payload !== undefined) assert([...a, ...b].includes(token), token);
      },
    ),
    { numRuns: 2_000 },
  );
});

for (const { name, batch } of [
  { name: "another version", batch: { v: 2, n: 2 } },
  { name: "one leaf", batch: { v: 1, n: 1 } },
  { name: "257 leaves", batch: { v: 1, n: 257 } },
  { name: "half a leaf", batch: { v: 1, n: 2.5 } },
  { name: "an unknown member", batch: { v: 1, n: 2, x: 1 } },
]) {
  test(`decodeClaims() refuses a batch of ${name}`, () => {
    const [token = ""] = signed(2);
    const { root } = decodeJws(token.split("~")[3] ?? "")?.payload ?? {};
    const jws = signJws("usage-receipt-batch+jwt", { ...batch, root }, key);
    assert.equal(decodeClaims(token.split("~").slice(0, 3).concat(jws).join("~")), undefined);
  });
}

test("decodeClaims() refuses noise of any length without an exception", () => {
  for (const token of ["", "~", "~~~", "a~0~~b.c.d", "A~0~A~A.A.A", "x".repeat(10_000)])
    assert.equal(decodeClaims(token), undefined);
  fc.assert(
    fc.property(fc.array(fc.string({ unit: "binary" }), { maxLength: 5 }), (parts) => {
      assert.equal(decodeClaims(parts.join("~")), undefined);
      assert.equal(typeof claimsHashOf(parts.join("~")), "string");
    }),
  );
});
