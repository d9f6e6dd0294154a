import assert from "node:assert/strict";
import { createHash, randomInt } from "node:crypto";
import { after, test } from "node:test";
import {
  EVIDENCE_BYTES_MAX,
  EvidenceError,
  NO_NONCE,
  parseEvidence,
  REASONS,
  type ReasonCode,
} from "../../src/attestation/evidence.ts";
import { localPolicy, type Policy, productionPolicy } from "../../src/attestation/policy.ts";
import { hotkeyCounterSignBytes } from "../../src/attestation/report-data.ts";
import { SIMULATED_IMAGE } from "../../src/attestation/simulated/image.ts";
import { buildStatement } from "../../src/attestation/simulated/produce.ts";
import {
  FINNEY_GENESIS,
  type VerifyOptions,
  verifyEvidence,
} from "../../src/attestation/verify-evidence.ts";
import { signingKey, signJws } from "../../src/core/jws.ts";
import { enclaveIdOf } from "../../src/core/statement.ts";
import {
  blockHashOf,
  digest,
  evidenceWith,
  freshness,
  HEAD_BLOCK,
  hotkey,
  NET,
  NONCE,
  NOW_MS,
  NOW_SECONDS,
  options,
  receiptKey,
  simRoot,
  statementFields,
  TLS_SPKI,
  testHotkey,
} from "./fixture.ts";

const reached = new Set<ReasonCode>();

function refusalOf(wire: unknown, changes: Partial<VerifyOptions> = {}): ReasonCode | "accepted" {
  try {
    verifyEvidence(wire, options(changes));
    return "accepted";
  } catch (error) {
    assert(error instanceof EvidenceError, `threw something else: ${String(error)}`);
    assert.equal(error.stage, error.code.split("/")[0]);
    reached.add(error.code);
    return error.code;
  }
}

test("verifyEvidence() accepts honest evidence and says what it is", () => {
  const evidence = evidenceWith();
  const verified = verifyEvidence(JSON.stringify(evidence), options());
  const statement = Buffer.from(evidence.statement, "base64url");
  assert.deepEqual(verified.statementBytes, statement);
  assert.equal(verified.enclave, enclaveIdOf(statement));
  assert.equal(verified.receiptKey.kid, receiptKey.kid);
  assert.equal(verified.kind, "sim");
  assert.equal(verified.security, "simulated");
  assert.equal(verified.block, HEAD_BLOCK);
  assert.equal(verified.expiresMs, NOW_MS + 600_000);
  assert.equal(verified.evidenceJson, JSON.stringify(evidence));
});

test("verifyEvidence() takes text, bytes and parsed JSON alike", () => {
  const evidence = evidenceWith();
  for (const wire of [evidence, JSON.stringify(evidence), Buffer.from(JSON.stringify(evidence))])
    assert.equal(refusalOf(wire), "accepted");
});

test("verifyEvidence() accepts evidence without a nonce only when none was sent", () => {
  const undated = evidenceWith({ fresh: freshness(HEAD_BLOCK, NO_NONCE) });
  assert.equal(refusalOf(undated), "fresh/challenge");
  const { nonce: _, ...withoutNonce } = options();
  assert.equal(verifyEvidence(undated, withoutNonce).block, HEAD_BLOCK);
  // An auditor reads evidence that answered someone else's challenge; its block still dates it.
  assert.equal(verifyEvidence(evidenceWith(), withoutNonce).block, HEAD_BLOCK);
});

test("verifyEvidence() lets an auditor of another connection say so", () => {
  const expected = { ...options().expected, tlsSpki: null };
  assert.equal(refusalOf(evidenceWith(), { expected }), "accepted");
});

test("verifyEvidence() ends its verdict with the statement or the token, if sooner", () => {
  const soon = evidenceWith({ statement: { exp: NOW_SECONDS + 10 } });
  assert.equal(verifyEvidence(soon, options()).expiresMs, NOW_MS + 10_000);
  const older = evidenceWith({ nowMs: NOW_MS - 500_000 });
  assert.equal(verifyEvidence(older, options()).expiresMs, NOW_MS + 100_000);
});

/** A token with one claim changed, signed by the root again. */
function reSigned(changes: Record<string, unknown>): unknown {
  const evidence = evidenceWith();
  const [, payload = ""] = evidence.body.token.split(".");
  const claims = JSON.parse(Buffer.from(payload, "base64url").toString()) as object;
  return {
    ...evidence,
    body: { token: signJws("simulated-tee+jwt", { ...claims, ...changes }, simRoot) },
  };
}

function withExpected(changes: Partial<VerifyOptions["expected"]>): Partial<VerifyOptions> {
  return { expected: { ...options().expected, ...changes } };
}

const evidence = evidenceWith();
const other = testHotkey();
const otherNonce = "cd".repeat(32);

function hardwarePolicy(): Policy {
  return productionPolicy({
    v: 1,
    kinds: ["tdx-dstack", "sev-snp"],
    images: [SIMULATED_IMAGE],
    max_age_blocks: 50,
  });
}

const CASES: readonly {
  name: string;
  wire: unknown;
  changes?: Partial<VerifyOptions>;
  code: ReasonCode;
}[] = [
  { name: "too long a text", wire: " ".repeat(EVIDENCE_BYTES_MAX + 1), code: "parse/too-large" },
  {
    name: "too many bytes in few characters",
    wire: `"${"€".repeat(100_000)}"`,
    code: "parse/too-large",
  },
  { name: "too many bytes", wire: Buffer.alloc(EVIDENCE_BYTES_MAX + 1), code: "parse/too-large" },
  {
    name: "too large an object",
    wire: { ...evidence, statement: "A".repeat(EVIDENCE_BYTES_MAX) },
    code: "parse/too-large",
  },
  { name: "deep nesting", wire: "[".repeat(100_000), code: "parse/too-deep" },
  { name: "no JSON", wire: "{", code: "parse/not-json" },
  { name: "nothing", wire: undefined, code: "parse/not-json" },
  { name: "a bigint", wire: { v: 1n }, code: "parse/not-json" },
  { name: "an array", wire: [], code: "parse/malformed" },
  { name: "another version", wire: { ...evidence, v: 2 }, code: "parse/malformed" },
  { name: "an extra field", wire: { ...evidence, extra: 1 }, code: "parse/malformed" },
  { name: "another kind", wire: { ...evidence, kind: "tdx" }, code: "parse/kind" },
  {
    name: "a statement that is no statement",
    wire: { ...evidence, statement: Buffer.from("{}").toString("base64url") },
    code: "parse/statement",
  },
  { name: "no token", wire: { ...evidence, body: { token: "a.b.c" } }, code: "crypto/token" },
  {
    name: "a token of another type",
    wire: { ...evidence, body: { token: signJws("grant+jwt", {}, simRoot) } },
    code: "crypto/token",
  },
  { name: "another notice", wire: reSigned({ notice: "CONFIDENTIAL" }), code: "crypto/token" },
  { name: "an extra claim", wire: reSigned({ extra: 1 }), code: "crypto/token" },
  { name: "another root", wire: evidenceWith({ root: signingKey() }), code: "crypto/signer" },
  {
    name: "another root under the root's name",
    wire: evidenceWith({ root: { ...signingKey(), kid: simRoot.kid } }),
    code: "crypto/signature",
  },
  { name: "an old token", wire: evidenceWith({ nowMs: NOW_MS - 600_000 }), code: "crypto/expired" },
  {
    name: "a token from the future",
    wire: evidenceWith({ nowMs: NOW_MS + 62_000 }),
    code: "crypto/not-yet-valid",
  },
  {
    name: "another statement of the same relay",
    wire: {
      ...evidence,
      statement: buildStatement({ ...statementFields(), worker: "w2" }).toString("base64url"),
    },
    code: "binding/statement",
  },
  {
    name: "another block after signing",
    wire: { ...evidence, fresh: freshness(HEAD_BLOCK - 1) },
    code: "binding/freshness",
  },
  {
    name: "the right challenge written over another",
    wire: { ...evidenceWith({ fresh: freshness(HEAD_BLOCK, otherNonce) }), fresh: freshness() },
    code: "binding/freshness",
  },
  {
    name: "another image in the token",
    wire: reSigned({ image: `sha256:${"00".repeat(32)}` }),
    code: "binding/image",
  },
  {
    name: "another configuration in the token",
    wire: reSigned({ config: digest("other") }),
    code: "binding/config",
  },
  {
    name: "another chain",
    wire: evidenceWith({ statement: { net: `0x${"22".repeat(32)}` } }),
    code: "binding/net",
  },
  {
    name: "another subnet",
    wire: evidenceWith({ statement: { netuid: 3 } }),
    code: "binding/netuid",
  },
  {
    name: "a statement that names another hotkey, signed by the expected one",
    wire: evidenceWith({ statement: { hotkey: other.publicKeyHex } }),
    code: "binding/hotkey",
  },
  {
    name: "a statement that names the expected hotkey, signed by another",
    wire: evidenceWith({ signer: other }),
    code: "binding/hotkey-signature",
  },
  {
    name: "honest evidence of another hotkey",
    wire: evidenceWith({ statement: { hotkey: other.publicKeyHex }, signer: other }),
    code: "binding/hotkey",
  },
  {
    name: "a hotkey signature over another statement",
    wire: {
      ...evidence,
      hotkey_sig: Buffer.from(hotkey.sign(hotkeyCounterSignBytes(Buffer.from("x")))).toString(
        "hex",
      ),
    },
    code: "binding/hotkey-signature",
  },
  {
    name: "a hotkey signature without the domain",
    wire: {
      ...evidence,
      hotkey_sig: Buffer.from(hotkey.sign(Buffer.from(evidence.statement, "base64url"))).toString(
        "hex",
      ),
    },
    code: "binding/hotkey-signature",
  },
  {
    name: "another TLS key on the connection",
    wire: evidence,
    changes: withExpected({ tlsSpki: digest("other key") }),
    code: "binding/tls-key",
  },
  {
    name: "another challenge",
    wire: evidence,
    changes: { nonce: otherNonce },
    code: "fresh/challenge",
  },
  {
    name: "a block 51 blocks old",
    wire: evidenceWith({ fresh: freshness(HEAD_BLOCK - 51) }),
    code: "fresh/block-old",
  },
  {
    name: "a block after the head",
    wire: evidenceWith({ fresh: freshness(HEAD_BLOCK + 1) }),
    code: "fresh/block-ahead",
  },
  {
    name: "a block of another fork",
    wire: evidenceWith({ fresh: { ...freshness(), block_hash: `0x${"33".repeat(32)}` } }),
    code: "fresh/block-unknown",
  },
  {
    name: "a block that the verifier does not have",
    wire: evidence,
    changes: { blockHashOf: () => undefined },
    code: "fresh/block-unknown",
  },
  {
    name: "an expired statement",
    wire: evidenceWith({ statement: { exp: NOW_SECONDS } }),
    code: "fresh/statement-expired",
  },
  {
    name: "a statement from the future",
    wire: evidenceWith({ statement: { iat: NOW_SECONDS + 61 } }),
    code: "fresh/statement-not-yet-valid",
  },
  {
    name: "a policy that was not made here",
    wire: evidence,
    changes: { policy: { ...options().policy } },
    code: "policy/unknown",
  },
  {
    name: "a policy that was read from a file and made local",
    wire: evidence,
    changes: { policy: { ...hardwarePolicy(), network: "local", simRoot } as unknown as Policy },
    code: "policy/unknown",
  },
  {
    name: "a production policy",
    wire: evidence,
    changes: { policy: hardwarePolicy() },
    code: "policy/kind",
  },
  {
    name: "a local policy on finney",
    wire: evidenceWith({ statement: { net: FINNEY_GENESIS } }),
    changes: withExpected({ net: FINNEY_GENESIS }),
    code: "policy/public-network",
  },
  {
    name: "an image that is not listed",
    wire: evidenceWith({ statement: { image: `sha256:${"44".repeat(32)}` } }),
    code: "policy/image",
  },
  {
    name: "a statement for more than a day",
    wire: evidenceWith({ statement: { iat: NOW_SECONDS, exp: NOW_SECONDS + 86_401 } }),
    code: "policy/life",
  },
];

for (const { name, wire, changes, code } of CASES) {
  test(`verifyEvidence() refuses ${name}: ${code}`, () => {
    assert.equal(refusalOf(wire, changes), code);
  });
}

test("verifyEvidence() refuses a simulated statement that names hardware: binding/kind", () => {
  // The producer cannot write one, so the parts are signed by hand.
  const bytes = Buffer.from(
    buildStatement(statementFields()).toString().replace('"kind":"sim"', '"kind":"tdx"'),
  );
  const forged = {
    ...(reSigned({ report_data: reportDataFor(bytes) }) as typeof evidence),
    statement: bytes.toString("base64url"),
    hotkey_sig: Buffer.from(hotkey.sign(hotkeyCounterSignBytes(bytes))).toString("hex"),
  };
  assert.equal(refusalOf(forged), "binding/kind");
});

test("verifyEvidence() accepts a block exactly 50 blocks old, and a policy may ask for less", () => {
  const old = evidenceWith({ fresh: freshness(HEAD_BLOCK - 50) });
  assert.equal(refusalOf(old), "accepted");
  const strict = localPolicy({ simRoot: simRoot.jwk, images: [SIMULATED_IMAGE], maxAgeBlocks: 49 });
  assert.equal(refusalOf(old, { policy: strict }), "fresh/block-old");
});

test("verifyEvidence() refuses evidence in which any byte was changed", () => {
  const text = JSON.stringify(evidence);
  const bytes = Buffer.from(text);
  for (let position = 0; position < bytes.length; position++) {
    const mutated = Buffer.from(bytes);
    mutated[position] = (mutated[position] ?? 0) ^ (1 << randomInt(8));
    const verdict = refusalOf(mutated);
    assert.notEqual(verdict, "accepted", `byte ${position} of ${text.length}`);
  }
});

test("verifyEvidence() refuses a token whose signature is written in another way", () => {
  const { token } = evidence.body;
  // 64 bytes leave four bits of the last character unused; each of the sixteen decodes to the same signature.
  const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
  const last = alphabet.indexOf(token.at(-1) ?? "");
  for (let bits = 1; bits < 16; bits++) {
    const rewritten = token.slice(0, -1) + alphabet.charAt(last ^ bits);
    assert.equal(refusalOf({ ...evidence, body: { token: rewritten } }), "crypto/token");
  }
});

test("verifyEvidence() refuses evidence that was cut at any byte", () => {
  const bytes = Buffer.from(JSON.stringify(evidence));
  for (let length = 0; length < bytes.length; length++)
    assert.notEqual(refusalOf(bytes.subarray(0, length)), "accepted", `cut at ${length}`);
});

test("verifyEvidence() refuses evidence without any one field, or with a field of another type", () => {
  const wrong = [null, 1, -1, 1.5, 2 ** 53, "", "x", [], {}, true];
  const paths = [
    ...Object.keys(evidence).map((key) => [key]),
    ...Object.keys(evidence.fresh).map((key) => ["fresh", key]),
    ["body", "token"],
  ];
  for (const path of paths) {
    for (const value of [undefined, ...wrong]) {
      const copy = structuredClone(evidence) as unknown as Record<string, unknown>;
      const target = path.length === 1 ? copy : (copy[path[0] ?? ""] as Record<string, unknown>);
      const key = path.at(-1) ?? "";
      if (target[key] === value) continue;
      if (value === undefined) delete target[key];
      else target[key] = value;
      assert.notEqual(refusalOf(copy), "accepted", `${path.join(".")} = ${JSON.stringify(value)}`);
    }
  }
});

test("parseEvidence() refuses a statement without any one field, or with a field out of range", () => {
  const good = JSON.parse(buildStatement(statementFields()).toString()) as Record<string, unknown>;
  const tryStatement = (fields: Record<string, unknown>): string => {
    const bytes = Buffer.from(JSON.stringify(fields));
    return refusalOf({ ...evidence, statement: bytes.toString("base64url") });
  };
  assert.equal(tryStatement(good), "accepted");
  for (const key of Object.keys(good)) {
    const { [key]: _, ...without } = good;
    assert.equal(tryStatement(without), "parse/statement", `without ${key}`);
    for (const value of [null, -1, 65_536.5, "", "\n", {}, [1], "x".repeat(200)])
      assert.equal(
        tryStatement({ ...good, [key]: value }),
        "parse/statement",
        `${key} = ${JSON.stringify(value)}`,
      );
  }
  assert.equal(tryStatement({ ...good, extra: 1 }), "parse/statement");
  assert.equal(tryStatement({ ...good, exp: good["iat"] }), "parse/statement");
  assert.equal(
    tryStatement({ ...good, receipt_jwk: { ...receiptKey.jwk, d: "secret" } }),
    "parse/statement",
  );
  const notUtf8 = Buffer.concat([Buffer.from('{"v":"'), Buffer.of(0xff), Buffer.from('"}')]);
  assert.equal(
    refusalOf({ ...evidence, statement: notUtf8.toString("base64url") }),
    "parse/statement",
  );
});

test("parseEvidence() tells the block to look up, and believes nothing", () => {
  const forged = { ...evidence, fresh: freshness(7) };
  assert.equal(parseEvidence(JSON.stringify(forged)).evidence.fresh.block, 7);
});

test("two relays: B cannot serve A's evidence", () => {
  // B proxies A's genuine answer; the connection ends at B, so the key differs.
  const ofA = evidenceWith();
  assert.equal(refusalOf(ofA, withExpected({ tlsSpki: digest("B's key") })), "binding/tls-key");
  // B takes A's receipt key and TLS hash into its own statement: the connection still shows B's key.
  const ofB = evidenceWith({ statement: { tls_spki: TLS_SPKI, boot: "B".repeat(22) } });
  assert.equal(refusalOf(ofB, withExpected({ tlsSpki: digest("B's key") })), "binding/tls-key");
});

test("an error message holds nothing from the evidence", () => {
  for (const { wire, changes } of CASES) {
    try {
      verifyEvidence(wire, options(changes));
    } catch (error) {
      assert(error instanceof EvidenceError);
      assert.equal(error.message, REASONS[error.code]);
      assert(!error.message.includes(NET) && !error.message.includes(NONCE));
    }
  }
  assert.equal(blockHashOf(HEAD_BLOCK + 1), undefined);
});

after(() => {
  assert.deepEqual([...reached].sort(), Object.keys(REASONS).sort());
});

function reportDataFor(statement: Buffer): string {
  const length = Buffer.alloc(4);
  length.writeUInt32BE(statement.length);
  const first = Buffer.concat([
    Buffer.from("sealed-relay/statement/v1\0"),
    Buffer.of(3),
    Buffer.from("sim"),
    length,
    statement,
  ]);
  const block = Buffer.alloc(8);
  block.writeBigUInt64BE(BigInt(HEAD_BLOCK));
  const second = Buffer.concat([
    Buffer.from("sealed-relay/fresh/v1\0"),
    Buffer.of(0),
    Buffer.from(NONCE, "hex"),
    block,
    Buffer.from((blockHashOf(HEAD_BLOCK) ?? "").slice(2), "hex"),
  ]);
  const sha256 = (bytes: Buffer): string => createHash("sha256").update(bytes).digest("hex");
  return sha256(first) + sha256(second);
}
