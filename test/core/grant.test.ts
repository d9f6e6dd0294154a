import assert from "node:assert/strict";
import { test } from "node:test";
import { checkGrant, type Grant } from "../../src/core/grant.ts";
import {
  attemptIdOf,
  type EnclaveId,
  type Hotkey,
  newRequestId,
  requestIdOf,
  requestOfAttempt,
} from "../../src/core/ids.ts";
import { signingKey, signJws } from "../../src/core/jws.ts";
import { decodeClaims } from "../../src/core/signed-claims.ts";
import { signGrant } from "../signed.ts";

const gateway = signingKey();
const hash = "h".repeat(43);
const enclave = "e".repeat(43) as EnclaveId;
const now = 1_800_000_000;
const grant: Grant = {
  v: 1,
  iss: "5GrwvaEF5zXb26Fz9rcQpDWS57CtERHpNehXCPcNoHGKutQY" as Hotkey,
  aud: enclave,
  rid: newRequestId(1_800_000_000_000),
  iat: now,
  exp: now + 60,
  e: 7,
  surface: "chat",
  model: "openai/gpt-5-mini",
  max_out: 100,
  quote: hash,
  req: hash,
  sealed_by: "gateway",
};
const keyOf = (kid: string) => (kid === gateway.kid ? gateway : undefined);

test("checkGrant() returns exactly the grant that was signed", () => {
  assert.deepEqual(checkGrant(decodeClaims(signGrant(grant, gateway)), enclave, keyOf, now + 59), {
    ok: true,
    grant,
  });
});

for (const { name, token, at = now, refusal } of [
  { name: "noise", token: "x.y.z", refusal: "malformed" },
  {
    name: "a key that is not the gateway's",
    token: signGrant(grant, signingKey()),
    refusal: "unknown_signer",
  },
  {
    name: "another kind of token",
    token: signJws("countersign+jwt", grant, gateway),
    refusal: "bad_signature",
  },
  {
    name: "another enclave",
    token: signGrant({ ...grant, aud: hash as EnclaveId }, gateway),
    refusal: "not_for_this_enclave",
  },
  {
    name: "its last second over",
    token: signGrant(grant, gateway),
    at: now + 60,
    refusal: "expired",
  },
  {
    name: "a start in the future",
    token: signGrant(grant, gateway),
    at: now - 61,
    refusal: "expired",
  },
  {
    name: "too long a life",
    token: signGrant({ ...grant, exp: now + 61 }, gateway),
    refusal: "lives_too_long",
  },
  {
    name: "a missing field",
    token: signJws("grant+jwt", { ...grant, req: undefined }, gateway),
    refusal: "malformed",
  },
  {
    name: "a negative bound",
    token: signGrant({ ...grant, max_out: -1 }, gateway),
    refusal: "malformed",
  },
]) {
  test(`checkGrant() refuses ${name}: ${refusal}`, () => {
    assert.deepEqual(checkGrant(decodeClaims(token), enclave, keyOf, at), { ok: false, refusal });
  });
}

test("attempts of one request have their own ids and lead back to it", () => {
  const request = newRequestId(1_800_000_000_000);
  const ids = [0, 1, 2, 255].map((n) => attemptIdOf(request, n));
  assert.equal(new Set(ids).size, 4);
  for (const id of ids) {
    assert.equal(requestIdOf(id), id);
    assert.equal(requestOfAttempt(id), request);
  }
  assert.equal(ids[0], request);
});
