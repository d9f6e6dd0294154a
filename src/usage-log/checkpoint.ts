/**
 * The signed head of a log: a C2SP checkpoint (tlog-checkpoint) in a C2SP signed note with one Ed25519 signature.
 *
 *   <origin>\n<size>\n<base64 root>\n\n— <origin> <base64(key id[4] ‖ signature[64])>\n
 *
 * @module
 */
import { createHash, sign, verify } from "node:crypto";
import type { SigningKey, VerifyingKey } from "../core/jws.ts";
import { HASH_BYTES } from "./tree.ts";

export interface Checkpoint {
  /** Name of the log, and of the key that signs it. No white space, no `+`. */
  readonly origin: string;
  readonly size: bigint;
  readonly root: Uint8Array;
}

/** Longest checkpoint that is looked at, in bytes: cosignatures of witnesses may follow ours. */
export const CHECKPOINT_BYTES_MAX = 16_384;

const SIGNATURE_TYPE_ED25519 = 0x01;
const KEY_ID_BYTES = 4;
const ED25519_BYTES = 64;

/** The signed note. @throws Error if `origin` cannot be the name of a key. */
export function signCheckpoint({ origin, size, root }: Checkpoint, key: SigningKey): string {
  if (!isKeyName(origin)) throw new Error(`a log cannot be named ${JSON.stringify(origin)}`);
  const text = `${origin}\n${size}\n${Buffer.from(root).toString("base64")}\n`;
  const signature = sign(null, Buffer.from(text), key.privateKey);
  const line = Buffer.concat([keyIdOf(origin, key), signature]).toString("base64");
  return `${text}\n— ${origin} ${line}\n`;
}

/**
 * The checkpoint in a signed note, if `key` signed it under the name of the log.
 * Signatures of other keys are passed over, as the note format asks.
 *
 * @returns undefined for anything else.
 */
export function verifyCheckpoint(note: Uint8Array, key: VerifyingKey): Checkpoint | undefined {
  if (note.length > CHECKPOINT_BYTES_MAX) return undefined;
  const whole = Buffer.from(note).toString("utf8");
  const split = whole.lastIndexOf("\n\n");
  if (split < 0 || !whole.endsWith("\n")) return undefined;
  const text = whole.slice(0, split + 1);
  const [origin = "", size = "", root = "", ...extensions] = text.split("\n");
  // A text of three lines leaves one empty piece after its last line break; extension lines are not ours.
  if (!isKeyName(origin) || extensions.length !== 1 || extensions[0] !== "") return undefined;
  if (!/^(0|[1-9]\d{0,18})$/.test(size)) return undefined;
  const rootBytes = fromBase64(root);
  if (rootBytes?.length !== HASH_BYTES) return undefined;
  const signed = whole
    .slice(split + 2, -1)
    .split("\n")
    .some((line) => isSignature(line, origin, key, text));
  return signed ? { origin, size: BigInt(size), root: rootBytes } : undefined;
}

function isSignature(line: string, origin: string, key: VerifyingKey, text: string): boolean {
  const prefix = `— ${origin} `;
  if (!line.startsWith(prefix)) return false;
  const bytes = fromBase64(line.slice(prefix.length));
  if (bytes?.length !== KEY_ID_BYTES + ED25519_BYTES) return false;
  if (!bytes.subarray(0, KEY_ID_BYTES).equals(keyIdOf(origin, key))) return false;
  return verify(null, Buffer.from(text), key.key, bytes.subarray(KEY_ID_BYTES));
}

/** First four bytes of SHA-256(name ‖ \n ‖ signature type ‖ public key). */
function keyIdOf(origin: string, key: VerifyingKey): Buffer {
  return createHash("sha256")
    .update(`${origin}\n`)
    .update(Buffer.of(SIGNATURE_TYPE_ED25519))
    .update(Buffer.from(key.jwk.x, "base64url"))
    .digest()
    .subarray(0, KEY_ID_BYTES);
}

function isKeyName(name: string): boolean {
  return name.length > 0 && name.length <= 200 && !/[\s+]/u.test(name);
}

/** Standard base64 with padding, in its one canonical spelling. */
function fromBase64(text: string): Buffer | undefined {
  const bytes = Buffer.from(text, "base64");
  return bytes.toString("base64") === text ? bytes : undefined;
}
