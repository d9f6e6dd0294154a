import assert from "node:assert/strict";
import { existsSync, mkdtempSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { makeFolder } from "../../src/runtime/make-folder.ts";

test("makeFolder() makes every level that is missing, and is content with what exists", () => {
  const folder = mkdtempSync(join(tmpdir(), "daybreak-folder-"));
  const deep = join(folder, "a", "b", "c");
  makeFolder(deep, 0o700);
  makeFolder(deep);
  assert.equal(statSync(deep).mode & 0o777, 0o700);
  writeFileSync(join(folder, "file"), "");
  assert.throws(() => makeFolder(join(folder, "file")), { code: "EEXIST" });
  assert.throws(() => makeFolder(join(folder, "file", "below")), { code: "EEXIST" });
  rmSync(folder, { recursive: true });
});

test("makeFolder() gives up at once where no folder can be made", {
  skip: !existsSync("/proc/self") && "there is no /proc here",
}, () => {
  assert.throws(() => makeFolder("/proc/daybreak/data"), { code: "ENOENT" });
});
