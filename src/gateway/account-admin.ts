import { randomUUID } from "node:crypto";
import {
  ACCOUNTS_LISTED_MAX,
  type AccountRecord,
  createAccount,
  createApiKey,
  findAccount,
  listAccounts,
  setAccountDisabled,
} from "../billing/accounts.ts";
import { grantPromo } from "../billing/promo.ts";
import { RouterError } from "../core/errors.ts";
import { accountIdOf } from "../core/ids.ts";
import { formatNano, NANO, nanoUsd, parseNano } from "../core/money.ts";
import type { Database } from "../runtime/database.ts";

/** Longest account name and id of a grant, in characters. */
const TEXT_CHARS_MAX = 100;
/** Largest grant, USD. */
const GRANT_USD_MAX = 10_000n;
const DAY_MS = 86_400_000;
/** How long a grant lasts when nobody says, in days, and at most. */
const GRANT_DAYS = 90;
const GRANT_DAYS_MAX = 3_660;
/** Largest offset of a listing has this many digits. */
const OFFSET_DIGITS_MAX = 9;

/** An account as JSON shows it to the operator. */
export interface AccountJson {
  readonly account_id: string;
  readonly name: string;
  readonly created_at: string;
  readonly disabled: boolean;
  readonly keys: number;
  readonly balance_nusd: string;
  readonly promo_nusd: string;
  readonly held_nusd: string;
}

/** A grant of promo credit as JSON shows it. */
export interface GrantJson {
  readonly grant_id: string;
  readonly account_id: string;
  readonly amount_nusd: string;
  readonly amount_usd: string;
  readonly expires_at: string;
  /** False when it was made before. */
  readonly is_new: boolean;
}

/** An account that was made, with the keys that are shown this once. */
export interface CreatedAccountJson {
  readonly account_id: string;
  readonly api_key: string;
  readonly management_key: string;
  /** Null where the treasury's key is not known. */
  readonly deposit_address: string | null;
}

/** What an operator does with accounts, over HTTP or on the database itself. Input is checked here; every refusal is a RouterError. */
export interface AccountAdmin {
  list(offset: unknown): Promise<{ data: readonly AccountJson[]; has_more: boolean }>;
  show(account: string): Promise<AccountJson>;
  create(name: unknown): Promise<CreatedAccountJson>;
  setDisabled(account: string, disabled: unknown): Promise<AccountJson>;
  /** Grants promo credit: `usd`, a decimal string; `id`, under which it is granted once; `expires_at`, a date or time. */
  credit(account: string, fields: Readonly<Record<string, unknown>>): Promise<GrantJson>;
}

/** @param depositAddressOf from an account's index; undefined where the treasury's key is not known. */
export function accountAdmin(
  database: Database,
  nowMs: () => number,
  depositAddressOf?: (accountIndex: number) => string,
): AccountAdmin {
  const found = async (text: string): Promise<AccountRecord> => {
    const id = accountIdOf(text);
    const account = id === undefined ? undefined : await findAccount(database, id);
    if (account === undefined) throw new RouterError("not_found", "There is no such account.");
    return account;
  };
  return {
    list: async (offset) => {
      const from = offsetOf(offset);
      const page = await listAccounts(database, from);
      return { data: page.map(jsonOf), has_more: page.length === ACCOUNTS_LISTED_MAX };
    },
    show: async (account) => jsonOf(await found(account)),
    create: async (given) => {
      const name = textOf(given, "name");
      const { id, index } = await createAccount(database, { name });
      const apiKey = await createApiKey(database, id, { label: name, management: false });
      const managementKey = await createApiKey(database, id, { label: name, management: true });
      return {
        account_id: id,
        api_key: apiKey.key,
        management_key: managementKey.key,
        deposit_address: depositAddressOf?.(index) ?? null,
      };
    },
    setDisabled: async (account, disabled) => {
      if (typeof disabled !== "boolean") throw refusal("disabled", "must be true or false");
      const { id } = await found(account);
      await setAccountDisabled(database, id, disabled);
      return jsonOf(await found(id));
    },
    credit: async (account, fields) => {
      const { id: accountId } = await found(account);
      const grant = {
        id: fields["id"] === undefined ? randomUUID() : textOf(fields["id"], "id"),
        account: accountId,
        amount: usdOf(fields["usd"]),
        expiresMs: expiryOf(fields["expires_at"], nowMs()),
      };
      const isNew = await grantPromo(database, grant);
      return {
        grant_id: grant.id,
        account_id: accountId,
        amount_nusd: grant.amount.toString(),
        amount_usd: formatNano(grant.amount),
        expires_at: new Date(grant.expiresMs).toISOString(),
        is_new: isNew,
      };
    },
  };
}

function jsonOf(account: AccountRecord): AccountJson {
  return {
    account_id: account.id,
    name: account.name,
    created_at: new Date(account.createdMs).toISOString(),
    disabled: account.disabled,
    keys: account.keys,
    balance_nusd: account.postedNusd.toString(),
    promo_nusd: account.promoNusd.toString(),
    held_nusd: account.heldNusd.toString(),
  };
}

function offsetOf(value: unknown): number {
  if (value === undefined) return 0;
  if (typeof value !== "string" || !/^\d+$/.test(value) || value.length > OFFSET_DIGITS_MAX)
    throw refusal("offset", "must be a whole number");
  return Number(value);
}

function textOf(value: unknown, param: string): string {
  if (typeof value !== "string" || value.trim() === "" || value.length > TEXT_CHARS_MAX)
    throw refusal(param, `must be a text of 1 to ${TEXT_CHARS_MAX} characters`);
  return value.trim();
}

function usdOf(value: unknown) {
  const amount = typeof value === "string" ? parseNano(value) : undefined;
  if (amount === undefined || amount === 0n || amount > GRANT_USD_MAX * NANO)
    throw refusal(
      "usd",
      `must be a decimal in quotes, such as "5.00": more than 0, at most ${GRANT_USD_MAX}, at most 9 decimals`,
    );
  return nanoUsd(amount);
}

/** By default a midnight, so that a call that is repeated on the same day means the same. */
function expiryOf(value: unknown, nowMs: number): number {
  if (value === undefined) return (Math.floor(nowMs / DAY_MS) + GRANT_DAYS) * DAY_MS;
  const isTime = typeof value === "string" && /^\d{4}-\d{2}-\d{2}/.test(value);
  const timeMs = isTime ? Date.parse(value) : Number.NaN;
  if (!(timeMs > nowMs && timeMs <= nowMs + GRANT_DAYS_MAX * DAY_MS))
    throw refusal("expires_at", "must be a time to come, within ten years, such as 2027-01-31");
  return timeMs;
}

function refusal(param: string, message: string): RouterError {
  return new RouterError("invalid_request", `${param} ${message}.`, { details: { param } });
}
