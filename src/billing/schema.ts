import type { Database } from "../runtime/database.ts";
import { migrate } from "../runtime/migrations.ts";

/** Makes or updates the tables of accounts, money, deposits and the log's leaves. @throws ConfigError of `migrate`. */
export async function migrateBilling(database: Database): Promise<void> {
  await migrate(database, "billing", new URL("./migrations/", import.meta.url));
}
