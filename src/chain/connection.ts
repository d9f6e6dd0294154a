import { setTimeout as delay } from "node:timers/promises";
import type { Logger } from "../runtime/logger.ts";
import type { Closable } from "../runtime/shutdown.ts";
import { ChainError, chainErrorOf } from "./chain-error.ts";
import {
  type JsonRpcSocket,
  openJsonRpcSocket,
  RequestRefusedError,
  RequestTimeoutError,
  SocketLostError,
} from "./json-rpc-socket.ts";

/** Longest wait for one RPC, time without a connection included, unless the options say otherwise. */
const RPC_TIMEOUT_MS = 30_000;
/** Calls that may wait for a connection. */
const WAITING_CALLS_MAX = 1_024;
/** Without a new head for this long (10 blocks of 12 s) the socket is taken for dead. */
const STALLED_MS = 120_000;
const STALL_CHECK_MS = 10_000;
const BACKOFF_MS_MIN = 250;
const BACKOFF_MS_MAX = 30_000;
/** A connection that lived this long resets the backoff. */
const STABLE_MS = 10_000;

export interface ConnectionOptions {
  /** `ws://` or `wss://` URL of a Substrate node. */
  readonly endpoint: string;
  /** Longest wait for one connection to be usable, and for the first one including retries. */
  readonly connectTimeoutMs: number;
  /** Longest wait for one call, time without a connection included; 30 s by default. */
  readonly rpcTimeoutMs?: number;
  readonly log: Logger;
}

/** One live connection to one chain. It reconnects by itself; the chain it talks to never changes. */
export interface Connection extends Closable {
  /** Hash of block 0, 0x-hex. */
  readonly genesisHash: string;
  /**
   * Waits for a connection if there is none, and asks again if the connection is lost: the method must be idempotent.
   *
   * @throws ChainError
   */
  call(method: string, ...params: readonly unknown[]): Promise<unknown>;
  /** Raw headers of new blocks, of whatever connection is live. @returns a function that stops it. */
  onHeader(kind: HeadKind, listener: (header: unknown) => void): () => void;
  /** Called after every connect but the first. */
  onReconnect(listener: () => void): void;
}

export type HeadKind = "best" | "finalized";

const SUBSCRIPTIONS: Readonly<Record<HeadKind, string>> = {
  best: "chain_subscribeNewHeads",
  finalized: "chain_subscribeFinalizedHeads",
};

/** @throws ChainError "Unreachable" if there is no usable connection within `connectTimeoutMs`. */
export async function openConnection(options: ConnectionOptions): Promise<Connection> {
  const { endpoint, connectTimeoutMs, rpcTimeoutMs = RPC_TIMEOUT_MS, log } = options;
  const closing = new AbortController();
  const listeners: Record<HeadKind, Set<(header: unknown) => void>> = {
    best: new Set(),
    finalized: new Set(),
  };
  const reconnected = new Set<() => void>();
  const waiting = new Set<PromiseWithResolvers<JsonRpcSocket>>();
  let genesisHash: string | undefined;
  let live: JsonRpcSocket | undefined;
  /** Set once, for good: closed, or another chain answered. */
  let failure: ChainError | undefined;
  let lastAttemptError: unknown;
  let lastHeadMs = 0;

  const fail = (error: ChainError): void => {
    failure ??= error;
    closing.abort();
    live?.close();
    for (const waiter of waiting) waiter.reject(failure);
    waiting.clear();
  };

  const tell = (kind: HeadKind, header: unknown): void => {
    lastHeadMs = performance.now();
    for (const listener of listeners[kind]) listener(header);
  };

  const establish = async (): Promise<JsonRpcSocket> => {
    const socket = await openJsonRpcSocket(endpoint, connectTimeoutMs, closing.signal);
    try {
      const hash = String(await socket.request("chain_getBlockHash", [0], connectTimeoutMs));
      if (!/^0x[0-9a-f]{64}$/.test(hash)) throw new Error("the node has no genesis block");
      if (genesisHash !== undefined && hash !== genesisHash) {
        log.error({ endpoint, expected: genesisHash, found: hash }, "chain.wrong_genesis");
        fail(
          new ChainError(
            "WrongGenesis",
            `${endpoint} now serves another chain (genesis ${hash}, was ${genesisHash}); restart against the right one`,
          ),
        );
        throw new Error("another chain");
      }
      for (const kind of ["best", "finalized"] as const) {
        await socket.subscribe(SUBSCRIPTIONS[kind], connectTimeoutMs, (header) =>
          tell(kind, header),
        );
      }
      genesisHash = hash;
      return socket;
    } catch (error) {
      socket.close();
      throw error;
    }
  };

  const keepConnected = async (): Promise<void> => {
    let failures = 0;
    while (!closing.signal.aborted) {
      const isFirst = genesisHash === undefined;
      let startedMs = performance.now();
      try {
        const socket = await establish();
        startedMs = performance.now();
        lastHeadMs = startedMs;
        live = socket;
        log.info({ endpoint, genesis: genesisHash }, "chain.connected");
        if (!isFirst) for (const listener of reconnected) listener();
        for (const waiter of waiting) waiter.resolve(socket);
        waiting.clear();
        await socket.lost;
        if (closing.signal.aborted) return;
        log.warn({ endpoint }, "chain.disconnected");
        if (performance.now() - startedMs > STABLE_MS) failures = 0;
      } catch (error) {
        lastAttemptError = error;
        if (closing.signal.aborted) return;
        log.debug({ endpoint, attempt: failures + 1, err: error }, "chain.connect_failed");
      }
      const backoffMs = Math.min(BACKOFF_MS_MAX, BACKOFF_MS_MIN * 2 ** Math.min(failures, 10));
      failures += 1;
      // Jitter keeps the clients of a restarted node apart.
      await delay(backoffMs * (0.5 + Math.random() / 2), undefined, {
        signal: closing.signal,
      }).catch(() => undefined);
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
      () => waiter.reject(new ChainError("Disconnected", `no connection to ${endpoint}`)),
      Math.max(0, deadlineMs - performance.now()),
    );
    try {
      return await waiter.promise;
    } finally {
      clearTimeout(timer);
      waiting.delete(waiter);
    }
  };

  const call = async (method: string, ...params: readonly unknown[]): Promise<unknown> => {
    const deadlineMs = performance.now() + rpcTimeoutMs;
    for (;;) {
      const socket = await liveSocket(deadlineMs);
      const remainingMs = Math.max(1, Math.ceil(deadlineMs - performance.now()));
      try {
        return await socket.request(method, params, remainingMs);
      } catch (cause) {
        if (cause instanceof SocketLostError) continue; // liveSocket ends this when closed or too late
        if (cause instanceof RequestRefusedError) throw chainErrorOf(method, cause.failure);
        if (cause instanceof RequestTimeoutError) {
          // Half-dead sockets are common at public endpoints: a new one is cheaper than finding out.
          log.warn({ endpoint, method }, "chain.rpc_timeout");
          socket.close();
          throw new ChainError("Timeout", cause.message, { cause });
        }
        throw new ChainError("Overloaded", "too many requests to the chain", { cause });
      }
    }
  };

  const stallTimer = setInterval(() => {
    if (live?.isLost === false && performance.now() - lastHeadMs > STALLED_MS) {
      log.warn(
        { endpoint, stalledMs: Math.round(performance.now() - lastHeadMs) },
        "chain.stalled",
      );
      live.close();
    }
  }, STALL_CHECK_MS);
  stallTimer.unref();

  const running = keepConnected();
  const close = async (): Promise<void> => {
    clearInterval(stallTimer);
    fail(new ChainError("Closed", "the connection to the chain was closed"));
    await running;
  };

  try {
    await liveSocket(performance.now() + connectTimeoutMs);
  } catch {
    await close();
    throw new ChainError("Unreachable", `no Subtensor node answers at ${endpoint}`, {
      cause: lastAttemptError,
    });
  }
  if (genesisHash === undefined) throw new Error("a live connection has a genesis");
  return {
    genesisHash,
    call,
    onHeader(kind, listener) {
      listeners[kind].add(listener);
      return () => listeners[kind].delete(listener);
    },
    onReconnect(listener) {
      reconnected.add(listener);
    },
    close,
  };
}
