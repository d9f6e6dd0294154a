import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { test } from "node:test";
import type { Freshness } from "../../src/attestation/evidence.ts";
import { hotkeyCounterSignBytes, reportDataOf } from "../../src/attestation/report-data.ts";

const FRESH: Freshness = {
  mode: 0,
  nonce: "ab".repeat(32),
  block: 258,
  block_hash: `0x${"cd".repeat(32)}`,
};

test("reportDataOf() is the two hashes, laid out byte by byte", () => {
  const statementInput = Buffer.from(
    `${Buffer.from("sealed-relay/statement/v1").toString("hex")}00 03 73696d 00000002 7b7d`.replaceAll(
      " ",
      "",
    ),
    "hex",
  );
  const freshInput = Buffer.from(
    `${Buffer.from("sealed-relay/fresh/v1").toString("hex")}00 00 ${"ab".repeat(32)} 0000000000000102 ${"cd".repeat(32)}`.replaceAll(
      " ",
      "",
    ),
    "hex",
  );
  const sha256 = (bytes: Buffer): string => createHash("sha256").update(bytes).digest("hex");
  const reportData = reportDataOf("sim", Buffer.from("{}"), FRESH);
  assert.equal(reportData.length, 64);
  assert.equal(reportData.toString("hex"), sha256(statementInput) + sha256(freshInput));
});

test("reportDataOf() changes with every input, each in its own half", () => {
  const base = reportDataOf("sim", Buffer.from("{}"), FRESH);
  const first = (data: Buffer): string => data.subarray(0, 32).toString("hex");
  const second = (data: Buffer): string => data.subarray(32).toString("hex");
  for (const other of [
    reportDataOf("tdx", Buffer.from("{}"), FRESH),
    reportDataOf("sim", Buffer.from("{ }"), FRESH),
    // The boundary between kind and statement cannot be moved.
    reportDataOf("si", Buffer.from("m{}"), FRESH),
  ]) {
    assert.notEqual(first(other), first(base));
    assert.equal(second(other), second(base));
  }
  for (const fresh of [
    { ...FRESH, mode: 2 as const },
    { ...FRESH, nonce: "ac".repeat(32) },
    { ...FRESH, block: 259 },
    { ...FRESH, block_hash: `0x${"ce".repeat(32)}` },
  ]) {
    const other = reportDataOf("sim", Buffer.from("{}"), fresh);
    assert.equal(first(other), first(base));
    assert.notEqual(second(other), second(base));
  }
});

test("hotkeyCounterSignBytes() is the domain and the hash of the statement", () => {
  const bytes = hotkeyCounterSignBytes(Buffer.from("{}"));
  assert.equal(bytes.subarray(0, -32).toString(), "sealed-relay/hotkey/v1\0");
  assert.deepEqual(bytes.subarray(-32), createHash("sha256").update("{}").digest());
});
