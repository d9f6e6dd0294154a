import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { ERRORS, RouterError } from "../../src/core/errors.ts";

test("docs/ERRORS.md lists every error code with its status, remedy and types, and no other", () => {
  const rows = readFileSync("docs/ERRORS.md", "utf8").matchAll(
    /^\| `(\w+)` \| (\d+) \| (\w+) \| `(\w+)` \| `(\w+)` \| `(\w+)` \|/gm,
  );
  const documented = Array.from(rows, (row) => row.slice(1).join(" "));
  const declared = Object.entries(ERRORS).map(([code, e]) =>
    [code, e.status, e.remedy, e.errorType, e.openaiType, e.anthropicType].join(" "),
  );
  assert.deepEqual(documented, declared);
});

test("RouterError keeps its code, status, details and cause", () => {
  const cause = new Error("socket closed");
  const error = new RouterError("upstream_timeout", "the upstream did not answer", {
    cause,
    details: { waited_ms: 5 },
  });
  assert.deepEqual(
    [error.code, error.status, error.cause, error.details],
    ["upstream_timeout", 504, cause, { waited_ms: 5 }],
  );
});
