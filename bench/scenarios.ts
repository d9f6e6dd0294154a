import type { LoadSpec } from "./load.ts";
import type { Target } from "./targets/target.ts";

/** Content chunks of every stream. */
export const STREAM_CHUNKS = 200;
/** Length of a request's body, bytes: a short chat. */
const BODY_BYTES = 1_024;

/** One kind of load. */
export interface Scenario {
  readonly name: string;
  /** What a reader needs to know to compare it with other benchmarks. */
  readonly describes: string;
  readonly connections: number;
  /** Requests per second of an open loop; absent means closed loop. */
  readonly rate?: number;
  readonly stream?: { readonly paceMs: number };
}

/** In the order of the report. */
export const SCENARIOS = [
  {
    name: "json",
    describes: "non-streaming, closed loop, 64 connections, 1 KB request, 417-byte answer",
    connections: 64,
  },
  {
    name: "json-200",
    describes: "non-streaming, open loop, 200 requests/s",
    connections: 256,
    rate: 200,
  },
  {
    name: "stream-paced",
    describes: "200 chunks 5 ms apart, closed loop, 64 streams at once (12 800 chunks/s at best)",
    connections: 64,
    stream: { paceMs: 5 },
  },
  {
    name: "stream-fast",
    describes: "200 chunks as fast as possible, closed loop, 16 streams at once",
    connections: 16,
    stream: { paceMs: 0 },
  },
] as const satisfies readonly Scenario[];

/** The load of a scenario on a target. */
export function loadSpecOf(scenario: Scenario, target: Target, windowMs: number): LoadSpec {
  const streamMs = scenario.stream === undefined ? 0 : scenario.stream.paceMs * STREAM_CHUNKS;
  return {
    port: target.port,
    path: target.path,
    headers: target.headers,
    body: bodyOf(scenario, target.model),
    connections: scenario.connections,
    ...(scenario.rate === undefined ? {} : { rate: scenario.rate }),
    // Paced streams start one after the other over the length of a stream, and only then are all open.
    staggerMs: streamMs,
    warmMs: streamMs + Math.min(500, windowMs / 4),
    windowMs,
    ...(scenario.stream === undefined ? {} : { chunks: STREAM_CHUNKS }),
  };
}

function bodyOf(scenario: Scenario, model: string): string {
  const steering =
    scenario.stream === undefined
      ? ""
      : `chunks=${STREAM_CHUNKS} pace_ms=${scenario.stream.paceMs} `;
  const request = (prompt: string): string =>
    JSON.stringify({
      model,
      messages: [
        { role: "system", content: "You are a helpful assistant." },
        { role: "user", content: prompt },
      ],
      max_completion_tokens: 400,
      ...(scenario.stream === undefined
        ? {}
        : { stream: true, stream_options: { include_usage: true } }),
    });
  const prompt = `${steering}Tell me about routes. `;
  return request(prompt + "word ".repeat((BODY_BYTES - request(prompt).length) / 5));
}
