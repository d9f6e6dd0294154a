import { Agent, request } from "undici";
import type { Closable } from "../runtime/shutdown.ts";
import { type FetchBytes, LogError } from "../usage-log/reader.ts";

/** Longest wait for the head of an answer, and between two pieces of its body, in milliseconds. */
const ANSWER_TIMEOUT_MS = 10_000;
const CONNECT_TIMEOUT_MS = 5_000;
const CONNECTIONS_MAX = 8;

/** Fetches a log's files over HTTP. Redirects are not followed. */
export function openLogFetch(): Closable & { from(logUrl: string): FetchBytes } {
  const agent = new Agent({
    connections: CONNECTIONS_MAX,
    connectTimeout: CONNECT_TIMEOUT_MS,
    headersTimeout: ANSWER_TIMEOUT_MS,
    bodyTimeout: ANSWER_TIMEOUT_MS,
  });
  let closing: Promise<void> | undefined;
  return {
    from: (logUrl) => async (path, bytesMax) => {
      const { statusCode, body } = await request(`${logUrl.replace(/\/+$/, "")}/${path}`, {
        dispatcher: agent,
      });
      if (statusCode !== 200) {
        await body.dump();
        if (statusCode === 404) return undefined;
        throw new Error(`the log answers ${statusCode} for ${path}`);
      }
      const parts: Buffer[] = [];
      let length = 0;
      for await (const part of body as AsyncIterable<Buffer>) {
        length += part.length;
        // Leaving the loop destroys the body and with it the connection.
        if (length > bytesMax)
          throw new LogError("file_too_large", `${path} is longer than ${bytesMax} bytes`);
        parts.push(part);
      }
      return Buffer.concat(parts);
    },
    close: () => (closing ??= agent.destroy()),
  };
}
