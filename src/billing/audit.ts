import type { Queryable } from "../runtime/database.ts";
import { type LedgerLocation, openExistingLedger } from "./schema.ts";

/** One invariant of the books. */
export interface AuditRow {
  readonly name: string;
  /** What was found; 0 when the invariant holds. */
  readonly value: bigint;
  readonly ok: boolean;
}

/** Checks every invariant against the transfers themselves. Reads whole tables: not for the request path. */
export async function auditLedger(database: Queryable): Promise<AuditRow[]> {
  const rows = await database.query<{ name: string; value: string }>(
    `SELECT name, value::text AS value
       FROM (TABLE ledger.audit UNION ALL TABLE ledger.quote_audit UNION ALL TABLE ledger.deposit_audit) AS invariant
      ORDER BY position`,
  );
  return rows.map(({ name, value }) => {
    const found = BigInt(value);
    return { name, value: found, ok: found === 0n };
  });
}

/** One line per invariant, for a terminal. */
export function formatAudit(rows: readonly AuditRow[]): string[] {
  return rows.map(({ name, value, ok }) => `${ok ? "ok    " : "BROKEN"}  ${name}: ${value}`);
}

/**
 * Audits the database at `url` or in `directory`; what `daybreak ledger audit` does.
 *
 * An embedded database has one user at a time: while a gateway runs on the folder, this refuses.
 *
 * @throws ConfigError if the folder has no database or is in use, or the server cannot be used.
 */
export async function auditDatabase(
  location: LedgerLocation,
): Promise<{ ok: boolean; lines: string[] }> {
  const database = await openExistingLedger(location);
  try {
    const rows = await auditLedger(database);
    return { ok: rows.every((row) => row.ok), lines: formatAudit(rows) };
  } finally {
    await database.close();
  }
}
