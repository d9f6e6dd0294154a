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
import { messages, PGlite, type PGliteOptions, protocol } from "@electric-sql/pglite";
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
      answer({ id, rows: await query(sql, params) });
    }
  } catch (error) {
    const isLost = isFatal(error);
    // Only the primary message: the detail of a PostgreSQL error quotes values of the row.
    answer({ id, message: messageOf(error), sqlState: isLost ? undefined : sqlStateOf(error) });
    // After a PANIC the engine would hang; it is started again and recovers from its log.
    if (isLost) process.exit(1);
  }
}

async function query(sql: string, params: readonly unknown[]): Promise<object[]> {
  return params.some((param) => param instanceof Uint8Array)
    ? await queryPrepared(sql, params)
    : (await database.query<object>(sql, [...params])).rows;
}

/** What is known of a statement that stays prepared. */
interface Prepared {
  readonly name: string;
  /** Type oids of its parameters. */
  readonly params: readonly number[];
  readonly fields: readonly { readonly name: string; readonly dataTypeID: number }[];
}

const prepared = new Map<string, Prepared>();

/**
 * Runs a statement with binary parameters, which is prepared once. PGlite's `query` takes six calls into WebAssembly for
 * a statement, and would write the bytes as text. Other statements are left to it: a plan that is kept is one for the size
 * that the tables had.
 */
async function queryPrepared(sql: string, params: readonly unknown[]): Promise<object[]> {
  const statement = prepared.get(sql) ?? (await prepare(sql));
  const message = writeExecution(
    statement.name,
    params.map((param, i) => textOrBytes(param, statement.params[i] ?? 0)),
  );
  const answers = await database.execProtocolStream(message, { syncToFs: false });
  return answers
    .filter((message) => message instanceof messages.DataRowMessage)
    .map(({ fields }) =>
      Object.fromEntries(
        statement.fields.map(({ name, dataTypeID }, i) => {
          const text = fields[i] ?? null;
          const parse = database.parsers[dataTypeID];
          return [name, text === null || parse === undefined ? text : parse(text)];
        }),
      ),
    );
}

function textOrBytes(param: unknown, type: number): string | Uint8Array | null {
  if (param instanceof Uint8Array) return param;
  if (param === null || param === undefined) return null;
  const serialize = database.serializers[type];
  if (serialize !== undefined) return serialize(param) as string;
  if (typeof param === "string") return param;
  throw new Error(`a parameter of type ${type} is not given as text`);
}

/** Reused, because PGlite's own writer allocates several times the size of each message. */
let scratch = Buffer.allocUnsafeSlow(65_536);
/** Bytes of a message beside its parameters and their lengths. */
const ENVELOPE_BYTES_MAX = 256;
/** Of the format code and the length of a parameter. */
const PARAM_BYTES = 6;
const TEXT_FORMAT = 0;
const BINARY_FORMAT = 1;

/**
 * Bind, Execute and Sync in one buffer, which the next call overwrites; the results come back as text
 * (PostgreSQL 18 manual, chapter 54.7).
 */
function writeExecution(name: string, params: readonly (string | Uint8Array | null)[]): Uint8Array {
  const bytesMax = params.reduce(
    (sum, param) => sum + PARAM_BYTES + (param === null ? 0 : Buffer.byteLength(param)),
    ENVELOPE_BYTES_MAX,
  );
  if (scratch.length < bytesMax) scratch = Buffer.allocUnsafeSlow(2 * bytesMax);
  // 'B', length, the unnamed portal, the statement, the formats of the parameters.
  let at = 5 + scratch.write(`\0${name}\0`, 5);
  at = scratch.writeInt16BE(params.length, at);
  for (const param of params) {
    at = scratch.writeInt16BE(param instanceof Uint8Array ? BINARY_FORMAT : TEXT_FORMAT, at);
  }
  at = scratch.writeInt16BE(params.length, at);
  for (const param of params) {
    const start = at + 4;
    let bytes = 0;
    if (typeof param === "string") bytes = scratch.write(param, start);
    else if (param !== null) {
      scratch.set(param, start);
      bytes = param.length;
    }
    scratch.writeInt32BE(param === null ? -1 : bytes, at);
    at = start + bytes;
  }
  // All results as text.
  at = scratch.writeInt16BE(0, at);
  scratch.write("B", 0);
  scratch.writeInt32BE(at - 1, 1);
  for (const part of [protocol.serialize.execute({}), protocol.serialize.sync()]) {
    scratch.set(part, at);
    at += part.length;
  }
  return scratch.subarray(0, at);
}

async function prepare(sql: string): Promise<Prepared> {
  const name = `s${prepared.size}`;
  const { serialize } = protocol;
  const answers = await database.execProtocolStream(
    Buffer.concat([
      serialize.parse({ name, text: sql }),
      serialize.describe({ type: "S", name }),
      serialize.sync(),
    ]),
    { syncToFs: false },
  );
  const types = answers.find((message) => message instanceof messages.ParameterDescriptionMessage);
  const columns = answers.find((message) => message instanceof messages.RowDescriptionMessage);
  const statement = { name, params: types?.dataTypeIDs ?? [], fields: columns?.fields ?? [] };
  prepared.set(sql, statement);
  return statement;
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
