import { setTimeout as delay } from "node:timers/promises";
import { type ErrorCode, RouterError } from "../core/errors.ts";
import { isRetryable } from "../runtime/queryable.ts";

/** Orders in one statement. */
const BATCH_ORDERS_MAX = 500;
/**
 * Time from the start of a batch of several orders to the start of the next. A batch costs the database about as much as
 * twelve requests, whatever is in it: at 2,000 requests/s, batches without a pause took twice the processor time.
 * Whoever is alone never waits.
 */
const BATCH_PERIOD_MS = 4;
/** Orders that may wait before new holds are refused. */
const HOLDS_WAITING_MAX = 10_000;
/** Room for the ends of what is held: refusing one would lose money, so it is far larger. */
const ENDS_WAITING_MAX = 200_000;
/** How long a hold waits for a database that does not answer. Its request has not been answered yet. */
export const HOLD_WAIT_MS_MAX = 5_000;
/** How often, within that time, holds are looked through while a statement hangs. */
const OVERDUE_CHECKS = 10;
const RETRY_MS_MIN = 50;
const RETRY_MS_MAX = 2_000;
/** How long `close` waits for what is queued. */
const DRAIN_MS_MAX = 10_000;

/** One thing to commit. */
export interface Order {
  /** The request it is about: a batch never has two orders of one request, so they apply in the order they came. */
  readonly request: string | undefined;
  /** A hold may be given up while the database is down; anything else ends something and must be committed. */
  readonly isHold: boolean;
  readonly queuedMs: number;
  /** Refuses the order; it may or may not have been committed when `wasSent`. */
  readonly fail: (error: Error, wasSent: boolean) => void;
}

/** What the queue reports about itself. */
export interface GroupCommitEvents {
  committed(orders: number, seconds: number): void;
  retrying(error: Error, orders: number): void;
  /** A batch that the database refuses; its orders are tried one by one. Right in the end, and a bug: reported. */
  refused(error: Error, orders: number): void;
  /** A single order that the database refuses every time: a bug, reported and dropped so that it stops nobody else. */
  poisoned(error: Error): void;
}

/**
 * A queue whose content is committed together: one batch in flight, everything that arrives meanwhile is the next. Under
 * load a batch starts 4 ms after the one before.
 */
export interface GroupCommit<T extends Order> {
  /** @throws RouterError `overloaded`, `ledger_unavailable` or `shutting_down`. */
  push(order: T): void;
  waiting(): number;
  /** Commits what waits, then stops. Orders that cannot be committed in time fail with `ledger_unavailable`. */
  close(): Promise<void>;
}

/**
 * @param commit applies a batch atomically and returns what tells the callers, or throws. It is repeated with the
 * same orders while that may help.
 * @param holdWaitMs how long a hold waits for a database that does not answer.
 */
export function openGroupCommit<T extends Order>(
  commit: (batch: readonly T[]) => Promise<() => void>,
  events: GroupCommitEvents,
  holdWaitMs: number,
): GroupCommit<T> {
  let queue: T[] = [];
  let holds = 0;
  let pumping: Promise<void> | undefined;
  let downSinceMs: number | undefined;
  let isClosing = false;
  const giveUp = new AbortController();

  const take = (): T[] => {
    const seen = new Set<string>();
    const batch: T[] = [];
    const later: T[] = [];
    let read = 0;
    for (; read < queue.length && batch.length < BATCH_ORDERS_MAX; read += 1) {
      const order = queue[read] as T;
      if (order.request !== undefined && seen.has(order.request)) {
        later.push(order);
        continue;
      }
      if (order.request !== undefined) seen.add(order.request);
      if (order.isHold) holds -= 1;
      batch.push(order);
    }
    queue = later.length === 0 && read === queue.length ? [] : later.concat(queue.slice(read));
    return batch;
  };

  /** Holds whose caller has waited long enough; the rest stays. */
  const dropOverdueHolds = (orders: readonly T[], wasSent: boolean): T[] =>
    orders.filter((order) => {
      if (!order.isHold || Date.now() - order.queuedMs < holdWaitMs) return true;
      order.fail(unavailable(), wasSent);
      return false;
    });

  const dropOverdueInQueue = (): void => {
    const before = queue;
    queue = dropOverdueHolds(before, false);
    holds -= before.length - queue.length;
  };

  const commitAll = async (first: readonly T[]): Promise<void> => {
    let batch = first;
    let retryMs = RETRY_MS_MIN;
    while (batch.length > 0) {
      const startedMs = performance.now();
      // A statement may hang for longer than a customer should wait. Should it commit after all, the holds are released.
      const overdue = setInterval(
        () => {
          batch = dropOverdueHolds(batch, true);
          dropOverdueInQueue();
        },
        Math.ceil(holdWaitMs / OVERDUE_CHECKS),
      );
      try {
        const acknowledge = await commit(batch);
        downSinceMs = undefined;
        events.committed(batch.length, (performance.now() - startedMs) / 1_000);
        acknowledge();
        return;
      } catch (cause) {
        const error = cause instanceof Error ? cause : new Error(String(cause));
        if (!isRetryable(error)) {
          await isolate(batch, error);
          return;
        }
        downSinceMs ??= Date.now();
        events.retrying(error, batch.length);
      } finally {
        clearInterval(overdue);
      }
      await delay(retryMs, undefined, { signal: giveUp.signal }).catch(() => {});
      if (giveUp.signal.aborted) {
        for (const order of batch) order.fail(unavailable(), true);
        return;
      }
      retryMs = Math.min(retryMs * 2, RETRY_MS_MAX);
      batch = dropOverdueHolds(batch, true);
      dropOverdueInQueue();
    }
  };

  /** The statement was refused and rolled back: finds the order that causes it. */
  const isolate = async (batch: readonly T[], error: Error): Promise<void> => {
    const [only] = batch;
    if (batch.length === 1 && only !== undefined) {
      events.poisoned(error);
      only.fail(error, false);
      return;
    }
    events.refused(error, batch.length);
    for (const order of batch) await commitAll([order]);
  };

  let nextStartMs = 0;
  const pace = async (): Promise<void> => {
    const waitMs = nextStartMs - performance.now();
    if (waitMs > 0 && queue.length < BATCH_ORDERS_MAX)
      await delay(waitMs, undefined, { signal: giveUp.signal }).catch(() => {});
  };

  const pump = async (): Promise<void> => {
    while (queue.length > 0) {
      if (nextStartMs > 0) await pace();
      if (giveUp.signal.aborted) {
        for (const order of take()) order.fail(unavailable(), false);
      } else {
        const batch = take();
        nextStartMs = batch.length > 1 ? performance.now() + BATCH_PERIOD_MS : 0;
        await commitAll(batch);
      }
    }
  };

  const start = (): void => {
    pumping ??= pump().finally(() => {
      pumping = undefined;
      if (queue.length > 0) start();
    });
  };

  return {
    push: (order) => {
      const refusal = refusalOf(order);
      if (refusal !== undefined) throw refusal;
      queue.push(order);
      if (order.isHold) holds += 1;
      start();
    },
    waiting: () => queue.length,
    close: async () => {
      isClosing = true;
      const deadline = setTimeout(() => giveUp.abort(), DRAIN_MS_MAX);
      while (pumping !== undefined) await pumping;
      clearTimeout(deadline);
    },
  };

  function refusalOf(order: T): RouterError | undefined {
    if (!order.isHold) {
      const isFull = queue.length >= ENDS_WAITING_MAX;
      if (giveUp.signal.aborted || (isClosing && pumping === undefined)) return unavailable();
      return isFull
        ? refusal("overloaded", "too many settlements wait for the database")
        : undefined;
    }
    if (isClosing) return refusal("shutting_down", "the gateway is shutting down");
    if (downSinceMs !== undefined && Date.now() - downSinceMs >= holdWaitMs) return unavailable();
    return holds >= HOLDS_WAITING_MAX
      ? refusal("overloaded", "too many requests wait for the ledger")
      : undefined;
  }
}

function unavailable(): RouterError {
  return refusal("ledger_unavailable", "the ledger cannot be reached");
}

function refusal(code: ErrorCode, message: string): RouterError {
  return new RouterError(code, message, { retryAfterSeconds: 1 });
}
