import assert from "node:assert/strict";
import { test } from "node:test";
import { parseEvidence } from "../../src/attestation/evidence.ts";
import { localPolicy } from "../../src/attestation/policy.ts";
import { SIMULATED_IMAGE } from "../../src/attestation/simulated/image.ts";
import { verifyEvidence } from "../../src/attestation/verify-evidence.ts";
import { signingKey } from "../../src/core/jws.ts";
import { bootEnclave } from "../../src/miner/enclave.ts";
import { BLOCK, enclaveOptions, signWithHotkey } from "./fixture.ts";

const DAY_MS = 86_400_000;

test("evidence of an enclave verifies for who expects it, over its whole life", () => {
  const state = { nowMs: 1_795_132_800_000 };
  const simulatedTee = signingKey();
  const options = { ...enclaveOptions(() => state.nowMs), simulatedTee };
  const enclave = bootEnclave(options);
  const nonce = "ab".repeat(32);
  const names = new Set<string>();
  for (let hour = 0; hour < 50; hour++) {
    state.nowMs += 3_600_000;
    const verified = verifyEvidence(enclave.evidence(BLOCK, nonce), {
      policy: localPolicy({ simRoot: simulatedTee.jwk, images: [SIMULATED_IMAGE] }),
      expected: {
        net: options.net,
        netuid: options.netuid,
        hotkeyPublicKeyHex: options.hotkeyPublicKeyHex,
        tlsSpki: enclave.tls.spkiSha256,
      },
      nonce,
      blockHashOf: () => BLOCK.hash,
      headBlock: BLOCK.number,
      nowMs: state.nowMs,
      verifyHotkeySignature: (message, signature) =>
        Buffer.from(signWithHotkey(message)).equals(signature),
    });
    assert.equal(verified.enclave, enclave.id());
    assert.equal(verified.receiptKey.kid, enclave.receiptKey.kid);
    assert(verified.expiresMs > state.nowMs);
    names.add(verified.enclave);
  }
  assert.equal(names.size, 5, "a new statement every twelve hours");
});

test("an enclave still answers to its old name while that statement lives", () => {
  const state = { nowMs: 1_795_132_800_000 };
  const enclave = bootEnclave(enclaveOptions(() => state.nowMs));
  const first = enclave.id();
  state.nowMs += DAY_MS / 2;
  assert.deepEqual(enclave.ids(), [enclave.id(), first]);
  assert.notEqual(enclave.id(), first);
  state.nowMs += DAY_MS / 2;
  assert(!enclave.ids().includes(first));
});

test("every boot has its own name and keys", () => {
  const options = enclaveOptions(Date.now);
  const [a, b] = [bootEnclave(options), bootEnclave(options)];
  assert.notEqual(a.id(), b.id());
  assert.notEqual(a.tls.spkiSha256, b.tls.spkiSha256);
  assert.notEqual(a.receiptKey.kid, b.receiptKey.kid);
});

test("the measured configuration is in the statement", () => {
  const configOf = (measuredConfig: unknown): string =>
    parseEvidence(bootEnclave({ ...enclaveOptions(Date.now), measuredConfig }).evidence(BLOCK))
      .statement.config;
  assert.equal(configOf([{ name: "a" }]), configOf([{ name: "a" }]));
  assert.notEqual(configOf([{ name: "a" }]), configOf([{ name: "b" }]));
});
