import { createHash } from "node:crypto";
import { readdirSync, readFileSync } from "node:fs";
import path from "node:path";
import { fileURLToPath } from "node:url";
import type { Database } from "./queryable.ts";
import { ConfigError } from "./settings.ts";

interface Migration {
  readonly version: number;
  readonly name: string;
  readonly sql: string;
  readonly checksum: string;
}

/** Serialises migrations of several processes: "daybreak" in ASCII, as an int8. */
const MIGRATION_LOCK = 0x6461_7962_7265_616bn;

/**
 * Brings the tables of `component` up to date: runs the files `0001-name.sql`, `0002-…` of `directory` that the
 * database has not seen, all in one transaction. Forward only.
 *
 * @throws ConfigError if the database has migrations that `directory` lacks (it was written by a newer version), or
 * one that differs from its file.
 */
export async function migrate(
  database: Database,
  component: string,
  directory: URL,
): Promise<void> {
  const known = readMigrations(directory);
  await database.transaction(async (tx) => {
    await tx.query("SELECT pg_advisory_xact_lock($1)", [MIGRATION_LOCK]);
    await tx.exec(`CREATE TABLE IF NOT EXISTS public.daybreak_migration (
      component text, version int, name text NOT NULL, checksum text NOT NULL,
      applied_at timestamptz NOT NULL DEFAULT now(), PRIMARY KEY (component, version))`);
    const applied = await tx.query<{ version: number; name: string; checksum: string }>(
      "SELECT version, name, checksum FROM public.daybreak_migration WHERE component = $1 ORDER BY version",
      [component],
    );
    for (const row of applied) requireSame(row, known, database.description, component);
    for (const { version, name, sql, checksum } of known.slice(applied.length)) {
      await tx.exec(sql);
      await tx.query(
        "INSERT INTO public.daybreak_migration (component, version, name, checksum) VALUES ($1, $2, $3, $4)",
        [component, version, name, checksum],
      );
    }
  });
}

function requireSame(
  row: { version: number; name: string; checksum: string },
  known: readonly Migration[],
  description: string,
  component: string,
): void {
  const file = known[row.version - 1];
  if (file === undefined) {
    throw new ConfigError(
      `The database ${description} was written by a newer version (${component} ${row.version} ${row.name}; ` +
        `this one knows ${known.length}). Start that version, or use another database.`,
    );
  }
  if (file.checksum !== row.checksum) {
    throw new ConfigError(
      `The database ${description} was set up with another text of ${component} ${row.version} ${row.name}. ` +
        "Start the version that wrote it, or use another database.",
    );
  }
}

function readMigrations(directory: URL): Migration[] {
  const folder = fileURLToPath(directory);
  return readdirSync(folder)
    .filter((file) => file.endsWith(".sql"))
    .sort()
    .map((file, index) => {
      const match = /^(\d{4})-([a-z0-9-]+)\.sql$/.exec(file);
      if (match === null || Number(match[1]) !== index + 1) {
        throw new Error(`${file} is not migration number ${index + 1}`);
      }
      // A checkout on Windows may have other line ends.
      const sql = readFileSync(path.join(folder, file), "utf8").replaceAll("\r\n", "\n");
      const checksum = createHash("sha256").update(sql).digest("hex");
      return { version: index + 1, name: match[2] ?? "", sql, checksum };
    });
}
