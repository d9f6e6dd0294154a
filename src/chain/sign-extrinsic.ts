import { blake2AsHex, blake2AsU8a } from "@polkadot/util-crypto";
import type { Head, SigningRuntime } from "./block-state.ts";
import { type ChainCall, encodeCall } from "./calls.ts";
import { ChainError } from "./chain-error.ts";
import type { Keypair } from "./keys.ts";

/** Blocks for which a signed extrinsic is valid. Short, since priority is flat and a tip never replaces a stuck one. */
const ERA_BLOCKS = 64;
/** A payload longer than this is signed as its hash (`sp-runtime` `SignedPayload`). */
const PAYLOAD_BYTES_MAX = 256;
const SR25519_SIGNATURE = Uint8Array.of(1);
const EXTRINSIC_VERSION = 4;

/** An extrinsic that is ready to be sent, as often as need be: a chain takes it once. */
export interface SignedExtrinsic {
  /** Blake2-256 of `bytes`, 0x-hex. */
  readonly hash: string;
  /** 0x-hex, with its length in front. */
  readonly bytes: string;
  /** ss58, prefix 42. */
  readonly signer: string;
  readonly nonce: number;
  /** The era begins with this block, whose hash is signed. */
  readonly anchor: { readonly number: number; readonly hash: string };
  /** The last block that may hold it. */
  readonly lastBlock: number;
}

/**
 * Signs a call for the `ERA_BLOCKS` blocks from `anchor`.
 *
 * @param anchor a finalized block, which is on every fork; if finality lags, what remains of the era is shorter.
 * @throws ChainError "UnknownSignedExtension" or "Unsupported"
 */
export function signExtrinsic(
  { runtime, specVersion, transactionVersion }: SigningRuntime,
  call: ChainCall,
  signer: Keypair,
  { anchor, nonce, genesisHash }: { anchor: Head; nonce: number; genesisHash: string },
): SignedExtrinsic {
  if (runtime.unknownExtensions.length > 0) {
    throw new ChainError(
      "UnknownSignedExtension",
      `the chain signs more than this version knows: ${runtime.unknownExtensions.join(", ")}`,
    );
  }
  const { registry } = runtime;
  const method = encodeCall(runtime, call);
  const era = registry.createType("ExtrinsicEra", { current: anchor.number, period: ERA_BLOCKS });
  const signed = {
    era: era.toHex(),
    nonce,
    tip: 0,
    mode: 0,
    metadataHash: null,
    specVersion,
    transactionVersion,
    genesisHash,
    blockHash: anchor.hash,
    method: method.toHex(),
  };
  const payload = registry.createType("ExtrinsicPayload", signed, { version: EXTRINSIC_VERSION });
  const message = payload.toU8a({ method: true });
  const signature = signer.sign(
    message.length > PAYLOAD_BYTES_MAX ? blake2AsU8a(message, 256) : message,
  );
  const extrinsic = registry.createType("Extrinsic", method, { version: EXTRINSIC_VERSION });
  extrinsic.addSignature(
    signer.address,
    Buffer.concat([SR25519_SIGNATURE, signature]),
    payload.toHex(),
  );
  const bytes = extrinsic.toU8a();
  return {
    hash: blake2AsHex(bytes, 256),
    bytes: `0x${Buffer.from(bytes).toString("hex")}`,
    signer: signer.address,
    nonce,
    anchor: { number: anchor.number, hash: anchor.hash },
    lastBlock: anchor.number + ERA_BLOCKS - 1,
  };
}
