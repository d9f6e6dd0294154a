import { type RawData, WebSocket } from "ws";
import type { RpcFailure } from "./chain-error.ts";

/** Updates that may arrive before the answer that names their subscription. */
const EARLY_UPDATES_MAX = 64;
/** Requests that may wait for an answer on one socket. */
const PENDING_REQUESTS_MAX = 4_096;

/** Longest frame; a subnet's metadata is under 1 MiB. */
const FRAME_BYTES_MAX = 64 * 1024 * 1024;
/** Time for the closing handshake. A dead peer never answers it, and would keep the process from ending. */
const CLOSE_TIMEOUT_MS = 500;

/** The socket closed before an answer came. The request may or may not have been carried out. */
export class SocketLostError extends Error {
  override readonly name = "SocketLostError";
}

/** No answer in time. The socket may be half dead. */
export class RequestTimeoutError extends Error {
  override readonly name = "RequestTimeoutError";
}

/** The node answered with an error. */
export class RequestRefusedError extends Error {
  override readonly name = "RequestRefusedError";
  readonly failure: RpcFailure;

  constructor(failure: RpcFailure) {
    super(failure.message);
    this.failure = failure;
  }
}

/** The node wants to be left alone for a while: HTTP 429 instead of a WebSocket. */
export class RateLimitedError extends Error {
  override readonly name = "RateLimitedError";
  /** What its `Retry-After` says, in milliseconds; undefined without one. */
  readonly retryAfterMs: number | undefined;

  constructor(retryAfterMs: number | undefined) {
    super("the node answers 429 Too Many Requests");
    this.retryAfterMs = retryAfterMs;
  }
}

/** JSON-RPC 2.0 over one WebSocket. It never reconnects; when it is lost it stays lost. */
export interface JsonRpcSocket {
  /** @throws RequestRefusedError, RequestTimeoutError or SocketLostError. */
  request(method: string, params: readonly unknown[], timeoutMs: number): Promise<unknown>;
  /** Subscribes until the socket is lost. @throws as `request`. */
  subscribe(method: string, timeoutMs: number, onUpdate: (update: unknown) => void): Promise<void>;
  readonly isLost: boolean;
  /** Settles when the connection itself is gone, whoever closed it: at most half a second after `isLost`. */
  readonly gone: Promise<void>;
  close(): void;
}

interface Pending {
  resolve(result: unknown): void;
  reject(error: Error): void;
  readonly timer: NodeJS.Timeout;
}

/**
 * Opens a socket to a Substrate node.
 *
 * polkadot-js's WsProvider (16.5.6) is not used: it throws out of the socket's callback on a malformed frame, which
 * ends the process; checks timeouts every 5 s only; prints to the console; and puts parameters into error messages.
 * Nor is Node's own WebSocket: it cannot be ended when the peer is dead.
 *
 * @throws Error if there is no connection within `timeoutMs`, or `signal` fires; RateLimitedError. No connection is left.
 */
export async function openJsonRpcSocket(
  endpoint: string,
  timeoutMs: number,
  signal: AbortSignal,
): Promise<JsonRpcSocket> {
  signal.throwIfAborted();
  const socket = new WebSocket(endpoint, {
    handshakeTimeout: timeoutMs,
    maxPayload: FRAME_BYTES_MAX,
    perMessageDeflate: false,
  });
  const pending = new Map<number, Pending>();
  const subscriptions = new Map<string, (update: unknown) => void>();
  const early: { id: string; update: unknown }[] = [];
  let nextId = 1;
  let isLost = false;
  const gone = Promise.withResolvers<void>();

  const lose = (): void => {
    if (isLost) return;
    isLost = true;
    subscriptions.clear();
    for (const waiting of pending.values()) {
      clearTimeout(waiting.timer);
      waiting.reject(new SocketLostError("the connection to the chain was lost"));
    }
    pending.clear();
  };
  const close = (): void => {
    lose(); // what waits is released at once, not after the handshake
    socket.close();
    setTimeout(() => socket.terminate(), CLOSE_TIMEOUT_MS).unref();
  };

  const request = async (
    method: string,
    params: readonly unknown[],
    timeout: number,
  ): Promise<unknown> => {
    if (isLost) throw new SocketLostError("the connection to the chain was lost");
    if (pending.size >= PENDING_REQUESTS_MAX) throw new Error("too many requests to the chain");
    const id = nextId++;
    const answer = Promise.withResolvers<unknown>();
    const timer = setTimeout(() => {
      pending.delete(id);
      answer.reject(new RequestTimeoutError(`${method}: no answer in ${timeout} ms`));
    }, timeout);
    pending.set(id, { resolve: answer.resolve, reject: answer.reject, timer });
    socket.send(JSON.stringify({ jsonrpc: "2.0", id, method, params }));
    return await answer.promise;
  };

  socket.on("message", (data, isBinary) => {
    const frame = isBinary ? undefined : parseFrame(textOf(data));
    if (frame === undefined) {
      close(); // not a JSON-RPC peer
    } else if (frame.kind === "update") {
      const listener = subscriptions.get(frame.id);
      if (listener !== undefined) listener(frame.update);
      else if (early.push(frame) > EARLY_UPDATES_MAX) early.shift();
    } else {
      const waiting = pending.get(frame.id);
      if (waiting === undefined) return; // it timed out before
      pending.delete(frame.id);
      clearTimeout(waiting.timer);
      if (frame.kind === "result") waiting.resolve(frame.result);
      else waiting.reject(new RequestRefusedError(frame.failure));
    }
  });

  const opened = Promise.withResolvers<void>();
  const onAbort = (): void => opened.reject(new Error("closed while connecting"));
  signal.addEventListener("abort", onAbort, { once: true });
  socket.on("open", opened.resolve);
  socket.on("error", opened.reject);
  socket.on("unexpected-response", (_request, { statusCode, headers }) =>
    opened.reject(
      statusCode === 429
        ? new RateLimitedError(retryAfterMsOf(headers["retry-after"]))
        : new Error(`the node answers HTTP status ${statusCode}`),
    ),
  );
  socket.on("close", () => {
    opened.reject(new Error("the connection was closed"));
    lose();
    gone.resolve();
  });
  try {
    await opened.promise;
  } catch (error) {
    close();
    await gone.promise;
    throw error;
  } finally {
    signal.removeEventListener("abort", onAbort);
  }

  return {
    request,
    async subscribe(method, timeout, onUpdate) {
      const id = String(await request(method, [], timeout));
      subscriptions.set(id, onUpdate);
      for (const frame of early.splice(0)) if (frame.id === id) onUpdate(frame.update);
    },
    get isLost() {
      return isLost;
    },
    gone: gone.promise,
    close,
  };
}

type Frame =
  | { readonly kind: "result"; readonly id: number; readonly result: unknown }
  | { readonly kind: "failure"; readonly id: number; readonly failure: RpcFailure }
  | { readonly kind: "update"; readonly id: string; readonly update: unknown };

/** @returns undefined if the frame is nothing that a JSON-RPC 2.0 server sends. */
function parseFrame(text: string): Frame | undefined {
  const json = objectOf(parseJson(text));
  if (json === undefined) return undefined;
  if (typeof json["method"] === "string") {
    const params = objectOf(json["params"]);
    if (params === undefined) return undefined;
    return { kind: "update", id: String(params["subscription"]), update: params["result"] };
  }
  const id = json["id"];
  if (typeof id !== "number") return undefined;
  const error = objectOf(json["error"]);
  if (error === undefined) return { kind: "result", id, result: json["result"] };
  const { code, message, data: detail } = error;
  const failure = {
    code: typeof code === "number" ? code : 0,
    message: typeof message === "string" ? message : "unknown error",
    data: detail === undefined ? "" : typeof detail === "string" ? detail : JSON.stringify(detail),
  };
  return { kind: "failure", id, failure };
}

/** `Retry-After` in seconds or as a date (RFC 9110, 10.2.3) → milliseconds from now. */
function retryAfterMsOf(value: string | undefined): number | undefined {
  if (value === undefined) return undefined;
  const ms = /^\d+$/.test(value) ? Number(value) * 1_000 : Date.parse(value) - Date.now();
  return Number.isFinite(ms) ? Math.max(0, ms) : undefined;
}

/** ws gives a Buffer unless another `binaryType` is set. */
function textOf(data: RawData): string {
  return Buffer.isBuffer(data) ? data.toString() : "";
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

function objectOf(value: unknown): Record<string, unknown> | undefined {
  return typeof value === "object" && value !== null && !Array.isArray(value)
    ? (value as Record<string, unknown>)
    : undefined;
}
