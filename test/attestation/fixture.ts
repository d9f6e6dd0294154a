import { createHash, createPublicKey, generateKeyPairSync, sign, verify } from "node:crypto";
import { type Evidence, type Freshness, NO_NONCE } from "../../src/attestation/evidence.ts";
import { localPolicy } from "../../src/attestation/policy.ts";
import { hotkeyCounterSignBytes } from "../../src/attestation/report-data.ts";
import { SIMULATED_IMAGE } from "../../src/attestation/simulated/image.ts";
import { buildStatement, produceEvidence } from "../../src/attestation/simulated/produce.ts";
import type { VerifyOptions } from "../../src/attestation/verify-evidence.ts";
import { signingKey } from "../../src/core/jws.ts";
import type { Statement } from "../../src/core/statement.ts";

/** 2026-11-20T00:00:00Z */
export const NOW_MS = 1_795_132_800_000;
export const NOW_SECONDS = NOW_MS / 1_000;
export const HEAD_BLOCK = 1_000;
export const NONCE = "ab".repeat(32);

export const simRoot = signingKey();
export const receiptKey = signingKey();

export function digest(text: string): string {
  return createHash("sha256").update(text).digest("base64url");
}

/** Verification is handed in, so an Ed25519 key can stand for a hotkey here; the rule is the same. */
export interface TestHotkey {
  readonly publicKeyHex: string;
  sign(message: Uint8Array): Uint8Array;
}

export function testHotkey(): TestHotkey {
  const { privateKey, publicKey } = generateKeyPairSync("ed25519");
  const x = publicKey.export({ format: "jwk" }).x ?? "";
  return {
    publicKeyHex: Buffer.from(x, "base64url").toString("hex"),
    sign: (message) => sign(null, message, privateKey),
  };
}

export function verifyTestSignature(
  message: Uint8Array,
  signature: Uint8Array,
  publicKeyHex: string,
): boolean {
  const x = Buffer.from(publicKeyHex, "hex").toString("base64url");
  const key = createPublicKey({ key: { kty: "OKP", crv: "Ed25519", x }, format: "jwk" });
  return verify(null, message, key, signature);
}

export const hotkey = testHotkey();
export const NET = `0x${"11".repeat(32)}`;
export const TLS_SPKI = digest("tls key");

export function blockHashOf(number: number): string | undefined {
  return number <= HEAD_BLOCK
    ? `0x${createHash("sha256").update(`block ${number}`).digest("hex")}`
    : undefined;
}

export function statementFields(): Omit<Statement, "v" | "kind"> {
  return {
    net: NET,
    netuid: 2,
    hotkey: hotkey.publicKeyHex,
    worker: "w1",
    boot: Buffer.alloc(16, 7).toString("base64url"),
    iat: NOW_SECONDS - 100,
    exp: NOW_SECONDS + 3_600,
    receipt_jwk: receiptKey.jwk,
    tls_spki: TLS_SPKI,
    image: SIMULATED_IMAGE,
    config: digest("configuration"),
    upstreams: ["api.openai.com:443"],
  };
}

export function freshness(block = HEAD_BLOCK, nonce: string = NONCE): Freshness {
  return {
    mode: nonce === NO_NONCE ? 2 : 0,
    nonce,
    block,
    block_hash: blockHashOf(block) ?? `0x${"00".repeat(32)}`,
  };
}

export interface Variation {
  readonly statement?: Partial<Omit<Statement, "v" | "kind">>;
  readonly fresh?: Freshness;
  readonly root?: typeof simRoot;
  readonly signer?: TestHotkey;
  readonly nowMs?: number;
}

/** Honest evidence, or with one thing changed before everything is signed. */
export function evidenceWith({ statement, fresh, root, signer, nowMs }: Variation = {}): Evidence {
  const bytes = buildStatement({ ...statementFields(), ...statement });
  return produceEvidence(
    root ?? simRoot,
    bytes,
    fresh ?? freshness(),
    (signer ?? hotkey).sign(hotkeyCounterSignBytes(bytes)),
    nowMs ?? NOW_MS,
  );
}

export function options(changes: Partial<VerifyOptions> = {}): VerifyOptions {
  return {
    policy: localPolicy({ simRoot: simRoot.jwk, images: [SIMULATED_IMAGE] }),
    expected: {
      net: NET,
      netuid: 2,
      hotkeyPublicKeyHex: hotkey.publicKeyHex,
      tlsSpki: TLS_SPKI,
    },
    nonce: NONCE,
    blockHashOf,
    headBlock: HEAD_BLOCK,
    nowMs: NOW_MS,
    verifyHotkeySignature: verifyTestSignature,
    ...changes,
  };
}
