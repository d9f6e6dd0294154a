import { setTimeout as delay } from "node:timers/promises";
import type { Logger } from "../runtime/logger.ts";
import type { Closable } from "../runtime/shutdown.ts";
import { ChainError, chainErrorOf } from "./chain-error.ts";
import { type Endpoint, openEndpointRota } from "./endpoint-rota.ts";
import {
  type JsonRpcSocket,
  openJsonRpcSocket,
  RateLimitedError,
  RequestRefusedError,
  RequestTimeoutError,
  SocketLostError,
} from "./json-rpc-socket.ts";

/** Longest wait for one RPC, time without a connection included, unless the options say otherwise. */
const RPC_TIMEOUT_MS = 30_000;
/** Calls that may wait for a connection. */
const WAITING_CALLS_MAX = 1_024;
/** Without a new best block for this long (10 blocks of 12 s) the node is taken for dead; then finality is looked at too. */
const STALLED_MS = 120_000;
/** A connection that lived this long shows that its endpoint works. */
const STABLE_MS = 10_000;
/** Rest of an endpoint that answers "too many requests" and does not say how long. */
const RATE_LIMITED_REST_MS = 10_000;

export interface ConnectionOptions {
  /** `ws://` or `wss://` URLs of nodes of one chain, at least one; the earlier ones are preferred. */
  readonly endpoints: readonly string[];
  /**
   * Longest wait for the first connection, retries included. One attempt, also a later one, takes at most its share:
   * this divided by the number of endpoints.
   */
  readonly connectTimeoutMs: number;
  /** Longest wait for one call, time without a connection included; 30 s by default. */
  readonly rpcTimeoutMs?: number;
  /** Longest time without a new best block before the node is left for the next; 120 s by default. */
  readonly stalledMs?: number;
  readonly log: Logger;
}

/**
 * One live connection to one chain, through whichever of its endpoints works. It reconnects by itself; the chain it
 * talks to never changes.
 */
export interface Connection extends Closable {
  /** Hash of block 0, 0x-hex. */
  readonly genesisHash: string;
  /** Aborts when all calls from then on fail: after `close`, or when no endpoint serves the chain any more. */
  readonly closed: AbortSignal;
  /**
   * Waits for a connection if there is none, and asks again if the connection is lost: the method must be idempotent.
   *
   * @throws ChainError
   */
  call(method: string, ...params: readonly unknown[]): Promise<unknown>;
  /**
   * As `call`, but nothing is asked twice.
   *
   * @throws ChainError "Timeout" when it is not known whether the node received it; any other name means that it did not
   * take it.
   */
  callOnce(method: string, ...params: readonly unknown[]): Promise<unknown>;
  /** Raw headers of new blocks, of whatever connection is live. @returns a function that stops it. */
  onHeader(kind: HeadKind, listener: (header: unknown) => void): () => void;
  /** Called after every connect but the first. @returns a function that stops it. */
  onReconnect(listener: () => void): () => void;
}

export type HeadKind = "best" | "finalized";

const SUBSCRIPTIONS: Readonly<Record<HeadKind, string>> = {
  best: "chain_subscribeNewHeads",
  finalized: "chain_subscribeFinalizedHeads",
};

/** @throws ChainError "Unreachable" if there is no usable connection within `connectTimeoutMs`. */
export async function openConnection(options: ConnectionOptions): Promise<Connection> {
  const { connectTimeoutMs, rpcTimeoutMs = RPC_TIMEOUT_MS, log } = options;
  const { stalledMs = STALLED_MS } = options;
  const attemptTimeoutMs = Math.ceil(connectTimeoutMs / options.endpoints.length);
  const rota = openEndpointRota(options.endpoints, Math.random);
  const closing = new AbortController();
  const listeners: Record<HeadKind, Set<(header: unknown) => void>> = {
    best: new Set(),
    finalized: new Set(),
  };
  const reconnected = new Set<() => void>();
  const waiting = new Set<PromiseWithResolvers<JsonRpcSocket>>();
  let genesisHash: string | undefined;
  let live: JsonRpcSocket | undefined;
  /** Set once, for good: closed, or all endpoints serve other chains. */
  let failure: ChainError | undefined;
  let lastAttemptError: unknown;
  /** Connections whose node said that it is asked too much. */
  const rateLimited = new WeakSet<JsonRpcSocket>();
  const highest: Record<HeadKind, number> = { best: -1, finalized: -1 };
  const stallTimers: Partial<Record<HeadKind, NodeJS.Timeout>> = {};

  const fail = (error: ChainError): void => {
    failure ??= error;
    closing.abort();
    live?.close();
    for (const waiter of waiting) waiter.reject(failure);
    waiting.clear();
  };

  /** A header that cannot be read, such as the notice that a node ended the subscription, costs the connection. */
  const tell = (kind: HeadKind, header: unknown, leave: () => void): void => {
    try {
      for (const listener of listeners[kind]) listener(header);
      const number = blockNumberOf(header);
      // A node that repeats itself, or follows far behind, is no better than a silent one.
      if (number > highest[kind]) {
        highest[kind] = number;
        stallTimers[kind]?.refresh();
      }
    } catch (err) {
      log.warn({ err, kind }, "chain.bad_header");
      leave();
    }
  };

  const checkGenesis = (endpoint: Endpoint, hash: string): void => {
    if (!/^0x[0-9a-f]{64}$/.test(hash)) throw new Error("the node has no genesis block");
    if (genesisHash === undefined || hash === genesisHash) return;
    log.error(
      { endpoint: endpoint.shown, expected: genesisHash, found: hash },
      "chain.wrong_genesis",
    );
    rota.exclude(endpoint);
    if (rota.next(performance.now()) === undefined) {
      fail(
        new ChainError(
          "WrongGenesis",
          `${endpoint.shown} now serves another chain (genesis ${hash}, was ${genesisHash}); restart against the right one`,
        ),
      );
    }
    throw new Error("another chain");
  };

  const establish = async (endpoint: Endpoint): Promise<JsonRpcSocket> => {
    const deadlineMs = performance.now() + attemptTimeoutMs;
    const remainingMs = (): number => Math.max(1, Math.ceil(deadlineMs - performance.now()));
    const socket = await openJsonRpcSocket(endpoint.url, attemptTimeoutMs, closing.signal);
    try {
      const hash = String(await socket.request("chain_getBlockHash", [0], remainingMs()));
      checkGenesis(endpoint, hash);
      for (const kind of ["best", "finalized"] as const) {
        await socket.subscribe(SUBSCRIPTIONS[kind], remainingMs(), (header) =>
          tell(kind, header, () => socket.close()),
        );
      }
      genesisHash = hash;
      return socket;
    } catch (error) {
      socket.close();
      await socket.gone;
      throw error;
    }
  };

  /** Finality may pause on the whole chain; a node that has news and does not tell them has lost the subscription. */
  const checkFinality = async (endpoint: Endpoint, socket: JsonRpcSocket): Promise<void> => {
    try {
      const hash = await socket.request("chain_getFinalizedHead", [], rpcTimeoutMs);
      const header = await socket.request("chain_getHeader", [hash], rpcTimeoutMs);
      if (blockNumberOf(header) <= highest.finalized) {
        stallTimers.finalized?.refresh();
        return;
      }
    } catch (err) {
      log.warn({ endpoint: endpoint.shown, err }, "chain.finality_unknown");
    }
    log.warn({ endpoint: endpoint.shown, stalledMs }, "chain.finality_untold");
    socket.close();
  };

  /** Uses one connection until it is lost. @returns how long it lived, in milliseconds. */
  const useConnection = async (endpoint: Endpoint, socket: JsonRpcSocket): Promise<number> => {
    const startedMs = performance.now();
    live = socket;
    stallTimers.best = setTimeout(() => {
      log.warn({ endpoint: endpoint.shown, stalledMs }, "chain.stalled");
      socket.close();
    }, stalledMs);
    stallTimers.finalized = setTimeout(() => void checkFinality(endpoint, socket), stalledMs);
    for (const waiter of waiting) waiter.resolve(socket);
    waiting.clear();
    await socket.gone;
    for (const kind of ["best", "finalized"] as const) {
      clearTimeout(stallTimers[kind]);
      delete stallTimers[kind];
    }
    return performance.now() - startedMs;
  };

  const keepConnected = async (): Promise<void> => {
    for (;;) {
      const turn = rota.next(performance.now());
      if (turn === undefined) return;
      const { endpoint, waitMs } = turn;
      if (waitMs > 0)
        await delay(waitMs, undefined, { signal: closing.signal }).catch(() => undefined);
      if (closing.signal.aborted) return;
      const isFirst = genesisHash === undefined;
      let askedMs: number | undefined;
      try {
        const socket = await establish(endpoint);
        log.info({ endpoint: endpoint.shown, genesis: genesisHash }, "chain.connected");
        if (!isFirst) for (const listener of reconnected) listener();
        const livedMs = await useConnection(endpoint, socket);
        if (closing.signal.aborted) return;
        log.warn({ endpoint: endpoint.shown }, "chain.disconnected");
        if (livedMs > STABLE_MS) rota.worked(endpoint);
        askedMs = rateLimited.has(socket) ? RATE_LIMITED_REST_MS : undefined;
      } catch (error) {
        lastAttemptError = error;
        if (closing.signal.aborted) return;
        log.debug({ endpoint: endpoint.shown, err: error }, "chain.connect_failed");
        askedMs = askedRestMsOf(error);
      }
      rota.failed(endpoint, performance.now(), askedMs);
    }
  };

  const liveSocket = async (deadlineMs: number): Promise<JsonRpcSocket> => {
    if (failure !== undefined) throw failure;
    if (live?.isLost === false) return live;
    if (waiting.size >= WAITING_CALLS_MAX) {
      throw new ChainError("Overloaded", "too many calls wait for a connection to the chain");
    }
    const waiter = Promise.withResolvers<JsonRpcSocket>();
    waiting.add(waiter);
    const timer = setTimeout(
      () => waiter.reject(new ChainError("Disconnected", "no connection to the chain")),
      Math.max(0, deadlineMs - performance.now()),
    );
    try {
      return await waiter.promise;
    } finally {
      clearTimeout(timer);
      waiting.delete(waiter);
    }
  };

  const ask = async (
    isRepeatable: boolean,
    method: string,
    params: readonly unknown[],
  ): Promise<unknown> => {
    const deadlineMs = performance.now() + rpcTimeoutMs;
    for (;;) {
      const socket = await liveSocket(deadlineMs);
      const remainingMs = Math.max(1, Math.ceil(deadlineMs - performance.now()));
      try {
        return await socket.request(method, params, remainingMs);
      } catch (cause) {
        if (cause instanceof SocketLostError) {
          if (isRepeatable) continue; // liveSocket ends this when closed or too late
          throw new ChainError("Timeout", `${method}: the connection was lost`, { cause });
        }
        if (cause instanceof RequestRefusedError && isRateLimit(cause)) {
          log.warn({ method }, "chain.rate_limited");
          rateLimited.add(socket);
          socket.close(); // its endpoint rests, and the call waits for the next connection
          continue;
        }
        if (cause instanceof RequestRefusedError) throw chainErrorOf(method, cause.failure);
        if (cause instanceof RequestTimeoutError) {
          // Half-dead sockets are common at public endpoints: a new one is cheaper than finding out.
          log.warn({ method }, "chain.rpc_timeout");
          socket.close();
          throw new ChainError("Timeout", cause.message, { cause });
        }
        throw new ChainError("Overloaded", "too many requests to the chain", { cause });
      }
    }
  };

  const running = keepConnected();
  const close = async (): Promise<void> => {
    fail(new ChainError("Closed", "the connection to the chain was closed"));
    await running;
  };

  try {
    await liveSocket(performance.now() + connectTimeoutMs);
  } catch {
    await close();
    const hosts = options.endpoints.map((url) => new URL(url).host).join(", ");
    throw new ChainError("Unreachable", `no Subtensor node answers at ${hosts}`, {
      cause: lastAttemptError,
    });
  }
  if (genesisHash === undefined) throw new Error("a live connection has a genesis");
  return {
    genesisHash,
    closed: closing.signal,
    call: (method, ...params) => ask(true, method, params),
    callOnce: (method, ...params) => ask(false, method, params),
    onHeader(kind, listener) {
      listeners[kind].add(listener);
      return () => listeners[kind].delete(listener);
    },
    onReconnect(listener) {
      reconnected.add(listener);
      return () => reconnected.delete(listener);
    },
    close,
  };
}

/** Error codes with which nodes and the proxies before them refuse for rate: HTTP's, jsonrpsee's, OnFinality's, EIP-1474's. */
const RATE_LIMIT_CODES: ReadonlySet<number> = new Set([429, -32_999, -32_029, -32_005]);

function isRateLimit({ failure }: RequestRefusedError): boolean {
  return (
    RATE_LIMIT_CODES.has(failure.code) || /too many requests|rate limit/i.test(failure.message)
  );
}

/** @returns undefined if an attempt failed for another reason than its rate. */
function askedRestMsOf(error: unknown): number | undefined {
  if (error instanceof RateLimitedError) return error.retryAfterMs ?? RATE_LIMITED_REST_MS;
  return error instanceof RequestRefusedError && isRateLimit(error)
    ? RATE_LIMITED_REST_MS
    : undefined;
}

/** @throws Error if it is not a header. */
function blockNumberOf(header: unknown): number {
  const number = Number((header as { number?: unknown } | null | undefined)?.number);
  if (!Number.isSafeInteger(number)) throw new Error("not a header");
  return number;
}
