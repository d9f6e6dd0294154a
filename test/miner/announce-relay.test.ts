import assert from "node:assert/strict";
import { test } from "node:test";
import { encodeAnnouncement, parseAnnouncement } from "../../src/core/commitment.ts";
import { openAnnouncement } from "../../src/miner/announce-relay.ts";
import { log } from "./fixture.ts";

const URL_NOW = "https://192.0.2.1:8443";

function board(fields: readonly Uint8Array[] | undefined, failures = 0) {
  const state = { fields, failures, published: 0 };
  return {
    state,
    read: async () => state.fields,
    publish: async (next: readonly Uint8Array[]) => {
      if (state.failures > 0) {
        state.failures -= 1;
        throw new Error("CommitmentSetRateLimitExceeded");
      }
      state.published += 1;
      state.fields = next;
    },
  };
}

for (const { name, before, published } of [
  { name: "publishes the URL of a new relay", before: undefined, published: 1 },
  {
    name: "replaces another URL",
    before: [encodeAnnouncement({ kind: "relay", url: "https://192.0.2.2:1" })],
    published: 1,
  },
  { name: "replaces what other software wrote", before: [Buffer.from("hello")], published: 1 },
  {
    name: "leaves the same URL alone",
    before: [encodeAnnouncement({ kind: "relay", url: URL_NOW })],
    published: 0,
  },
]) {
  test(`openAnnouncement() ${name}`, async () => {
    const chain = board(before);
    const announcement = await openAnnouncement(URL_NOW, chain, log);
    assert.equal(chain.state.published, published);
    const [field] = chain.state.fields ?? [];
    assert(field !== undefined);
    assert.deepEqual(parseAnnouncement(field), { kind: "relay", url: URL_NOW });
    await announcement.close();
  });
}

test("openAnnouncement() tries again in the background until it is closed", async (t) => {
  t.mock.timers.enable({ apis: ["setTimeout"] });
  const settle = async (): Promise<void> => {
    for (let turn = 0; turn < 10; turn++) await Promise.resolve();
  };
  const chain = board(undefined, 2);
  const announcement = await openAnnouncement(URL_NOW, chain, log);
  assert.equal(chain.state.published, 0);
  t.mock.timers.tick(1_000);
  await settle();
  assert.equal(chain.state.failures, 0);
  t.mock.timers.tick(1_999);
  await settle();
  assert.equal(chain.state.published, 0);
  t.mock.timers.tick(1);
  await settle();
  assert.equal(chain.state.published, 1);
  await announcement.close();
  const stopped = board(undefined, 1);
  await (await openAnnouncement(URL_NOW, stopped, log)).close();
  t.mock.timers.tick(60_000);
  await settle();
  assert.equal(stopped.state.published, 0);
});
