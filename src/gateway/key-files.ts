import { randomBytes } from "node:crypto";
import { chmodSync, readFileSync, renameSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { pemOf, type SigningKey, signingKey } from "../core/jws.ts";
import { makeFolder } from "../runtime/make-folder.ts";
import { ConfigError } from "../runtime/settings.ts";

/** Only the owner may read a secret. */
const SECRET_MODE = 0o600;

/** The key that signs grants, countersignatures and checkpoints: from a file, or made once in the data folder. */
export function loadSigningKey(data: string, file: string | undefined): SigningKey {
  const path = file ?? join(data, "signing-key.pem");
  const pem = readSecret(path, "the gateway's signing key", file === undefined, () =>
    pemOf(signingKey()),
  );
  try {
    return signingKey(pem);
  } catch (cause) {
    throw new ConfigError(`${path} is not the PKCS#8 PEM of an Ed25519 key`, { cause });
  }
}

/** The operator's key: given, from a file, or made once in the data folder. */
export function loadAdminKey(
  data: string,
  given: string | undefined,
  file: string | undefined,
): string {
  if (given !== undefined) return given;
  const path = file ?? join(data, "admin-key");
  const key = readSecret(
    path,
    "the operator's key",
    file === undefined,
    () => `sk-db-admin-${randomBytes(24).toString("base64url")}\n`,
  ).trim();
  if (!/^\S{16,200}$/.test(key)) throw new ConfigError(`${path} must hold 16 to 200 characters`);
  return key;
}

/** A secret that must exist. @throws ConfigError that says which file is missing or unreadable. */
export function readSecretFile(path: string, what: string): string {
  return readSecret(path, what, false, () => "").trim();
}

function readSecret(path: string, what: string, mayMake: boolean, make: () => string): string {
  try {
    return readFileSync(path, "utf8");
  } catch (cause) {
    const { code } = cause as NodeJS.ErrnoException;
    if (code !== "ENOENT" || !mayMake)
      throw new ConfigError(`cannot read ${what} from ${path} (${code ?? "unknown error"})`, {
        cause,
      });
  }
  const secret = make();
  try {
    makeFolder(dirname(path));
    // Written beside and renamed, so that a crash leaves no half of a key.
    writeFileSync(`${path}.new`, secret, { mode: SECRET_MODE });
    chmodSync(`${path}.new`, SECRET_MODE);
    renameSync(`${path}.new`, path);
  } catch (cause) {
    const { code } = cause as NodeJS.ErrnoException;
    throw new ConfigError(
      `cannot write ${what} to ${path} (${code ?? "unknown error"}): choose a writable data folder`,
      { cause },
    );
  }
  return secret;
}
