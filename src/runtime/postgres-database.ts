import pg from "pg";
import type { Logger } from "./logger.ts";
import { type Database, DatabaseError, type Queryable } from "./queryable.ts";
import { ConfigError } from "./settings.ts";

/** Oldest server with everything the migrations use. */
const SERVER_VERSION_MIN = 150_000;
/** Connections per process. The hot path uses one at a time. */
const CONNECTIONS_MAX = 8;
const CONNECT_MS_MAX = 5_000;
const IDLE_CONNECTION_MS = 60_000;
/** The server ends a statement after this; the client stops waiting a little later, for when the server is gone. */
const STATEMENT_MS_MAX = 30_000;
const ANSWER_MS_MAX = STATEMENT_MS_MAX + 5_000;
/** Type oids of int8 and int8[] (pg_type.dat). */
const INT8 = 20;
const INT8_ARRAY = 1016;

/**
 * Connects to a PostgreSQL server.
 *
 * @throws ConfigError if it cannot be reached, refuses the login, is older than 15, or does not keep commits.
 */
export async function openPostgres(url: string, log: Logger): Promise<Database> {
  const description = describe(url);
  const pool = new pg.Pool({
    connectionString: url,
    application_name: "daybreak",
    max: CONNECTIONS_MAX,
    connectionTimeoutMillis: CONNECT_MS_MAX,
    idleTimeoutMillis: IDLE_CONNECTION_MS,
    statement_timeout: STATEMENT_MS_MAX,
    query_timeout: ANSWER_MS_MAX,
    keepAlive: true,
    types: { getTypeParser },
  });
  // Without a listener, a connection that dies while idle would end the process.
  pool.on("error", (error) => {
    log.warn({ database: description, reason: error.message }, "database.connection_lost");
  });
  try {
    await requireUsable(pool, description);
  } catch (error) {
    await pool.end();
    throw error;
  }
  let closed: Promise<void> | undefined;
  return {
    kind: "postgres",
    description,
    ...queryableOf(pool),
    transaction: async (work) => await inTransaction(pool, work),
    close: async () => {
      closed ??= pool.end();
      await closed;
    },
  };
}

function describe(url: string): string {
  try {
    const { host, pathname, searchParams } = new URL(url);
    return `postgres://${host === "" ? (searchParams.get("host") ?? "") : host}${pathname}`;
  } catch {
    throw new ConfigError(
      "DATABASE_URL is not a URL. It looks like postgres://user:password@host:5432/name.",
    );
  }
}

async function requireUsable(pool: pg.Pool, description: string): Promise<void> {
  let row: { version: string; fsync: string; commit: string } | undefined;
  try {
    const { rows } = await pool.query<{ version: string; fsync: string; commit: string }>(
      `SELECT current_setting('server_version_num') AS version, current_setting('fsync') AS fsync,
              current_setting('synchronous_commit') AS commit`,
    );
    row = rows[0];
  } catch (cause) {
    // pg's own message may be empty (AggregateError), and never contains the password.
    const { code, message } = cause as { code?: string; message?: string };
    const reason = [code, message].filter((part) => part !== undefined && part !== "").join(": ");
    throw new ConfigError(
      `The database ${description} cannot be used (${reason}). Check DATABASE_URL and that the server runs.`,
      { cause },
    );
  }
  if (Number(row?.version) < SERVER_VERSION_MIN) {
    throw new ConfigError(
      `The database ${description} is PostgreSQL ${row?.version}; 15 or newer is needed.`,
    );
  }
  if (row?.fsync !== "on" || row.commit === "off") {
    throw new ConfigError(
      `The database ${description} may lose commits (fsync ${row?.fsync}, synchronous_commit ${row?.commit}). Turn both on.`,
    );
  }
}

function getTypeParser(oid: number, format?: "text" | "binary"): (text: string) => unknown {
  if (oid === INT8) return (text) => BigInt(text);
  const parse = pg.types.getTypeParser(oid, format) as (text: string) => unknown;
  if (oid !== INT8_ARRAY) return parse;
  return (text) =>
    (parse(text) as (string | null)[]).map((item) => (item === null ? null : BigInt(item)));
}

function queryableOf(client: pg.Pool | pg.PoolClient): Queryable {
  return {
    query: async <Row extends object>(sql: string, params: readonly unknown[] = []) => {
      try {
        return (await client.query<Row>(sql, [...params])).rows;
      } catch (error) {
        throw databaseErrorOf(error);
      }
    },
    exec: async (sql) => {
      try {
        await client.query(sql);
      } catch (error) {
        throw databaseErrorOf(error);
      }
    },
  };
}

async function inTransaction<T>(pool: pg.Pool, work: (tx: Queryable) => Promise<T>): Promise<T> {
  let client: pg.PoolClient;
  try {
    client = await pool.connect();
  } catch (error) {
    throw databaseErrorOf(error);
  }
  let broken: Error | undefined;
  const tx = queryableOf(client);
  try {
    await tx.exec("BEGIN");
    const result = await work(tx);
    await tx.exec("COMMIT");
    return result;
  } catch (error) {
    await tx.exec("ROLLBACK").catch((failure: unknown) => {
      broken = failure as Error;
    });
    throw error;
  } finally {
    // A connection that could not roll back is dropped, not handed to the next caller.
    client.release(broken);
  }
}

function databaseErrorOf(error: unknown): DatabaseError {
  const message = error instanceof Error ? error.message : String(error);
  const sqlState = error instanceof pg.DatabaseError ? error.code : undefined;
  return new DatabaseError(message, sqlState, { cause: error });
}
