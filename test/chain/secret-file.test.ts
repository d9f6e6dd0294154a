import assert from "node:assert/strict";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { secretIn } from "../../src/chain/secret-file.ts";
import { ConfigError } from "../../src/runtime/settings.ts";

test("secretIn() reads a secret, and says what is wrong with the file without showing it", (t) => {
  const folder = mkdtempSync(join(tmpdir(), "daybreak-secret-"));
  t.after(() => rmSync(folder, { recursive: true }));
  const file = join(folder, "coldkey");
  writeFileSync(file, " //Alice\n");
  assert.equal(secretIn(file, "coldkey"), "//Alice");
  const refusal = (path: string): ConfigError => {
    try {
      secretIn(path, "coldkey");
    } catch (error) {
      assert.ok(error instanceof ConfigError);
      return error;
    }
    throw new Error("it was accepted");
  };
  assert.match(refusal(join(folder, "none")).message, /^there is no coldkey file .*none$/);
  assert.match(refusal(folder).message, /cannot be read \(EISDIR\)/);
  writeFileSync(file, "correct horse battery staple");
  const { message, cause } = refusal(file);
  assert.match(message, /does not hold a seed, a mnemonic or a URI$/);
  assert.doesNotMatch(message, /horse/);
  assert.equal(cause, undefined);
});
