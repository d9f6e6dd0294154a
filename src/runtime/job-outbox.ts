import assert from "node:assert/strict";
import { migrate } from "./migrations.ts";
import type { Database, Queryable } from "./queryable.ts";

/** Longest name of a queue, longest id and longest payload, in characters. */
const QUEUE_CHARS_MAX = 50;
const ID_CHARS_MAX = 200;
const PAYLOAD_CHARS_MAX = 65_536;
/** How long a finished job is remembered, so that its id is not run again; in days. */
const DONE_DAYS = 7;
/** Finished jobs that one statement forgets. */
const FORGET_MAX = 1_000;

/** Work to be done once. */
export interface JobOrder {
  /** Name of the queue whose handler does it, at most 50 characters. */
  readonly queue: string;
  /** Names the cause within the queue, at most 200 characters: the same id is one job, also after it has ended. */
  readonly id: string;
  /** JSON for the handler, at most 65,536 characters. Never prompts, completions or keys. */
  readonly payload: unknown;
  /** Not before this time from now, in milliseconds. */
  readonly delayMs?: number | undefined;
}

/** Makes or updates the tables of jobs. @throws ConfigError of `migrate`. */
export async function migrateJobs(database: Database): Promise<void> {
  await migrate(database, "jobs", new URL("./job-migrations/", import.meta.url));
}

/**
 * Writes a job in the transaction that causes it: it is done if and only if that commits.
 *
 * @returns false if the queue has seen this id before; nothing is changed then.
 * @throws DatabaseError
 */
export async function enqueueJob(tx: Queryable, order: JobOrder): Promise<boolean> {
  const { queue, id, delayMs = 0 } = order;
  const payload = JSON.stringify(order.payload ?? null);
  assert(/^[a-z][a-z0-9-]*$/.test(queue) && queue.length <= QUEUE_CHARS_MAX, `a queue: ${queue}`);
  assert(id.length > 0 && id.length <= ID_CHARS_MAX, "the id of a job has 1 to 200 characters");
  assert(payload.length <= PAYLOAD_CHARS_MAX, `a payload of ${payload.length} characters`);
  const rows = await tx.query(
    `INSERT INTO jobs.outbox (queue, id, payload, due_at)
       VALUES ($1, $2, $3, now() + $4::float8 * interval '1 ms')
       ON CONFLICT (queue, id) DO NOTHING RETURNING seq`,
    [queue, id, payload, delayMs],
  );
  return rows.length === 1;
}

/** A job that is due. */
export interface DueJob {
  readonly seq: bigint;
  readonly queue: string;
  readonly attempts: number;
}

/** A job that this process has begun, and alone works on until its lease is over. */
export interface BegunJob {
  readonly seq: bigint;
  readonly queue: string;
  readonly id: string;
  /** JSON. */
  readonly payload: string;
  /** Counted from 1. */
  readonly attempts: number;
}

/**
 * Finds open jobs that are due, and lets nobody else find them for `againMs`: whoever calls this hands them on.
 * Oldest first.
 */
export async function claimDue(
  database: Queryable,
  queues: readonly string[],
  limit: number,
  againMs: number,
): Promise<DueJob[]> {
  return await database.query<DueJob>(
    `UPDATE jobs.outbox o SET due_at = now() + $3::float8 * interval '1 ms'
       FROM (SELECT seq FROM jobs.outbox WHERE state = 'open' AND due_at <= now() AND queue = ANY ($1::text[])
              ORDER BY due_at, seq LIMIT $2 FOR UPDATE SKIP LOCKED) due
      WHERE o.seq = due.seq RETURNING o.seq, o.queue, o.attempts`,
    [queues, limit, againMs],
  );
}

/** Lets a claimed job that was not begun be found again at once. */
export async function giveBack(database: Queryable, seq: bigint): Promise<void> {
  await database.query(
    "UPDATE jobs.outbox SET due_at = now() WHERE seq = $1 AND state = 'open' AND leased_until IS NULL",
    [seq],
  );
}

/** @returns undefined if the job has ended, or another process works on it. */
export async function beginJob(
  database: Queryable,
  seq: bigint,
  leaseMs: number,
): Promise<BegunJob | undefined> {
  const [job] = await database.query<BegunJob>(
    `UPDATE jobs.outbox SET attempts = attempts + 1, leased_until = now() + $2::float8 * interval '1 ms',
            due_at = now() + $2::float8 * interval '1 ms'
      WHERE seq = $1 AND state = 'open' AND (leased_until IS NULL OR leased_until <= now())
      RETURNING seq, queue, id, payload, attempts`,
    [seq, leaseMs],
  );
  return job;
}

export async function finishJob(database: Queryable, { seq }: BegunJob): Promise<void> {
  await database.query(
    "UPDATE jobs.outbox SET state = 'done', ended_at = now(), leased_until = NULL, error = NULL WHERE seq = $1 AND state = 'open'",
    [seq],
  );
}

/** Gives the job back, to be due in `delayMs`. */
export async function retryJob(
  database: Queryable,
  { seq, attempts }: BegunJob,
  error: string,
  delayMs: number,
): Promise<void> {
  await database.query(
    `UPDATE jobs.outbox SET due_at = now() + $4::float8 * interval '1 ms', leased_until = NULL, error = $3
      WHERE seq = $1 AND attempts = $2 AND state = 'open'`,
    [seq, attempts, error, delayMs],
  );
}

/** Sets the job aside for a person to look at. */
export async function buryJob(
  database: Queryable,
  { seq, attempts }: BegunJob,
  error: string,
): Promise<void> {
  await database.query(
    `UPDATE jobs.outbox SET state = 'dead', ended_at = now(), leased_until = NULL, error = $3
      WHERE seq = $1 AND attempts = $2 AND state = 'open'`,
    [seq, attempts, error],
  );
}

/** Jobs that are open or dead, by queue. */
export async function countJobs(
  database: Queryable,
): Promise<{ readonly queue: string; readonly state: "open" | "dead"; readonly n: bigint }[]> {
  return await database.query(
    "SELECT queue, state, count(*) AS n FROM jobs.outbox WHERE state IN ('open', 'dead') GROUP BY 1, 2",
  );
}

/** Forgets some of the jobs that were done more than a week ago. */
export async function forgetDone(database: Queryable): Promise<void> {
  await database.query(
    `DELETE FROM jobs.outbox WHERE seq IN (
       SELECT seq FROM jobs.outbox WHERE state = 'done' AND ended_at < now() - make_interval(days => $1) LIMIT $2)`,
    [DONE_DAYS, FORGET_MAX],
  );
}
