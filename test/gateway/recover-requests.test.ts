import assert from "node:assert/strict";
import { test } from "node:test";
import { type AccountId, newRequestId, newRunTag, type RunTag } from "../../src/core/ids.ts";
import { signingKey } from "../../src/core/jws.ts";
import { openRecovery } from "../../src/gateway/recover-requests.ts";
import { log } from "./fixture.ts";

for (const { name, all, releasedAfterMs } of [
  { name: "a minute when every relay has no receipt", all: true, releasedAfterMs: 60_000 },
  { name: "five minutes when a relay cannot be asked", all: false, releasedAfterMs: 300_000 },
]) {
  test(`a hold of a process that died is released after ${name}`, async (t) => {
    const createdMs = 1_800_000_000_000;
    const request = newRequestId(createdMs);
    const released: string[] = [];
    let nowMs = createdMs;
    const recovery = openRecovery({
      openHolds: async () => [
        {
          request,
          account: "acct_00000000000000000000" as AccountId,
          amount: 1n,
          createdMs,
          expiresMs: createdMs + 1_800_000,
          promo: false,
        },
      ],
      isLive: () => false,
      othersAlive: async () => new Set(),
      ledger: {
        settle: async () => assert.fail("there is no receipt"),
        note: async () => assert.fail("there is no receipt"),
        release: async (id, reason) => {
          released.push(`${id} ${reason}`);
          return "released";
        },
      },
      relays: () => ({ known: [], all }),
      sideFiles: { receiptKeyOf: async () => undefined, quoteTextOf: async () => undefined },
      gatewayKey: signingKey(),
      leafOf: async () => assert.fail("there is no receipt"),
      markupBps: 500,
      log,
      nowMs: () => nowMs,
    });
    t.after(async () => await recovery.close());
    nowMs = createdMs + releasedAfterMs;
    await recovery.round();
    assert.deepEqual(released, []);
    nowMs += 1;
    await recovery.round();
    assert.equal(released[0], `${request} receipt_missing`);
  });
}

test("a hold of another gateway is left alone while that one is there", async (t) => {
  const createdMs = 1_800_000_000_000;
  const [living, dead] = [newRunTag(), newRunTag()];
  const others = new Set([living]);
  const holdOf = (run: RunTag) => ({
    request: newRequestId(createdMs, run),
    account: "acct_00000000000000000000" as AccountId,
    amount: 1n,
    promo: false,
    createdMs,
    expiresMs: createdMs + 1_800_000,
  });
  const holds = [holdOf(living), holdOf(dead)];
  const released: string[] = [];
  const recovery = openRecovery({
    openHolds: async () => holds,
    isLive: () => false,
    othersAlive: async () => others,
    ledger: {
      settle: async () => assert.fail("there is no receipt"),
      note: async () => assert.fail("there is no receipt"),
      release: async (id) => {
        released.push(id);
        return "released";
      },
    },
    relays: () => ({ known: [], all: true }),
    sideFiles: { receiptKeyOf: async () => undefined, quoteTextOf: async () => undefined },
    gatewayKey: signingKey(),
    leafOf: async () => assert.fail("there is no receipt"),
    markupBps: 500,
    log,
    nowMs: () => createdMs + 3_600_000,
  });
  t.after(async () => await recovery.close());
  await recovery.round();
  assert.deepEqual(released, [holds[1]?.request]);
  others.clear();
  await recovery.round();
  assert(released.includes(holds[0]?.request ?? ""));
});
