import assert from "node:assert/strict";
import { type SigningKey, signJws } from "../../core/jws.ts";
import type { Statement } from "../../core/statement.ts";
import type { Freshness, SimulatedEvidence } from "../evidence.ts";
import { reportDataOf } from "../report-data.ts";
import { parseStatement } from "../statement.ts";
import { SIMULATED_NOTICE, SIMULATED_TOKEN_LIFE_SECONDS, type SimulatedTeeToken } from "./token.ts";

/** Statement bytes for the simulated kind. @throws AssertionError if a field is out of range. */
export function buildStatement(fields: Omit<Statement, "v" | "kind">): Buffer {
  const bytes = Buffer.from(JSON.stringify({ v: 1, ...fields, kind: "sim" }));
  assert(parseStatement(bytes) !== undefined, "not a well-formed statement");
  return bytes;
}

/**
 * What a simulated TEE answers: evidence that the network's root signed, with no confidentiality behind it.
 *
 * @param hotkeySignature by the hotkey over `hotkeyCounterSignBytes(statement)`, 64 bytes.
 */
export function produceEvidence(
  simRoot: SigningKey,
  statement: Uint8Array,
  fresh: Freshness,
  hotkeySignature: Uint8Array,
  nowMs: number,
): SimulatedEvidence {
  const parsed = parseStatement(statement);
  assert(parsed !== undefined && parsed.kind === "sim", "not a statement of the simulated kind");
  const iat = Math.floor(nowMs / 1_000);
  const token: SimulatedTeeToken = {
    report_data: reportDataOf("sim", statement, fresh).toString("hex"),
    image: parsed.image,
    config: parsed.config,
    notice: SIMULATED_NOTICE,
    iat,
    exp: iat + SIMULATED_TOKEN_LIFE_SECONDS,
  };
  return {
    v: 1,
    kind: "sim",
    statement: Buffer.from(statement).toString("base64url"),
    fresh,
    body: { token: signJws("simulated-tee+jwt", token, simRoot) },
    hotkey_sig: Buffer.from(hotkeySignature).toString("hex"),
  };
}
