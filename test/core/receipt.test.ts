import assert from "node:assert/strict";
import { test } from "node:test";
import type { EnclaveId, Hotkey } from "../../src/core/ids.ts";
import { newRequestId } from "../../src/core/ids.ts";
import { signingKey } from "../../src/core/jws.ts";
import { countersignatureFromJson, type Receipt, receiptFromJson } from "../../src/core/receipt.ts";

import { CLAIMS_TOKEN_CHARS_MAX, verifyClaims } from "../../src/core/signed-claims.ts";
import { signCountersignature, signReceipt } from "../signed.ts";

const hash = "h".repeat(43);
const key = signingKey();
const receipt: Receipt = {
  v: 1,
  iss: "5GrwvaEF5zXb26Fz9rcQpDWS57CtERHpNehXCPcNoHGKutQY" as Hotkey,
  aud: hash,
  ts: 1_800_000_000_000,
  rid: newRequestId(1_800_000_000_000),
  e: 7,
  grant: hash,
  att: hash as EnclaveId,
  kind: "sim",
  security: "simulated",
  sealed_by: "gateway",
  model: "openai/gpt-5-mini",
  upm: "gpt-5-mini-2025-08-07",
  uph: "api.openai.com",
  upid: hash,
  quote: hash,
  use: { input: 10, output: 20 },
  src: "provider",
  status: "complete",
  req: hash,
  res: hash,
  bytes: { in: 100, out: 200 },
  t: { ttft: 10, dur: 20 },
  seq: 0,
  prev: "",
};

test("a receipt survives signing and checking, member for member", () => {
  const token = signReceipt(receipt, key);
  const payload = verifyClaims(token, "usage-receipt", key);
  assert(payload !== undefined);
  assert.deepEqual(receiptFromJson(payload), receipt);
  assert(token.length < CLAIMS_TOKEN_CHARS_MAX / 4);
});

test("receiptFromJson() refuses a receipt with any one member missing or of another type", () => {
  const json = JSON.parse(JSON.stringify(receipt)) as Record<string, unknown>;
  for (const name of Object.keys(json)) {
    assert.equal(receiptFromJson({ ...json, [name]: undefined }), undefined, name);
    assert.equal(receiptFromJson({ ...json, [name]: { x: [] } }), undefined, name);
  }
});

test("a countersignature survives, and refuses amounts that are not decimal digits", () => {
  const countersignature = {
    v: 1,
    receipt: hash,
    amt: "12",
    payer_tag: "t",
    promo: false,
  } as const;
  const payload = verifyClaims(signCountersignature(countersignature, key), "countersign", key);
  assert(payload !== undefined);
  assert.deepEqual(countersignatureFromJson(payload), countersignature);
  for (const amt of ["", "-1", "1.5", "1e3", 12, "9".repeat(19)]) {
    assert.equal(countersignatureFromJson({ ...countersignature, amt }), undefined);
  }
});
