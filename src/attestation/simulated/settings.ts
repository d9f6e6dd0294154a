import { type Ed25519Jwk, verifyingKey } from "../../core/jws.ts";

/** Parses the setting that names a local network's simulated TEE. @throws Error with what it must be. */
export function simulatedTeeRoot(value: string): Ed25519Jwk {
  let json: unknown;
  try {
    json = JSON.parse(value);
  } catch {
    json = undefined;
  }
  const key = verifyingKey(json);
  if (key === undefined) throw new Error('an Ed25519 JWK: {"kty":"OKP","crv":"Ed25519","x":"…"}');
  return key.jwk;
}

/** Parses the setting that lists accepted image digests. @throws Error with what it must be. */
export function simulatedTeeImages(value: string): readonly string[] {
  const digests = value.split(",").filter((part) => part !== "");
  if (!digests.every((digest) => /^sha256:[0-9a-f]{64}$/.test(digest)))
    throw new Error("sha256: and 64 hex digits, separated by commas");
  return digests;
}
