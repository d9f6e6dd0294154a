import assert from "node:assert/strict";
import { once } from "node:events";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { type AddressInfo, createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { lastChainPort, rememberChainPort } from "../../src/local/chain-port.ts";

const HOST = "127.0.0.1";

test("lastChainPort() gives the last port back while it is free, and any other time 0", async (t) => {
  const folder = mkdtempSync(join(tmpdir(), "daybreak-port-"));
  t.after(() => rmSync(folder, { recursive: true, force: true }));
  assert.equal(await lastChainPort(folder, HOST), 0);
  const server = createServer().listen(0, HOST);
  await once(server, "listening");
  const { port } = server.address() as AddressInfo;
  rememberChainPort(folder, port);
  assert.equal(await lastChainPort(folder, HOST), 0, "somebody has it");
  server.close();
  await once(server, "close");
  assert.equal(await lastChainPort(folder, HOST), port);
  for (const text of ["", "garbage", "0", "65536", "80.5"]) {
    writeFileSync(join(folder, "chain-port"), text);
    assert.equal(await lastChainPort(folder, HOST), 0, text);
  }
});
