import { decodeJws, type VerifyingKey, verifyJws } from "../../core/jws.ts";
import { EvidenceError, exactFields, isHex } from "../evidence.ts";
import { REPORT_DATA_BYTES } from "../report-data.ts";
import { SIMULATED_NOTICE } from "./token.ts";

/** What the signature of a simulated TEE covers. */
export interface SimulatedClaims {
  readonly reportData: Buffer;
  readonly image: string;
  readonly config: string;
  /** Unix seconds. */
  readonly iat: number;
  readonly exp: number;
}

/**
 * The claims in a simulated TEE's token, if the network's root signed it. Whether they fit a statement, a time and a
 * policy is the caller's to check.
 *
 * @throws EvidenceError of stage `crypto`.
 */
export function verifySimulatedToken(token: string, simRoot: VerifyingKey): SimulatedClaims {
  const jws = decodeJws(token);
  if (jws === undefined || jws.type !== "simulated-tee+jwt")
    throw new EvidenceError("crypto/token");
  if (jws.kid !== simRoot.kid) throw new EvidenceError("crypto/signer");
  const payload = verifyJws(token, "simulated-tee+jwt", simRoot);
  if (payload === undefined) throw new EvidenceError("crypto/signature");
  const fields = exactFields(payload, ["report_data", "image", "config", "notice", "iat", "exp"]);
  if (fields === undefined) throw new EvidenceError("crypto/token");
  const { report_data, image, config, notice, iat, exp } = fields;
  if (!isHex(report_data, REPORT_DATA_BYTES) || notice !== SIMULATED_NOTICE)
    throw new EvidenceError("crypto/token");
  if (typeof image !== "string" || typeof config !== "string" || !isSeconds(iat) || !isSeconds(exp))
    throw new EvidenceError("crypto/token");
  return { reportData: Buffer.from(report_data, "hex"), image, config, iat, exp };
}

function isSeconds(value: unknown): value is number {
  return Number.isSafeInteger(value) && (value as number) >= 0;
}
