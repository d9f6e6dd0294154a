import {
  createServer as createHttpServer,
  type IncomingHttpHeaders,
  type OutgoingHttpHeaders,
  type RequestListener,
} from "node:http";
import { createServer as createHttpsServer } from "node:https";
import type { AddressInfo } from "node:net";
import { Pool } from "undici";
import { selfSignedCertificate } from "../../src/attestation/self-signed-certificate.ts";
import { forkListening, type ListeningChild } from "../child.ts";
import type { Target, Upstream } from "./target.ts";

/** Connections to the provider; more than any scenario opens, so that none waits in undici's queue. */
const CONNECTIONS_MAX = 1_024;
const IDLE_LIMIT_MS = 120_000;
const CERTIFICATE_LIFE_MS = 86_400_000;

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
  const proxy = await forkProxy(`http://127.0.0.1:${upstream.port}`, "http");
  return {
    ...CLIENT,
    name: "bare Node + undici",
    does: "forwards; one process",
    port: proxy.port,
    processes: { proxy: proxy.pid },
    close: () => proxy.close(),
  };
}

/**
 * Two of these proxies in a row with TLS between them: the way that a request of Daybreak takes, and nothing done on it.
 *
 * What Daybreak costs beyond this is its own work; what this costs beyond one proxy is the price of a relay apart.
 */
export async function openTwoHops(upstream: Upstream): Promise<Target> {
  const second = await forkProxy(`http://127.0.0.1:${upstream.port}`, "https");
  try {
    const first = await forkProxy(`https://127.0.0.1:${second.port}`, "http");
    return {
      ...CLIENT,
      name: "bare, two hops",
      does: "forwards twice, TLS between; two processes",
      port: first.port,
      processes: { first: first.pid, second: second.pid },
      close: async () => {
        await first.close();
        await second.close();
      },
    };
  } catch (error) {
    await second.close();
    throw error;
  }
}

const CLIENT = {
  path: "/v1/chat/completions",
  headers: { authorization: "Bearer none" },
  model: "gpt-5-mini",
} as const;

type Scheme = "http" | "https";

async function forkProxy(upstreamOrigin: string, scheme: Scheme): Promise<ListeningChild> {
  return await forkListening(import.meta.url, [upstreamOrigin, scheme]);
}

function endToEnd(headers: IncomingHttpHeaders | OutgoingHttpHeaders): OutgoingHttpHeaders {
  const kept: OutgoingHttpHeaders = {};
  for (const [name, value] of Object.entries(headers))
    if (!HOP_BY_HOP.has(name)) kept[name] = value;
  return kept;
}

function serve(upstreamOrigin: string, scheme: Scheme): void {
  const pool = new Pool(upstreamOrigin, {
    connections: CONNECTIONS_MAX,
    pipelining: 1,
    keepAliveTimeout: IDLE_LIMIT_MS,
    // The second hop's certificate was made for this run.
    connect: { rejectUnauthorized: false },
  });
  const forward: RequestListener = (request, response) => {
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
  };
  const server = scheme === "http" ? createHttpServer(forward) : secureServer(forward);
  server.keepAliveTimeout = IDLE_LIMIT_MS;
  server.requestTimeout = 0;
  server.listen({ port: 0, host: "127.0.0.1", backlog: 4_096 }, () => {
    process.send?.({ port: (server.address() as AddressInfo).port });
  });
  process.on("disconnect", () => process.exit(0));
}

function secureServer(listener: RequestListener): ReturnType<typeof createHttpsServer> {
  const { keyPem, certificatePem } = selfSignedCertificate({
    name: "127.0.0.1",
    notBeforeMs: Date.now() - CERTIFICATE_LIFE_MS,
    notAfterMs: Date.now() + CERTIFICATE_LIFE_MS,
  });
  return createHttpsServer({ key: keyPem, cert: certificatePem }, listener);
}

if (import.meta.main) {
  const [, , upstreamOrigin = "", scheme] = process.argv;
  serve(upstreamOrigin, scheme === "https" ? "https" : "http");
}
