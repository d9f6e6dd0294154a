import assert from "node:assert/strict";
import { type Ed25519Jwk, type VerifyingKey, verifyingKey } from "../core/jws.ts";

/** Kinds of TEE that are hardware. There is no member for simulated ones, and there must never be one. */
const HARDWARE_KINDS = ["tdx", "tdx-dstack", "sev-snp", "nitro"] as const;
export type HardwareKind = (typeof HARDWARE_KINDS)[number];

/** Blocks that evidence may lie behind the head: about ten minutes at twelve seconds. */
export const BLOCK_AGE_MAX = 50;
/** Most images that a policy lists. */
const IMAGES_MAX = 1_000;

declare const policyBrand: unique symbol;

/** What a public network accepts. */
export interface ProductionPolicy {
  readonly [policyBrand]: true;
  readonly network: "public";
  readonly kinds: ReadonlySet<HardwareKind>;
  readonly images: ReadonlySet<string>;
  readonly maxAgeBlocks: number;
}

/** What a network on a laptop or in a test accepts: the simulated kind, signed by that network's own root. */
export interface LocalPolicy {
  readonly [policyBrand]: true;
  readonly network: "local";
  readonly simRoot: VerifyingKey;
  readonly images: ReadonlySet<string>;
  readonly maxAgeBlocks: number;
}

export type Policy = ProductionPolicy | LocalPolicy;

/** The manifest of a public network. */
export interface ProductionManifest {
  readonly v: 1;
  readonly kinds: readonly HardwareKind[];
  /** Accepted images: `sha256:` and 64 hex digits each. */
  readonly images: readonly string[];
  /** Blocks that evidence may lie behind the head, 1…50. */
  readonly max_age_blocks: number;
}

// A policy read from a file and cast to the type is refused: only the two functions below make one.
const made = new WeakSet<object>();

/** Whether `policy` was made by this module. */
export function isPolicy(policy: object): policy is Policy {
  return made.has(policy);
}

/**
 * A policy from the manifest of a public network.
 *
 * @throws Error if the manifest lists a kind that is not hardware, above all the simulated one, or is malformed.
 */
export function productionPolicy(manifest: ProductionManifest): ProductionPolicy {
  // A manifest comes from a file, so its type is checked again at run time.
  const { v, kinds, images, max_age_blocks }: Readonly<Record<keyof ProductionManifest, unknown>> =
    manifest;
  if (v !== 1 || !Array.isArray(kinds) || kinds.length === 0)
    throw new Error("a production manifest is version 1 and lists kinds of TEE");
  for (const kind of kinds as readonly unknown[]) {
    if (!(HARDWARE_KINDS as readonly unknown[]).includes(kind)) {
      throw new Error(
        `a production manifest lists hardware only (${HARDWARE_KINDS.join(", ")}), not ${JSON.stringify(kind)}`,
      );
    }
  }
  return seal({
    network: "public",
    kinds: new Set(kinds as readonly HardwareKind[]),
    images: imagesOf(images),
    maxAgeBlocks: ageOf(max_age_blocks),
  });
}

/**
 * A policy for a local network, whose relays run in no enclave at all.
 *
 * @param options.simRoot public key of the network's simulated TEE.
 * @param options.images accepted images, `sha256:` and 64 hex digits each.
 * @param options.maxAgeBlocks 1…50, 50 unless given.
 * @throws Error if the root is not an Ed25519 key or an image is not a digest.
 */
export function localPolicy(options: {
  readonly simRoot: Ed25519Jwk;
  readonly images: readonly string[];
  readonly maxAgeBlocks?: number;
}): LocalPolicy {
  const simRoot = verifyingKey(options.simRoot);
  if (simRoot === undefined) throw new Error("the simulated TEE's root is not an Ed25519 key");
  return seal({
    network: "local",
    simRoot,
    images: imagesOf(options.images),
    maxAgeBlocks: ageOf(options.maxAgeBlocks ?? BLOCK_AGE_MAX),
  });
}

function seal<P extends Policy>(policy: Omit<P, typeof policyBrand>): P {
  const sealed = Object.freeze(policy) as P;
  made.add(sealed);
  return sealed;
}

function imagesOf(images: unknown): ReadonlySet<string> {
  if (!Array.isArray(images) || images.length === 0 || images.length > IMAGES_MAX)
    throw new Error(`a policy lists 1 to ${IMAGES_MAX} images`);
  for (const image of images as readonly unknown[]) {
    if (typeof image !== "string" || !/^sha256:[0-9a-f]{64}$/.test(image))
      throw new Error("an image is written as sha256: and 64 hex digits");
  }
  return new Set(images as readonly string[]);
}

function ageOf(blocks: unknown): number {
  if (!Number.isSafeInteger(blocks) || (blocks as number) < 1 || (blocks as number) > BLOCK_AGE_MAX)
    throw new Error(`evidence may be 1 to ${BLOCK_AGE_MAX} blocks old`);
  assert(typeof blocks === "number");
  return blocks;
}
