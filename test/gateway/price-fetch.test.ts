import assert from "node:assert/strict";
import { once } from "node:events";
import { createServer, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { test } from "node:test";
import { openPriceFetch } from "../../src/gateway/price-fetch.ts";

const ANSWERS: Record<string, (response: ServerResponse) => void> = {
  "/good": (response) => response.end('{"price":"1"}'),
  "/redirect": (response) => response.writeHead(302, { location: "/good" }).end(),
  "/busy": (response) => response.writeHead(429).end("slow down"),
  "/long": (response) => {
    // Without its end: what is too long is refused before it is there.
    response.write("x".repeat(16_385));
  },
  "/silent": () => undefined,
  "/stuck": (response) => {
    response.write('{"price":');
  },
};

test("openPriceFetch() gives the text of a good answer and refuses every other", async (t) => {
  const server = createServer((request, response) => {
    assert.equal(request.headers["user-agent"], "daybreak");
    ANSWERS[request.url ?? ""]?.(response);
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  const fetch = openPriceFetch(300);
  t.after(async () => {
    await fetch.close();
    server.closeAllConnections();
    server.close();
  });
  const { port } = server.address() as AddressInfo;
  const ask = async (path: string, signal = new AbortController().signal) =>
    await fetch.ask(`http://127.0.0.1:${port}${path}`, signal);

  assert.equal(await ask("/good"), '{"price":"1"}');
  await assert.rejects(ask("/redirect"), /it answered 302/);
  await assert.rejects(ask("/busy"), /it answered 429/);
  await assert.rejects(ask("/long"), /longer than 16384 bytes/);
  await assert.rejects(ask("/silent"), { name: "TimeoutError" });
  await assert.rejects(ask("/stuck"), { name: "TimeoutError" });
  const closing = new AbortController();
  const asked = ask("/silent", closing.signal);
  closing.abort();
  await assert.rejects(asked, { name: "AbortError" });
  assert.equal(await ask("/good"), '{"price":"1"}');
});
