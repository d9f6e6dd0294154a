import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { createInterface } from "node:readline";
import { test } from "node:test";
import { setTimeout as delay } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { auditDatabase, auditLedger } from "../../src/billing/audit.ts";
import { openDatabase } from "../../src/runtime/database.ts";
import { ConfigError } from "../../src/runtime/settings.ts";
import { silent, temporaryFolder } from "./stores.ts";

const ROUNDS = 3;
const WRITER = fileURLToPath(new URL("./crash-writer.ts", import.meta.url));

test("kill -9 loses nothing that was acknowledged, and the books balance", async () => {
  const { directory, remove } = temporaryFolder();
  try {
    let acknowledged = 0;
    for (let round = 0; round < ROUNDS; round += 1) {
      const { held, settled } = await writeUntilKilled(directory);
      const database = await openDatabase({ directory, log: silent });
      assert.deepEqual(
        (await auditLedger(database)).filter((row) => !row.ok),
        [],
      );
      const rows = await database.query<{ id: string; state: number }>(
        "SELECT id, state FROM ledger.request",
      );
      const states = new Map(rows.map(({ id, state }) => [id, state]));
      for (const id of held) assert.ok(states.has(id), `hold ${id} was acknowledged and is lost`);
      for (const id of settled) assert.equal(states.get(id), 1, `settlement ${id} is lost`);
      const [leaves] = await database.query<{ n: bigint }>(
        "SELECT count(*) AS n FROM ledger.log_leaf",
      );
      const settledRows = rows.filter(({ state }) => state === 1).length;
      assert.equal(Number(leaves?.n), settledRows);
      await database.close();
      acknowledged += held.length + settled.length;
    }
    assert.ok(acknowledged > 100, `only ${acknowledged} acknowledgements`);
    const audit = await auditDatabase({ directory, log: silent });
    assert.ok(audit.ok);
    assert.ok(audit.lines.every((line) => line.startsWith("ok ")));
  } finally {
    remove();
  }
});

test("auditDatabase() refuses a folder that is missing or in use, and finds what is broken", async () => {
  const { directory, remove } = temporaryFolder();
  try {
    await assert.rejects(auditDatabase({ directory, log: silent }), /There is no database in/);
    const database = await openDatabase({ directory, log: silent });
    await assert.rejects(auditDatabase({ directory, log: silent }), (error) => {
      assert.ok(error instanceof ConfigError);
      assert.match(
        error.message,
        new RegExp(`in use by process ${process.pid}. Stop that process`),
      );
      return true;
    });
    await database.close();
    await assert.rejects(auditDatabase({ directory, log: silent }), /There is no ledger in/);
    await writeUntilKilled(directory);
    const again = await openDatabase({ directory, log: silent });
    await again.exec("UPDATE ledger.acct SET credits = credits + 1 WHERE code = 30");
    await again.close();
    const { ok, lines } = await auditDatabase({ directory, log: silent });
    assert.ok(!ok);
    assert.deepEqual(
      lines.filter((line) => line.startsWith("BROKEN")),
      [
        "BROKEN  USD accounts sum to zero: 1",
        "BROKEN  accounts that differ from their transfers: 1",
      ],
    );
  } finally {
    remove();
  }
});

async function writeUntilKilled(directory: string): Promise<{ held: string[]; settled: string[] }> {
  const child = spawn(process.execPath, [WRITER, directory], {
    stdio: ["ignore", "pipe", "inherit"],
  });
  const held: string[] = [];
  const settled: string[] = [];
  const lines = createInterface(child.stdout);
  const ended = Promise.all([once(lines, "close"), once(child, "exit")]);
  const begun = new Promise<void>((resolve) => {
    lines.on("line", (line) => {
      const [what, id] = line.split(" ");
      // A line may be cut short by the kill.
      if (id?.length === 36) (what === "held" ? held : settled).push(id);
      resolve();
    });
  });
  try {
    await Promise.race([begun, ended]);
    // Any moment will do; the point is that it is not a chosen one.
    await delay(100 + Math.random() * 500);
  } finally {
    child.kill("SIGKILL");
    await ended;
  }
  return { held, settled };
}
