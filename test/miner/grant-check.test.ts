import assert from "node:assert/strict";
import { test } from "node:test";
import { newRequestId } from "../../src/core/ids.ts";
import { spentGrants } from "../../src/miner/grant-check.ts";

test("spentGrants() spends an id once until it expires", () => {
  const spent = spentGrants();
  const rid = newRequestId(1);
  assert.equal(spent.spend(rid, 160, 100), "spent");
  assert.equal(spent.spend(rid, 160, 159), "already_spent");
  assert.equal(spent.spend(newRequestId(2), 161, 101), "spent");
});

test("spentGrants() forgets what has expired, and nothing else", () => {
  const spent = spentGrants();
  for (let n = 0; n < 100; n++) spent.spend(newRequestId(n), n < 50 ? 110 : 200, 100);
  spent.spend(newRequestId(1), 200, 120);
  assert.equal(spent.size, 51);
});

test("spentGrants() refuses more than it can remember, rather than forget", () => {
  const spent = spentGrants(10);
  const rids = Array.from({ length: 10 }, (_, n) => newRequestId(n));
  for (const rid of rids) assert.equal(spent.spend(rid, 160, 100), "spent");
  assert.equal(spent.spend(newRequestId(11), 160, 101), "full");
  for (const rid of rids) assert.equal(spent.spend(rid, 160, 102), "already_spent");
  assert.equal(spent.spend(newRequestId(12), 300, 160), "spent");
  assert.equal(spent.size, 1);
});
