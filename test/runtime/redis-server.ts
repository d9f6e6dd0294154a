import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, mkdtempSync, rmSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { delimiter, join } from "node:path";

/** A Redis server of a test, on a port of its own, keeping nothing on disk. */
export interface RedisServer {
  readonly url: string;
  /** Ends it as a crash does; what it held is gone. */
  crash(): Promise<void>;
  /** Starts it again on its port. */
  start(): Promise<void>;
  /** Stops answering without closing connections, until `resume`. */
  pause(): void;
  resume(): void;
  close(): Promise<void>;
}

/** @returns the path of an installed redis-server; undefined if there is none. */
export function findRedis(): string | undefined {
  return (process.env["PATH"] ?? "")
    .split(delimiter)
    .map((folder) => join(folder, "redis-server"))
    .find((file) => existsSync(file));
}

export async function startRedis(program: string): Promise<RedisServer> {
  const directory = mkdtempSync(join(tmpdir(), "daybreak-redis-"));
  const port = await freePort();
  let server: ChildProcess | undefined;
  const start = async (): Promise<void> => {
    const child = spawn(
      program,
      ["--port", `${port}`, "--bind", "127.0.0.1", "--save", "", "--dir", directory],
      { stdio: ["ignore", "pipe", "inherit"] },
    );
    server = child;
    let output = "";
    await new Promise<void>((resolve, reject) => {
      child.stdout.on("data", (chunk: Buffer) => {
        output += chunk.toString();
        if (output.includes("Ready to accept connections")) resolve();
      });
      child.once("exit", () => reject(new Error(`redis-server ended:\n${output}`)));
    });
  };
  const stop = async (signal: NodeJS.Signals): Promise<void> => {
    if (server === undefined || server.exitCode !== null || server.signalCode !== null) return;
    const ended = once(server, "exit");
    server.kill(signal);
    await ended;
  };
  await start();
  return {
    url: `redis://127.0.0.1:${port}`,
    start,
    crash: () => stop("SIGKILL"),
    pause: () => void server?.kill("SIGSTOP"),
    resume: () => void server?.kill("SIGCONT"),
    close: async () => {
      server?.kill("SIGCONT");
      await stop("SIGTERM");
      rmSync(directory, { recursive: true, force: true });
    },
  };
}

/** A port that was free a moment ago: Redis cannot choose one itself. */
async function freePort(): Promise<number> {
  const server = createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const address = server.address();
  server.close();
  await once(server, "close");
  if (address === null || typeof address === "string") throw new Error("not a TCP port");
  return address.port;
}
