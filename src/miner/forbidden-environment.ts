/**
 * Variables with which whoever starts the process could read prompts from inside an honestly measured image: code
 * loaded before ours, another certificate authority, no certificate check, a proxy in between, keys written to a file.
 *
 * @module
 */
import { ConfigError } from "../runtime/settings.ts";

const FORBIDDEN = [
  "NODE_OPTIONS",
  "NODE_EXTRA_CA_CERTS",
  "NODE_TLS_REJECT_UNAUTHORIZED",
  "NODE_V8_COVERAGE",
  "SSLKEYLOGFILE",
  "LD_PRELOAD",
  "LD_LIBRARY_PATH",
  "LD_AUDIT",
] as const;
const FORBIDDEN_PATTERNS = [/^(?:.*_)?PROXY$/, /^SSL_CERT_/] as const;

/** Names of the forbidden variables that are set, sorted. Case does not matter: `http_proxy` counts too. */
export function forbiddenVariablesIn(
  env: Readonly<Record<string, string | undefined>>,
): readonly string[] {
  return Object.entries(env)
    .filter(([name, value]) => value !== undefined && value !== "" && isForbidden(name))
    .map(([name]) => name)
    .sort();
}

/**
 * Refuses to start an attested relay in an environment that could betray it. A simulated enclave keeps no secret that a
 * variable could betray, and laptops often have a proxy or a debugger set, so there it is only reported.
 *
 * @returns the forbidden variables that are set.
 * @throws ConfigError for every kind of enclave but the simulated one, if any is set.
 */
export function checkEnvironment(
  kind: string,
  env: Readonly<Record<string, string | undefined>>,
): readonly string[] {
  const names = forbiddenVariablesIn(env);
  if (kind !== "sim" && names.length > 0)
    throw new ConfigError(
      `an attested relay does not start while these are set, since they could expose prompts: ${names.join(", ")}`,
    );
  return names;
}

function isForbidden(name: string): boolean {
  const upper = name.toUpperCase();
  return (
    (FORBIDDEN as readonly string[]).includes(upper) ||
    FORBIDDEN_PATTERNS.some((pattern) => pattern.test(upper))
  );
}
