/**
 * A validating scan of one JSON object in bytes: where its members are, without building its values.
 *
 * The gateway prices a request that somebody else parses, so a request that two parsers could read differently must not
 * pass. The scan accepts exactly what RFC 8259 and `JSON.parse` accept, less byte order marks and invalid UTF-8, and
 * reports what a caller needs to refuse the rest: duplicate and escaped keys, depth, sizes.
 *
 * @module
 */
import { isUtf8 } from "node:buffer";

/** Most levels of objects and arrays, the outermost included. */
export const JSON_DEPTH_MAX = 64;
/** Most members of the outermost object. */
export const JSON_MEMBERS_MAX = 512;

/** One member of the outermost object, by byte offsets. */
export interface Member {
  /** The key as its bytes say, escapes not resolved. */
  readonly key: string;
  /** Whether the key holds a backslash. */
  readonly escapedKey: boolean;
  /** Offset of the quote that opens the key. */
  readonly keyStart: number;
  /** The value is the bytes from `start` to before `end`. */
  readonly start: number;
  readonly end: number;
  /** Elements, when the value is an array; otherwise 0. */
  readonly items: number;
}

export interface ScannedObject {
  readonly ok: true;
  readonly members: readonly Member[];
  /** Strings at any depth that are in the set of words looked for, with repetitions. */
  readonly words: readonly string[];
  /** Whether any string writes an ASCII letter or underscore as `\uXXXX`, as encoders never do and disguises must. */
  readonly escapedLetters: boolean;
}

export type ScanProblem = "syntax" | "encoding" | "too_deep" | "too_many_members";

interface Cursor {
  readonly bytes: Buffer;
  readonly length: number;
  /** The bytes as 32-bit words, and the offset of the first of them. */
  readonly words: Int32Array;
  readonly wordsFrom: number;
  readonly wanted: ReadonlySet<string>;
  readonly wantedLengths: Uint8Array;
  readonly found: string[];
  at: number;
  /** Elements of the array scanned last. */
  items: number;
  escapedLetters: boolean;
  /** Whether the string scanned last held a backslash. */
  escaped: boolean;
  problem: ScanProblem;
}

const QUOTE = 0x22;
const BACKSLASH = 0x5c;
const COMMA = 0x2c;
const COLON = 0x3a;

/** 1 for a byte that stands for itself inside a string. */
const PLAIN = Uint8Array.from({ length: 256 }, (_, byte) =>
  byte >= 0x20 && byte !== QUOTE && byte !== BACKSLASH ? 1 : 0,
);
/** 1 for a byte that may follow a backslash, `u` excepted. */
const SIMPLE_ESCAPE = Uint8Array.from({ length: 256 }, (_, byte) =>
  '"\\/bfnrt'.includes(String.fromCharCode(byte)) ? 1 : 0,
);
/** Longest word that can be looked for, in bytes. */
const WORD_BYTES_MAX = 32;

const wantedLengthsOf = new WeakMap<ReadonlySet<string>, Uint8Array>();
const NO_WORDS: ReadonlySet<string> = new Set();

/**
 * Scans `bytes`, which must be one JSON object with nothing but white space around it.
 *
 * Takes less than a millisecond per megabyte when long strings dominate, and never recurses deeper than JSON_DEPTH_MAX.
 *
 * @param wanted words to report when a whole string equals one; ASCII, at most 32 bytes each.
 * @returns the problem and its byte offset when `bytes` is anything else.
 */
export function scanObject(
  bytes: Buffer,
  wanted: ReadonlySet<string> = NO_WORDS,
): ScannedObject | { ok: false; problem: ScanProblem; at: number } {
  const cursor = cursorOn(bytes, wanted);
  const members: Member[] = [];
  if (!scanMembers(cursor, members)) return { ok: false, problem: cursor.problem, at: cursor.at };
  // Checked last: it is the only test that cannot name an offset.
  if (!isUtf8(bytes)) return { ok: false, problem: "encoding", at: 0 };
  return { ok: true, members, words: cursor.found, escapedLetters: cursor.escapedLetters };
}

function cursorOn(bytes: Buffer, wanted: ReadonlySet<string>): Cursor {
  const wordsFrom = (4 - (bytes.byteOffset & 3)) & 3;
  const words =
    bytes.length > wordsFrom + 4
      ? new Int32Array(bytes.buffer, bytes.byteOffset + wordsFrom, (bytes.length - wordsFrom) >> 2)
      : new Int32Array(0);
  let wantedLengths = wantedLengthsOf.get(wanted);
  if (wantedLengths === undefined) {
    wantedLengths = new Uint8Array(WORD_BYTES_MAX + 1);
    for (const word of wanted) wantedLengths[word.length] = 1;
    wantedLengthsOf.set(wanted, wantedLengths);
  }
  return {
    bytes,
    length: bytes.length,
    words,
    wordsFrom,
    wanted,
    wantedLengths,
    found: [],
    at: 0,
    items: 0,
    escapedLetters: false,
    escaped: false,
    problem: "syntax",
  };
}

function scanMembers(cursor: Cursor, members: Member[]): boolean {
  const { bytes } = cursor;
  skipSpace(cursor);
  if (bytes[cursor.at] !== 0x7b) return false;
  cursor.at++;
  skipSpace(cursor);
  if (bytes[cursor.at] === 0x7d) {
    cursor.at++;
    return atEnd(cursor);
  }
  for (;;) {
    const keyStart = cursor.at;
    if (!scanString(cursor)) return false;
    const escapedKey = cursor.escaped;
    const key = bytes.toString("utf8", keyStart + 1, cursor.at - 1);
    if (!scanColon(cursor)) return false;
    const start = cursor.at;
    cursor.items = 0;
    if (!scanValue(cursor, 2)) return false;
    const items = bytes[start] === 0x5b ? cursor.items : 0;
    members.push({ key, escapedKey, keyStart, start, end: cursor.at, items });
    if (members.length > JSON_MEMBERS_MAX) {
      cursor.problem = "too_many_members";
      return false;
    }
    skipSpace(cursor);
    const next = bytes[cursor.at];
    if (next === 0x7d) {
      cursor.at++;
      return atEnd(cursor);
    }
    if (next !== COMMA) return false;
    cursor.at++;
    skipSpace(cursor);
  }
}

function atEnd(cursor: Cursor): boolean {
  skipSpace(cursor);
  return cursor.at === cursor.length;
}

function skipSpace(cursor: Cursor): void {
  const { bytes, length } = cursor;
  let at = cursor.at;
  while (at < length) {
    const byte = bytes[at];
    if (byte !== 0x20 && byte !== 0x0a && byte !== 0x0d && byte !== 0x09) break;
    at++;
  }
  cursor.at = at;
}

function scanColon(cursor: Cursor): boolean {
  skipSpace(cursor);
  if (cursor.bytes[cursor.at] !== COLON) return false;
  cursor.at++;
  skipSpace(cursor);
  return true;
}

/** @param depth the level that an object or array starting here would have; the outermost object has 1. */
function scanValue(cursor: Cursor, depth: number): boolean {
  const byte = cursor.bytes[cursor.at] ?? 0;
  switch (byte) {
    case QUOTE:
      return scanString(cursor);
    case 0x7b:
    case 0x5b:
      if (depth > JSON_DEPTH_MAX) {
        cursor.problem = "too_deep";
        return false;
      }
      return byte === 0x7b ? scanNestedObject(cursor, depth) : scanArray(cursor, depth);
    case 0x74:
      return scanLiteral(cursor, "true");
    case 0x66:
      return scanLiteral(cursor, "false");
    case 0x6e:
      return scanLiteral(cursor, "null");
    default:
      return scanNumber(cursor);
  }
}

function scanNestedObject(cursor: Cursor, depth: number): boolean {
  const { bytes } = cursor;
  cursor.at++;
  skipSpace(cursor);
  if (bytes[cursor.at] === 0x7d) {
    cursor.at++;
    return true;
  }
  for (;;) {
    if (!scanString(cursor) || !scanColon(cursor) || !scanValue(cursor, depth + 1)) return false;
    skipSpace(cursor);
    const next = bytes[cursor.at];
    if (next !== COMMA && next !== 0x7d) return false;
    cursor.at++;
    if (next === 0x7d) return true;
    skipSpace(cursor);
  }
}

function scanArray(cursor: Cursor, depth: number): boolean {
  const { bytes } = cursor;
  let items = 0;
  cursor.at++;
  skipSpace(cursor);
  if (bytes[cursor.at] === 0x5d) {
    cursor.at++;
    cursor.items = 0;
    return true;
  }
  for (;;) {
    if (!scanValue(cursor, depth + 1)) return false;
    items++;
    skipSpace(cursor);
    const next = bytes[cursor.at];
    if (next !== COMMA && next !== 0x5d) return false;
    cursor.at++;
    if (next === 0x5d) {
      cursor.items = items;
      return true;
    }
    skipSpace(cursor);
  }
}

function scanLiteral(cursor: Cursor, literal: string): boolean {
  const { bytes, at } = cursor;
  for (let i = 0; i < literal.length; i++) {
    if (bytes[at + i] !== literal.charCodeAt(i)) return false;
  }
  cursor.at = at + literal.length;
  return true;
}

/** RFC 8259 §6: `-`? int frac? exp?, no leading zeros. */
function scanNumber(cursor: Cursor): boolean {
  const { bytes } = cursor;
  if (bytes[cursor.at] === 0x2d) cursor.at++;
  if (bytes[cursor.at] === 0x30) cursor.at++;
  else if (!scanDigits(cursor)) return false;
  if (bytes[cursor.at] === 0x2e) {
    cursor.at++;
    if (!scanDigits(cursor)) return false;
  }
  const exponent = bytes[cursor.at];
  if (exponent === 0x65 || exponent === 0x45) {
    cursor.at++;
    const sign = bytes[cursor.at];
    if (sign === 0x2b || sign === 0x2d) cursor.at++;
    if (!scanDigits(cursor)) return false;
  }
  return true;
}

function scanDigits(cursor: Cursor): boolean {
  const { bytes, length } = cursor;
  const from = cursor.at;
  let at = from;
  while (at < length) {
    const byte = bytes[at] ?? 0;
    if (byte < 0x30 || byte > 0x39) break;
    at++;
  }
  cursor.at = at;
  return at > from;
}

function scanString(cursor: Cursor): boolean {
  const { bytes, length } = cursor;
  if (bytes[cursor.at] !== QUOTE) return false;
  const from = cursor.at + 1;
  cursor.escaped = false;
  let at = from;
  for (;;) {
    // Most strings are short; a call for a word-wise skip pays only after a while.
    const shortEnd = Math.min(length, at + 24);
    while (at < shortEnd && PLAIN[bytes[at] ?? 0] === 1) at++;
    if (at === shortEnd && at < length) at = skipPlain(cursor, at);
    if (at >= length) {
      cursor.at = length;
      return false;
    }
    const byte = bytes[at];
    if (byte === QUOTE) break;
    if (byte !== BACKSLASH) {
      cursor.at = at;
      return false;
    }
    cursor.escaped = true;
    const after = skipEscape(cursor, at);
    if (after < 0) {
      cursor.at = at;
      return false;
    }
    at = after;
  }
  cursor.at = at + 1;
  const size = at - from;
  if (size <= WORD_BYTES_MAX && cursor.wantedLengths[size] === 1) {
    const word = bytes.toString("latin1", from, at);
    if (cursor.wanted.has(word)) cursor.found.push(word);
  }
  return true;
}

/** The first offset from `at` on whose byte does not stand for itself, four bytes at a time. */
function skipPlain(cursor: Cursor, at: number): number {
  const { bytes, length, words, wordsFrom } = cursor;
  while (at < length && ((at - wordsFrom) & 3) !== 0) {
    if (PLAIN[bytes[at] ?? 0] !== 1) return at;
    at++;
  }
  let index = (at - wordsFrom) >> 2;
  const count = words.length;
  while (index < count) {
    const word = words[index] ?? 0;
    const quote = word ^ 0x22222222;
    const backslash = word ^ 0x5c5c5c5c;
    // A byte below n has its top bit set in (word − n…n) & ~word; higher bytes may be false alarms, checked below.
    const special =
      (((word - 0x20202020) & ~word) |
        ((quote - 0x01010101) & ~quote) |
        ((backslash - 0x01010101) & ~backslash)) &
      0x80808080;
    if (special !== 0) {
      const start = wordsFrom + index * 4;
      for (let i = start; i < start + 4; i++) if (PLAIN[bytes[i] ?? 0] !== 1) return i;
    }
    index++;
  }
  at = wordsFrom + count * 4;
  while (at < length && PLAIN[bytes[at] ?? 0] === 1) at++;
  return at;
}

/** @returns the offset after the escape at `at`, or -1 if it is not one. */
function skipEscape(cursor: Cursor, at: number): number {
  const { bytes } = cursor;
  const kind = bytes[at + 1] ?? 0;
  if (SIMPLE_ESCAPE[kind] === 1) return at + 2;
  if (kind !== 0x75) return -1;
  let code = 0;
  for (let i = at + 2; i < at + 6; i++) {
    const digit = hexOf(bytes[i] ?? 0);
    if (digit < 0) return -1;
    code = code * 16 + digit;
  }
  if ((code >= 0x41 && code <= 0x5a) || code === 0x5f || (code >= 0x61 && code <= 0x7a))
    cursor.escapedLetters = true;
  return at + 6;
}

function hexOf(byte: number): number {
  if (byte >= 0x30 && byte <= 0x39) return byte - 0x30;
  const lower = byte | 0x20;
  return lower >= 0x61 && lower <= 0x66 ? lower - 0x57 : -1;
}
