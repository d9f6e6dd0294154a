import { randomBytes } from "node:crypto";
import { readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { Closable } from "../runtime/shutdown.ts";

/** What a running gateway leaves in its data folder, for the operator's own tools on the same machine. */
export interface RunningGateway {
  readonly pid: number;
  readonly url: string;
  /** An operator's key that is good for this run only. */
  readonly key: string;
}

const FILE = "running.json";
/** An audit reads whole tables. */
const ANSWER_TIMEOUT_MS = 60_000;

/** A key for `announceRunning`. */
export function newRunKey(): string {
  return `run-${randomBytes(24).toString("base64url")}`;
}

/** Writes the file, readable by its owner only; closing removes it. */
export function announceRunning(directory: string, url: string, key: string): Closable {
  const path = join(directory, FILE);
  const running: RunningGateway = { pid: process.pid, url, key };
  writeFileSync(`${path}.new`, JSON.stringify(running), { mode: 0o600 });
  renameSync(`${path}.new`, path);
  return { close: async () => rmSync(path, { force: true }) };
}

/** One invariant of the ledger as `GET /ledger/audit` sends it. */
export interface AuditLine {
  readonly name: string;
  readonly value: string;
  readonly ok: boolean;
}

/**
 * Asks a gateway as its operator. Tools cannot go round it: an embedded database has one user at a time.
 *
 * @param path below `/v1`.
 * @returns the JSON of the answer; its type is the caller's promise.
 * @throws Error with the gateway's own words when it refuses, or when it does not answer.
 */
export async function askRunningGateway<Answer>(
  running: RunningGateway,
  path: string,
  { method = "GET", body }: { readonly method?: string; readonly body?: object } = {},
): Promise<Answer> {
  const response = await fetch(`${running.url}/v1${path}`, {
    method,
    headers: { authorization: `Bearer ${running.key}` },
    signal: AbortSignal.timeout(ANSWER_TIMEOUT_MS),
    ...(body === undefined ? {} : { body: JSON.stringify(body) }),
  });
  if (response.ok) return (await response.json()) as Answer;
  const said = (await response.json().catch(() => undefined)) as
    | { readonly error?: { readonly message?: string } }
    | undefined;
  throw new Error(
    said?.error?.message ?? `the gateway at ${running.url} answered ${response.status}`,
  );
}

/** The gateway that runs on a data folder. @returns undefined when none does. */
export function runningIn(directory: string): RunningGateway | undefined {
  try {
    const running = JSON.parse(readFileSync(join(directory, FILE), "utf8")) as RunningGateway;
    // Signal 0 only asks whether the process exists: the file of one that was killed is left behind.
    process.kill(running.pid, 0);
    return running;
  } catch {
    return undefined;
  }
}
