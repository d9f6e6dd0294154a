import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { after, afterEach, before, suite, test } from "node:test";
import { bullmqOnPostgres, bullmqOnRedis } from "../../src/runtime/bullmq.ts";
import { type Database, openDatabase } from "../../src/runtime/database.ts";
import { enqueueJob, type JobOrder } from "../../src/runtime/job-outbox.ts";
import {
  type Job,
  JobFailure,
  type JobQueue,
  type Jobs,
  type OpenDispatcher,
  openJobs,
} from "../../src/runtime/jobs.ts";
import { Registry } from "../../src/runtime/metrics.ts";
import { findPostgres, type PostgresServer, silent, startPostgres } from "../billing/stores.ts";
import { until } from "../gateway/fixture.ts";
import { findRedis, type RedisServer, startRedis } from "./redis-server.ts";

/** One of the ways in which jobs are done. */
interface Backend {
  database(): Database;
  openDispatcher(): OpenDispatcher | undefined;
}

/** What a row of the outbox says. */
interface Row {
  readonly state: string;
  readonly attempts: number;
  readonly error: string | null;
}

/** What is the same whoever hands the jobs out. */
function jobs(backend: Backend): void {
  const opened: Jobs[] = [];
  const queueOf = (over: Partial<JobQueue> & Pick<JobQueue, "run">): JobQueue => ({
    name: `q-${randomUUID()}`,
    attemptsMax: 4,
    timeoutMs: 30_000,
    concurrency: 8,
    retryMs: 20,
    retryMsMax: 200,
    ...over,
  });
  const open = async (queue: JobQueue, metrics = new Registry()): Promise<Jobs> => {
    const one = await openJobs({
      database: backend.database(),
      queues: [queue],
      openDispatcher: backend.openDispatcher(),
      log: silent,
      metrics,
      handAgainMs: 2_000,
    });
    opened.push(one);
    return one;
  };
  const enqueue = async (order: Omit<JobOrder, "payload"> & { payload?: unknown }) =>
    await backend
      .database()
      .transaction(async (tx) => await enqueueJob(tx, { payload: null, ...order }));
  const rowOf = async (queue: Pick<JobQueue, "name">, id: string): Promise<Row | undefined> =>
    (
      await backend
        .database()
        .query<Row>("SELECT state, attempts, error FROM jobs.outbox WHERE queue = $1 AND id = $2", [
          queue.name,
          id,
        ])
    )[0];
  /** Wakes the process until the condition holds: a retry is due at a time, not at an event. */
  const waking = async (one: Jobs, what: string, holds: () => boolean | Promise<boolean>) =>
    await until(what, async () => {
      one.wake();
      return await holds();
    });
  afterEach(async () => {
    for (const one of opened.splice(0)) await one.close();
  });

  test("does what was committed, and nothing of what was rolled back", async () => {
    const seen: unknown[] = [];
    const queue = queueOf({
      run: async (job) => void seen.push([job.id, job.attempt, job.payload]),
    });
    const one = await open(queue);
    await assert.rejects(
      backend.database().transaction(async (tx) => {
        await enqueueJob(tx, { queue: queue.name, id: "undone", payload: {} });
        throw new Error("no");
      }),
    );
    assert.equal(await enqueue({ queue: queue.name, id: "a:1", payload: { n: "é" } }), true);
    await waking(one, "the job", async () => (await rowOf(queue, "a:1"))?.state === "done");
    assert.deepEqual(seen, [["a:1", 1, { n: "é" }]]);
    assert.equal(await rowOf(queue, "undone"), undefined);
  });

  test("does an id once, also when it is told again after it has ended", async () => {
    let ran = 0;
    const queue = queueOf({ run: async () => void (ran += 1) });
    const one = await open(queue);
    assert.equal(await enqueue({ queue: queue.name, id: "x" }), true);
    assert.equal(await enqueue({ queue: queue.name, id: "x" }), false);
    await waking(one, "the job", async () => (await rowOf(queue, "x"))?.state === "done");
    assert.equal(await enqueue({ queue: queue.name, id: "x" }), false);
    assert.equal(await enqueue({ queue: queue.name, id: "y" }), true);
    await waking(one, "the next", async () => (await rowOf(queue, "y"))?.state === "done");
    assert.equal(ran, 2);
  });

  test("tries again after growing pauses, or when the handler says", async () => {
    const atMs: number[] = [];
    const attempts: number[] = [];
    const queue = queueOf({
      retryMs: 60,
      run: async ({ attempt }) => {
        atMs.push(performance.now());
        attempts.push(attempt);
        if (attempt === 3) throw new JobFailure("soon", { retryMs: 1 });
        if (attempt < 4) throw new Error("secret");
      },
    });
    const one = await open(queue);
    await enqueue({ queue: queue.name, id: "x" });
    await waking(one, "three attempts", () => atMs.length === 3);
    await waking(one, "the job", async () => (await rowOf(queue, "x"))?.state === "done");
    assert.deepEqual(attempts, [1, 2, 3, 4]);
    const pauses = atMs.slice(1).map((ms, i) => ms - (atMs[i] ?? 0));
    assert((pauses[0] ?? 0) >= 59 && (pauses[1] ?? 0) >= 119, pauses.join(" "));
  });

  test("sets a job aside when its attempts are used up, or none can help, and says so", async () => {
    const metrics = new Registry();
    const queue = queueOf({
      attemptsMax: 2,
      retryMs: 1,
      run: async ({ id }) => {
        if (id === "hopeless") throw new JobFailure("410 Gone", { isFinal: true });
        throw new Error("secret");
      },
    });
    const one = await open(queue, metrics);
    for (const id of ["hopeless", "unlucky"]) await enqueue({ queue: queue.name, id });
    for (const id of ["hopeless", "unlucky"])
      await waking(one, "its end", async () => (await rowOf(queue, id))?.state === "dead");
    assert.deepEqual(await rowOf(queue, "hopeless"), {
      state: "dead",
      attempts: 1,
      error: "410 Gone",
    });
    // What an unknown error says is not stored.
    assert.deepEqual(await rowOf(queue, "unlucky"), { state: "dead", attempts: 2, error: "Error" });
    const text = await metrics.metrics();
    assert.match(
      text,
      new RegExp(`daybreak_jobs_attempts_total\\{queue="${queue.name}",result="dead"\\} 2`),
    );
  });

  test("keeps a job until it is due", async () => {
    let ranMs = 0;
    const queue = queueOf({ run: async () => void (ranMs = performance.now()) });
    const one = await open(queue);
    const startMs = performance.now();
    await enqueue({ queue: queue.name, id: "x", delayMs: 300 });
    await waking(one, "the job", () => ranMs > 0);
    assert(ranMs - startMs >= 299, `${ranMs - startMs} ms`);
  });

  test("gives every job to one of several processes, with numbers in order", async () => {
    const seen: Job[] = [];
    const name = `q-${randomUUID()}`;
    const two = await Promise.all(
      [1, 2].map(
        async () => await open(queueOf({ name, run: async (job) => void seen.push(job) })),
      ),
    );
    const ids = Array.from({ length: 60 }, (_, n) => `job ${n}`);
    await backend.database().transaction(async (tx) => {
      for (const id of ids) await enqueueJob(tx, { queue: name, id, payload: null });
    });
    await until("all jobs", () => {
      for (const one of two) one.wake();
      return seen.length >= ids.length;
    });
    assert.equal(seen.length, ids.length);
    const inOrder = seen.toSorted((a, b) => (a.seq < b.seq ? -1 : 1)).map(({ id }) => id);
    assert.deepEqual(inOrder, ids);
  });

  test("begins a job once, also when it is handed out again while it is under way", async () => {
    const name = `q-${randomUUID()}`;
    let began = 0;
    let finish = (): void => undefined;
    const finished = new Promise<void>((resolve) => {
      finish = resolve;
    });
    const two = await Promise.all(
      [1, 2].map(
        async () =>
          await open(
            queueOf({
              name,
              run: async ({ id }) => {
                if (id !== "slow") return;
                began += 1;
                await finished;
              },
            }),
          ),
      ),
    );
    const done = async (id: string) =>
      await until(`the job ${id}`, async () => {
        for (const one of two) one.wake();
        return (await rowOf({ name }, id))?.state === "done";
      });
    await enqueue({ queue: name, id: "slow" });
    await until("it to begin", () => {
      for (const one of two) one.wake();
      return began === 1;
    });
    for (const id of ["next", "last"]) {
      await backend
        .database()
        .query(
          "UPDATE jobs.outbox SET due_at = now() - interval '1 s' WHERE queue = $1 AND id = 'slow'",
          [name],
        );
      // Handed out after it, so that the other has had its turn.
      await enqueue({ queue: name, id });
      await done(id);
    }
    assert.equal(began, 1);
    finish();
    await done("slow");
    assert.equal(began, 1);
  });

  test("ends an attempt that takes too long, and tries again", async () => {
    const signals: AbortSignal[] = [];
    const queue = queueOf({
      timeoutMs: 100,
      retryMs: 1,
      run: async ({ attempt, signal }) => {
        signals.push(signal);
        if (attempt === 1) await new Promise(() => undefined);
      },
    });
    const one = await open(queue);
    await enqueue({ queue: queue.name, id: "x" });
    await waking(one, "the job", async () => (await rowOf(queue, "x"))?.state === "done");
    assert.deepEqual(
      signals.map(({ aborted }) => aborted),
      [true, false],
    );
  });

  test("gives back what it works on when it stops, for another process to begin anew", async () => {
    const name = `q-${randomUUID()}`;
    let began = false;
    const hanging = queueOf({
      name,
      run: async () => {
        began = true;
        await new Promise(() => undefined);
      },
    });
    const first = await open(hanging);
    await enqueue({ queue: name, id: "x" });
    await waking(first, "the first attempt", () => began);
    await first.close();
    const second = await open(queueOf({ name, run: async () => undefined }));
    await waking(second, "the job", async () => (await rowOf(hanging, "x"))?.state === "done");
  });
}

suite("jobs on the embedded store", () => {
  let database: Database;
  before(async () => {
    database = await openDatabase({ log: silent });
  });
  after(async () => await database.close());
  jobs({ database: () => database, openDispatcher: () => undefined });
});

const postgresBin = findPostgres();
const redisProgram = findRedis();
suite("jobs on Postgres", {
  skip: postgresBin === undefined ? "no PostgreSQL is installed" : false,
}, () => {
  let server: PostgresServer;
  let url: string;
  let database: Database;
  before(async () => {
    assert(postgresBin !== undefined);
    server = await startPostgres(postgresBin);
    url = await server.newDatabase();
    database = await openDatabase({ url, log: silent });
  });
  after(async () => {
    await database.close();
    await server.close();
  });
  suite("through BullMQ on the same database", () =>
    jobs({ database: () => database, openDispatcher: () => bullmqOnPostgres(url, silent) }));

  suite("through BullMQ on Redis", {
    skip: redisProgram === undefined ? "no redis-server is installed" : false,
  }, () => {
    let redis: RedisServer;
    before(async () => {
      assert(redisProgram !== undefined);
      redis = await startRedis(redisProgram);
    });
    after(async () => await redis.close());
    jobs({
      database: () => database,
      openDispatcher: () => bullmqOnRedis(redis.url, silent),
    });

    test("does jobs without Redis while it is down, and those that it lost", async () => {
      const seen: string[] = [];
      const queue: JobQueue = {
        name: `q-${randomUUID()}`,
        attemptsMax: 3,
        timeoutMs: 10_000,
        concurrency: 1,
        retryMs: 10,
        retryMsMax: 10,
        run: async ({ id }) => void seen.push(id),
      };
      let handed = 0;
      let isLosing = false;
      const one = await openJobs({
        database,
        queues: [queue],
        openDispatcher: async (queues, work) => {
          const dispatcher = await bullmqOnRedis(redis.url, silent)(queues, async (...job) => {
            if (!isLosing) await work(...job);
          });
          return {
            ...dispatcher,
            hand: async (due) => {
              await dispatcher.hand(due);
              handed += due.length;
            },
          };
        },
        log: silent,
        metrics: new Registry(),
        handAgainMs: 500,
      });
      const enqueue = async (id: string) =>
        await enqueueJob(database, { queue: queue.name, id, payload: null });
      const waking = async (what: string, holds: () => boolean) =>
        await until(what, () => {
          one.wake();
          return holds();
        });
      const does = async (id: string): Promise<void> => {
        await enqueue(id);
        await waking(`the job ${id}`, () => seen.includes(id));
      };
      /** Until Redis is connected, jobs are done without it. */
      const untilHanded = async (prefix: string): Promise<void> => {
        handed = 0;
        for (let n = 0; handed === 0; n += 1) await does(`${prefix} ${n}`);
      };
      try {
        await untilHanded("before");
        await redis.crash();
        await does("without");
        assert.equal(handed, 1);
        await redis.start();
        await untilHanded("after");
        isLosing = true;
        await enqueue("lost");
        await waking("the job to be handed to Redis", () => handed === 2);
        assert(!seen.includes("lost"));
        isLosing = false;
        await waking("the lost job", () => seen.includes("lost"));
      } finally {
        await one.close();
      }
    });
  });
});
