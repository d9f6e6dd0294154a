import { randomBytes } from "node:crypto";
import { Keyring } from "@polkadot/keyring";
import {
  decodeAddress,
  encodeAddress,
  keyExtractPath,
  sr25519DerivePublic,
  sr25519Verify,
} from "@polkadot/util-crypto";

/** Bittensor uses Substrate's generic ss58 prefix. */
const SS58_PREFIX = 42;
const PUBLIC_KEY_BYTES = 32;

/** An sr25519 key that can sign. The secret stays inside. */
export interface Keypair {
  /** ss58, prefix 42. */
  readonly address: string;
  /** 64 lower-case hex digits, no 0x. */
  readonly publicKeyHex: string;
  /** Signs the bytes as they are (schnorrkel context "substrate", no `<Bytes>` wrapping); 64 bytes. */
  sign(message: Uint8Array): Uint8Array;
}

/**
 * @param secret a 0x-hex 32-byte seed, a mnemonic, or either with a path (`…//hard/soft`); `//Alice` alone is the
 * development phrase. Unlike polkadot-js, free text is not padded into a seed: a typing error must not become a key.
 * @throws Error if `secret` is none of these. The message never repeats it.
 */
export function keypairOf(secret: string): Keypair {
  if (
    !/^(?:\/\/|0x[0-9a-fA-F]{64}(?![0-9a-fA-F])|[a-z]+(?: [a-z]+){11,23}(?![a-z ]))/.test(secret)
  ) {
    throw new Error("the secret must be a 0x-hex 32-byte seed, a mnemonic, or a //path");
  }
  const pair = pairOf(secret);
  return {
    address: encodeAddress(pair.publicKey, SS58_PREFIX),
    publicKeyHex: Buffer.from(pair.publicKey).toString("hex"),
    sign: (message) => pair.sign(message),
  };
}

function pairOf(secret: string) {
  try {
    return new Keyring({ type: "sr25519", ss58Format: SS58_PREFIX }).createFromUri(secret);
  } catch {
    // No cause: polkadot-js repeats parts of the phrase in its messages.
    throw new Error("the secret is not a valid seed, mnemonic or path");
  }
}

/** A fresh random seed: 0x and 64 hex digits. */
export function newSecret(): string {
  return `0x${randomBytes(32).toString("hex")}`;
}

/**
 * The 64 hex digits behind an ss58 address of any prefix.
 *
 * @throws Error if the checksum is wrong or the address does not hold a 32-byte public key.
 */
export function publicKeyHexOf(address: string): string {
  // decodeAddress passes hex through unchecked.
  if (!/^[1-9A-HJ-NP-Za-km-z]{46,50}$/.test(address)) throw new Error("not an ss58 address");
  const key = decodeAddress(address);
  if (key.length !== PUBLIC_KEY_BYTES) throw new Error("not the address of a 32-byte public key");
  return Buffer.from(key).toString("hex");
}

/** The ss58 address (prefix 42) of a public key. @throws Error unless it is 64 hex digits. */
export function addressOf(publicKeyHex: string): string {
  return encodeAddress(publicKeyOf(publicKeyHex), SS58_PREFIX);
}

/**
 * The address with Bittensor's prefix 42 of the same public key: addresses of one key differ by network.
 *
 * @throws Error if it is not the address of a 32-byte public key.
 */
export function canonicalAddressOf(address: string): string {
  return addressOf(publicKeyHexOf(address));
}

/** True if `signature` is over exactly these bytes. Malformed keys and signatures are false, not errors. */
export function verifySr25519(
  message: Uint8Array,
  signature: Uint8Array,
  publicKeyHex: string,
): boolean {
  try {
    return sr25519Verify(message, signature, publicKeyOf(publicKeyHex));
  } catch {
    return false;
  }
}

/**
 * True if the wallet signed the text, by `signRaw` or as it is: browser wallets put `<Bytes>…</Bytes>` around what is not
 * a transaction, so that a page cannot have one signed as if it were a text. Takes up to 5 ms of CPU.
 */
export function verifySignedText(text: string, signature: Uint8Array, address: string): boolean {
  const publicKeyHex = publicKeyHexOf(address);
  return [`<Bytes>${text}</Bytes>`, text].some((signed) =>
    verifySr25519(Buffer.from(signed), signature, publicKeyHex),
  );
}

/**
 * Where account number `accountIndex` pays in: the treasury's key and one soft junction "acct-<n>".
 *
 * Needs no secret, so a server can watch addresses that it cannot spend from. The soft secret of one such address and
 * the treasury's public key together reveal the treasury's secret: derived secrets exist only where funds are swept.
 *
 * @throws Error unless `accountIndex` is a non-negative safe integer.
 */
export function deriveDepositAddress(treasuryPublicKeyHex: string, accountIndex: number): string {
  const [junction] = keyExtractPath(depositPathOf(accountIndex)).path;
  if (junction === undefined) throw new Error("one junction expected");
  const key = sr25519DerivePublic(publicKeyOf(treasuryPublicKeyHex), junction.chainCode);
  return encodeAddress(key, SS58_PREFIX);
}

/**
 * The path from the treasury's secret to that of an account's deposit address.
 *
 * @throws Error unless `accountIndex` is a non-negative safe integer.
 */
export function depositPathOf(accountIndex: number): string {
  if (!Number.isSafeInteger(accountIndex) || accountIndex < 0) {
    throw new Error("an account index is a non-negative integer");
  }
  return `/acct-${accountIndex}`;
}

function publicKeyOf(hex: string): Uint8Array {
  if (!/^[0-9a-f]{64}$/i.test(hex)) throw new Error("a public key is 64 hex digits");
  return Buffer.from(hex, "hex");
}
