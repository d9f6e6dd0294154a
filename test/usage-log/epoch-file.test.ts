import assert from "node:assert/strict";
import { test } from "node:test";
import type { Hotkey } from "../../src/core/ids.ts";
import { encodeEpochFile, parseEpochFile } from "../../src/usage-log/epoch-file.ts";

const A = "5GrwvaEF5zXb26Fz9rcQpDWS57CtERHpNehXCPcNoHGKutQY" as Hotkey;
const B = "5FHneW46xGXgs5mUiveU4sbTyGBzmstUspZC92UhjJM694ty" as Hotkey;
const file = {
  epoch: 7,
  first: 10n,
  size: 12n,
  root: Buffer.alloc(32, 1),
  catalogue: "2026-07-1",
  sums: new Map([
    [A, 5n],
    [B, 12_345_678_901_234_567_890n],
  ]),
  receipts: 2,
};

test("encodeEpochFile() has one spelling, whatever the order of the sums", () => {
  const text = encodeEpochFile(file);
  assert.equal(
    text,
    `{"v":1,"epoch":7,"first":10,"size":12,"root":"${"01".repeat(32)}","catalogue":"2026-07-1","sums":{"${B}":"12345678901234567890","${A}":"5"},"receipts":2}`,
  );
  assert.equal(encodeEpochFile({ ...file, sums: new Map([...file.sums].reverse()) }), text);
});

test("parseEpochFile() reads the spelling of encodeEpochFile() and no other", () => {
  const text = encodeEpochFile(file);
  const parsed = parseEpochFile(Buffer.from(text));
  assert.equal(parsed && encodeEpochFile(parsed), text);
  assert.deepEqual(parsed?.sums.get(B), 12_345_678_901_234_567_890n);
  for (const other of [
    ` ${text}`,
    text.replace('"v":1', '"v":2'),
    text.replace('"5"', "5"),
    text.replace('"5"', '"05"'),
    text.replace('"5"', '"-5"'),
    text.replace(A, "nobody"),
    text.slice(0, -1),
    "[]",
    "null",
    "",
  ])
    assert.equal(parseEpochFile(Buffer.from(other)), undefined, other);
});
