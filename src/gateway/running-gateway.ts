import { randomBytes } from "node:crypto";
import { readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { Closable } from "../runtime/shutdown.ts";

/** What a running gateway leaves in its data folder, for the operator's own tools on the same machine. */
interface RunningGateway {
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
 * Asks the gateway that runs on `directory` to audit its ledger; an embedded database has one user at a time.
 *
 * @returns undefined when none runs there.
 * @throws Error when it runs and does not answer.
 */
export async function auditRunningGateway(
  directory: string,
): Promise<readonly AuditLine[] | undefined> {
  return await askRunningGateway<AuditLine[]>(directory, "/v1/ledger/audit");
}

/**
 * Asks the gateway that runs on `directory` for the `data` of a path, with the operator's key; posts `body` if there is one.
 *
 * @returns undefined when none runs there.
 * @throws Error when it runs and refuses, with its reason, or does not answer.
 */
export async function askRunningGateway<T>(
  directory: string,
  path: string,
  body?: object,
): Promise<T | undefined> {
  const running = runningIn(directory);
  if (running === undefined) return undefined;
  const response = await fetch(running.url + path, {
    headers: { authorization: `Bearer ${running.key}` },
    signal: AbortSignal.timeout(ANSWER_TIMEOUT_MS),
    ...(body === undefined ? {} : { method: "POST", body: JSON.stringify(body) }),
  });
  const answer = (await response.json()) as { data: T; error?: { message?: string } };
  if (!response.ok)
    throw new Error(
      answer.error?.message ?? `the gateway at ${running.url} answered ${response.status}`,
    );
  return answer.data;
}

function runningIn(directory: string): RunningGateway | undefined {
  try {
    const running = JSON.parse(readFileSync(join(directory, FILE), "utf8")) as RunningGateway;
    // Signal 0 only asks whether the process exists: the file of one that was killed is left behind.
    process.kill(running.pid, 0);
    return running;
  } catch {
    return undefined;
  }
}
