import assert from "node:assert/strict";
import { test } from "node:test";
import { migrateBilling } from "../../src/billing/schema.ts";
import {
  attemptIdOf,
  newRequestId,
  newRunTag,
  requestOfAttempt,
  runOfRequest,
} from "../../src/core/ids.ts";
import { openGatewayRun } from "../../src/gateway/gateway-run.ts";
import { migrateGateway } from "../../src/gateway/shared-log.ts";
import type { Database } from "../../src/runtime/database.ts";
import { migrateJobs } from "../../src/runtime/job-outbox.ts";
import { log, sharedDatabase } from "./fixture.ts";

/** As on a server, where a start does not make the others gone. */
async function server(): Promise<Database> {
  const database = await sharedDatabase();
  await migrateBilling(database);
  await migrateJobs(database);
  await migrateGateway(database);
  return { ...database, kind: "postgres" };
}

const silence = async (database: Database, tag: string): Promise<void> => {
  await database.query("UPDATE gateway.run SET seen_at = now() - interval '11 s' WHERE tag = $1", [
    tag,
  ]);
};

test("a request id names the run that took it, in every attempt", () => {
  const run = newRunTag();
  const id = newRequestId(1_800_000_000_000, run);
  assert.match(id, /^01a3185c-5000-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/);
  assert.equal(runOfRequest(id), run);
  assert.equal(runOfRequest(requestOfAttempt(attemptIdOf(id, 255))), run);
  assert.notEqual(newRequestId(1_800_000_000_000, run), id);
});

test("openGatewayRun() tells who is there, until they leave or fall silent", async () => {
  const database = await server();
  let nowMs = 0;
  const one = await openGatewayRun(database, "log-1", log, () => nowMs);
  const two = await openGatewayRun(database, "log-1", log);
  const three = await openGatewayRun(database, "log-1", log);
  const elsewhere = await openGatewayRun(database, "log-2", log);
  assert.deepEqual(await one.others(), new Set([two.tag, three.tag]));
  assert.deepEqual(await elsewhere.others(), new Set());
  await three.close();
  assert.deepEqual(await one.others(), new Set([two.tag]));

  // Nobody is dead before there was time to hear them.
  await silence(database, two.tag);
  assert.deepEqual(await one.others(), new Set([two.tag]));
  for (const ms of [4_000, 8_000, 10_001]) {
    nowMs = ms;
    await silence(database, two.tag);
    await one.others();
  }
  assert.deepEqual(await one.others(), new Set());
  // After a gap, as when the database was away, they get that time again.
  nowMs = 20_000;
  await silence(database, two.tag);
  assert.deepEqual(await one.others(), new Set([two.tag]));
  for (const run of [one, two, elsewhere]) await run.close();
  assert.deepEqual(await database.query("SELECT 1 FROM gateway.run"), []);
});
