import { setTimeout as delay } from "node:timers/promises";
import {
  type BegunJob,
  beginJob,
  buryJob,
  claimDue,
  countJobs,
  finishJob,
  forgetDone,
  giveBack,
  migrateJobs,
  retryJob,
} from "./job-outbox.ts";
import type { Logger } from "./logger.ts";
import { Counter, Gauge, type Registry } from "./metrics.ts";
import type { Database } from "./queryable.ts";
import type { Closable } from "./shutdown.ts";

/** How often the outbox is looked at without being woken, in milliseconds. */
const POLL_MS = 1_000;
/** Jobs that are handed on at once. */
const CLAIM_MAX = 64;
/** A job that was handed to the queue and has not begun for so long is handed to it again: the queue may have lost it. */
const HAND_AGAIN_MS = 60_000;
/** How long the queue may take to accept jobs. */
const HAND_MS_MAX = 2_000;
/** What a lease is longer than the time its handler has. */
const LEASE_MARGIN_MS = 10_000;
/** How often old jobs are forgotten and the others counted, in milliseconds. */
const UPKEEP_MS = 15_000;

/** One attempt at a job. */
export interface Job {
  readonly id: string;
  /** Rises in the order in which jobs were written. */
  readonly seq: bigint;
  readonly payload: unknown;
  /** Counted from 1. */
  readonly attempt: number;
  /** Aborted when the attempt's time is over, or the process stops. */
  readonly signal: AbortSignal;
}

/** A handler and its limits. */
export interface JobQueue {
  readonly name: string;
  /** Attempts before a job is dead. */
  readonly attemptsMax: number;
  /** How long one attempt may take, in milliseconds. Its lease is ten seconds longer. */
  readonly timeoutMs: number;
  /** Jobs of this queue that one process works on at the same time. */
  readonly concurrency: number;
  /** The first pause between two attempts, in milliseconds; each next one is twice as long. */
  readonly retryMs: number;
  readonly retryMsMax: number;
  /**
   * Does the work. It may be called again for a job that was done, when a process dies between the work and its record, so
   * the work must be safe to repeat. Never for one job in two processes at the same time, unless it outlives its lease.
   *
   * @throws to be called again later; JobFailure to say when, or never.
   */
  run(job: Job): Promise<void>;
}

/** Tells why an attempt failed, in words that may be stored, and what is to follow. */
export class JobFailure extends Error {
  override readonly name = "JobFailure";
  /** Pause before the next attempt in milliseconds, instead of the queue's own. */
  readonly retryMs: number | undefined;
  /** No attempt would help: the job is dead now. */
  readonly isFinal: boolean;

  constructor(
    message: string,
    options: { readonly retryMs?: number; readonly isFinal?: boolean } & ErrorOptions = {},
  ) {
    super(message, options);
    this.retryMs = options.retryMs;
    this.isFinal = options.isFinal ?? false;
  }
}

/** Brings due jobs to whichever process has time. The outbox stays the record: what a dispatcher loses is handed to it again. */
export interface JobDispatcher extends Closable {
  /** @throws when it cannot take them now. */
  hand(
    jobs: readonly { readonly queue: string; readonly key: string; readonly seq: bigint }[],
  ): Promise<void>;
}

/** Opens a dispatcher that calls `work` for what is handed to it, in this process or another. */
export type OpenDispatcher = (
  queues: readonly Pick<JobQueue, "name" | "concurrency" | "timeoutMs">[],
  work: (queue: string, seq: bigint) => Promise<void>,
) => Promise<JobDispatcher>;

export interface Jobs extends Closable {
  /** Looks at the outbox now: for after the commit of a job. */
  wake(): void;
}

/**
 * Does the jobs of an outbox, in this process and in others that open it: each at least once, retried with growing pauses, and
 * dead when its attempts are used up. Dead jobs are logged, counted, and stay in `jobs.outbox`.
 *
 * Without a dispatcher, and while it refuses, jobs are done by the process that finds them.
 *
 * @throws ConfigError if the database is newer. @throws what the dispatcher throws when it cannot be opened.
 */
export async function openJobs(options: {
  readonly database: Database;
  readonly queues: readonly JobQueue[];
  readonly openDispatcher?: OpenDispatcher | undefined;
  readonly log: Logger;
  readonly metrics: Registry;
  /** Default: 60,000 ms. */
  readonly handAgainMs?: number;
}): Promise<Jobs> {
  const { database, log, handAgainMs = HAND_AGAIN_MS } = options;
  await migrateJobs(database);
  const queues = new Map(options.queues.map((queue) => [queue.name, queue]));
  const measures = measuresOf(options.metrics);
  const stopping = new AbortController();
  const runs = new Set<Promise<void>>();

  const fail = async (queue: JobQueue, job: BegunJob, error: unknown): Promise<void> => {
    const failure = error instanceof JobFailure ? error : undefined;
    // Other errors may quote what they were about.
    const reason = failure?.message ?? (error instanceof Error ? error.name : "unknown");
    const facts = { queue: queue.name, job: job.id, attempt: job.attempts, err: error };
    if (failure?.isFinal === true || job.attempts >= queue.attemptsMax) {
      await buryJob(database, job, reason);
      measures.ended.inc({ queue: queue.name, result: "dead" });
      log.error(facts, "job.dead");
      return;
    }
    const pauseMs = failure?.retryMs ?? pauseAfter(job.attempts, queue);
    await retryJob(database, job, reason, pauseMs);
    measures.ended.inc({ queue: queue.name, result: "retried" });
    log.warn({ ...facts, retryMs: pauseMs }, "job.failed");
  };

  const attempt = async (queue: JobQueue, job: BegunJob): Promise<void> => {
    const timeout = AbortSignal.timeout(queue.timeoutMs);
    const signal = AbortSignal.any([timeout, stopping.signal]);
    const cut = new Promise<never>((_, reject) => {
      signal.addEventListener("abort", () =>
        reject(
          timeout.aborted
            ? new JobFailure(`the attempt took longer than ${queue.timeoutMs} ms`)
            : new JobFailure("the process stopped", { retryMs: 0 }),
        ),
      );
    });
    cut.catch(() => undefined);
    const { id, seq, attempts } = job;
    const payload = JSON.parse(job.payload) as unknown;
    await Promise.race([queue.run({ id, seq, payload, attempt: attempts, signal }), cut]);
  };

  /** One attempt, if the job is still open and nobody else has it. */
  const work = async (queueName: string, seq: bigint): Promise<void> => {
    const queue = queues.get(queueName);
    if (queue === undefined) return;
    if (stopping.signal.aborted) {
      await giveBack(database, seq);
      return;
    }
    const job = await beginJob(database, seq, queue.timeoutMs + LEASE_MARGIN_MS);
    if (job === undefined) return;
    try {
      // The attempts before this one never ended: whoever made them died of it.
      if (job.attempts > queue.attemptsMax)
        throw new JobFailure("no attempt came to an end", { isFinal: true });
      await attempt(queue, job);
    } catch (error) {
      await fail(queue, job, error);
      return;
    }
    await finishJob(database, job);
    measures.ended.inc({ queue: queue.name, result: "done" });
  };

  /** How many jobs of each queue this process works on by itself. */
  const busy = new Map<string, number>();
  const workHere = (queueName: string, seq: bigint): void => {
    busy.set(queueName, (busy.get(queueName) ?? 0) + 1);
    const run = work(queueName, seq)
      // Its lease will be over, and then it is due again.
      .catch((error: unknown) => log.warn({ err: error, queue: queueName }, "job.lost"))
      .finally(() => {
        runs.delete(run);
        busy.set(queueName, (busy.get(queueName) ?? 1) - 1);
        wake();
      });
    runs.add(run);
  };

  const dispatcher = await options.openDispatcher?.([...queues.values()], work);
  let isRefused = false;
  const hand = async (jobs: Parameters<JobDispatcher["hand"]>[0]): Promise<boolean> => {
    if (dispatcher === undefined) return false;
    try {
      await within(dispatcher.hand(jobs), HAND_MS_MAX);
      if (isRefused) log.info("jobs.dispatcher_available");
      isRefused = false;
      return true;
    } catch (error) {
      if (!isRefused) log.warn({ err: error }, "jobs.dispatcher_unavailable");
      isRefused = true;
      return false;
    }
  };

  /** @returns whether there may be more. */
  const round = async (): Promise<boolean> => {
    const free = [...queues.values()].filter(
      ({ name, concurrency }) => (busy.get(name) ?? 0) < concurrency,
    );
    const room = Math.min(
      ...free.map(({ name, concurrency }) => concurrency - (busy.get(name) ?? 0)),
    );
    const byOurselves = dispatcher === undefined || isRefused;
    const limit = byOurselves ? Math.min(room, CLAIM_MAX) : CLAIM_MAX;
    if (free.length === 0) return false;
    const due = await claimDue(
      database,
      free.map(({ name }) => name),
      limit,
      handAgainMs,
    );
    if (due.length === 0) return false;
    // Another key for each attempt: the queue may not have forgotten the one before.
    const handed = await hand(
      due.map(({ seq, queue, attempts }) => ({ queue, seq, key: `job-${seq}-${attempts}` })),
    );
    if (!handed) for (const { queue, seq } of due) workHere(queue, seq);
    return due.length === limit;
  };

  let upkeepMs = 0;
  const upkeep = async (): Promise<void> => {
    if (performance.now() - upkeepMs < UPKEEP_MS && upkeepMs !== 0) return;
    upkeepMs = performance.now();
    await forgetDone(database);
    measures.standing.reset();
    for (const { queue, state, n } of await countJobs(database))
      measures.standing.set({ queue, state }, Number(n));
  };

  let onWake: (() => void) | undefined;
  let isWoken = false;
  const wake = (): void => {
    isWoken = true;
    onWake?.();
  };
  const untilWoken = async (): Promise<void> => {
    const woken = new Promise<void>((resolve) => {
      onWake = resolve;
      if (isWoken) resolve();
    });
    const timer = new AbortController();
    await Promise.race([
      woken,
      delay(POLL_MS, undefined, { signal: timer.signal }).catch(() => undefined),
    ]);
    timer.abort();
    onWake = undefined;
    isWoken = false;
  };
  let isFailing = false;
  const loop = (async () => {
    while (!stopping.signal.aborted) {
      try {
        while (!stopping.signal.aborted && (await round()));
        await upkeep();
        isFailing = false;
      } catch (error) {
        if (!isFailing) log.warn({ err: error }, "jobs.round_failed");
        isFailing = true;
      }
      await untilWoken();
    }
  })();

  let closing: Promise<void> | undefined;
  const close = async (): Promise<void> => {
    stopping.abort();
    wake();
    await loop;
    await dispatcher?.close();
    await Promise.all(runs);
  };
  return { wake, close: () => (closing ??= close()) };
}

/** The pause after attempt `n`, counted from 1. */
function pauseAfter(n: number, { retryMs, retryMsMax }: JobQueue): number {
  return Math.min(retryMs * 2 ** Math.min(n - 1, 30), retryMsMax);
}

/** @throws Error when the time is up first. */
async function within(work: Promise<void>, milliseconds: number): Promise<void> {
  let timer: NodeJS.Timeout | undefined;
  try {
    await Promise.race([
      work,
      new Promise<never>((_, reject) => {
        timer = setTimeout(() => reject(new Error("no answer in time")), milliseconds);
      }),
    ]);
  } finally {
    clearTimeout(timer);
    work.catch(() => undefined);
  }
}

function measuresOf(registry: Registry) {
  return {
    ended: new Counter({
      name: "daybreak_jobs_attempts_total",
      help: "Attempts at jobs, by queue and what became of them: done, retried, dead",
      labelNames: ["queue", "result"],
      registers: [registry],
    }),
    standing: new Gauge({
      name: "daybreak_jobs",
      help: "Jobs in the outbox, by queue and state: open, dead",
      labelNames: ["queue", "state"],
      registers: [registry],
    }),
  };
}
