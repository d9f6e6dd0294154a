import type { Statement } from "../core/statement.ts";
import { parseStatement } from "./statement.ts";

/**
 * Every way in which evidence is refused. The part before the slash is the stage that refused it; codes are stable
 * and are shown by `GET /v1/network/miners`.
 */
export const REASONS = {
  "parse/too-large": "the evidence is longer than 256 KiB",
  "parse/too-deep": "the evidence is nested too deeply",
  "parse/not-json": "the evidence is not JSON",
  "parse/malformed": "a field of the evidence is missing, unknown or out of range",
  "parse/kind": "the evidence is of a kind that this version cannot read",
  "parse/statement": "the statement is not a well-formed statement",
  "crypto/token": "the simulated TEE's token is malformed",
  "crypto/signer": "the simulated TEE's token names a key that is not the network's root",
  "crypto/signature": "the signature on the simulated TEE's token does not verify",
  "crypto/expired": "the simulated TEE's token has expired",
  "crypto/not-yet-valid": "the simulated TEE's token is from the future",
  "binding/statement": "the evidence was made for another statement",
  "binding/freshness": "the evidence was made for another challenge or block",
  "binding/kind": "the statement names another kind of TEE",
  "binding/image": "the statement names another image than the evidence",
  "binding/config": "the statement names another configuration than the evidence",
  "binding/net": "the statement is for another chain",
  "binding/netuid": "the statement is for another subnet",
  "binding/hotkey": "the statement names another hotkey",
  "binding/hotkey-signature": "the hotkey did not sign the statement",
  "binding/tls-key": "the TLS connection uses another key than the statement names",
  "fresh/challenge": "the evidence answers another challenge, or none",
  "fresh/block-unknown": "the block is not one of the chain's",
  "fresh/block-ahead": "the block is ahead of the chain",
  "fresh/block-old": "the block is too old",
  "fresh/statement-expired": "the statement has expired",
  "fresh/statement-not-yet-valid": "the statement is from the future",
  "policy/unknown": "the policy was not made by this module",
  "policy/kind": "the policy does not accept this kind of TEE",
  "policy/public-network": "a simulated TEE is never accepted on a public network",
  "policy/image": "the image is not one that the policy accepts",
  "policy/life": "the statement is valid for longer than one day",
} as const satisfies Record<`${Stage}/${string}`, string>;

export type Stage = "parse" | "crypto" | "binding" | "fresh" | "policy";
export type ReasonCode = keyof typeof REASONS;

/** Evidence was refused. The message says why in words and holds nothing from the evidence. */
export class EvidenceError extends Error {
  override readonly name = "EvidenceError";
  readonly code: ReasonCode;
  readonly stage: Stage;

  constructor(code: ReasonCode, options?: ErrorOptions) {
    super(REASONS[code], options);
    this.code = code;
    this.stage = code.slice(0, code.indexOf("/")) as Stage;
  }
}

/** 0: the verifier chose the nonce. 2: no nonce (32 zero bytes), only the block dates the evidence. 1 is reserved for batches. */
export type FreshnessMode = 0 | 2;

/** What dates a piece of evidence. */
export interface Freshness {
  readonly mode: FreshnessMode;
  /** 32 bytes, 64 lower-case hex digits; all zero in mode 2. */
  readonly nonce: string;
  readonly block: number;
  /** `0x` and 64 lower-case hex digits. */
  readonly block_hash: string;
}

/** Evidence of the simulated kind, as it travels. */
export interface SimulatedEvidence {
  readonly v: 1;
  readonly kind: "sim";
  /** The exact statement bytes, base64url. */
  readonly statement: string;
  readonly fresh: Freshness;
  /** A `simulated-tee+jwt` signed by the network's simulated-TEE root. */
  readonly body: { readonly token: string };
  /** sr25519 signature by the hotkey over `hotkeyCounterSignBytes`, 128 lower-case hex digits. */
  readonly hotkey_sig: string;
}

export type Evidence = SimulatedEvidence;

/** Evidence whose form is right, and nothing more. */
export interface ParsedEvidence {
  readonly evidence: Evidence;
  readonly statement: Statement;
  readonly statementBytes: Buffer;
}

/** Longest evidence, in bytes of JSON. */
export const EVIDENCE_BYTES_MAX = 256 * 1024;
/** Deepest nesting of objects and arrays. */
const EVIDENCE_DEPTH_MAX = 8;

export const NO_NONCE = "0".repeat(64);

/**
 * Reads evidence from its JSON text (string or bytes), or from what `JSON.parse` made of it. Form only: the result
 * tells which block and which key to look up, and nothing in it is to be believed.
 *
 * Unknown fields, white space in numbers, padding and non-canonical base64url are refused, so that one piece of
 * evidence has one form.
 *
 * @throws EvidenceError of stage `parse`.
 */
export function parseEvidence(wire: unknown): ParsedEvidence {
  const json = jsonOf(textOf(wire));
  const fields = exactFields(json, ["v", "kind", "statement", "fresh", "body", "hotkey_sig"]);
  if (fields === undefined || fields["v"] !== 1) throw new EvidenceError("parse/malformed");
  const { kind, statement, hotkey_sig } = fields;
  if (kind !== "sim") throw new EvidenceError("parse/kind");
  const fresh = freshnessOf(fields["fresh"]);
  const token = exactFields(fields["body"], ["token"])?.["token"];
  if (fresh === undefined || typeof token !== "string" || !isHex(hotkey_sig, 64))
    throw new EvidenceError("parse/malformed");
  const statementBytes = canonicalBase64url(statement);
  if (typeof statement !== "string" || statementBytes === undefined)
    throw new EvidenceError("parse/malformed");
  const parsed = parseStatement(statementBytes);
  if (parsed === undefined) throw new EvidenceError("parse/statement");
  return {
    evidence: { v: 1, kind, statement, fresh, body: { token }, hotkey_sig },
    statement: parsed,
    statementBytes,
  };
}

function textOf(wire: unknown): string {
  if (typeof wire === "string") {
    // A UTF-16 unit is at least one byte of UTF-8, so this is checked before the bytes are counted.
    if (wire.length > EVIDENCE_BYTES_MAX || Buffer.byteLength(wire) > EVIDENCE_BYTES_MAX)
      throw new EvidenceError("parse/too-large");
    return wire;
  }
  if (wire instanceof Uint8Array) {
    if (wire.length > EVIDENCE_BYTES_MAX) throw new EvidenceError("parse/too-large");
    return Buffer.from(wire.buffer, wire.byteOffset, wire.length).toString("utf8");
  }
  let text: string | undefined;
  try {
    text = JSON.stringify(wire);
  } catch (cause) {
    throw new EvidenceError("parse/not-json", { cause });
  }
  if (text === undefined) throw new EvidenceError("parse/not-json");
  return textOf(text);
}

function jsonOf(text: string): unknown {
  let depth = 0;
  let inString = false;
  for (let i = 0; i < text.length; i++) {
    const unit = text.charCodeAt(i);
    if (inString) {
      if (unit === BACKSLASH) i++;
      else if (unit === QUOTE) inString = false;
    } else if (unit === QUOTE) inString = true;
    else if (unit === BRACE_OPEN || unit === BRACKET_OPEN) {
      depth++;
      if (depth > EVIDENCE_DEPTH_MAX) throw new EvidenceError("parse/too-deep");
    } else if (unit === BRACE_CLOSE || unit === BRACKET_CLOSE) depth--;
  }
  try {
    return JSON.parse(text);
  } catch {
    // The parser's own message quotes the text, so it is not kept as a cause.
    throw new EvidenceError("parse/not-json");
  }
}

const QUOTE = 0x22;
const BACKSLASH = 0x5c;
const BRACE_OPEN = 0x7b;
const BRACE_CLOSE = 0x7d;
const BRACKET_OPEN = 0x5b;
const BRACKET_CLOSE = 0x5d;

function freshnessOf(json: unknown): Freshness | undefined {
  const fields = exactFields(json, ["mode", "nonce", "block", "block_hash"]);
  if (fields === undefined) return undefined;
  const { mode, nonce, block, block_hash } = fields;
  if ((mode !== 0 && mode !== 2) || !isHex(nonce, 32) || !isCount(block)) return undefined;
  if (typeof block_hash !== "string" || !block_hash.startsWith("0x")) return undefined;
  if (!isHex(block_hash.slice(2), 32) || (mode === 2 && nonce !== NO_NONCE)) return undefined;
  return { mode, nonce, block, block_hash };
}

/** The fields of `json` if it is an object with exactly these names. */
export function exactFields(
  json: unknown,
  names: readonly string[],
): Readonly<Record<string, unknown>> | undefined {
  if (typeof json !== "object" || json === null || Array.isArray(json)) return undefined;
  const keys = Object.keys(json);
  return keys.length === names.length && names.every((name) => Object.hasOwn(json, name))
    ? (json as Record<string, unknown>)
    : undefined;
}

/** Decodes base64url without padding. @returns undefined if another text would decode to the same bytes. */
function canonicalBase64url(text: unknown): Buffer | undefined {
  if (typeof text !== "string") return undefined;
  const bytes = Buffer.from(text, "base64url");
  return bytes.toString("base64url") === text ? bytes : undefined;
}

/** Whether `value` is `bytes` bytes in lower-case hex. */
export function isHex(value: unknown, bytes: number): value is string {
  return typeof value === "string" && value.length === bytes * 2 && /^[0-9a-f]*$/.test(value);
}

function isCount(value: unknown): value is number {
  return Number.isSafeInteger(value) && (value as number) >= 0;
}
