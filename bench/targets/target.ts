import { connect, createServer } from "node:net";

/** Where a target should send its traffic. */
export interface Upstream {
  readonly port: number;
  /** Base URL with `/v1`. */
  readonly baseUrl: string;
}

/** A proxy or gateway under test, started and ready. */
export interface Target {
  readonly name: string;
  /** What it does per request, in a few words, for the report. */
  readonly does: string;
  readonly port: number;
  readonly path: string;
  readonly headers: Readonly<Record<string, string>>;
  /** The model as this target's clients write it. */
  readonly model: string;
  /** Process ids by what they do; their CPU time counts, with that of all their children. */
  readonly processes: Readonly<Record<string, number>>;
  /** Last words after all rounds, such as an account of the money; a thrown error fails the run. */
  epilogue?(): Promise<string>;
  close(): Promise<void>;
}

/** Why a target cannot be measured on this machine. Not a failure of the run. */
export class Unavailable extends Error {
  override readonly name = "Unavailable";
}

/** A loopback port that was free a moment ago, for programs that cannot choose one. */
export async function freePort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const { port } = server.address() as { port: number };
  await new Promise((resolve) => server.close(resolve));
  return port;
}

/**
 * Waits until `ready` gives a value.
 *
 * @param limitMs after this it gives up.
 * @throws Error that names `what`, or whatever `ready` throws.
 */
export async function until<T>(
  what: string,
  limitMs: number,
  ready: () => Promise<T | undefined> | T | undefined,
): Promise<T> {
  const deadline = performance.now() + limitMs;
  for (;;) {
    const value = await ready();
    if (value !== undefined) return value;
    if (performance.now() > deadline) throw new Error(`${what}: not ready after ${limitMs} ms`);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

/** Whether something accepts connections on the port. */
export async function listens(port: number): Promise<true | undefined> {
  return await new Promise((resolve) => {
    const socket = connect(port, "127.0.0.1");
    socket.on("connect", () => {
      socket.destroy();
      resolve(true);
    });
    socket.on("error", () => resolve(undefined));
  });
}
