import { setTimeout as delay } from "node:timers/promises";
import type { PostgresConnectionOptions } from "bullmq";
import { Redis } from "ioredis";
import pg from "pg";
import type { JobDispatcher, OpenDispatcher } from "./jobs.ts";
import type { Logger } from "./logger.ts";
import { reconnectMs, redisUrlOf } from "./redis.ts";

/** Prefix of BullMQ's keys in Redis. */
const PREFIX = "daybreak";
const CONNECT_MS_MAX = 2_000;
/** How long the end of running jobs is waited for. */
const CLOSE_MS_MAX = 5_000;
/** A job's row in the outbox is its record, so nothing is kept of it here. */
const KEEP_NOTHING = { removeOnComplete: { count: 0 }, removeOnFail: { count: 0 } } as const;

interface HandedJob {
  readonly seq: string;
}

/** A queue of BullMQ and the worker of this process on it, whatever they run on. */
interface Lane {
  readonly name: string;
  readonly queue: Emitter & {
    addBulk(jobs: { name: string; data: HandedJob; opts: object }[]): Promise<unknown>;
    close(): Promise<void>;
  };
  readonly worker: Emitter & { close(isForced: boolean): Promise<void> };
}

interface Emitter {
  on(event: "error", listener: (error: Error) => void): unknown;
}

type Work = (queue: string, seq: bigint) => Promise<void>;

/**
 * Hands jobs out through BullMQ on Redis. Opening does not wait for Redis.
 *
 * @throws ConfigError if `url` is not one of Redis.
 */
export function bullmqOnRedis(url: string, log: Logger): OpenDispatcher {
  redisUrlOf(url);
  return async (queues, work) => {
    const bullmq = await import("bullmq");
    let isClosing = false;
    const connect = (retries: number | null): Redis => {
      const client = new Redis(url, {
        connectTimeout: CONNECT_MS_MAX,
        maxRetriesPerRequest: retries,
        // Connections that BullMQ copies from this one are not ours to end, so they give up by themselves.
        retryStrategy: (n) => (isClosing ? null : reconnectMs(n)),
      });
      client.on("error", (error) => log.debug({ err: error }, "jobs.redis_error"));
      return client;
    };
    const hands = connect(0);
    // BullMQ requires that its workers wait for ever.
    const takes = connect(null);
    const isReady = (): boolean => hands.status === "ready" && takes.status === "ready";
    // Not before Redis is there: what BullMQ asks it first fails for good otherwise.
    let lanes: ReturnType<typeof openLanes> | undefined;
    const openLanes = () =>
      lanesOf(
        queues.map(({ name, concurrency, timeoutMs }) => ({
          name,
          queue: new bullmq.Queue<HandedJob>(name, {
            connection: hands,
            prefix: PREFIX,
            skipMetasUpdate: true,
          }),
          worker: new bullmq.Worker<HandedJob>(name, processorOf(work), {
            connection: takes,
            prefix: PREFIX,
            concurrency,
            lockDuration: timeoutMs,
            ...KEEP_NOTHING,
          }),
        })),
        log,
      );
    const onReady = (): void => {
      if (isReady() && !isClosing) lanes ??= openLanes();
    };
    for (const client of [hands, takes]) client.on("ready", onReady);
    return {
      hand: async (jobs) => {
        if (!isReady() || lanes === undefined) throw new Error("Redis is not connected");
        await lanes.hand(jobs);
      },
      close: async () => {
        isClosing = true;
        // A worker would wait for a Redis that is gone.
        await lanes?.close(!isReady());
        hands.disconnect();
        takes.disconnect();
      },
    };
  };
}

/** Hands jobs out through BullMQ in the schema `bullmq` of a PostgreSQL database, which it makes or updates. */
export function bullmqOnPostgres(url: string, log: Logger): OpenDispatcher {
  return async (queues, work) => {
    const bullmq = await import("bullmq");
    const pool = new pg.Pool({
      connectionString: url,
      application_name: "daybreak-jobs",
      // Every worker and every queue listens on a connection of its own.
      max: 4 + 2 * queues.length,
      connectionTimeoutMillis: CONNECT_MS_MAX,
      keepAlive: true,
      options: "-c search_path=bullmq,public",
    });
    pool.on("error", (error) => log.debug({ err: error }, "jobs.postgres_error"));
    try {
      const client = await pool.connect();
      try {
        await bullmq.runMigrations(client);
      } finally {
        client.release();
      }
    } catch (error) {
      await pool.end();
      throw error;
    }
    // pg's typings do not fit BullMQ's description of them under exactOptionalPropertyTypes (bullmq 6.7.0).
    const connection = pool as unknown as PostgresConnectionOptions;
    const { Queue, Worker } = bullmq.withBackend(bullmq.createPostgresBackend);
    const lanes = lanesOf(
      queues.map(({ name, concurrency, timeoutMs }) => ({
        name,
        queue: new Queue<HandedJob>(name, { connection }),
        worker: new Worker<HandedJob>(name, processorOf(work), {
          connection,
          concurrency,
          lockDuration: timeoutMs,
          ...KEEP_NOTHING,
        }),
      })),
      log,
    );
    return {
      hand: (jobs) => lanes.hand(jobs),
      close: async () => {
        await lanes.close(false);
        await pool.end();
      },
    };
  };
}

function processorOf(work: Work): (job: { queueName: string; data: HandedJob }) => Promise<void> {
  return async ({ queueName, data }) => await work(queueName, BigInt(data.seq));
}

function lanesOf(
  lanes: readonly Lane[],
  log: Logger,
): Pick<JobDispatcher, "hand"> & { close(isForced: boolean): Promise<void> } {
  for (const { name, queue, worker } of lanes) {
    // The outbox says so when jobs cannot be handed out; a worker goes on by itself.
    const told = (error: Error): void =>
      log.debug({ err: error, queue: name }, "jobs.bullmq_error");
    queue.on("error", told);
    worker.on("error", told);
  }
  return {
    hand: async (jobs) => {
      for (const { name, queue } of lanes) {
        const own = jobs.filter((job) => job.queue === name);
        if (own.length === 0) continue;
        await queue.addBulk(
          own.map(({ key, seq }) => ({
            name,
            data: { seq: seq.toString() },
            opts: { jobId: key, attempts: 1, removeOnComplete: true, removeOnFail: true },
          })),
        );
      }
    },
    close: async (isForced) => {
      const closed = Promise.allSettled(
        lanes.flatMap(({ queue, worker }) => [worker.close(isForced), queue.close()]),
      );
      await Promise.race([closed, delay(CLOSE_MS_MAX, undefined, { ref: false })]);
    },
  };
}
