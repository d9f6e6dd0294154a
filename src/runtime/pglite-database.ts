import { existsSync, mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import path from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { Worker } from "node:worker_threads";
import { lockDirectory, unwritable } from "./data-lock.ts";
import type { Logger } from "./logger.ts";
import type { PgliteAnswer, PgliteRequest, PgliteWorkerData } from "./pglite-worker.ts";
import { type Database, DatabaseError, type Queryable } from "./queryable.ts";
import { ConfigError } from "./settings.ts";
import { syncPath } from "./sync-path.ts";

/** Layout of a data folder: this file, `lock`, and the PostgreSQL files in `postgres`. */
const FORMAT_FILE = "format.json";
const POSTGRES_FOLDER = "postgres";
const FORMAT = 1;
/** Major version of the PostgreSQL inside PGlite 0.5.16; its files cannot be read by another one. */
const POSTGRES_MAJOR = "18";

/** PGlite has no timers, so statement_timeout does nothing; a statement that takes longer ends the thread. */
const STATEMENT_MS_MAX = 60_000;
/** Statements that may wait for the engine. */
const WAITING_STATEMENTS_MAX = 10_000;
/** Pause before a crashed thread is started again. */
const RESTART_MS = 1_000;
const CLOSE_MS_MAX = 10_000;
/** How often the duties below are looked at. */
const DUTY_MS = 5_000;
/** Without a checkpoint process the write-ahead log would grow without end. */
const CHECKPOINT_BYTES = 64n * 1024n * 1024n;
const CHECKPOINT_MS = 5 * 60_000;
/** Sooner at first: the planner knows nothing about young tables until it has seen them filled. */
const VACUUM_MS_MIN = 60_000;
const VACUUM_MS_MAX = 60 * 60_000;
/**
 * Dead rows after which a table is vacuumed at once, when they are also more than a fifth of it. A table from which rows
 * are deleted as fast as they are inserted would else grow all hour; 100,000 rows take 50 ms.
 */
const DEAD_ROWS_MAX = 50_000;
/**
 * New rows after which a table is vacuumed at once. Nothing else runs meanwhile, 0.3 s for so many rows, and what has been
 * seen once is not read again; an hour's rows at one go would stop a busy gateway for as long as holds can wait.
 */
const NEW_ROWS_MAX = 100_000;

/** One run of the thread. */
interface Engine {
  call(sql: string, params: readonly unknown[] | undefined): Promise<object[]>;
  /** Lets the engine write its last checkpoint. */
  stop(): Promise<void>;
  /** Settles when the thread has ended, for whatever reason. */
  readonly ended: Promise<void>;
}

/**
 * Opens PGlite in a worker thread: durable in `directory`, which this process then holds exclusively, or in memory.
 *
 * It fsyncs each commit, checkpoints and vacuums by itself, and starts again when the thread dies.
 *
 * @param create makes a new database when the folder has none; otherwise that is an error.
 * @throws ConfigError if the folder is in use, not writable, broken, or from a newer version.
 */
export async function openPglite(
  directory: string | undefined,
  create: boolean,
  log: Logger,
): Promise<Database> {
  if (directory === undefined)
    return serve(await startEngine(undefined, true), undefined, log, () => {});
  const root = path.resolve(directory);
  if (!create && !existsSync(path.join(root, FORMAT_FILE))) {
    throw new ConfigError(`There is no database in ${root}. Check the folder's name.`);
  }
  const lock = lockDirectory(root);
  try {
    const isNew = prepare(root);
    const engine = await startOrExplain(root, isNew);
    if (isNew) writeFormat(root, "ready");
    if (!lock.isMine())
      throw new ConfigError(`The data folder ${root} was taken over by another process.`);
    return serve(engine, root, log, () => lock.release());
  } catch (error) {
    lock.release();
    throw error;
  }
}

/** Decides between a new database and the one that is there. @returns whether the folder gets a new database. */
function prepare(root: string): boolean {
  const files = path.join(root, POSTGRES_FOLDER);
  const format = readFormat(root);
  if (format?.state === "ready") {
    requireReadable(root, format);
    return false;
  }
  if (format === undefined && existsSync(files)) {
    throw broken(root, `it has ${POSTGRES_FOLDER} but no ${FORMAT_FILE}`);
  }
  try {
    // What an interrupted creation left was never promised to anybody.
    if (format?.state === "creating") rmSync(files, { recursive: true, force: true });
    writeFormat(root, "creating");
    mkdirSync(files, { mode: 0o700 });
  } catch (cause) {
    throw unwritable(root, cause);
  }
  return true;
}

interface Format {
  readonly format: number;
  readonly state: string;
}

function readFormat(root: string): Format | undefined {
  const file = path.join(root, FORMAT_FILE);
  if (!existsSync(file)) return undefined;
  try {
    const { format, state } = JSON.parse(readFileSync(file, "utf8")) as Partial<Format>;
    if (typeof format === "number" && typeof state === "string") return { format, state };
  } catch (cause) {
    throw broken(root, `${FORMAT_FILE} cannot be read`, cause);
  }
  throw broken(root, `${FORMAT_FILE} is not what this program writes`);
}

function writeFormat(root: string, state: "creating" | "ready"): void {
  const file = path.join(root, FORMAT_FILE);
  writeFileSync(`${file}.new`, `${JSON.stringify({ format: FORMAT, state })}\n`, { flush: true });
  renameSync(`${file}.new`, file);
  syncFolder(root);
}

/** Makes a rename in `folder` last. */
function syncFolder(folder: string): void {
  // Windows cannot open a folder.
  if (process.platform !== "win32") syncPath(folder);
}

function requireReadable(root: string, { format }: Format): void {
  if (format !== FORMAT) throw otherVersion(root, `format ${format}, this version knows ${FORMAT}`);
  const file = path.join(root, POSTGRES_FOLDER, "PG_VERSION");
  if (!existsSync(file)) throw broken(root, "PG_VERSION is missing");
  const major = readFileSync(file, "utf8").trim();
  if (major !== POSTGRES_MAJOR) {
    throw otherVersion(
      root,
      `PostgreSQL ${major} files, this version has PostgreSQL ${POSTGRES_MAJOR}`,
    );
  }
}

function otherVersion(root: string, what: string): ConfigError {
  return new ConfigError(
    `The data folder ${root} was written by another version (${what}). Start that version, or choose another folder.`,
  );
}

function broken(root: string, what: string, cause?: unknown): ConfigError {
  return new ConfigError(
    `The database in ${root} is broken (${what}). Restore it from a backup, or choose another folder.`,
    { cause },
  );
}

async function startOrExplain(root: string, isNew: boolean): Promise<Engine> {
  try {
    return await startEngine(path.join(root, POSTGRES_FOLDER), isNew);
  } catch (cause) {
    if (isNew)
      throw new ConfigError(`No database could be made in ${root}: ${messageOf(cause)}`, { cause });
    throw broken(root, messageOf(cause), cause);
  }
}

/** @throws Error with the engine's words when it does not start. */
async function startEngine(directory: string | undefined, create: boolean): Promise<Engine> {
  const source = import.meta.url.endsWith(".ts") ? "./pglite-worker.ts" : "./pglite-worker.js";
  const worker = new Worker(new URL(source, import.meta.url), {
    workerData: { directory, create } satisfies PgliteWorkerData,
    // Flags of the main thread, such as --input-type, may be meaningless here.
    execArgv: [],
    // PGlite prints what PostgreSQL writes to stderr only in debug mode; anything else is noise.
    stdout: true,
    stderr: true,
  });
  interface Waiting {
    readonly resolve: (rows: object[]) => void;
    readonly reject: (error: DatabaseError) => void;
    readonly sinceMs: number;
  }
  const waiting = new Map<number, Waiting>();
  let lastId = 0;
  let lost: DatabaseError | undefined;
  let failure: unknown;
  worker.on("error", (error) => {
    failure = error;
  });
  const ended = new Promise<void>((resolve) => {
    worker.once("exit", () => {
      clearInterval(watch);
      lost = new DatabaseError("the database engine has stopped", undefined, { cause: failure });
      for (const { reject } of waiting.values()) reject(lost);
      waiting.clear();
      resolve();
    });
  });
  const watch = setInterval(() => {
    const oldest = waiting.values().next().value;
    if (oldest !== undefined && Date.now() - oldest.sinceMs > STATEMENT_MS_MAX) {
      failure = new Error(`a statement took longer than ${STATEMENT_MS_MAX} ms`);
      void worker.terminate();
    }
  }, DUTY_MS);
  watch.unref();

  await new Promise<void>((resolve, reject) => {
    worker.once("message", (first: PgliteAnswer) => {
      if ("started" in first && !first.started) reject(new Error(first.message));
      else resolve();
    });
    void ended.then(() => {
      reject(new Error("the engine stopped while it started", { cause: failure }));
    });
  });
  worker.on("message", (message: PgliteAnswer) => {
    if ("started" in message) return;
    const call = waiting.get(message.id);
    waiting.delete(message.id);
    if ("rows" in message) call?.resolve(message.rows);
    else call?.reject(new DatabaseError(message.message, message.sqlState));
  });
  return {
    ended,
    call: (sql, params) =>
      new Promise((resolve, reject) => {
        if (lost !== undefined) {
          reject(lost);
          return;
        }
        lastId += 1;
        waiting.set(lastId, { resolve, reject, sinceMs: Date.now() });
        worker.postMessage({ id: lastId, sql, params } satisfies PgliteRequest);
      }),
    stop: async () => {
      worker.postMessage("close");
      const inTime = await Promise.race([
        ended.then(() => true),
        delay(CLOSE_MS_MAX, false, { ref: false }),
      ]);
      if (!inTime) await worker.terminate();
    },
  };
}

/** Queues callers for the one session, keeps the duties, restarts the thread when it dies. */
function serve(
  first: Engine,
  root: string | undefined,
  log: Logger,
  release: () => void,
): Database {
  let engine: Engine | undefined = first;
  const closing = new AbortController();
  const session = fifo();

  /** Keeps one engine after the other running until the database is closed. */
  const keepRunning = async (): Promise<void> => {
    while (engine !== undefined) {
      await engine.ended;
      engine = undefined;
      if (root === undefined || closing.signal.aborted) return;
      log.error({ directory: root }, "database.engine_stopped");
      engine = await restart(root, closing.signal, log);
    }
  };
  const kept = keepRunning();

  const running = (): Engine => {
    if (closing.signal.aborted) throw new DatabaseError("the database is closed");
    if (engine === undefined) throw new DatabaseError("the database engine is not running");
    return engine;
  };
  const call = async (sql: string, params?: readonly unknown[]): Promise<object[]> =>
    await session(async () => await running().call(sql, params));
  const duties = startDuties(call, log);
  let closed: Promise<void> | undefined;
  const close = async (): Promise<void> => {
    clearInterval(duties);
    const last = session(async () => await engine?.stop());
    closing.abort();
    await last;
    await kept;
    release();
  };

  return {
    kind: "pglite",
    description: root ?? "memory",
    query: async <Row extends object>(sql: string, params: readonly unknown[] = []) =>
      (await call(sql, params)) as Row[],
    exec: async (sql) => {
      await call(sql);
    },
    transaction: async (work) => await session(async () => await inTransaction(running(), work)),
    close: async () => {
      closed ??= close();
      await closed;
    },
  };
}

/** Tries until it runs or the database is closed. */
async function restart(
  root: string,
  signal: AbortSignal,
  log: Logger,
): Promise<Engine | undefined> {
  while (!signal.aborted) {
    await delay(RESTART_MS, undefined, { signal }).catch(() => {});
    if (signal.aborted) break;
    try {
      const engine = await startEngine(path.join(root, POSTGRES_FOLDER), false);
      log.warn({ directory: root }, "database.engine_restarted");
      if (!signal.aborted) return engine;
      await engine.stop();
    } catch (error) {
      log.error({ directory: root, err: error }, "database.engine_not_restarted");
    }
  }
  return undefined;
}

async function inTransaction<T>(engine: Engine, work: (tx: Queryable) => Promise<T>): Promise<T> {
  await engine.call("BEGIN", []);
  try {
    const result = await work({
      query: async <Row extends object>(sql: string, params: readonly unknown[] = []) =>
        (await engine.call(sql, params)) as Row[],
      exec: async (sql) => {
        await engine.call(sql, undefined);
      },
    });
    await engine.call("COMMIT", []);
    return result;
  } catch (error) {
    // When the engine is gone, so is the transaction; the first error says more than this one would.
    await engine.call("ROLLBACK", []).catch(() => {});
    throw error;
  }
}

/** Runs one piece of work at a time, in the order of the calls. @throws DatabaseError when too many wait. */
function fifo(): <T>(work: () => Promise<T>) => Promise<T> {
  let last: Promise<unknown> = Promise.resolve();
  let depth = 0;
  return async (work) => {
    if (depth >= WAITING_STATEMENTS_MAX) {
      throw new DatabaseError("too many statements wait for the database", "53000");
    }
    depth += 1;
    const mine = last.then(work);
    last = mine.then(
      () => {},
      () => {},
    );
    try {
      return await mine;
    } finally {
      depth -= 1;
    }
  };
}

type Call = (sql: string, params?: readonly unknown[]) => Promise<object[]>;

/** PGlite is single-user PostgreSQL: no checkpointer, no autovacuum. */
function startDuties(call: Call, log: Logger): NodeJS.Timeout {
  let checkpointMs = Date.now();
  let vacuumMs = Date.now();
  let vacuumPauseMs = VACUUM_MS_MIN;
  let isBusy = false;
  const onDuty = async (): Promise<void> => {
    if (Date.now() - checkpointMs >= CHECKPOINT_MS || (await isWalLong(call))) {
      await call("CHECKPOINT");
      checkpointMs = Date.now();
    }
    if (Date.now() - vacuumMs >= vacuumPauseMs) {
      vacuumMs = Date.now();
      vacuumPauseMs = Math.min(vacuumPauseMs * 4, VACUUM_MS_MAX);
      await vacuum(call);
    } else {
      await vacuumChanged(call);
    }
  };
  const timer = setInterval(() => {
    if (isBusy) return;
    isBusy = true;
    void onDuty()
      .catch((error: unknown) => {
        log.warn({ err: error }, "database.duty_failed");
      })
      .finally(() => {
        isBusy = false;
      });
  }, DUTY_MS);
  timer.unref();
  return timer;
}

async function isWalLong(call: Call): Promise<boolean> {
  const rows = await call(
    `SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), redo_lsn) >= $1 AS long
       FROM pg_control_checkpoint()`,
    [CHECKPOINT_BYTES],
  );
  return (rows[0] as { long: boolean } | undefined)?.long === true;
}

/**
 * One table at a time, so that other statements get their turn in between. The catalogue's own tables are among them: the
 * oldest transaction that any table remembers must move on, or PostgreSQL stops after two thousand million commits.
 */
async function vacuum(call: Call): Promise<void> {
  const tables = await call(
    `SELECT format('%I.%I', n.nspname, c.relname) AS name
       FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind = 'r'`,
    [],
  );
  for (const { name } of tables as { name: string }[]) await call(`VACUUM (ANALYZE) ${name}`);
}

/** What autovacuum does on a server. */
async function vacuumChanged(call: Call): Promise<void> {
  const tables = await call(
    `SELECT format('%I.%I', schemaname, relname) AS name
       FROM pg_stat_user_tables WHERE n_dead_tup > $1 + n_live_tup / 5 OR n_ins_since_vacuum > $2`,
    [DEAD_ROWS_MAX, NEW_ROWS_MAX],
  );
  for (const { name } of tables as { name: string }[]) await call(`VACUUM ${name}`);
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
