import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { JSON_DEPTH_MAX, JSON_MEMBERS_MAX, scanObject } from "../../src/dialects/scan-object.ts";

/** Any JSON object as text, with white space and escapes as some encoder might write them. */
const objectText = fc
  .tuple(
    fc.dictionary(fc.string({ unit: "binary" }), fc.jsonValue({ stringUnit: "binary" })),
    fc.constantFrom(undefined, 1, "\t"),
  )
  .map(([value, indent]) => JSON.stringify(value, undefined, indent));

function parses(bytes: Buffer): boolean {
  // JSON.parse reads a string; decoding must not repair anything first.
  const text = bytes.toString("utf8");
  if (!Buffer.from(text).equals(bytes)) return false;
  try {
    const value: unknown = JSON.parse(text);
    return typeof value === "object" && value !== null && !Array.isArray(value);
  } catch {
    return false;
  }
}

test("scanObject() finds the members that JSON.parse finds", () => {
  const property = fc.property(objectText, (text) => {
    const bytes = Buffer.from(text);
    const scanned = scanObject(bytes);
    assert(scanned.ok);
    const entries = scanned.members.map(({ keyStart, start, end, items }) => {
      // A key is followed by white space and a colon only.
      const keyText = bytes.toString("utf8", keyStart, start).replace(/\s*:\s*$/, "");
      const value: unknown = JSON.parse(bytes.toString("utf8", start, end));
      assert.equal(items, Array.isArray(value) ? value.length : 0);
      return [JSON.parse(keyText) as string, value] as const;
    });
    assert.deepEqual(
      Object.fromEntries(entries),
      Object.fromEntries(Object.entries(JSON.parse(text) as object)),
    );
  });
  fc.assert(property, { numRuns: 500 });
});

test("scanObject() accepts exactly what JSON.parse accepts, however a body is damaged", () => {
  const reached = new Set<boolean>();
  const damage = fc.record({
    text: objectText,
    at: fc.double({ min: 0, max: 1, maxExcluded: true, noNaN: true }),
    remove: fc.nat(3),
    insert: fc.oneof(
      fc.constantFrom('"', "\\", ",", ":", "{", "}", "[", "]", "\n", "\t", " ", "0", "-", ".", "e"),
      fc.constantFrom(
        "\\u12",
        "\\u00e9",
        "null",
        "tru",
        "1e",
        "01",
        "\0",
        "\u007f",
        "\ud83d\ude00",
      ),
      fc.constant(""),
    ),
  });
  const property = fc.property(damage, ({ text, at, remove, insert }) => {
    const whole = Buffer.from(text);
    const position = Math.floor(at * whole.length);
    const bytes = Buffer.concat([
      whole.subarray(0, position),
      Buffer.from(insert),
      whole.subarray(position + remove),
    ]);
    const accepted = scanObject(bytes).ok;
    reached.add(accepted);
    assert.equal(accepted, parses(bytes), bytes.toString("latin1"));
  });
  fc.assert(property, { numRuns: 3_000 });
  assert.deepEqual(reached, new Set([true, false]));
});

test("scanObject() agrees with JSON.parse on long strings at every alignment", () => {
  const specials = [
    '"',
    "\\n",
    "\\",
    "\n",
    "\u0000",
    "\u001f",
    "é",
    "😀",
    "\u007f",
    "\\u0061",
    " ",
  ];
  for (let alignment = 0; alignment < 8; alignment++) {
    for (let length = 20; length < 80; length++) {
      for (const special of specials) {
        const text = `{"a":"${"x".repeat(length)}${special}${"y".repeat(length % 13)}"}`;
        // A view into a larger buffer, as a pool gives out.
        const pool = Buffer.alloc(1_000);
        const size = pool.write(text, alignment);
        const bytes = pool.subarray(alignment, alignment + size);
        assert.equal(scanObject(bytes).ok, parses(bytes), JSON.stringify(text));
      }
    }
  }
});

for (const { name, bytes, problem } of [
  { name: "a byte order mark", bytes: '\ufeff{"a":1}', problem: "syntax" },
  { name: "trailing bytes", bytes: '{"a":1}{', problem: "syntax" },
  { name: "a second value", bytes: '{"a":1} null', problem: "syntax" },
  { name: "a trailing NUL", bytes: '{"a":1}\0', problem: "syntax" },
  { name: "an array", bytes: "[1]", problem: "syntax" },
  { name: "nothing", bytes: "", problem: "syntax" },
  { name: "white space", bytes: " \n", problem: "syntax" },
  { name: "a truncated body", bytes: '{"a":"b', problem: "syntax" },
  { name: "a comment", bytes: '{"a":1/**/}', problem: "syntax" },
  { name: "a trailing comma", bytes: '{"a":1,}', problem: "syntax" },
  { name: "single quotes", bytes: "{'a':1}", problem: "syntax" },
  { name: "NaN", bytes: '{"a":NaN}', problem: "syntax" },
  { name: "a plus sign", bytes: '{"a":+1}', problem: "syntax" },
  { name: "a leading zero deep inside", bytes: '{"a":[{"b":01}]}', problem: "syntax" },
  { name: "white space that JSON does not know", bytes: '{"a":\u00a01}', problem: "syntax" },
]) {
  test(`scanObject() refuses ${name}`, () => {
    const scanned = scanObject(Buffer.from(bytes));
    assert.equal(scanned.ok ? "accepted" : scanned.problem, problem);
  });
}

test("scanObject() refuses what is not UTF-8", () => {
  for (const bad of [
    [0xff],
    [0xc0, 0xaf],
    [0xed, 0xa0, 0x80],
    [0xf4, 0x90, 0x80, 0x80],
    [0xe2, 0x82],
  ]) {
    const bytes = Buffer.concat([Buffer.from('{"a":"'), Buffer.from(bad), Buffer.from('"}')]);
    const scanned = scanObject(bytes);
    assert.equal(scanned.ok ? "accepted" : scanned.problem, "encoding");
  }
});

test("scanObject() allows the depth limit and not one level more", () => {
  const nested = (levels: number): Buffer =>
    Buffer.from(`{"a":${"[".repeat(levels - 1)}${"]".repeat(levels - 1)}}`);
  assert(scanObject(nested(JSON_DEPTH_MAX)).ok);
  const deeper = scanObject(nested(JSON_DEPTH_MAX + 1));
  assert.equal(deeper.ok ? "accepted" : deeper.problem, "too_deep");
  // Far beyond any call stack.
  assert(!scanObject(nested(1_000_000)).ok);
});

test("scanObject() limits the members", () => {
  const many = (count: number): Buffer =>
    Buffer.from(`{${Array.from({ length: count }, (_, i) => `"k${i}":1`).join(",")}}`);
  assert(scanObject(many(JSON_MEMBERS_MAX)).ok);
  const more = scanObject(many(JSON_MEMBERS_MAX + 1));
  assert.equal(more.ok ? "accepted" : more.problem, "too_many_members");
});

test("scanObject() reports the words it was asked for, and disguises", () => {
  const words = new Set(["image_url", "file"]);
  const scanned = scanObject(
    Buffer.from(
      '{"m":[{"type":"image_url","image_url":{"url":"file"}},"image_urls","an image_url"]}',
    ),
    words,
  );
  assert(scanned.ok);
  assert.deepEqual(scanned.words, ["image_url", "image_url", "file"]);
  assert.equal(scanned.escapedLetters, false);
  const hidden = scanObject(Buffer.from('{"m":[{"im\\u0061ge_url":"\\u00e9\\u003c"}]}'), words);
  assert(hidden.ok && hidden.escapedLetters);
  const harmless = scanObject(Buffer.from('{"m":"\\u00e9\\u003c\\u0026\\u4e2d"}'), words);
  assert(harmless.ok && !harmless.escapedLetters);
});
