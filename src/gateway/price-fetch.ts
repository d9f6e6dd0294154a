import { Agent, request } from "undici";
import type { Closable } from "../runtime/shutdown.ts";

/** Longest wait for a whole answer, in milliseconds. */
const ANSWER_TIMEOUT_MS = 3_000;
/** Longest answer; a price takes a few hundred bytes. */
const ANSWER_BYTES_MAX = 16_384;

/** Gets the answers of price sources as text. Redirects are not followed: a source is its own host and no other. */
export function openPriceFetch(
  timeoutMs: number = ANSWER_TIMEOUT_MS,
): Closable & { ask(url: string, signal: AbortSignal): Promise<string> } {
  const agent = new Agent({ connections: 1 });
  let closing: Promise<void> | undefined;
  return {
    ask: async (url, signal) => {
      const { statusCode, body } = await request(url, {
        dispatcher: agent,
        headers: { accept: "application/json", "user-agent": "daybreak" },
        signal: AbortSignal.any([signal, AbortSignal.timeout(timeoutMs)]),
      });
      if (statusCode !== 200) {
        await body.dump({ limit: ANSWER_BYTES_MAX });
        throw new Error(`it answered ${statusCode}`);
      }
      const parts: Buffer[] = [];
      let length = 0;
      for await (const part of body as AsyncIterable<Buffer>) {
        length += part.length;
        if (length > ANSWER_BYTES_MAX)
          throw new Error(`its answer is longer than ${ANSWER_BYTES_MAX} bytes`);
        parts.push(part);
      }
      return Buffer.concat(parts).toString("utf8");
    },
    close: () => (closing ??= agent.destroy()),
  };
}
