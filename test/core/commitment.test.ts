import assert from "node:assert/strict";
import { test } from "node:test";
import {
  type Announcement,
  encodeAnnouncement,
  encodeLogRoot,
  parseAnnouncement,
  parseLogRoot,
} from "../../src/core/commitment.ts";
import { rootDeadlineBlocks } from "../../src/core/epoch.ts";
import { signingKey } from "../../src/core/jws.ts";

const url = "https://127.0.0.1:8443";
for (const announcement of [
  { kind: "relay", url },
  { kind: "validator", url },
  { kind: "gateway", url, log: `${url}/log`, key: signingKey().jwk },
] satisfies Announcement[]) {
  test(`an announcement of a ${announcement.kind} survives the chain`, () => {
    assert.deepEqual(parseAnnouncement(encodeAnnouncement(announcement)), announcement);
  });
}

for (const text of [
  "",
  "{}",
  "[]",
  "null",
  "\u0000",
  '{"v":2,"kind":"relay","url":"https://a"}',
  '{"v":1,"kind":"relay","url":"a b"}',
  '{"v":1,"kind":"king","url":"https://a"}',
  '{"v":1,"kind":"gateway","url":"https://a"}',
]) {
  test(`parseAnnouncement() ignores ${JSON.stringify(text)}`, () => {
    assert.equal(parseAnnouncement(Buffer.from(text)), undefined);
  });
}

test("a log root is 81 bytes and survives; anything else is ignored", () => {
  const root = {
    epoch: 4_000_000_000,
    size: 2n ** 60n,
    root: new Uint8Array(32).fill(1),
    sums: new Uint8Array(32).fill(2),
  };
  const bytes = encodeLogRoot(root);
  assert.equal(bytes.length, 81);
  assert.deepEqual(parseLogRoot(bytes), root);
  assert.equal(parseLogRoot(bytes.subarray(1)), undefined);
  assert.equal(parseLogRoot(Buffer.concat([bytes, Buffer.alloc(1)])), undefined);
  bytes[4] = 2;
  assert.equal(parseLogRoot(bytes), undefined);
});

for (const [tempo, deadline] of [
  [360, 25],
  [720, 50],
  [100, 15],
  [20, 10],
  [5, 2],
  [2, 2],
] as const) {
  test(`the log root of an epoch of ${tempo} blocks is due after ${deadline}`, () => {
    assert.equal(rootDeadlineBlocks(tempo), deadline);
  });
}
