/**
 * Timelock encryption on a drand beacon: whoever has the beacon's signature of a round can open what was encrypted to it.
 *
 *   U[96] ‖ bytes V ‖ bytes W ‖ bytes(bytes(body ‖ tag[16]) ‖ bytes nonce[12]) ‖ bytes "AES_GCM_"
 *
 * U is a compressed point of G2, `bytes` a length u64 LE and as many bytes. With e the pairing and S the signature:
 * sigma = V ⊕ SHA256(e(S, U)), esk = W ⊕ SHA256(sigma), and the body is AES-256-GCM under esk. U must be r·G2 with
 * r = SHA256(sigma ‖ esk), or the ciphertext was not made by the rules.
 *
 * @see https://github.com/ideal-lab5/timelock, tle/src/ibe/fullident.rs and tle/src/tlock.rs
 * @module
 */
import { createDecipheriv, createHash, randomBytes } from "node:crypto";
import { bls12_381 } from "@noble/curves/bls12-381.js";

/** Bytes of a beacon's secret key, a scalar in big-endian order. */
export const SECRET_BYTES = 32;
/** Bytes of its public key, a point of G2. */
export const PUBLIC_KEY_BYTES = 96;

const { G1, G2 } = bls12_381;
const { Fr } = bls12_381.fields;
// A copy: the first multiplication of the library's own generator builds a table, which takes half a second. Multiplying
// in variable time is faster and gives nothing away, since a local chain's beacon has nothing to hide.
const GENERATOR = G2.Point.fromAffine(G2.Point.BASE.toAffine());
/** Domain of the scheme `bls-unchained-g1-rfc9380`, which quicknet uses. */
const SIGNATURE_DOMAIN = "BLS_SIG_BLS12381G1_XMD:SHA-256_SSWU_RO_NUL_";
const FIELD_BYTES = 48;
const SHA256_BYTES = 32;
const CIPHER_SUITE = "AES_GCM_";
const NONCE_BYTES = 12;
const TAG_BYTES = 16;

/** Bytes that are not a ciphertext for this round. */
export class TimelockError extends Error {
  override readonly name = "TimelockError";
}

/** A new beacon's secret key. */
export function newBeaconSecret(): Uint8Array {
  const scalar = 1n + (bigOf(randomBytes(SECRET_BYTES + 16)) % (Fr.ORDER - 1n));
  return Buffer.from(scalar.toString(16).padStart(2 * SECRET_BYTES, "0"), "hex");
}

export function publicKeyOf(secret: Uint8Array): Uint8Array {
  return GENERATOR.multiplyUnsafe(bigOf(secret)).toBytes(true);
}

/** The signature that opens everything encrypted to `round`. */
export function signRound(secret: Uint8Array, round: bigint): Uint8Array {
  const identity = Buffer.alloc(8);
  identity.writeBigUInt64BE(round);
  const point = G1.hashToCurve(sha256(identity), { DST: SIGNATURE_DOMAIN });
  return G1.Point.fromAffine(point.toAffine()).multiplyUnsafe(bigOf(secret)).toBytes(true);
}

/** The plaintext. @throws TimelockError if the ciphertext is malformed or was encrypted to another round or beacon. */
export function openTimelocked(ciphertext: Uint8Array, signature: Uint8Array): Uint8Array {
  try {
    return opened(Buffer.from(ciphertext), signature);
  } catch (cause) {
    if (cause instanceof TimelockError) throw cause;
    // Bytes that are not a point, or a tag that does not match.
    throw new TimelockError("the ciphertext cannot be opened with this signature", { cause });
  }
}

function opened(ciphertext: Buffer, signature: Uint8Array): Uint8Array {
  const point = G2.Point.fromBytes(ciphertext.subarray(0, PUBLIC_KEY_BYTES));
  const [v, w, body, suite] = byteStrings(ciphertext.subarray(PUBLIC_KEY_BYTES), 4);
  if (v?.length !== SHA256_BYTES || w?.length !== SHA256_BYTES)
    throw new TimelockError(`V and W have ${SHA256_BYTES} bytes each`);
  if (suite?.toString("latin1") !== CIPHER_SUITE)
    throw new TimelockError(`the cipher suite must be ${CIPHER_SUITE}`);

  const shared = bls12_381.pairing(G1.Point.fromBytes(signature), point);
  const sigma = xor(v, sha256(targetBytes(shared)));
  const key = xor(w, sha256(sigma));
  const r = Fr.create(bigOf(sha256(sigma, key)));
  if (r === 0n || !GENERATOR.multiplyUnsafe(r).equals(point))
    throw new TimelockError("the ciphertext is not one for this round");

  const [sealed, nonce] = byteStrings(body ?? Buffer.alloc(0), 2);
  if (sealed === undefined || sealed.length < TAG_BYTES || nonce?.length !== NONCE_BYTES)
    throw new TimelockError("the encrypted body is cut short");
  const decipher = createDecipheriv("aes-256-gcm", key, nonce, { authTagLength: TAG_BYTES });
  decipher.setAuthTag(sealed.subarray(-TAG_BYTES));
  return Buffer.concat([decipher.update(sealed.subarray(0, -TAG_BYTES)), decipher.final()]);
}

/** Reads `count` byte strings with u64 lengths before them. */
function byteStrings(input: Buffer, count: number): Buffer[] {
  let offset = 0;
  return Array.from({ length: count }, () => {
    if (offset + 8 > input.length) throw new TimelockError("the ciphertext is cut short");
    const length = input.readBigUInt64LE(offset);
    offset += 8;
    if (length > BigInt(input.length - offset))
      throw new TimelockError("the ciphertext is cut short");
    const start = offset;
    offset += Number(length);
    return input.subarray(start, offset);
  });
}

/** A result of the pairing as arkworks writes it: twelve field elements, each 48 bytes little-endian. */
function targetBytes({ c0, c1 }: ReturnType<typeof bls12_381.pairing>): Buffer {
  const pairs = [c0, c1].flatMap((half) => [half.c0, half.c1, half.c2]);
  return Buffer.concat(
    pairs
      .flatMap((pair) => [pair.c0, pair.c1])
      .map((element) => {
        const hex = element.toString(16).padStart(2 * FIELD_BYTES, "0");
        return Buffer.from(hex, "hex").reverse();
      }),
  );
}

function sha256(...parts: readonly Uint8Array[]): Buffer {
  const hash = createHash("sha256");
  for (const part of parts) hash.update(part);
  return hash.digest();
}

function xor(a: Uint8Array, b: Uint8Array): Buffer {
  return Buffer.from(a.map((byte, i) => byte ^ (b[i] ?? 0)));
}

function bigOf(bytes: Uint8Array): bigint {
  return BigInt(`0x${Buffer.from(bytes).toString("hex")}`);
}
