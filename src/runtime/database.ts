import type { Logger } from "./logger.ts";
import { openPglite } from "./pglite-database.ts";
import { openPostgres } from "./postgres-database.ts";
import type { Database } from "./queryable.ts";
import { ConfigError } from "./settings.ts";

export type { Database, Queryable } from "./queryable.ts";

/** Where the SQL store is. Neither `url` nor `directory`: in memory, for tests. */
export interface DatabaseOptions {
  /** `postgres://…` of a server, version 15 or newer. */
  readonly url?: string | undefined;
  /** Folder of an embedded database, which this process then holds exclusively. */
  readonly directory?: string | undefined;
  /** Whether a folder without a database gets a new one. Default true. */
  readonly create?: boolean;
  readonly log: Logger;
}

/**
 * Opens the SQL store. It has no tables yet; see `migrate`.
 *
 * @throws ConfigError with one line that says what to do: busy, unwritable, broken or newer folder; server not usable.
 */
export async function openDatabase(options: DatabaseOptions): Promise<Database> {
  const { url, directory, create = true, log } = options;
  if (url !== undefined && directory !== undefined) {
    throw new ConfigError("Give a database URL or a data folder, not both.");
  }
  return url === undefined
    ? await openPglite(directory, create, log)
    : await openPostgres(url, log);
}
