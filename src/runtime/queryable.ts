import type { Closable } from "./shutdown.ts";

/** Runs SQL: a database, or one transaction on it. */
export interface Queryable {
  /**
   * One statement with `$1…` parameters. int8 comes back as bigint, bytea as Uint8Array, jsonb parsed, timestamptz as Date.
   * A Uint8Array is a parameter in the binary format of its type, any other value is sent as text. A statement with one
   * is kept prepared by the embedded store, so there should be few such texts.
   * `Row` is the caller's promise about the columns; nothing checks it.
   *
   * @throws DatabaseError
   */
  query<Row extends object>(sql: string, params?: readonly unknown[]): Promise<Row[]>;
  /** Any number of statements without parameters; results are dropped. @throws DatabaseError */
  exec(sql: string): Promise<void>;
}

/** One SQL store: an embedded PostgreSQL in a worker thread, or a PostgreSQL server. The same SQL runs on both. */
export interface Database extends Queryable, Closable {
  readonly kind: "pglite" | "postgres";
  /** Where it is, for people: a folder, or host and database name. Never a password. */
  readonly description: string;
  /**
   * Runs `work` in one transaction and commits when it returns; rolls back when it throws.
   * Use only the handle it gets: the embedded store has one session, and another statement would wait for this one to end.
   */
  transaction<T>(work: (tx: Queryable) => Promise<T>): Promise<T>;
}

/** A statement failed. Its message may name tables and columns, never values. */
export class DatabaseError extends Error {
  override readonly name = "DatabaseError";
  /** PostgreSQL's SQLSTATE; undefined when the connection or the engine was lost, so that the outcome is unknown. */
  readonly sqlState: string | undefined;

  constructor(message: string, sqlState?: string, options?: ErrorOptions) {
    super(message, options);
    this.sqlState = sqlState;
  }
}

/**
 * SQLSTATE classes and codes after which the same statement may succeed: connection (08, but not 08P01, which is a
 * malformed parameter and stays one), resources (53), operator intervention (57), system (58), serialization and
 * deadlock, lock timeout, and read-only after a failover.
 * PostgreSQL 18 manual, appendix A.
 */
const RETRYABLE = /^(08(?!P01)|53|57|58)|^(40001|40P01|55P03|25006)$/;

/** Whether repeating the same statement can help. After such an error, a commit may or may not have happened. */
export function isRetryable(error: unknown): boolean {
  return (
    error instanceof DatabaseError &&
    (error.sqlState === undefined || RETRYABLE.test(error.sqlState))
  );
}
