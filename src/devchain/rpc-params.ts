import type { Hex } from "./scale/bytes.ts";

/** An error that the caller of a method is told. */
export class RpcError extends Error {
  override readonly name = "RpcError";
  readonly code: number;
  readonly data: unknown;

  constructor(code: number, message: string, data?: unknown) {
    super(message);
    this.code = code;
    this.data = data;
  }
}

/** JSON-RPC 2.0's own codes. */
export const RPC_CODES = {
  parse: -32_700,
  invalidRequest: -32_600,
  methodNotFound: -32_601,
  invalidParams: -32_602,
  internal: -32_603,
  limitExceeded: -32_006,
} as const;

export type Params = readonly unknown[];

function invalid(what: string): RpcError {
  return new RpcError(RPC_CODES.invalidParams, `Invalid params: ${what}`);
}

/** Clients leave optional parameters out or send null. */
export const isAbsent = (value: unknown): value is null | undefined =>
  value === undefined || value === null;

/**
 * Bytes as hex, lower-cased so that it can be compared with keys and hashes. Substrate nodes take it without 0x too, and the
 * Python SDK leaves it out.
 *
 * @throws RpcError
 */
export function hexParam(value: unknown, what: string): Hex {
  if (typeof value !== "string" || !/^(?:0x)?(?:[0-9a-fA-F]{2})*$/.test(value))
    throw invalid(`${what} must be hex`);
  const hex = value.toLowerCase();
  return (hex.startsWith("0x") ? hex : `0x${hex}`) as Hex;
}

/** @throws RpcError */
export function optionalHexParam(value: unknown, what: string): Hex | undefined {
  return isAbsent(value) ? undefined : hexParam(value, what);
}

/** @throws RpcError */
export function hexListParam(value: unknown, what: string, max: number): Hex[] {
  if (!Array.isArray(value)) throw invalid(`${what} must be a list`);
  if (value.length > max) throw invalid(`${what} may have at most ${max} items`);
  return value.map((item) => hexParam(item, what));
}

/** A number from 0, as a number or as hex. @throws RpcError */
export function numberParam(value: unknown, what: string): number {
  const n =
    typeof value === "string" && /^0x[0-9a-fA-F]{1,13}$/.test(value) ? Number(value) : value;
  if (typeof n !== "number" || !Number.isSafeInteger(n) || n < 0)
    throw invalid(`${what} must be a number`);
  return n;
}

/** @throws RpcError */
export function textParam(value: unknown, what: string): string {
  if (typeof value !== "string") throw invalid(`${what} must be text`);
  return value;
}
