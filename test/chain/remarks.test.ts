import assert from "node:assert/strict";
import { test } from "node:test";
import { blake2AsHex } from "@polkadot/util-crypto";
import fc from "fast-check";
import { remarksIn } from "../../src/chain/remarks.ts";

const CALL_INDEX = Uint8Array.of(0, 7);
const hashOf = (text: string): string => blake2AsHex(Buffer.from(text), 256);

/** A remark_with_event: its call index, the compact length, the bytes. */
function remarkCall(text: string): Buffer {
  const { length } = text;
  const compact = length < 64 ? [length << 2] : [((length << 2) | 1) & 0xff, length >> 6];
  return Buffer.concat([CALL_INDEX, Buffer.from(compact), Buffer.from(text, "latin1")]);
}

function textsIn(bytes: Uint8Array, ...texts: readonly string[]): string[] {
  return [...remarksIn(bytes, CALL_INDEX, new Set(texts.map(hashOf))).values()].toSorted();
}

test("remarksIn() finds what an event proves, whatever stands around it", () => {
  const text = fc.string({ minLength: 1, maxLength: 128, unit: "grapheme-ascii" });
  const noise = fc.uint8Array({ maxLength: 80 });
  const property = fc.property(noise, text, noise, text, noise, (a, first, b, second, c) => {
    const bytes = Buffer.concat([a, remarkCall(first), b, remarkCall(second), c]);
    assert.deepEqual(
      textsIn(bytes, first, second),
      [...new Set([first, second])].toSorted(),
      "both remarked",
    );
    assert.deepEqual(textsIn(bytes, second), [second], "one remarked");
    assert.deepEqual(textsIn(bytes), [], "none remarked");
  });
  fc.assert(property, { numRuns: 200 });
});

for (const { name, bytes, text } of [
  { name: "bytes that are no call", bytes: Buffer.from("daybreak:x"), text: "daybreak:x" },
  { name: "a text of 129 bytes", bytes: remarkCall("x".repeat(129)), text: "x".repeat(129) },
  { name: "a line break", bytes: remarkCall("a\nb"), text: "a\nb" },
  { name: "an empty text", bytes: remarkCall(""), text: "" },
  { name: "a text that is cut off", bytes: remarkCall("whole").subarray(0, -1), text: "whole" },
  { name: "a cut length", bytes: Buffer.from([0, 7, 0b01]), text: "" },
  { name: "a length of four bytes", bytes: Buffer.from([0, 7, 0b10, 0, 0, 0]), text: "" },
  {
    name: "a remark behind 5000 places that look like one",
    bytes: Buffer.concat([...Array.from({ length: 5_000 }, () => CALL_INDEX), remarkCall("late")]),
    text: "late",
  },
]) {
  test(`remarksIn() does not take ${name}`, () => {
    assert.deepEqual(textsIn(bytes, text), []);
  });
}
