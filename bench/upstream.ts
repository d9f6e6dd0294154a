import { createServer, type Socket } from "node:net";
import { forkListening, type ListeningChild } from "./child.ts";

/** Content chunks of a stream, and completion tokens of a reply, when the prompt does not say. */
const DEFAULT_STREAM_CHUNKS = 200;
/** Words of the fixed non-streaming completion, and so its completion tokens. */
const REPLY_TOKENS = 20;
/** A request larger than this is not read, bytes. */
const REQUEST_BYTES_MAX = 4 * 1024 * 1024;
/** Events in one write of an unpaced stream: a busy provider's TCP segments carry several. */
const EVENTS_PER_WRITE = 10;
/** Digits of the monotonic clock in each event. */
const STAMP_DIGITS = 19;
const NO_STAMP = "0".repeat(STAMP_DIGITS);
/** Bytes of a prompt per token in the reported usage; a real tokenizer gives about four. */
const BYTES_PER_TOKEN = 5;

const HEAD_END = Buffer.from("\r\n\r\n");
const LAST_CHUNK = Buffer.from("\r\n0\r\n\r\n");
const WORDS = [" token", " hello", " world", " route", " miner", " proof", " ledge", " tally"];
const REPLY =
  "one two three four five six seven eight nine ten one two three four five six seven eight nine ten";
const STREAM_HEAD =
  "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-cache\r\nX-Request-Id: req-bench\r\nTransfer-Encoding: chunked\r\n\r\n";

interface Pace {
  readonly socket: Socket;
  readonly intervalNs: bigint;
  readonly promptTokens: number;
  readonly total: number;
  sent: number;
  dueNs: bigint;
  /** Called once, after the last byte, so that the connection may serve its next request. */
  readonly ended: () => void;
}

/**
 * Starts a fake OpenAI-compatible provider as its own process on a free loopback port.
 *
 * `POST /v1/chat/completions` answers at once with a 417-byte completion, or with a stream when the body has
 * `"stream":true`. The prompt steers it, because a prompt passes every proxy unchanged: `chunks=200` sets the number
 * of content chunks and `pace_ms=5` their distance; without a pace all chunks leave at once. Each content event
 * carries the monotonic clock of its write in nanoseconds as `obfuscation`, a padding field that OpenAI sends too.
 *
 * Usage agrees with the content: prompt tokens are a fifth of the body's bytes, completion tokens are the chunks.
 */
export async function startUpstream(): Promise<ListeningChild> {
  return await forkListening(import.meta.url);
}

function eventOf(choices: string, usage: string, stamp: string): string {
  return `data: {"id":"chatcmpl-bench00000000000","object":"chat.completion.chunk","created":1760000000,"model":"gpt-5-mini","system_fingerprint":"fp_bench","choices":[${choices}],"usage":${usage},"obfuscation":"${stamp}"}\n\n`;
}

function contentEvent(index: number, stamp: string): string {
  const word = WORDS[index % WORDS.length] ?? "";
  return framed(
    eventOf(`{"index":0,"delta":{"content":"${word}"},"finish_reason":null}`, "null", stamp),
  );
}

function framed(event: string): string {
  return `${event.length.toString(16)}\r\n${event}\r\n`;
}

function usageOf(promptTokens: number, completionTokens: number): string {
  return `{"prompt_tokens":${promptTokens},"completion_tokens":${completionTokens},"total_tokens":${promptTokens + completionTokens}}`;
}

function streamEnd(promptTokens: number, chunks: number): string {
  const stop = eventOf('{"index":0,"delta":{},"finish_reason":"stop"}', "null", "");
  const usage = eventOf("", usageOf(promptTokens, chunks), "");
  return `${framed(stop)}${framed(usage)}${framed("data: [DONE]\n\n")}0\r\n\r\n`;
}

function reply(promptTokens: number): string {
  const body = `{"id":"chatcmpl-bench00000000000","object":"chat.completion","created":1760000000,"model":"gpt-5-mini","choices":[{"index":0,"message":{"role":"assistant","content":"${REPLY}","refusal":null},"logprobs":null,"finish_reason":"stop"}],"usage":${usageOf(promptTokens, REPLY_TOKENS)},"system_fingerprint":"fp_bench"}`;
  return `HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nX-Request-Id: req-bench\r\nContent-Length: ${body.length}\r\n\r\n${body}`;
}

/** One buffer per group of events; the same for all unpaced streams of a length. */
const unpacedWrites = new Map<number, readonly Buffer[]>();
function unpacedWritesOf(chunks: number): readonly Buffer[] {
  const known = unpacedWrites.get(chunks);
  if (known !== undefined) return known;
  const writes: Buffer[] = [];
  for (let first = 0; first < chunks; first += EVENTS_PER_WRITE) {
    let group = "";
    for (let i = first; i < Math.min(first + EVENTS_PER_WRITE, chunks); i++)
      group += contentEvent(i, NO_STAMP);
    writes.push(Buffer.from(group));
  }
  unpacedWrites.set(chunks, writes);
  return writes;
}

function steer(body: Buffer, word: string): number | undefined {
  const at = body.indexOf(word);
  if (at < 0) return undefined;
  return Number.parseInt(body.toString("latin1", at + word.length, at + word.length + 6), 10);
}

function serve(): void {
  const paced = new Set<Pace>();
  // One clock for all streams: a timer per chunk would cost more than the chunk.
  setInterval(() => {
    const nowNs = process.hrtime.bigint();
    for (const pace of paced) writeDue(pace, nowNs);
  }, 1).unref();

  function writeDue(pace: Pace, nowNs: bigint): void {
    while (pace.dueNs <= nowNs && pace.sent < pace.total) {
      const stamp = process.hrtime.bigint().toString().padStart(STAMP_DIGITS, "0");
      pace.socket.write(contentEvent(pace.sent, stamp), "latin1");
      pace.sent += 1;
      pace.dueNs += pace.intervalNs;
    }
    if (pace.sent < pace.total) return;
    paced.delete(pace);
    pace.socket.write(streamEnd(pace.promptTokens, pace.total), "latin1");
    pace.ended();
  }

  function answer(socket: Socket, body: Buffer, ended: () => void): void {
    const promptTokens = Math.floor(body.length / BYTES_PER_TOKEN);
    if (!body.includes('"stream":true') && !body.includes('"stream": true')) {
      socket.write(reply(promptTokens), "latin1");
      ended();
      return;
    }
    const chunks = steer(body, "chunks=") ?? DEFAULT_STREAM_CHUNKS;
    const paceMs = steer(body, "pace_ms=") ?? 0;
    socket.write(STREAM_HEAD, "latin1");
    if (paceMs > 0) {
      const dueNs = process.hrtime.bigint();
      const intervalNs = BigInt(paceMs) * 1_000_000n;
      const pace = { socket, intervalNs, promptTokens, total: chunks, sent: 0, dueNs, ended };
      paced.add(pace);
      writeDue(pace, dueNs);
      return;
    }
    for (const write of unpacedWritesOf(chunks)) socket.write(write);
    socket.write(streamEnd(promptTokens, chunks), "latin1");
    ended();
  }

  const server = createServer({ noDelay: true }, (socket) => {
    let pending: Buffer = Buffer.alloc(0);
    let busy = false;
    function next(): void {
      if (busy) return;
      const request = takeRequest(pending);
      if (request === "bad") socket.destroy();
      if (typeof request === "string") return;
      pending = request.rest;
      busy = true;
      answer(socket, request.body, () => {
        busy = false;
        // Only a client that pipelines has sent more already; do not recurse on its behalf.
        if (pending.length > 0) setImmediate(next);
      });
    }
    socket.on("data", (chunk) => {
      pending = pending.length === 0 ? chunk : Buffer.concat([pending, chunk]);
      next();
    });
    socket.on("error", () => socket.destroy());
    socket.on("close", () => {
      for (const pace of paced) if (pace.socket === socket) paced.delete(pace);
    });
  });
  server.listen(0, "127.0.0.1", 4096, () => {
    process.send?.({ port: (server.address() as { port: number }).port });
  });
  process.on("disconnect", () => process.exit(0));
}

/** Cuts one whole request off `pending`. A chunked body is searched, not decoded: the steering words stay readable. */
function takeRequest(pending: Buffer): { body: Buffer; rest: Buffer } | "incomplete" | "bad" {
  const headEnd = pending.indexOf(HEAD_END);
  if (headEnd < 0) return pending.length > 65_536 ? "bad" : "incomplete";
  const start = headEnd + HEAD_END.length;
  const head = pending.toString("latin1", 0, headEnd);
  const length = /\r\ncontent-length: *(\d+)/i.exec(head)?.[1];
  let end = start + Number(length ?? 0);
  let bodyEnd = end;
  if (/\r\ntransfer-encoding: *chunked/i.test(head)) {
    const last = pending.indexOf(LAST_CHUNK, start);
    end = last < 0 ? Number.POSITIVE_INFINITY : last + LAST_CHUNK.length;
    bodyEnd = last;
  }
  if (end - start > REQUEST_BYTES_MAX && end !== Number.POSITIVE_INFINITY) return "bad";
  if (pending.length < end) return pending.length > REQUEST_BYTES_MAX ? "bad" : "incomplete";
  return { body: pending.subarray(start, bodyEnd), rest: pending.subarray(end) };
}

if (import.meta.main) serve();
