import { createHash, randomBytes } from "node:crypto";
import { type AccountId, newAccountId } from "../core/ids.ts";
import { type NanoUsd, nanoUsd } from "../core/money.ts";
import type { Database, Queryable } from "../runtime/database.ts";

/** What every API key starts with. */
const KEY_PREFIX = "sk-db-v1-";
const KEY_BYTES = 32;

/** An API key without the key. */
export interface ApiKeyRecord {
  /** Hex SHA-256 of the key. */
  readonly id: string;
  readonly account: AccountId;
  /** Names the account's deposit address. */
  readonly accountIndex: number;
  readonly label: string;
  readonly disabled: boolean;
  /** May manage keys, and may not buy completions. */
  readonly management: boolean;
  readonly createdMs: number;
  /** When it was last changed. */
  readonly updatedMs: number | undefined;
  /** Unix milliseconds from which it is refused. */
  readonly expiresMs: number | undefined;
}

/** Keys that one listing returns. */
export const KEYS_LISTED_MAX = 100;
/** Keys of one account. */
export const KEYS_MAX = 1_000;

/** Opens an account with no credit. @returns its id, and the index that names its deposit address. */
export async function createAccount(
  database: Database,
  { name }: { readonly name: string },
): Promise<{ id: AccountId; index: number }> {
  const id = newAccountId();
  return await database.transaction(async (tx) => {
    const rows = await tx.query<{ index: number }>(
      "INSERT INTO ledger.account (id, name, created_ms) VALUES ($1, $2, $3) RETURNING index",
      [id, name, Date.now()],
    );
    await tx.query(
      "INSERT INTO ledger.acct (ledger, code, owner, guarded) SELECT ledger, code, $1, guarded FROM ledger.chart WHERE ledger = 1 AND code = 10",
      [id],
    );
    const row = rows[0];
    if (row === undefined) throw new Error("the account was not inserted");
    return { id, index: row.index };
  });
}

/** Makes a key. It is returned once; the database keeps its hash only. */
export async function createApiKey(
  database: Queryable,
  account: AccountId,
  {
    label,
    management,
    expiresMs,
  }: {
    readonly label: string;
    readonly management: boolean;
    readonly expiresMs?: number | undefined;
  },
): Promise<{ key: string; id: string }> {
  const key = KEY_PREFIX + randomBytes(KEY_BYTES).toString("base64url");
  const id = apiKeyIdOf(key);
  await database.query(
    `INSERT INTO ledger.api_key (id, account, label, is_management, expires_ms, created_ms)
       VALUES ($1, $2, $3, $4, $5, $6)`,
    [id, account, label, management, expiresMs ?? null, Date.now()],
  );
  return { key, id };
}

/** Hex SHA-256 of a key: how it is looked up. Keys are random, so a slow hash would add nothing. */
export function apiKeyIdOf(key: string): string {
  return createHash("sha256").update(key).digest("hex");
}

/** @param id `apiKeyIdOf` the presented key. @returns undefined if there is no such key; a disabled one is returned. */
export async function findApiKey(
  database: Queryable,
  id: string,
): Promise<ApiKeyRecord | undefined> {
  const [row] = await database.query<ApiKeyRow>(`${SELECT_KEY} WHERE k.id = $1`, [id]);
  return row === undefined ? undefined : recordOf(row);
}

/** An account's keys that buy completions, oldest first, at most 100 from `offset`. */
export async function listApiKeys(
  database: Queryable,
  account: AccountId,
  offset: number,
): Promise<ApiKeyRecord[]> {
  const rows = await database.query<ApiKeyRow>(
    `${SELECT_KEY} WHERE k.account = $1 AND NOT k.is_management ORDER BY k.created_ms, k.id LIMIT $2 OFFSET $3`,
    [account, KEYS_LISTED_MAX, offset],
  );
  return rows.map(recordOf);
}

/** How many keys an account has. */
export async function countApiKeys(database: Queryable, account: AccountId): Promise<number> {
  const [row] = await database.query<{ n: bigint }>(
    "SELECT count(*) AS n FROM ledger.api_key WHERE account = $1",
    [account],
  );
  return Number(row?.n ?? 0n);
}

/** Changes what is given. */
export async function updateApiKey(
  database: Queryable,
  id: string,
  change: { readonly label?: string | undefined; readonly disabled?: boolean | undefined },
): Promise<void> {
  await database.query(
    `UPDATE ledger.api_key SET label = COALESCE($2, label), is_disabled = COALESCE($3, is_disabled), updated_ms = $4
      WHERE id = $1`,
    [id, change.label ?? null, change.disabled ?? null, Date.now()],
  );
}

/** Removes a key and its limit. Its requests stay with the account. */
export async function deleteApiKey(database: Database, id: string): Promise<void> {
  await database.transaction(async (tx) => {
    await limitKey(tx, id, undefined);
    await tx.query("DELETE FROM ledger.api_key WHERE id = $1", [id]);
  });
}

const SELECT_KEY = `SELECT k.id, k.account, a.index, k.label, k.is_disabled, k.is_management, k.created_ms, k.updated_ms, k.expires_ms
  FROM ledger.api_key k JOIN ledger.account a ON a.id = k.account`;

interface ApiKeyRow {
  readonly id: string;
  readonly account: AccountId;
  readonly index: number;
  readonly label: string;
  readonly is_disabled: boolean;
  readonly is_management: boolean;
  readonly created_ms: bigint;
  readonly updated_ms: bigint | null;
  readonly expires_ms: bigint | null;
}

function recordOf(row: ApiKeyRow): ApiKeyRecord {
  return {
    id: row.id,
    account: row.account,
    accountIndex: row.index,
    label: row.label,
    disabled: row.is_disabled,
    management: row.is_management,
    createdMs: Number(row.created_ms),
    updatedMs: row.updated_ms === null ? undefined : Number(row.updated_ms),
    expiresMs: row.expires_ms === null ? undefined : Number(row.expires_ms),
  };
}

/** What a key may spend of its account's credit. */
export interface KeyLimit {
  /** In each period. */
  readonly amount: NanoUsd;
  /** When it starts anew, at midnight UTC; weeks start on Monday. Undefined: never. */
  readonly reset: LimitReset | undefined;
}

export const LIMIT_RESETS = ["daily", "weekly", "monthly"] as const;
export type LimitReset = (typeof LIMIT_RESETS)[number];

/** A key's limit, and what of it is used in the current period. */
export interface KeyBudget extends KeyLimit {
  readonly spentNusd: bigint;
  /** Open holds of the key. */
  readonly heldNusd: bigint;
}

/** Sets or replaces a key's limit; what the period's requests have cost so far counts. Undefined removes it. */
export async function limitKey(
  database: Queryable,
  keyId: string,
  limit: KeyLimit | undefined,
): Promise<void> {
  await database.query("SELECT ledger.limit_key($1, $2, $3)", [
    keyId,
    limit?.amount ?? null,
    limit?.reset ?? null,
  ]);
}

/** @returns undefined if the key has no limit. */
export async function budgetOf(database: Queryable, keyId: string): Promise<KeyBudget | undefined> {
  const [row] = await database.query<{
    amount: bigint;
    reset: LimitReset | null;
    spent: bigint;
    held: bigint;
  }>(
    `SELECT amount, reset, held,
            CASE WHEN period_ms < ledger.period_start(reset, ledger.now_ms()) THEN 0::bigint ELSE spent END AS spent
       FROM ledger.key_budget WHERE api_key = $1`,
    [keyId],
  );
  if (row === undefined) return undefined;
  return {
    amount: nanoUsd(row.amount),
    reset: row.reset ?? undefined,
    spentNusd: row.spent,
    heldNusd: row.held,
  };
}
