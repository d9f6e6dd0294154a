import assert from "node:assert/strict";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { test } from "node:test";
import { LogError } from "../../src/usage-log/reader.ts";
import { openLogFetch } from "../../src/validator/log-fetch.ts";

test("openLogFetch() gives files up to their limit, and tells a missing one from a failing server", async () => {
  const server = createServer((request, response) => {
    switch (request.url ?? "") {
      case "/log/tile/0/000":
        response.end("x".repeat(1_000));
        break;
      case "/log/endless":
        // No length: the reader has to count.
        for (let i = 0; i < 64; i += 1) response.write(Buffer.alloc(16_384));
        response.end();
        break;
      case "/log/moved":
        response.writeHead(302, { location: "/log/tile/0/000" }).end();
        break;
      case "/log/broken":
        response.writeHead(500).end("x".repeat(1_000));
        break;
      default:
        response.writeHead(404).end();
    }
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const fetcher = openLogFetch();
  try {
    const { port } = server.address() as AddressInfo;
    const fetchBytes = fetcher.from(`http://127.0.0.1:${port}/log/`);
    assert.equal((await fetchBytes("tile/0/000", 1_000))?.length, 1_000);
    assert.equal(await fetchBytes("tile/0/001", 1_000), undefined);
    const tooLarge = (error: unknown) =>
      error instanceof LogError && error.code === "file_too_large";
    await assert.rejects(fetchBytes("tile/0/000", 999), tooLarge);
    await assert.rejects(fetchBytes("endless", 100_000), tooLarge);
    await assert.rejects(fetchBytes("broken", 1_000), /answers 500/);
    await assert.rejects(fetchBytes("moved", 1_000), /answers 302/);
  } finally {
    await fetcher.close();
    await fetcher.close();
    server.closeAllConnections();
    await new Promise((resolve) => server.close(resolve));
  }
});
