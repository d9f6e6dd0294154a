import { createHash, randomBytes } from "node:crypto";
import { type AccountId, newAccountId } from "../core/ids.ts";
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
}

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
  { label, management }: { readonly label: string; readonly management: boolean },
): Promise<{ key: string; id: string }> {
  const key = KEY_PREFIX + randomBytes(KEY_BYTES).toString("base64url");
  const id = apiKeyIdOf(key);
  await database.query(
    "INSERT INTO ledger.api_key (id, account, label, is_management, created_ms) VALUES ($1, $2, $3, $4, $5)",
    [id, account, label, management, Date.now()],
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
  const [row] = await database.query<{
    id: string;
    account: AccountId;
    index: number;
    label: string;
    is_disabled: boolean;
    is_management: boolean;
    created_ms: bigint;
  }>(
    `SELECT k.id, k.account, a.index, k.label, k.is_disabled, k.is_management, k.created_ms
       FROM ledger.api_key k JOIN ledger.account a ON a.id = k.account WHERE k.id = $1`,
    [id],
  );
  if (row === undefined) return undefined;
  return {
    id: row.id,
    account: row.account,
    accountIndex: row.index,
    label: row.label,
    disabled: row.is_disabled,
    management: row.is_management,
    createdMs: Number(row.created_ms),
  };
}
