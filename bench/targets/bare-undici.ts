import { createServer, type IncomingHttpHeaders, type OutgoingHttpHeaders } from "node:http";
import type { AddressInfo } from "node:net";
import { Pool } from "undici";
import { forkListening } from "../child.ts";
import type { Target, Upstream } from "./target.ts";

/** Connections to the provider; more than any scenario opens, so that none waits in undici's queue. */
const CONNECTIONS_MAX = 1_024;
const IDLE_LIMIT_MS = 120_000;

/** Headers of one connection, not of the message (RFC 9110, section 7.6.1). */
const HOP_BY_HOP = new Set([
  "connection",
  "keep-alive",
  "transfer-encoding",
  "host",
  "upgrade",
  "te",
  "trailer",
  "expect",
]);

/**
 * The smallest usual Node proxy: node:http in front, undici's `Pool.request` behind, bodies piped both ways.
 *
 * It checks nothing, counts nothing and promises nothing; it is the measure of what Node itself costs.
 */
export async function openBareUndici(upstream: Upstream): Promise<Target> {
  const child = await forkListening(import.meta.url, [String(upstream.port)]);
  return {
    name: "bare Node + undici",
    does: "forwards; one process",
    port: child.port,
    path: "/v1/chat/completions",
    headers: { authorization: "Bearer none" },
    model: "gpt-5-mini",
    processes: { proxy: child.pid },
    close: () => child.close(),
  };
}

function endToEnd(headers: IncomingHttpHeaders | OutgoingHttpHeaders): OutgoingHttpHeaders {
  const kept: OutgoingHttpHeaders = {};
  for (const [name, value] of Object.entries(headers))
    if (!HOP_BY_HOP.has(name)) kept[name] = value;
  return kept;
}

function serve(upstreamPort: number): void {
  const pool = new Pool(`http://127.0.0.1:${upstreamPort}`, {
    connections: CONNECTIONS_MAX,
    pipelining: 1,
    keepAliveTimeout: IDLE_LIMIT_MS,
  });
  const server = createServer((request, response) => {
    pool
      .request({
        method: "POST",
        path: request.url ?? "/",
        headers: endToEnd(request.headers) as IncomingHttpHeaders,
        body: request,
      })
      .then(
        (answer) => {
          response.writeHead(answer.statusCode, endToEnd(answer.headers));
          answer.body.on("error", () => response.destroy());
          answer.body.pipe(response);
          response.on("close", () => {
            if (!response.writableFinished) answer.body.destroy();
          });
        },
        () => {
          if (!response.headersSent) response.writeHead(502);
          response.end();
        },
      );
  });
  server.keepAliveTimeout = IDLE_LIMIT_MS;
  server.requestTimeout = 0;
  server.listen({ port: 0, host: "127.0.0.1", backlog: 4_096 }, () => {
    process.send?.({ port: (server.address() as AddressInfo).port });
  });
  process.on("disconnect", () => process.exit(0));
}

if (import.meta.main) serve(Number(process.argv[2]));
