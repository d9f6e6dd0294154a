import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { test } from "node:test";
import { localPolicy } from "../../src/attestation/policy.ts";
import { hotkeyCounterSignBytes } from "../../src/attestation/report-data.ts";
import { SIMULATED_IMAGE } from "../../src/attestation/simulated/image.ts";
import { buildStatement, produceEvidence } from "../../src/attestation/simulated/produce.ts";
import type { EnclaveId } from "../../src/core/ids.ts";
import { signingKey } from "../../src/core/jws.ts";
import { enclaveIdOf, type Statement } from "../../src/core/statement.ts";
import { openLogger } from "../../src/runtime/logger.ts";
import { enclaveVerifier } from "../../src/validator/verify-enclave.ts";
import { hash, hotkeyNamed } from "./world.ts";

const root = signingKey();
const receiptKey = signingKey();
const NET = `0x${"11".repeat(32)}`;
const PUBLIC_KEY = "22".repeat(32);
const HOTKEY = hotkeyNamed("relay");
/** Long ago: evidence is judged as of its own time. */
const MADE_SECONDS = 1_700_000_000;
const BLOCK = 500;
const blockHashOf = (number: number) => `0x${hash(`block ${number}`).toString("hex")}`;
/** Stands in for sr25519. */
const signatureOf = (message: Uint8Array, publicKeyHex: string) =>
  createHash("sha512").update(message).update(publicKeyHex).digest();

function evidenceOf(change: Partial<Statement> = {}, signer = root, block = BLOCK) {
  const b64 = (text: string) => hash(text).toString("base64url");
  const statement = buildStatement({
    net: NET,
    netuid: 2,
    hotkey: PUBLIC_KEY,
    worker: "w1",
    boot: Buffer.alloc(16, 7).toString("base64url"),
    iat: MADE_SECONDS - 10,
    exp: MADE_SECONDS + 3_600,
    receipt_jwk: receiptKey.jwk,
    tls_spki: b64("tls"),
    image: SIMULATED_IMAGE,
    config: b64("config"),
    upstreams: ["api.example:443"],
    ...change,
  });
  const fresh = { mode: 0, nonce: "ab".repeat(32), block, block_hash: blockHashOf(block) } as const;
  const signature = signatureOf(hotkeyCounterSignBytes(statement), PUBLIC_KEY);
  const evidence = produceEvidence(signer, statement, fresh, signature, MADE_SECONDS * 1_000);
  return { id: enclaveIdOf(statement), text: JSON.stringify(evidence) };
}

function verifier(lookedUp: number[] = []) {
  return enclaveVerifier({
    policy: localPolicy({ simRoot: root.jwk, images: [SIMULATED_IMAGE] }),
    net: NET,
    netuid: 2,
    blockHash: async (number) => {
      lookedUp.push(number);
      return number <= 1_000 ? blockHashOf(number) : undefined;
    },
    addressOf: (publicKeyHex) => (publicKeyHex === PUBLIC_KEY ? HOTKEY : assert.fail("its hotkey")),
    verifyHotkeySignature: (message, signature, publicKeyHex) =>
      Buffer.compare(signature, signatureOf(message, publicKeyHex)) === 0,
    log: openLogger("validator", "silent"),
  });
}

test("enclaveVerifier() accepts evidence of the past and says for whom and when it counts", async () => {
  const { id, text } = evidenceOf();
  const lookedUp: number[] = [];
  const verify = verifier(lookedUp);
  const enclave = await verify(id, text);
  assert.deepEqual(enclave && { ...enclave, receiptKey: enclave.receiptKey.kid }, {
    hotkey: HOTKEY,
    receiptKey: receiptKey.kid,
    iat: MADE_SECONDS - 10,
    exp: MADE_SECONDS + 3_600,
  });
  await verify(id, text);
  assert.deepEqual(lookedUp, [BLOCK], "once for each enclave");
});

for (const { name, given, id } of [
  { name: "of another network's root", given: evidenceOf({}, signingKey()) },
  { name: "for another chain", given: evidenceOf({ net: `0x${"12".repeat(32)}` }) },
  { name: "for another subnet", given: evidenceOf({ netuid: 3 }) },
  {
    name: "of an image that is not accepted",
    given: evidenceOf({ image: `sha256:${"00".repeat(32)}` }),
  },
  { name: "for a block that the chain does not have", given: evidenceOf({}, root, 2_000) },
  {
    name: "that had run out when it was made",
    given: evidenceOf({ iat: MADE_SECONDS - 9_000, exp: MADE_SECONDS - 1 }),
  },
  {
    name: "under another enclave's name",
    given: evidenceOf(),
    id: hash("x").toString("base64url") as EnclaveId,
  },
  { name: "that is not evidence", given: { id: evidenceOf().id, text: "{}" } },
] as { name: string; given: ReturnType<typeof evidenceOf>; id?: EnclaveId }[]) {
  test(`enclaveVerifier() refuses evidence ${name}`, async () => {
    assert.equal(await verifier()(id ?? given.id, given.text), undefined);
  });
}

test("enclaveVerifier() lets a failing chain be seen, so that the epoch is tried again", async () => {
  const { id, text } = evidenceOf();
  const verify = enclaveVerifier({
    policy: localPolicy({ simRoot: root.jwk, images: [SIMULATED_IMAGE] }),
    net: NET,
    netuid: 2,
    blockHash: () => Promise.reject(new Error("not connected")),
    addressOf: () => HOTKEY,
    verifyHotkeySignature: () => true,
    log: openLogger("validator", "silent"),
  });
  await assert.rejects(verify(id, text), /not connected/);
});
