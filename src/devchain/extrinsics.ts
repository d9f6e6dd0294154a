/**
 * Signed extrinsics, version 4.
 *
 *   length Compact ‖ 0x84 ‖ MultiAddress ‖ MultiSignature ‖ Era ‖ nonce Compact ‖ tip Compact ‖ mode u8 ‖ call
 *
 * What is signed: call ‖ Era ‖ nonce ‖ tip ‖ mode ‖ spec version u32 ‖ transaction version u32 ‖ genesis hash[32] ‖
 * hash[32] of the era's first block ‖ 0x00 (no metadata hash), or its BLAKE2b-256 if that is longer than 256 bytes.
 *
 * @module
 */
import { ed25519Verify } from "@polkadot/util-crypto/ed25519";
import { sr25519Verify } from "@polkadot/util-crypto/sr25519";
import { blake2Hex, blake2of256 } from "./hashing.ts";
import { multiAddress, multiSignature } from "./metadata/runtime-types.ts";
import type { DecodedCall } from "./pallets/pallet.ts";
import { TRANSACTION_VERSION } from "./runtime.ts";
import {
  expectEnd,
  fromHex,
  type Hex,
  openReader,
  openWriter,
  put,
  ScaleError,
  take,
  takeByte,
  written,
} from "./scale/bytes.ts";
import {
  bytes as byteVec,
  type Codec,
  compact,
  compactBig,
  decode,
  u32,
  u64,
  type ValueOf,
} from "./scale/codec.ts";

const SIGNED_V4 = 0x84;
/** A message longer than this is hashed before it is signed. */
const SIGNED_PLAIN_BYTES_MAX = 256;

/** Blocks in which an extrinsic is valid: from the block whose hash it signs, for `period` blocks. */
export type Era = { readonly period: number; readonly phase: number } | "immortal";

export interface Extrinsic {
  readonly hash: Hex;
  /** With length prefix, as sent. */
  readonly bytes: Uint8Array;
  readonly signer: Hex;
  readonly signature: ValueOf<typeof multiSignature>;
  readonly era: Era;
  readonly nonce: number;
  readonly tip: bigint;
  readonly call: DecodedCall;
  /** The signed message up to the era's and chain's own parts. */
  readonly signedPart: Uint8Array;
}

/** @throws ScaleError unless it is one well-formed signed extrinsic of a plain account. */
export function decodeExtrinsic(extrinsic: Uint8Array, callCodec: Codec<DecodedCall>): Extrinsic {
  const body = decode(byteVec, extrinsic);
  const input = openReader(body);
  if (takeByte(input) !== SIGNED_V4) throw new ScaleError("not a signed extrinsic of version 4");
  const address = multiAddress.decode(input);
  if (address.type !== "Id") throw new ScaleError("the signer must be an account id");
  const signature = multiSignature.decode(input);
  const extraStart = input.offset;
  const era = takeEra(input);
  const nonce = compact(u32).decode(input);
  const tip = compactBig(u64).decode(input);
  // The metadata hash mode: this chain has no metadata hash that a signer could know.
  if (takeByte(input) !== 0) throw new ScaleError("metadata hashes are not supported");
  const callStart = input.offset;
  const call = callCodec.decode(input);
  expectEnd(input);
  const signedPart = Buffer.concat([
    body.subarray(callStart),
    body.subarray(extraStart, callStart),
  ]);
  return {
    hash: blake2Hex(extrinsic),
    bytes: extrinsic,
    signer: address.value[0],
    signature,
    era,
    nonce,
    tip,
    call,
    signedPart,
  };
}

/** 0x00, or u16 LE: low 4 bits log₂(period) − 1, the rest the phase in units of max(1, period / 4096). */
function takeEra(input: Parameters<typeof takeByte>[0]): Era {
  const first = takeByte(input);
  if (first === 0) return "immortal";
  const encoded = first + takeByte(input) * 256;
  const period = 2 ** ((encoded % 16) + 1);
  const phase = (encoded >> 4) * Math.max(1, period >> 12);
  if (period < 4 || phase >= period) throw new ScaleError("not an era");
  return { period, phase };
}

/** The block whose hash an extrinsic with this era signs, if it is to be in block `number`; genesis for an immortal one. */
export function eraBirthOf(era: Era, number: number): number {
  if (era === "immortal") return 0;
  const { period, phase } = era;
  return Math.floor((Math.max(number, phase) - phase) / period) * period + phase;
}

/** @param birthHash hash of block `eraBirthOf`. */
export function isSignatureValid(
  extrinsic: Extrinsic,
  genesisHash: Hex,
  birthHash: Hex,
  specVersion: number,
): boolean {
  const out = openWriter();
  put(out, extrinsic.signedPart);
  u32.encode(specVersion, out);
  u32.encode(TRANSACTION_VERSION, out);
  put(out, fromHex(genesisHash));
  put(out, fromHex(birthHash));
  put(out, Uint8Array.of(0));
  const plain = written(out);
  const message = plain.length > SIGNED_PLAIN_BYTES_MAX ? blake2of256(plain) : plain;
  const key = fromHex(extrinsic.signer);
  const { type, value } = extrinsic.signature;
  try {
    if (type === "Sr25519") return sr25519Verify(message, value[0], key);
    if (type === "Ed25519") return ed25519Verify(message, value[0], key);
    return false; // ECDSA keys have no use on Bittensor.
  } catch {
    return false; // The libraries throw for bytes that are not a point.
  }
}

/**
 * Whether the call in an extrinsic is free, for fee estimates: these carry a fake signature, so only the call is read.
 *
 * @throws ScaleError
 */
export function isFeeless(extrinsicBody: Uint8Array, callCodec: Codec<DecodedCall>): boolean {
  const input = openReader(extrinsicBody);
  if (takeByte(input) === SIGNED_V4) {
    multiAddress.decode(input);
    multiSignature.decode(input);
    takeEra(input);
    compact(u32).decode(input);
    compactBig(u64).decode(input);
    take(input, 1);
  }
  return callCodec.decode(input).feeless;
}
