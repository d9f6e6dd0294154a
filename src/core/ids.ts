import { randomBytes, randomUUID } from "node:crypto";
import type { Brand } from "./brand.ts";

/** A subnet's number on the chain, u16. */
export type Netuid = Brand<number, "Netuid">;
/** A neuron's slot in a subnet, u16. Slots are recycled; hotkeys are not. */
export type Uid = Brand<number, "Uid">;
/** ss58 address (prefix 42) of a neuron's sr25519 hotkey. */
export type Hotkey = Brand<string, "Hotkey">;
/** ss58 address (prefix 42) of the key that owns hotkeys and TAO. */
export type Coldkey = Brand<string, "Coldkey">;
/** A customer's account, `acct_` and 20 characters. */
export type AccountId = Brand<string, "AccountId">;
/** One request from hold to settlement: a lower-case UUID. Also the id of its hold, grant and receipt. */
export type RequestId = Brand<string, "RequestId">;
/** Base64url SHA-256 of an attested statement: the name of one boot of one relay. */
export type EnclaveId = Brand<string, "EnclaveId">;
/** Names one run of a gateway process in the ids of its requests: 8 hex digits. */
export type RunTag = Brand<string, "RunTag">;

const SS58_42 = /^5[1-9A-HJ-NP-Za-km-z]{47}$/;

/** @returns undefined if `text` does not have the form of an ss58 address with prefix 42; the checksum is the chain's to check. */
export function hotkeyOf(text: unknown): Hotkey | undefined {
  return typeof text === "string" && SS58_42.test(text) ? (text as Hotkey) : undefined;
}

/** @returns undefined unless `n` is an integer in 0…65535. */
export function uidOf(n: unknown): Uid | undefined {
  return Number.isInteger(n) && (n as number) >= 0 && (n as number) <= 65_535
    ? (n as Uid)
    : undefined;
}

/** @returns undefined unless `n` is an integer in 0…65535. */
export function netuidOf(n: unknown): Netuid | undefined {
  return Number.isInteger(n) && (n as number) >= 0 && (n as number) <= 65_535
    ? (n as Netuid)
    : undefined;
}

const REQUEST_ID = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/;

/** @returns undefined unless `text` is a lower-case UUID. */
export function requestIdOf(text: unknown): RequestId | undefined {
  return typeof text === "string" && REQUEST_ID.test(text) ? (text as RequestId) : undefined;
}

/** A fresh tag, 32 random bits. */
export function newRunTag(): RunTag {
  return randomBytes(4).toString("hex") as RunTag;
}

/**
 * A time-ordered request id (UUIDv7, RFC 9562 §5.7): ids sort by creation, which keeps index pages warm.
 * Its last byte is zero and numbers the attempts, the four before it are the run that took the request; 34 random bits remain.
 *
 * @param run a random one by default, which is nobody's.
 */
export function newRequestId(nowMs: number, run?: RunTag): RequestId {
  const time = nowMs.toString(16).padStart(12, "0");
  // The random bits and the variant of a version 4 UUID, which Node draws from a pool: a tenth of what randomBytes costs.
  const random = randomUUID();
  return `${time.slice(0, 8)}-${time.slice(8)}-7${random.slice(15, 26)}${run ?? random.slice(26, 34)}00` as RequestId;
}

/** The run that took a request. */
export function runOfRequest(request: RequestId): RunTag {
  return request.slice(26, 34) as RunTag;
}

/** Most attempts that one request can have. */
export const ATTEMPTS_MAX = 256;

/** The id that grant and receipt of attempt `n` (from 0) carry, so that a retry never reuses a receipt's id. */
export function attemptIdOf(request: RequestId, n: number): RequestId {
  return (request.slice(0, -2) + n.toString(16).padStart(2, "0")) as RequestId;
}

/** The request that an attempt belongs to. */
export function requestOfAttempt(attempt: RequestId): RequestId {
  return `${attempt.slice(0, -2)}00` as RequestId;
}

/** A fresh account id. */
export function newAccountId(): AccountId {
  return `acct_${randomBytes(10).toString("hex")}` as AccountId;
}

/** @returns undefined unless `text` has the form of an account id. */
export function accountIdOf(text: unknown): AccountId | undefined {
  return typeof text === "string" && /^acct_[0-9a-f]{20}$/.test(text)
    ? (text as AccountId)
    : undefined;
}

const GENERATION_PREFIX = "gen-";

/** What a customer sees as the id of a request: `gen-` and the request id. */
export function generationIdOf(request: RequestId): string {
  return GENERATION_PREFIX + request;
}

/** Inverse of `generationIdOf`. */
export function requestOfGenerationId(id: string): RequestId | undefined {
  return id.startsWith(GENERATION_PREFIX)
    ? requestIdOf(id.slice(GENERATION_PREFIX.length))
    : undefined;
}
