import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { parseEvidence } from "../attestation/evidence.ts";
import type { EnclaveId } from "../core/ids.ts";
import { type VerifyingKey, verifyingKey } from "../core/jws.ts";
import { quoteHashOf } from "../core/quote.ts";
import { enclaveIdOf } from "../core/statement.ts";
import { type SideKind, sidePath } from "../usage-log/side-file.ts";
import type { SideStore } from "./shared-log.ts";

/** Reads back what this gateway once verified and kept beside its log. */
export interface SideFiles {
  /** Receipt key of an enclave whose evidence passed; undefined when there is none. */
  receiptKeyOf(enclave: EnclaveId): Promise<VerifyingKey | undefined>;
  /** Text of an accepted quote. */
  quoteTextOf(hash: string): Promise<string | undefined>;
}

/**
 * @param directory of the usage log. Only gateways of one owner write there and to `store`, so what is found was verified when
 * it was written.
 * @param store has what other gateways verified.
 */
export function sideFiles(directory: string, store: Pick<SideStore, "get"> | undefined): SideFiles {
  const read = async (kind: SideKind, name: string): Promise<string | undefined> => {
    try {
      return await readFile(join(directory, sidePath(kind, name)), "utf8");
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== "ENOENT") throw error;
      return await store?.get(kind, name);
    }
  };
  return {
    receiptKeyOf: async (enclave) => {
      const json = await read("evidence", enclave);
      if (json === undefined) return undefined;
      const { statement, statementBytes } = parseEvidence(json);
      return enclaveIdOf(statementBytes) === enclave
        ? verifyingKey(statement.receipt_jwk)
        : undefined;
    },
    quoteTextOf: async (hash) => {
      const json = await read("quote", hash);
      if (json === undefined) return undefined;
      const { quote } = JSON.parse(json) as { readonly quote?: unknown };
      return typeof quote === "string" && quoteHashOf(quote) === hash ? quote : undefined;
    },
  };
}
