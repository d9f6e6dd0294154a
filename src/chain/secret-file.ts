import { readFileSync } from "node:fs";
import { ConfigError } from "../runtime/settings.ts";
import { keypairOf } from "./keys.ts";

/**
 * The secret in a file: 0x and 64 hex digits, a mnemonic or a URI.
 *
 * @param what names it in an error, such as "coldkey".
 * @throws ConfigError if the file cannot be read or holds something else.
 */
export function secretIn(path: string, what: string): string {
  let secret: string;
  try {
    secret = readFileSync(path, "utf8").trim();
  } catch (cause) {
    const { code } = cause as NodeJS.ErrnoException;
    throw new ConfigError(
      code === "ENOENT"
        ? `there is no ${what} file ${path}`
        : `the ${what} file ${path} cannot be read (${code ?? "unknown error"})`,
      { cause },
    );
  }
  try {
    keypairOf(secret);
  } catch {
    // The cause would quote the secret.
    throw new ConfigError(`the ${what} file ${path} does not hold a seed, a mnemonic or a URI`);
  }
  return secret;
}
