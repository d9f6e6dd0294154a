import assert from "node:assert/strict";

/** The files beside the tree that a leaf refers to, and the most bytes each has. */
export const SIDE_FILES = {
  /** A `SignedQuote`, named by `quoteHashOf` its text. */
  quote: { bytesMax: 8_192 },
  /** The evidence that the gateway verified, named by the enclave id. */
  evidence: { bytesMax: 262_144 },
} as const;

export type SideKind = keyof typeof SIDE_FILES;

/** Path of a side file below the log's root. @throws AssertionError if `name` is not 43 base64url digits. */
export function sidePath(kind: SideKind, name: string): string {
  assert(/^[\w-]{43}$/.test(name), "a side file is named by a hash");
  return `${kind}/${name}.json`;
}
