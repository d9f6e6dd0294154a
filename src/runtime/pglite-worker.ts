/**
 * The thread in which PGlite runs. On the main thread it stalls the event loop for 0.5 s (p99) at 500 requests/s.
 *
 * Answers requests in order; the other side of the wire is pglite-database.ts.
 *
 * @module
 */
import { readdirSync, rmSync } from "node:fs";
import path from "node:path";
import { parentPort, workerData } from "node:worker_threads";
import { PGlite, type PGliteOptions } from "@electric-sql/pglite";
import { dataDir } from "@electric-sql/pglite-prepopulatedfs";
import { DURABLE_START_PARAMS, DurableFileSystem } from "./durable-file-system.ts";
import { syncTree } from "./sync-path.ts";

/** What the thread is started with. */
export interface PgliteWorkerData {
  /** The data folder; undefined keeps everything in memory. */
  readonly directory: string | undefined;
  /** Whether the folder is empty and gets a new database. */
  readonly create: boolean;
}

export interface PgliteRequest {
  readonly id: number;
  readonly sql: string;
  /** undefined: several statements, results dropped. */
  readonly params: readonly unknown[] | undefined;
}

export type PgliteAnswer =
  | { readonly started: true }
  | { readonly started: false; readonly message: string }
  | { readonly id: number; readonly rows: object[] }
  | { readonly id: number; readonly message: string; readonly sqlState: string | undefined };

/** Type oid of int8 (pg_type.dat). */
const INT8 = 20;

const port = parentPort;
if (port === null) throw new Error("pglite-worker.ts runs as a worker thread only");
const answer = (message: PgliteAnswer): void => port.postMessage(message);

let database: PGlite;
try {
  database = await open(workerData as PgliteWorkerData);
  answer({ started: true });
} catch (error) {
  answer({ started: false, message: messageOf(error) });
  // A half-started engine keeps handles open; nothing is lost by not waiting for it.
  process.exit(1);
}

port.on("message", (request: PgliteRequest | "close") => {
  if (request === "close") void close();
  else void run(request);
});

async function run({ id, sql, params }: PgliteRequest): Promise<void> {
  try {
    if (params === undefined) {
      await database.exec(sql);
      answer({ id, rows: [] });
    } else {
      const { rows } = await database.query<object>(sql, [...params]);
      answer({ id, rows });
    }
  } catch (error) {
    const isLost = isFatal(error);
    // Only the primary message: the detail of a PostgreSQL error quotes values of the row.
    answer({ id, message: messageOf(error), sqlState: isLost ? undefined : sqlStateOf(error) });
    // After a PANIC the engine would hang; it is started again and recovers from its log.
    if (isLost) process.exit(1);
  }
}

async function close(): Promise<void> {
  try {
    await database.exec("CHECKPOINT");
    await database.close();
  } finally {
    process.exit(0);
  }
}

async function open({ directory, create }: PgliteWorkerData): Promise<PGlite> {
  if (directory === undefined)
    return await PGlite.create({ ...options(), loadDataDir: await dataDir() });
  const files = new DurableFileSystem(directory, !create);
  const durable = { ...options(), fs: files, startParams: [...DURABLE_START_PARAMS] };
  const opened = create ? await createIn(directory, durable) : await PGlite.create(durable);
  if (create) {
    await opened.exec("CHECKPOINT");
    syncTree(directory);
    files.isArmed = true;
  }
  await assertDurable(opened, files);
  return opened;
}

function options(): PGliteOptions {
  return { parsers: { [INT8]: (text: string) => BigInt(text) } };
}

/** A ready-made image takes a third of the time of initdb; initdb is for the day when it fits this PGlite no more. */
async function createIn(directory: string, durable: PGliteOptions): Promise<PGlite> {
  try {
    return await PGlite.create({ ...durable, loadDataDir: await dataDir() });
  } catch {
    for (const entry of readdirSync(directory)) {
      rmSync(path.join(directory, entry), { recursive: true, force: true });
    }
    return await PGlite.create(durable);
  }
}

/** The fsync patch reaches into internals of one PGlite version, so each start proves that a commit is synced. */
async function assertDurable(opened: PGlite, files: DurableFileSystem): Promise<void> {
  const before = files.syncs;
  await opened.query("SELECT pg_logical_emit_message(true, 'daybreak', 'start')");
  if (files.syncs === before)
    throw new Error("a commit did not reach the disk: this PGlite is not durable");
}

/** Whether the engine cannot go on: PostgreSQL gave up, or WebAssembly trapped. */
function isFatal(error: unknown): boolean {
  const { severity, name } = error as { severity?: unknown; name?: unknown };
  return severity === "FATAL" || severity === "PANIC" || name === "RuntimeError";
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

function sqlStateOf(error: unknown): string | undefined {
  const code: unknown = (error as { code?: unknown }).code;
  return typeof code === "string" && /^[0-9A-Z]{5}$/.test(code) ? code : undefined;
}
