/** JSON-RPC 2.0 over WebSocket and HTTP on one port. */
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { type RawData, type WebSocket, WebSocketServer } from "ws";
import type { Logger } from "../runtime/logger.ts";
import { ConfigError } from "../runtime/settings.ts";
import type { Closable } from "../runtime/shutdown.ts";
import type { Chain } from "./chain.ts";
import { devMethods } from "./dev-methods.ts";
import { rpcMethods } from "./rpc-methods.ts";
import { type Params, RPC_CODES, RpcError } from "./rpc-params.ts";
import { openSubscriptions, type Subscriber } from "./subscriptions.ts";

/** Longest message, request or batch. */
const MESSAGE_BYTES_MAX = 1 << 20;
/** Requests in a batch. */
const BATCH_MAX = 256;
/** Bytes that a client has not read yet; one that lets more pile up is cut off. */
const UNREAD_BYTES_MAX = 32 << 20;
const CONNECTIONS_MAX = 512;
const REQUEST_TIMEOUT_MS = 30_000;
/** Pages that may talk to a local chain from a browser, as Substrate nodes allow. */
const ORIGINS =
  /^(?:https?:\/\/(?:localhost|127\.0\.0\.1|\[::1\])(?::\d+)?|https:\/\/polkadot\.js\.org)$/;

export interface RpcServer extends Closable {
  readonly port: number;
}

/**
 * Serves the chain's methods.
 *
 * @param port 0 picks a free one.
 * @throws ConfigError if the port is taken or the address is not this machine's.
 */
export async function openRpcServer(
  chain: Chain,
  { host, port, log }: { host: string; port: number; log: Logger | undefined },
): Promise<RpcServer> {
  const answer = openAnswering(chain, host, log);
  const http = createServer({ requestTimeout: REQUEST_TIMEOUT_MS }, (request, response) => {
    answerHttp(request, response, answer);
  });
  http.maxConnections = CONNECTIONS_MAX;
  const sockets = new WebSocketServer({
    server: http,
    maxPayload: MESSAGE_BYTES_MAX,
    perMessageDeflate: false,
    verifyClient: ({ origin }: { origin?: string }) => isAllowed(origin),
  });
  sockets.on("connection", (socket) => serveSocket(socket, answer));
  // Errors of the listening socket reach `listen` below; later ones have no one else to tell.
  sockets.on("error", (error) => log?.debug({ err: error }, "devchain.server_error"));
  await listen(http, host, port);

  let closed: Promise<void> | undefined;
  return {
    port: (http.address() as AddressInfo).port,
    close() {
      closed ??= new Promise((resolve) => {
        for (const socket of sockets.clients) socket.terminate();
        sockets.close();
        http.close(() => resolve());
        http.closeAllConnections();
      });
      return closed;
    },
  };
}

function isAllowed(origin: string | undefined): boolean {
  return origin === undefined || ORIGINS.test(origin);
}

async function listen(
  http: ReturnType<typeof createServer>,
  host: string,
  port: number,
): Promise<void> {
  await new Promise<void>((resolve, reject) => {
    http.once("error", (cause: NodeJS.ErrnoException) => {
      reject(
        new ConfigError(
          cause.code === "EADDRINUSE"
            ? `port ${port} on ${host} is in use: stop the other program, or choose another port`
            : `cannot listen on ${host} port ${port} (${cause.code ?? cause.message}): choose another host or port`,
          { cause },
        ),
      );
    });
    http.listen(port, host, resolve);
  });
}

interface Answering {
  /** The answer to a message; undefined if none is due. */
  text(message: string, subscriber: Subscriber | undefined): string | undefined;
  forget(subscriber: Subscriber): void;
}

function openAnswering(chain: Chain, host: string, log: Logger | undefined): Answering {
  const methods = new Map([...rpcMethods(chain), ...devMethods(chain, host)]);
  const subscriptions = openSubscriptions(chain);
  const names = ["rpc_methods", ...methods.keys(), ...subscriptions.methods].toSorted();
  methods.set("rpc_methods", () => ({ methods: names }));

  function resultOf(method: string, params: Params, subscriber: Subscriber | undefined): unknown {
    const run = methods.get(method);
    if (run !== undefined) return run(params);
    const result = subscriptions.answer(method, params, subscriber);
    if (result === undefined) throw new RpcError(RPC_CODES.methodNotFound, "Method not found");
    return result;
  }

  function answerOne(request: unknown, subscriber: Subscriber | undefined): object {
    const { id, method, params } = requestOf(request);
    if (method === undefined) return errorJson(id, RPC_CODES.invalidRequest, "Invalid Request");
    if (params === undefined)
      return errorJson(id, RPC_CODES.invalidParams, "Invalid params: a list is expected");
    try {
      return { jsonrpc: "2.0", id, result: resultOf(method, params, subscriber) ?? null };
    } catch (error) {
      if (error instanceof RpcError) return errorJson(id, error.code, error.message, error.data);
      log?.error({ err: error, method }, "devchain.method_failed");
      return errorJson(id, RPC_CODES.internal, "Internal error");
    }
  }

  return {
    text(message, subscriber) {
      let json: unknown;
      try {
        json = JSON.parse(message);
      } catch {
        return JSON.stringify(errorJson(null, RPC_CODES.parse, "Parse error"));
      }
      if (!Array.isArray(json)) return JSON.stringify(answerOne(json, subscriber));
      if (json.length === 0 || json.length > BATCH_MAX)
        return JSON.stringify(
          errorJson(null, RPC_CODES.invalidRequest, `A batch has 1 to ${BATCH_MAX} requests`),
        );
      return JSON.stringify(json.map((one) => answerOne(one, subscriber)));
    },
    forget: (subscriber) => subscriptions.endAll(subscriber),
  };
}

/** @returns undefined `method` for anything that is not a request, undefined `params` for named ones. */
function requestOf(request: unknown): {
  readonly id: string | number | null;
  readonly method: string | undefined;
  readonly params: Params | undefined;
} {
  const { id, method, params } =
    typeof request === "object" && request !== null
      ? (request as Readonly<Record<string, unknown>>)
      : {};
  return {
    id: typeof id === "string" || typeof id === "number" ? id : null,
    method: typeof method === "string" ? method : undefined,
    params:
      params === undefined || params === null ? [] : Array.isArray(params) ? params : undefined,
  };
}

function errorJson(
  id: string | number | null,
  code: number,
  message: string,
  data?: unknown,
): object {
  return { jsonrpc: "2.0", id, error: { code, message, ...(data === undefined ? {} : { data }) } };
}

function serveSocket(socket: WebSocket, answer: Answering): void {
  /** Notifications that wait for the answer that carries their subscription's id. */
  let waiting: string[] | undefined;
  const send = (text: string) => {
    if (socket.bufferedAmount > UNREAD_BYTES_MAX) socket.terminate();
    else socket.send(text);
  };
  const subscriber: Subscriber = {
    open: new Map(),
    watchedKeys: 0,
    notify(message) {
      const text = JSON.stringify(message);
      if (waiting === undefined) send(text);
      else waiting.push(text);
    },
  };
  socket.on("message", (data) => {
    waiting = [];
    const text = answer.text(textOf(data), subscriber);
    if (text !== undefined) send(text);
    for (const notification of waiting) send(notification);
    waiting = undefined;
  });
  // A message that is too long or malformed; the socket closes itself after this.
  socket.on("error", () => socket.terminate());
  socket.on("close", () => answer.forget(subscriber));
}

function textOf(data: RawData): string {
  if (Array.isArray(data)) return Buffer.concat(data).toString("utf8");
  return (Buffer.isBuffer(data) ? data : Buffer.from(data)).toString("utf8");
}

function answerHttp(request: IncomingMessage, response: ServerResponse, answer: Answering): void {
  const end = (status: number, body: string, type = "text/plain") => {
    response.writeHead(status, { "content-type": type, "content-length": Buffer.byteLength(body) });
    response.end(body);
  };
  // JSON as content type: a page in a browser cannot send it without asking first, and is not allowed to.
  const isJson = /^application\/json\b/i.test(request.headers["content-type"] ?? "");
  if (request.method !== "POST") return end(405, "POST JSON-RPC, or connect a WebSocket\n");
  if (!isJson) return end(415, "send content-type: application/json\n");
  const chunks: Buffer[] = [];
  let length = 0;
  request.on("data", (chunk: Buffer) => {
    length += chunk.length;
    if (length <= MESSAGE_BYTES_MAX) chunks.push(chunk);
    else if (!response.headersSent) {
      response.setHeader("connection", "close");
      end(413, `a message has at most ${MESSAGE_BYTES_MAX} bytes\n`);
    }
  });
  request.on("error", () => response.destroy());
  request.on("end", () => {
    if (response.headersSent) return;
    const text = answer.text(Buffer.concat(chunks).toString("utf8"), undefined);
    end(200, text ?? "", "application/json");
  });
}
