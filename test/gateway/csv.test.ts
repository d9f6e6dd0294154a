import assert from "node:assert/strict";
import { test } from "node:test";
import { csvLine } from "../../src/gateway/csv.ts";

for (const { name, cell, expected } of [
  { name: "leaves plain text", cell: "openai/gpt-5-mini", expected: "openai/gpt-5-mini" },
  { name: "quotes commas, quotes and line ends", cell: 'a,"b"\n', expected: '"a,""b""\n"' },
  { name: "leaves numbers", cell: -5, expected: "-5" },
  { name: "leaves amounts", cell: 12n, expected: "12" },
  { name: "leaves nothing empty", cell: null, expected: "" },
  { name: "writes true and false", cell: true, expected: "true" },
  ...["=1+1", "+1", "-1", "@SUM(A1)", "\tx", "＝1"].map((cell) => ({
    name: `disarms ${JSON.stringify(cell)}`,
    cell,
    expected: `'${cell}`,
  })),
  { name: "disarms and quotes", cell: '=A("x")', expected: '"\'=A(""x"")"' },
  { name: "disarms a line end", cell: "\r=1", expected: '"\'\r=1"' },
]) {
  test(`csvLine() ${name}`, () => {
    assert.equal(csvLine(["a", cell, "b"]), `a,${expected},b\r\n`);
  });
}
