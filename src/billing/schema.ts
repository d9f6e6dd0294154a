import { type Database, openDatabase } from "../runtime/database.ts";
import type { Logger } from "../runtime/logger.ts";
import { migrate } from "../runtime/migrations.ts";
import { ConfigError } from "../runtime/settings.ts";

/** A database by its URL or its folder. */
export interface LedgerLocation {
  readonly url?: string | undefined;
  readonly directory?: string | undefined;
  readonly log: Logger;
}

/** Makes or updates the tables of accounts, money, deposits and the log's leaves. @throws ConfigError of `migrate`. */
export async function migrateBilling(database: Database): Promise<void> {
  await migrate(database, "billing", new URL("./migrations/", import.meta.url));
}

/**
 * Opens a database that has a ledger, for the operator's commands.
 *
 * @throws ConfigError if there is none, the folder is in use, or the server cannot be used.
 */
export async function openExistingLedger(location: LedgerLocation): Promise<Database> {
  const database = await openDatabase({ ...location, create: false });
  try {
    const [found] = await database.query<{ table: string | null }>(
      "SELECT to_regclass('ledger.acct')::text AS table",
    );
    if (found?.table == null) {
      throw new ConfigError(`There is no ledger in ${database.description}.`);
    }
    await migrateBilling(database);
    return database;
  } catch (error) {
    await database.close();
    throw error;
  }
}
