import { type ChildProcess, spawn } from "node:child_process";
import { existsSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";

/** The ready file of `daybreak local`. */
export interface ReadyFile {
  readonly base_url: string;
  readonly api_key: string;
  readonly admin_key: string;
  readonly chain_ws: string;
  readonly netuid: number;
  readonly log_url: string;
  readonly miners: readonly { readonly hotkey: string; readonly url: string }[];
  readonly pid: number;
}

export interface RunningNetwork {
  readonly ready: ReadyFile;
  readonly origin: string;
  readonly directory: string;
  readonly child: ChildProcess;
  /** Everything printed so far. */
  output(): string;
  /** Ends the process with a signal and waits for it. @returns its exit code, or the signal's name. */
  stop(signal?: NodeJS.Signals): Promise<number | NodeJS.Signals | null>;
}

const START_DEADLINE_MS = 60_000;

/** Starts `daybreak local` as a user would, on a free port, and waits for its ready file. */
export async function startLocal(
  options: { directory?: string; args?: readonly string[]; env?: Record<string, string> } = {},
): Promise<RunningNetwork> {
  const directory = options.directory ?? temporaryFolder();
  const readyFile = join(directory, "ready.json");
  rmSync(readyFile, { force: true });
  const child = runCli(
    [
      "local",
      "--port",
      "0",
      "--data",
      join(directory, "data"),
      "--ready-file",
      readyFile,
      ...(options.args ?? []),
    ],
    options.env,
  );
  let output = "";
  child.stdout?.on("data", (chunk: Buffer) => (output += chunk.toString()));
  child.stderr?.on("data", (chunk: Buffer) => (output += chunk.toString()));
  const ended = new Promise<number | NodeJS.Signals | null>((resolve) =>
    child.once("exit", (code, signal) => resolve(code ?? signal)),
  );
  await waitFor(
    "the ready file",
    () => {
      if (child.exitCode !== null)
        throw new Error(`daybreak local ended with ${child.exitCode}:\n${output}`);
      return existsSync(readyFile);
    },
    START_DEADLINE_MS,
  );
  const ready = JSON.parse(readFileSync(readyFile, "utf8")) as ReadyFile;
  return {
    ready,
    origin: ready.base_url.replace(/\/v1$/, ""),
    directory,
    child,
    output: () => output,
    stop: async (signal = "SIGTERM") => {
      if (child.exitCode === null && child.signalCode === null) child.kill(signal);
      return await ended;
    },
  };
}

/** Starts the `daybreak` command with the user's own provider keys out of the way. */
export function runCli(args: readonly string[], env: Record<string, string> = {}): ChildProcess {
  const inherited = Object.fromEntries(
    Object.entries(process.env).filter(
      ([name]) => !/^DAYBREAK_|_API_KEY$|^DATABASE_URL$|^REDIS_URL$|^NODE_TEST/.test(name),
    ),
  );
  return spawn(process.execPath, ["--max-semi-space-size=16", "src/cli.ts", ...args], {
    env: { ...inherited, ...env },
    stdio: ["ignore", "pipe", "pipe"],
  });
}

/** Runs the command to its end. */
export async function cliResult(
  args: readonly string[],
  env: Record<string, string> = {},
): Promise<{ code: number | null; stdout: string; stderr: string }> {
  const child = runCli(args, env);
  let stdout = "";
  let stderr = "";
  child.stdout?.on("data", (chunk: Buffer) => (stdout += chunk.toString()));
  child.stderr?.on("data", (chunk: Buffer) => (stderr += chunk.toString()));
  const code = await new Promise<number | null>((resolve) => child.once("close", resolve));
  return { code, stdout, stderr };
}

export function temporaryFolder(): string {
  const directory = mkdtempSync(join(tmpdir(), "daybreak-test-"));
  process.once("exit", () => rmSync(directory, { recursive: true, force: true }));
  return directory;
}

/** Polls until `condition` holds. @throws Error when it does not in time. */
export async function waitFor(
  what: string,
  condition: () => boolean | Promise<boolean>,
  deadlineMs = 30_000,
): Promise<void> {
  const deadline = performance.now() + deadlineMs;
  while (!(await condition())) {
    if (performance.now() > deadline) throw new Error(`waited ${deadlineMs} ms for ${what}`);
    await delay(25);
  }
}

/** GETs JSON from the API. */
export async function getJson<T>(url: string, apiKey?: string): Promise<T> {
  const response = await fetch(
    url,
    apiKey === undefined ? {} : { headers: { authorization: `Bearer ${apiKey}` } },
  );
  if (!response.ok) throw new Error(`${url} answered ${response.status}: ${await response.text()}`);
  return (await response.json()) as T;
}

/** POSTs JSON to the API. */
export async function postJson<T>(
  url: string,
  apiKey: string,
  body: unknown,
): Promise<{ status: number; headers: Headers; body: T }> {
  const response = await fetch(url, {
    method: "POST",
    headers: { authorization: `Bearer ${apiKey}`, "content-type": "application/json" },
    body: JSON.stringify(body),
  });
  return { status: response.status, headers: response.headers, body: (await response.json()) as T };
}
