import assert from "node:assert/strict";
import { existsSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { openLogger } from "../../src/runtime/logger.ts";

test("a log line has an event, a service and an ISO time, and none of the fields that may hold secrets", async () => {
  const folder = mkdtempSync(join(tmpdir(), "daybreak-log-"));
  const file = join(folder, "new", "service.log");
  const log = openLogger("gateway", "info", file);
  const secret = "sk-secret";
  log.info(
    {
      account: "acct_1",
      authorization: secret,
      body: secret,
      err: { headers: { a: secret }, body: secret },
      nested: { api_key: secret, prompt: secret },
    },
    "hold.settled",
  );
  log.debug("not written at this level");
  // The file is opened in the background, and a flush before that is a no-op, so this waits for the line itself.
  const deadline = performance.now() + 5_000;
  while (!existsSync(file) || readFileSync(file, "utf8") === "") {
    assert(performance.now() < deadline, "nothing was written");
    await new Promise((resolve) => {
      log.flush(() => setImmediate(resolve));
    });
  }
  const text = readFileSync(file, "utf8");
  rmSync(folder, { recursive: true });
  assert(!text.includes(secret), text);
  const lines = text.trim().split("\n");
  assert.equal(lines.length, 1);
  const line = JSON.parse(lines[0] ?? "") as Record<string, unknown>;
  assert.deepEqual(
    [line["event"], line["service"], line["account"]],
    ["hold.settled", "gateway", "acct_1"],
  );
  assert.match(String(line["time"]), /^\d{4}-\d\d-\d\dT.*Z$/);
});
