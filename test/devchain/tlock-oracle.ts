import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { initSync, tld, tle } from "@ideallabs/timelock_wasm_wrapper";

const wasm = createRequire(import.meta.url).resolve(
  "@ideallabs/timelock_wasm_wrapper/timelock_wasm_wrapper_bg.wasm",
);
initSync({ module: readFileSync(wasm) });

/** Encrypts with the Rust implementation that Subtensor's own one comes from. */
export function encryptTo(publicKey: Uint8Array, round: bigint, message: Uint8Array): Uint8Array {
  const roundBytes = Buffer.alloc(8);
  roundBytes.writeBigUInt64BE(round);
  const identity = createHash("sha256").update(roundBytes).digest();
  return Uint8Array.from(
    tle(identity, message, new Uint8Array(32).fill(7), publicKey, "bls12_381") as number[],
  );
}

/** Opens with the same. */
export function decryptWith(signature: Uint8Array, ciphertext: Uint8Array): Uint8Array {
  return Uint8Array.from(tld(ciphertext, signature, "bls12_381") as number[]);
}
