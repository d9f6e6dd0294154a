import { type ChildProcess, fork } from "node:child_process";
import { once } from "node:events";

/** How long a process may take to say that it listens, ms. */
export const START_LIMIT_MS = 60_000;
/** How long a process may take to end after SIGTERM before it is killed, ms. */
const STOP_LIMIT_MS = 15_000;

/** A process of the benchmark that listens on a loopback port. */
export interface ListeningChild {
  readonly pid: number;
  readonly port: number;
  readonly child: ChildProcess;
  close(): Promise<void>;
}

/**
 * Forks a script of this folder and waits for its first message, `{ port }`.
 *
 * The messages keep the event loop of neither side alive: the child ends when its parent does.
 *
 * @throws Error if it exits or stays silent for {@link START_LIMIT_MS}.
 */
export async function forkListening(
  moduleUrl: string,
  args: readonly string[] = [],
): Promise<ListeningChild> {
  const child = fork(new URL(moduleUrl), args, { execArgv: [] });
  const port = await firstPort(child).catch(async (cause: unknown) => {
    await stop(child);
    throw cause;
  });
  return { pid: child.pid ?? 0, port, child, close: () => stop(child) };
}

async function firstPort(child: ChildProcess): Promise<number> {
  const limit = AbortSignal.timeout(START_LIMIT_MS);
  const exited = once(child, "exit", { signal: limit }).then(() => {
    throw new Error(`${child.spawnargs.join(" ")} ended before it listened`);
  });
  const message = once(child, "message", { signal: limit }) as Promise<[{ port: number }]>;
  const [{ port }] = await Promise.race([message, exited]);
  return port;
}

/** Ends a process that this run started: SIGTERM, then SIGKILL after {@link STOP_LIMIT_MS}. */
export async function stop(child: ChildProcess): Promise<void> {
  if (child.pid === undefined || child.exitCode !== null || child.signalCode !== null) return;
  const exited = once(child, "exit");
  child.kill("SIGTERM");
  const timer = setTimeout(() => child.kill("SIGKILL"), STOP_LIMIT_MS);
  await exited;
  clearTimeout(timer);
}
