import assert from "node:assert/strict";
import { test } from "node:test";
import {
  decodeEntries,
  decodeHashes,
  encodeEntries,
  LEAF_BYTES_MAX,
  partialTilesOf,
  tilePath,
} from "../../src/usage-log/tiles.ts";

for (const [path, kind, index, width] of [
  ["tile/0/000", 0, 0n, 256],
  ["tile/0/000.p/1", 0, 0n, 1],
  ["tile/0/067", 0, 67n, 256],
  ["tile/0/x001/067", 0, 1067n, 256],
  ["tile/1/x001/x234/067.p/8", 1, 1234067n, 8],
  ["tile/entries/x123/000", "entries", 123000n, 256],
  ["tile/entries/999.p/255", "entries", 999n, 255],
] as const) {
  test(`tilePath() gives ${path}`, () => assert.equal(tilePath(kind, index, width), path));
}

test("tilePath() refuses a width that no tile has", () => {
  for (const width of [0, 257, 1.5, -1]) assert.throws(() => tilePath(0, 0n, width));
});

test("partialTilesOf() lists the levels of the example in the C2SP text", () => {
  // "a tree of size 70000": 273 full and one partial level 0 tile, one full and one partial level 1, one partial level 2.
  assert.deepEqual(partialTilesOf(70_000n), [
    { level: 0, index: 273n, width: 112 },
    { level: 1, index: 1n, width: 17 },
    { level: 2, index: 0n, width: 1 },
  ]);
  assert.deepEqual(partialTilesOf(0n), []);
  assert.deepEqual(partialTilesOf(256n), [
    { level: 0, index: 1n, width: 0 },
    { level: 1, index: 0n, width: 1 },
  ]);
});

test("decodeEntries() reads what encodeEntries() wrote, and nothing damaged", () => {
  const leaves = [Buffer.from("a"), Buffer.alloc(0), Buffer.alloc(LEAF_BYTES_MAX, 7)];
  const bytes = encodeEntries(leaves);
  assert.deepEqual(decodeEntries(bytes, 3), leaves);
  assert.deepEqual(bytes.subarray(0, 3), Buffer.from([0, 1, 0x61]));
  assert.equal(decodeEntries(bytes, 2), undefined);
  assert.equal(decodeEntries(bytes, 4), undefined);
  for (const end of [1, 2, 4, bytes.length - 1])
    assert.equal(decodeEntries(bytes.subarray(0, end), 3), undefined);
  assert.equal(decodeEntries(Buffer.concat([bytes, Buffer.of(0)]), 3), undefined);
  assert.throws(() => encodeEntries([Buffer.alloc(LEAF_BYTES_MAX + 1)]), /at most/);
});

test("decodeHashes() wants whole hashes", () => {
  assert.equal(decodeHashes(Buffer.alloc(64), 2)?.length, 2);
  for (const length of [0, 63, 65, 96])
    assert.equal(decodeHashes(Buffer.alloc(length), 2), undefined);
});
