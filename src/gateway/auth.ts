import { hash, timingSafeEqual } from "node:crypto";
import type { IncomingHttpHeaders } from "node:http";
import { RouterError } from "../core/errors.ts";
import type { AccountId } from "../core/ids.ts";

/** What an API key stands for. */
export interface ApiKey {
  /** SHA-256 of the key, hex: its public name. */
  readonly id: string;
  readonly account: AccountId;
  /** Position of the account's deposit address under the treasury key. */
  readonly accountIndex: number;
  readonly label: string;
  readonly disabled: boolean;
  /** May manage, may not buy inference. */
  readonly management: boolean;
  readonly createdMs: number;
  /** Unix milliseconds from which it is refused. */
  readonly expiresMs: number | undefined;
}

/** How long a look-up is trusted: how long a key works after it was disabled. */
const CACHE_MS = 5_000;
const CACHE_KEYS_MAX = 10_000;
/** No key of ours is longer, in characters. */
const KEY_CHARS_MAX = 200;

/** @returns the API key in any of the three headers that SDKs use, on every surface. */
export function credentialOf(headers: IncomingHttpHeaders): string | undefined {
  const bearer = /^bearer\s+(\S+)\s*$/i.exec(headers.authorization ?? "")?.[1];
  const credential = bearer ?? single(headers["x-api-key"]) ?? single(headers["x-goog-api-key"]);
  return credential === undefined || credential === "" || credential.length > KEY_CHARS_MAX
    ? undefined
    : credential;
}

function single(value: string | string[] | undefined): string | undefined {
  return typeof value === "string" ? value.trim() : undefined;
}

export interface Authenticator {
  /** @throws RouterError `missing_api_key` or `invalid_api_key`. */
  keyOf(headers: IncomingHttpHeaders): Promise<ApiKey>;
  /** Like `keyOf`. @throws RouterError `permission_denied` also when the key may not manage others. */
  managementKeyOf(headers: IncomingHttpHeaders): Promise<ApiKey>;
  /** @throws RouterError unless the headers carry the operator's key. */
  requireAdmin(headers: IncomingHttpHeaders): void;
}

/**
 * Checks API keys against `findApiKey`, remembering answers (also "no such key") for a few seconds.
 * Only hashes are looked up, kept and compared.
 */
export function authenticator(
  findApiKey: (sha256Hex: string) => Promise<ApiKey | undefined>,
  adminKeys: readonly string[],
  nowMs: () => number = Date.now,
): Authenticator {
  const cache = new Map<string, { untilMs: number; found: Promise<ApiKey | undefined> }>();
  const admins = adminKeys.map((key) => hash("sha256", key, "buffer"));

  const lookUp = (keyHash: string): Promise<ApiKey | undefined> => {
    const cached = cache.get(keyHash);
    if (cached !== undefined && cached.untilMs > nowMs()) return cached.found;
    const found = findApiKey(keyHash);
    cache.delete(keyHash);
    if (cache.size >= CACHE_KEYS_MAX) {
      const oldest = cache.keys().next();
      if (oldest.done !== true) cache.delete(oldest.value);
    }
    cache.set(keyHash, { untilMs: nowMs() + CACHE_MS, found });
    // A failed look-up is no answer: the next request asks again.
    found.catch(() => cache.delete(keyHash));
    return found;
  };

  const keyOf = async (headers: IncomingHttpHeaders): Promise<ApiKey> => {
    const credential = credentialOf(headers);
    if (credential === undefined)
      throw new RouterError(
        "missing_api_key",
        "No API key. Send it as `Authorization: Bearer`, `x-api-key` or `x-goog-api-key`.",
      );
    let key: ApiKey | undefined;
    try {
      key = await lookUp(hash("sha256", credential, "hex"));
    } catch (cause) {
      throw new RouterError("ledger_unavailable", "The key cannot be checked right now.", {
        cause,
        retryAfterSeconds: 1,
      });
    }
    if (key === undefined || key.disabled)
      throw new RouterError("invalid_api_key", "This API key is unknown or disabled.");
    if (key.expiresMs !== undefined && key.expiresMs <= nowMs())
      throw new RouterError("invalid_api_key", "This API key has expired.");
    return key;
  };

  return {
    keyOf,
    managementKeyOf: async (headers) => {
      const key = await keyOf(headers);
      if (!key.management)
        throw new RouterError(
          "permission_denied",
          "This needs a management key, which an account gets beside its first API key.",
        );
      return key;
    },
    requireAdmin: (headers) => {
      const credential = credentialOf(headers);
      if (credential === undefined) throw new RouterError("missing_api_key", "No API key.");
      const given = hash("sha256", credential, "buffer");
      if (!admins.some((admin) => timingSafeEqual(given, admin)))
        throw new RouterError("permission_denied", "This needs the operator's key.");
    },
  };
}
