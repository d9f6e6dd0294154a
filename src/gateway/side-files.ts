import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { parseEvidence } from "../attestation/evidence.ts";
import type { EnclaveId } from "../core/ids.ts";
import { type VerifyingKey, verifyingKey } from "../core/jws.ts";
import { quoteHashOf } from "../core/quote.ts";
import { enclaveIdOf } from "../core/statement.ts";
import { sidePath } from "../usage-log/side-file.ts";

/** Reads back what this gateway once verified and kept beside its log. */
export interface SideFiles {
  /** Receipt key of an enclave whose evidence passed; undefined when there is none. */
  receiptKeyOf(enclave: EnclaveId): Promise<VerifyingKey | undefined>;
  /** Text of an accepted quote. */
  quoteTextOf(hash: string): Promise<string | undefined>;
}

/** @param directory of the usage log. Only its owner writes there, so what is found was verified when it was written. */
export function sideFiles(directory: string): SideFiles {
  const read = async (path: string): Promise<string | undefined> => {
    try {
      return await readFile(join(directory, path), "utf8");
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === "ENOENT") return undefined;
      throw error;
    }
  };
  return {
    receiptKeyOf: async (enclave) => {
      const json = await read(sidePath("evidence", enclave));
      if (json === undefined) return undefined;
      const { statement, statementBytes } = parseEvidence(json);
      return enclaveIdOf(statementBytes) === enclave
        ? verifyingKey(statement.receipt_jwk)
        : undefined;
    },
    quoteTextOf: async (hash) => {
      const json = await read(sidePath("quote", hash));
      if (json === undefined) return undefined;
      const { quote } = JSON.parse(json) as { readonly quote?: unknown };
      return typeof quote === "string" && quoteHashOf(quote) === hash ? quote : undefined;
    },
  };
}
