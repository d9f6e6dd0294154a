import type { FastifyInstance } from "fastify";
import {
  type ApiKeyRecord,
  type KeyBudget,
  type KeyLimit,
  LIMIT_RESETS,
  type LimitReset,
} from "../../billing/accounts.ts";
import { RouterError } from "../../core/errors.ts";
import type { AccountId } from "../../core/ids.ts";
import { NANO, nanoUsd, parseNano } from "../../core/money.ts";
import type { Authenticator } from "../auth.ts";
import { jsonObjectOf } from "../json-body.ts";
import { type KeyUsage, limitFieldsOf, usageFieldsOf } from "./key-fields.ts";

/** Longest name of a key, in characters. */
const NAME_CHARS_MAX = 100;
/** Largest limit: 1,000,000 USD. */
const LIMIT_USD_MAX = 1_000_000;
const USD_DECIMALS = 9;
const UNUSED: KeyUsage = { total: 0n, day: 0n, week: 0n, month: 0n };

/** A key with its limit. */
export interface ManagedKey extends ApiKeyRecord {
  readonly budget: KeyBudget | undefined;
}

/** Where keys are kept. */
export interface KeyStore {
  /** @throws RouterError when the account has too many. */
  create(
    account: AccountId,
    options: {
      readonly label: string;
      readonly limit: KeyLimit | undefined;
      readonly expiresMs: number | undefined;
    },
  ): Promise<{ readonly key: string; readonly id: string }>;
  /** The account's keys that buy completions, oldest first, at most 100 from `offset`. */
  list(account: AccountId, offset: number): Promise<ManagedKey[]>;
  /** @returns undefined unless the account has such a key for completions. */
  find(account: AccountId, id: string): Promise<ManagedKey | undefined>;
  /** Changes what is given; a limit of null is removed. */
  update(
    id: string,
    change: {
      readonly label?: string | undefined;
      readonly disabled?: boolean | undefined;
      readonly limit?: KeyLimit | null | undefined;
    },
  ): Promise<void>;
  remove(id: string): Promise<void>;
}

export interface ManagementDeps {
  readonly auth: Authenticator;
  readonly keys: KeyStore;
  readonly usageOfKey: (keyId: string) => Promise<KeyUsage>;
}

/** `GET, POST /keys` and `GET, PATCH, DELETE /keys/{hash}`, for an account's management key; fields as OpenRouter's. */
export function managementRoutes(app: FastifyInstance, deps: ManagementDeps): void {
  const { auth, keys } = deps;
  const rowOf = async (key: ManagedKey): Promise<object> =>
    rowOfKey(key, await deps.usageOfKey(key.id));
  const found = async (account: AccountId, id: string): Promise<ManagedKey> => {
    const key = await keys.find(account, id);
    if (key === undefined) throw new RouterError("not_found", "The account has no such key.");
    return key;
  };

  app.get<{ Querystring: { offset?: string } }>("/keys", async (request) => {
    const { account } = await auth.managementKeyOf(request.raw.headers);
    const data: object[] = [];
    for (const key of await keys.list(account, offsetOf(request.query.offset)))
      data.push(await rowOf(key));
    return { data };
  });
  app.post("/keys", async (request, reply) => {
    const { account } = await auth.managementKeyOf(request.raw.headers);
    const json = jsonObjectOf(request.body);
    const label = nameOf(json["name"]);
    const limit = limitOf(json["limit"], json["limit_reset"], undefined) ?? undefined;
    const { key, id } = await keys.create(account, {
      label,
      limit,
      expiresMs: expiryOf(json["expires_at"]),
    });
    reply.code(201);
    return { data: rowOfKey(await found(account, id), UNUSED), key };
  });
  app.get<{ Params: { hash: string } }>("/keys/:hash", async (request) => {
    const { account } = await auth.managementKeyOf(request.raw.headers);
    return { data: await rowOf(await found(account, request.params.hash)) };
  });
  app.patch<{ Params: { hash: string } }>("/keys/:hash", async (request) => {
    const { account } = await auth.managementKeyOf(request.raw.headers);
    const { id, budget } = await found(account, request.params.hash);
    const json = jsonObjectOf(request.body);
    const isLimitGiven = "limit" in json || "limit_reset" in json;
    await keys.update(id, {
      label: "name" in json ? nameOf(json["name"]) : undefined,
      disabled: "disabled" in json ? booleanOf(json["disabled"], "disabled") : undefined,
      limit: isLimitGiven ? limitOf(json["limit"], json["limit_reset"], budget) : undefined,
    });
    return { data: await rowOf(await found(account, id)) };
  });
  app.delete<{ Params: { hash: string } }>("/keys/:hash", async (request) => {
    const { account } = await auth.managementKeyOf(request.raw.headers);
    await keys.remove((await found(account, request.params.hash)).id);
    return { deleted: true };
  });
}

function rowOfKey(key: ManagedKey, usage: KeyUsage): object {
  return {
    hash: key.id,
    name: key.label,
    label: key.label,
    disabled: key.disabled,
    ...limitFieldsOf(key.budget),
    include_byok_in_limit: false,
    ...usageFieldsOf(usage),
    created_at: new Date(key.createdMs).toISOString(),
    updated_at: key.updatedMs === undefined ? null : new Date(key.updatedMs).toISOString(),
    expires_at: key.expiresMs === undefined ? null : new Date(key.expiresMs).toISOString(),
    creator_user_id: null,
    external_user: null,
    workspace_id: key.account,
  };
}

function offsetOf(text: string | undefined): number {
  if (text === undefined) return 0;
  if (!/^\d{1,6}$/.test(text)) throw refusal("offset", "must be a whole number");
  return Number(text);
}

function nameOf(value: unknown): string {
  if (typeof value !== "string" || value.trim() === "" || value.length > NAME_CHARS_MAX)
    throw refusal("name", `must be a text of 1 to ${NAME_CHARS_MAX} characters`);
  return value.trim();
}

function booleanOf(value: unknown, param: string): boolean {
  if (typeof value !== "boolean") throw refusal(param, "must be true or false");
  return value;
}

/** @param before what a field that is not given keeps. @returns null when there is to be no limit. */
function limitOf(
  limit: unknown,
  reset: unknown,
  before: KeyLimit | undefined,
): KeyLimit | null | undefined {
  if (limit === null) return null;
  const amount = limit === undefined ? before?.amount : nanoUsdOf(limit);
  if (amount === undefined) {
    if (reset === undefined || reset === null) return undefined;
    throw refusal("limit_reset", "needs a limit");
  }
  return { amount, reset: reset === undefined ? before?.reset : resetOf(reset) };
}

/** A JSON number of USD, as the compatible API has it, to the nano-USD. */
function nanoUsdOf(value: unknown): KeyLimit["amount"] {
  const isInRange = typeof value === "number" && value >= 0 && value <= LIMIT_USD_MAX;
  const nano = isInRange ? parseNano(value.toFixed(USD_DECIMALS)) : undefined;
  if (nano === undefined || nano > BigInt(LIMIT_USD_MAX) * NANO)
    throw refusal("limit", `must be a number of USD from 0 to ${LIMIT_USD_MAX}, or null`);
  return nanoUsd(nano);
}

function resetOf(value: unknown): LimitReset | undefined {
  if (value === null) return undefined;
  const reset = LIMIT_RESETS.find((known) => known === value);
  if (reset === undefined)
    throw refusal("limit_reset", `must be ${LIMIT_RESETS.join(", ")} or null`);
  return reset;
}

function expiryOf(value: unknown): number | undefined {
  if (value === undefined || value === null) return undefined;
  const at = typeof value === "string" ? Date.parse(value) : Number.NaN;
  if (!Number.isFinite(at) || at <= 0)
    throw refusal("expires_at", "must be a time such as 2027-01-31T00:00:00Z, or null");
  return at;
}

function refusal(param: string, message: string): RouterError {
  return new RouterError("invalid_request", `${param} ${message}.`, { details: { param } });
}
