import type { IncomingHttpHeaders } from "node:http";
import { connect as connectTls, type TLSSocket } from "node:tls";
import { type buildConnector, type Dispatcher, Pool } from "undici";
import { peerSpkiSha256Of } from "../attestation/spki.ts";
import type { VerifiedEvidence } from "../attestation/verify-evidence.ts";
import { RouterError } from "../core/errors.ts";
import type { Closable } from "../runtime/shutdown.ts";
import { outboundOptions } from "./outbound-address.ts";

/** Most requests that are under way with one relay; the pool would queue any more without a word. */
export const RELAY_CONNECTIONS_MAX = 256;
const CONNECT_TIMEOUT_MS = 5_000;
/** A reasoning model may think this long before its first byte. */
const HEADERS_TIMEOUT_MS = 120_000;
/** Longest silence within an answer. */
const BODY_GAP_TIMEOUT_MS = 300_000;
const KEEP_ALIVE_MS = 30_000;

/** The relay presented another TLS key than the one in its evidence. */
export class WrongTlsKey extends Error {
  override readonly name = "WrongTlsKey";
  constructor() {
    super("the TLS key is not the attested one");
  }
}

/**
 * Opens TLS sockets for undici and hands one over only after `accept` has seen the peer's key.
 *
 * The usual pin, `checkServerIdentity`, is not called for a self-signed certificate when `rejectUnauthorized` is false
 * (Node 20–24), so it would silently pass. A resumed session carries no certificate, hence no session reuse.
 */
function tlsConnector(
  allowPrivate: boolean,
  accept: (spki: string) => boolean,
): buildConnector.connector {
  return ({ hostname, port, servername }, callback) => {
    let settled = false;
    const settle = (error: Error | undefined, socket?: TLSSocket): void => {
      if (settled) return;
      settled = true;
      clearTimeout(timer);
      if (error !== undefined || socket === undefined)
        callback(error ?? new Error("no socket"), null);
      else callback(null, socket);
    };
    const timer = setTimeout(() => {
      settle(new Error("the relay did not complete a TLS handshake in time"));
      socket?.destroy();
    }, CONNECT_TIMEOUT_MS);
    let socket: TLSSocket | undefined;
    try {
      const opened = connectTls({
        host: hostname.replace(/^\[|\]$/g, ""),
        port: port === "" ? 443 : Number(port),
        ...(servername === undefined ? {} : { servername }),
        rejectUnauthorized: false,
        minVersion: "TLSv1.3",
        ALPNProtocols: ["http/1.1"],
        ...outboundOptions(hostname, allowPrivate),
      });
      socket = opened;
      opened.setNoDelay(true);
      opened.once("error", (error: Error) => settle(error));
      opened.once("close", () => settle(new Error("the relay closed the connection")));
      opened.once("secureConnect", () => {
        const spki = peerSpkiSha256Of(opened);
        if (spki === undefined || !accept(spki)) {
          settle(new WrongTlsKey());
          opened.destroy();
          return;
        }
        settle(undefined, opened);
      });
    } catch (error) {
      settle(error instanceof Error ? error : new Error("cannot connect", { cause: error }));
    }
  };
}

/** What a relay does with one request, told as it happens. Exactly one of `onEnd` and `onError` comes last. */
export interface RelayListener {
  onHead(status: number, headers: IncomingHttpHeaders): void;
  onData(chunk: Buffer): void;
  onEnd(trailers: IncomingHttpHeaders): void;
  onError(error: Error): void;
}

/** One request under way. */
export interface RelayExchange {
  /** Stops reading, so that the relay feels the customer's pace. */
  pause(): void;
  resume(): void;
  /** Gives up; the listener hears `onError`, unless it has heard its last event. */
  abort(): void;
}

export interface RelayRequest {
  readonly method: "GET" | "POST";
  readonly path: string;
  readonly headers: Readonly<Record<string, string>>;
  readonly body?: Buffer;
}

/** A keep-alive connection pool to one relay whose every connection presented the attested key. */
export interface RelayConnection extends Closable {
  readonly url: string;
  readonly peer: VerifiedEvidence;
  /** Requests under way. */
  inFlight(): number;
  /** Sends a request, never twice. @throws RouterError `overloaded` when too many are under way. */
  exchange(request: RelayRequest, listener: RelayListener): RelayExchange;
  /** Closes once the requests under way have ended; new ones are refused. */
  drain(): Promise<void>;
  /** A small request whose answer is read whole. @throws Error on a timeout or a longer answer. */
  ask(request: RelayRequest, limits: AskLimits): Promise<RelayAnswer>;
}

export interface AskLimits {
  readonly timeoutMs: number;
  readonly bytesMax: number;
}

export interface RelayAnswer {
  readonly status: number;
  readonly body: Buffer;
}

/** Opens a pool to the peer that the evidence describes. Connects when first used. */
export function openRelayConnection(
  url: string,
  peer: VerifiedEvidence,
  options: { readonly allowPrivate: boolean },
): RelayConnection {
  const pinned = peer.statement.tls_spki;
  const pool = poolOf(url, RELAY_CONNECTIONS_MAX, options.allowPrivate, (spki) => spki === pinned);
  let inFlight = 0;
  const onOver = (): void => {
    inFlight -= 1;
  };
  const exchange = (request: RelayRequest, listener: RelayListener): RelayExchange => {
    if (inFlight >= RELAY_CONNECTIONS_MAX)
      throw new RouterError("overloaded", "the miner is busy", { retryAfterSeconds: 1 });
    inFlight += 1;
    return dispatch(pool, request, listener, onOver);
  };
  return {
    url,
    peer,
    inFlight: () => inFlight,
    exchange,
    ask: (request, limits) => readWhole((listener) => exchange(request, listener), limits),
    drain: () => pool.close(),
    close: () => pool.destroy(),
  };
}

/**
 * Asks a relay that is not verified yet, on a connection of its own.
 *
 * @returns the answer and the TLS key that gave it, for the evidence to be compared with.
 */
export async function askUnverifiedRelay(
  url: string,
  path: string,
  options: AskLimits & { readonly allowPrivate: boolean },
): Promise<RelayAnswer & { readonly tlsSpki: string }> {
  let tlsSpki: string | undefined;
  const pool = poolOf(url, 1, options.allowPrivate, (spki) => {
    tlsSpki ??= spki;
    return spki === tlsSpki;
  });
  try {
    const request: RelayRequest = { method: "GET", path, headers: {} };
    const answer = await readWhole(
      (listener) => dispatch(pool, request, listener, () => undefined),
      options,
    );
    if (tlsSpki === undefined) throw new Error("the relay answered without TLS");
    return { ...answer, tlsSpki };
  } finally {
    await pool.destroy();
  }
}

function poolOf(
  url: string,
  connections: number,
  allowPrivate: boolean,
  accept: (spki: string) => boolean,
): Pool {
  const { origin, protocol } = new URL(url);
  if (protocol !== "https:") throw new Error("a relay's URL must start with https://");
  return new Pool(origin, {
    connections,
    pipelining: 1,
    // undici's HTTP/2 client sends POSTs one at a time per session.
    allowH2: false,
    headersTimeout: HEADERS_TIMEOUT_MS,
    bodyTimeout: BODY_GAP_TIMEOUT_MS,
    keepAliveTimeout: KEEP_ALIVE_MS,
    connect: tlsConnector(allowPrivate, accept),
  });
}

/** @param onOver is called once, just before the listener hears its last event. */
function dispatch(
  pool: Pool,
  request: RelayRequest,
  listener: RelayListener,
  onOver: () => void,
): RelayExchange {
  const handler = new ExchangeHandler(listener, onOver);
  pool.dispatch(
    {
      method: request.method,
      path: request.path,
      headers: request.headers,
      body: request.body ?? null,
    },
    handler,
  );
  return handler;
}

/** Adapts undici's events. A class, because its methods are called for every chunk and stay monomorphic. */
class ExchangeHandler implements Dispatcher.DispatchHandler, RelayExchange {
  readonly #listener: RelayListener;
  readonly #onOver: () => void;
  #controller: Dispatcher.DispatchController | undefined;
  #ended = false;
  #aborted = false;

  constructor(listener: RelayListener, onOver: () => void) {
    this.#listener = listener;
    this.#onOver = onOver;
  }

  onRequestStart(controller: Dispatcher.DispatchController): void {
    this.#controller = controller;
    if (this.#aborted) controller.abort(new Error("aborted"));
  }

  onResponseStart(
    _controller: Dispatcher.DispatchController,
    status: number,
    headers: IncomingHttpHeaders,
  ): void {
    if (status >= 200 && !this.#ended) this.#listener.onHead(status, headers);
  }

  onResponseData(_controller: Dispatcher.DispatchController, chunk: Buffer): void {
    if (!this.#ended) this.#listener.onData(chunk);
  }

  onResponseEnd(_controller: Dispatcher.DispatchController, trailers: IncomingHttpHeaders): void {
    if (this.#ended) return;
    this.#ended = true;
    this.#onOver();
    this.#listener.onEnd(trailers);
  }

  onResponseError(_controller: Dispatcher.DispatchController, error: Error): void {
    if (this.#ended) return;
    this.#fail(error);
  }

  pause(): void {
    if (!this.#ended) this.#controller?.pause();
  }

  resume(): void {
    if (!this.#ended) this.#controller?.resume();
  }

  abort(): void {
    if (this.#ended || this.#aborted) return;
    this.#aborted = true;
    const controller = this.#controller;
    if (controller !== undefined) {
      controller.abort(new Error("aborted"));
      return;
    }
    // No connection yet: the request is dropped when one is there, and the listener need not wait for that.
    this.#fail(new Error("aborted"));
  }

  #fail(error: Error): void {
    this.#ended = true;
    this.#onOver();
    this.#listener.onError(error);
  }
}

async function readWhole(
  start: (listener: RelayListener) => RelayExchange,
  { timeoutMs, bytesMax }: AskLimits,
): Promise<RelayAnswer> {
  let timer: NodeJS.Timeout | undefined;
  let exchange: RelayExchange | undefined;
  try {
    return await new Promise<RelayAnswer>((resolve, reject) => {
      const chunks: Buffer[] = [];
      let bytes = 0;
      let status = 0;
      timer = setTimeout(() => reject(new Error("the relay did not answer in time")), timeoutMs);
      exchange = start({
        onHead: (code) => {
          status = code;
        },
        onData: (chunk) => {
          bytes += chunk.length;
          if (bytes > bytesMax) reject(new Error("the relay's answer is too long"));
          else chunks.push(chunk);
        },
        onEnd: () => resolve({ status, body: Buffer.concat(chunks) }),
        onError: reject,
      });
    });
  } finally {
    clearTimeout(timer);
    exchange?.abort();
  }
}
