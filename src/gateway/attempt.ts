import type { IncomingHttpHeaders } from "node:http";
import type { Surface } from "../core/surface.ts";
import { type MeterEnd, openMeter } from "../dialects/stream-meter.ts";
import type {
  RelayConnection,
  RelayExchange,
  RelayListener,
  RelayRequest,
} from "./relay-connection.ts";

/** Longest an attempt can take in all, in milliseconds: as long as a hold stands. */
const ATTEMPT_MS_MAX = 30 * 60_000;
/** Longest time from sending a request to its first content byte. */
const FIRST_CONTENT_TIMEOUT_MS = 130_000;
/** Longest answer that is not streamed, in bytes; it is held back whole until it is paid for. */
const WHOLE_ANSWER_BYTES_MAX = 32 * 1_048_576;
/** Bytes of a stream that wait for the hold's commit; beyond this the relay is paused. */
const WAITING_BYTES_MAX = 64 * 1_024;
/** Bytes that may come before the first content, and after the last: role, usage and terminator events. */
const FRAMING_BYTES_MAX = 1_048_576;
const ERROR_BODY_BYTES_MAX = 64 * 1_024;

/** How an attempt opened: the moment at which it is decided whether this miner answers the customer. */
export type Opening =
  /** Content has arrived; the stream goes on. */
  | { readonly kind: "content" }
  /** The answer is complete and nothing of it was delivered. */
  | { readonly kind: "whole" }
  /** The relay, or the upstream behind it, answered with an error status. */
  | {
      readonly kind: "refused";
      readonly status: number;
      /** Whether the upstream said so; otherwise the relay itself. */
      readonly byUpstream: boolean;
      readonly body: Buffer;
    }
  | { readonly kind: "failed"; readonly cause: AttemptFailure };

export type AttemptFailure =
  | "unreachable"
  | "broken"
  | "timeout"
  | "too_long"
  | "no_content"
  /** The upstream reported an error inside its answer before any content. */
  | "upstream_error"
  | "aborted";

/** How the relay's answer ended. */
export interface AttemptEnd {
  /** Undefined when the HTTP answer ended as it should. */
  readonly failure: AttemptFailure | undefined;
  readonly status: number;
  /** The receipt token and its salt, if the trailers carried them. */
  readonly receipt: string | undefined;
  readonly receiptSalt: string | undefined;
  readonly meter: MeterEnd;
  /** The withheld end of a stream that has content; otherwise the whole answer. */
  readonly held: Buffer;
  readonly contentType: string | undefined;
  /** Milliseconds from sending the request to the first byte of content and to the end. */
  readonly firstContentMs: number | undefined;
  readonly durationMs: number;
  readonly bytesOut: number;
}

/** Where a stream goes once its hold is committed. */
export interface StreamSink {
  /** @returns false when the customer reads slower than the miner writes; `Attempt.resume` goes on. */
  write(chunk: Buffer): boolean;
}

/** One request to one miner. */
export interface Attempt {
  /** Never rejects. */
  readonly opened: Promise<Opening>;
  /** Never rejects; settles after `opened`. */
  readonly ended: Promise<AttemptEnd>;
  /** The relay's content type, once opened. */
  contentType(): string | undefined;
  /** Delivers what has arrived and lets the rest flow; the end stays withheld. Call once, after `opened` is content. */
  flowTo(sink: StreamSink): void;
  resume(): void;
  abort(): void;
}

/**
 * Sends a request to a relay and meters the answer, without deciding what to do about it.
 *
 * Of a stream everything before the final events flows; the final events, which carry usage and terminator, are
 * withheld, because they must not reach the customer before the request is settled.
 */
export function startAttempt(
  relay: RelayConnection,
  request: RelayRequest,
  options: {
    readonly surface: Surface;
    readonly stream: boolean;
    /** The request's `n`. */
    readonly choices: number;
    readonly nowMs: () => number;
    /** Asks for memory to hold back bytes; false when the gateway has none left. */
    readonly reserve: (bytes: number) => boolean;
  },
): Attempt {
  const meter = openMeter(options.surface, {
    stream: options.stream,
    choices: options.choices,
  });
  const startMs = options.nowMs();
  const opened = Promise.withResolvers<Opening>();
  const ended = Promise.withResolvers<AttemptEnd>();
  const waiting: Buffer[] = [];
  const tail: Buffer[] = [];
  let waitingBytes = 0;
  let tailBytes = 0;
  let bytesOut = 0;
  let status = 0;
  let headers: IncomingHttpHeaders = {};
  let isError = false;
  let isOpen = false;
  let over = false;
  let inTail = false;
  let firstContentMs: number | undefined;
  let sink: StreamSink | undefined;
  let exchange: RelayExchange | undefined;
  const timerStartMs = performance.now();
  const timeOut = (): void => fail("timeout");
  let timer = setTimeout(timeOut, FIRST_CONTENT_TIMEOUT_MS);

  const open = (opening: Opening): void => {
    if (isOpen) return;
    isOpen = true;
    clearTimeout(timer);
    // Other clocks stop while nobody reads; this one does not, so that no attempt outlives its hold.
    if (!over) timer = setTimeout(timeOut, ATTEMPT_MS_MAX - (performance.now() - timerStartMs));
    opened.resolve(opening);
  };
  const finish = (failure: AttemptFailure | undefined, trailers: IncomingHttpHeaders): void => {
    if (over) return;
    over = true;
    clearTimeout(timer);
    // What came before the final events of a stream with content is `flowTo`'s to deliver.
    const held = joined(
      options.stream && firstContentMs !== undefined ? tail : [...waiting, ...tail],
    );
    const counted = meter.end();
    if (failure !== undefined) open({ kind: "failed", cause: failure });
    else if (isError)
      open({
        kind: "refused",
        status: upstreamStatusOf(headers) ?? status,
        byUpstream: upstreamStatusOf(headers) !== undefined,
        body: held,
      });
    else if (counted.complete) open({ kind: "whole" });
    else open({ kind: "failed", cause: counted.failed ? "upstream_error" : "no_content" });
    ended.resolve({
      failure,
      status,
      receipt: single(trailers["daybreak-receipt"]),
      receiptSalt: single(trailers["daybreak-receipt-salt"]),
      meter: counted,
      held,
      contentType: single(headers["content-type"]),
      firstContentMs,
      durationMs: Math.max(0, Math.round(options.nowMs() - startMs)),
      bytesOut,
    });
  };
  const fail = (failure: AttemptFailure): void => {
    finish(failure, {});
    exchange?.abort();
  };
  const keep = (chunk: Buffer, max: number): boolean => {
    if (waitingBytes + chunk.length > max || !options.reserve(chunk.length)) {
      fail("too_long");
      return false;
    }
    waiting.push(chunk);
    waitingBytes += chunk.length;
    return true;
  };

  const listener: RelayListener = {
    onHead: (code, received) => {
      status = code;
      headers = received;
      isError = code < 200 || code > 299 || upstreamStatusOf(received) !== undefined;
    },
    onData: (chunk) => {
      if (over) return;
      bytesOut += chunk.length;
      if (isError) {
        keep(chunk, ERROR_BODY_BYTES_MAX);
        return;
      }
      const seen = meter.push(chunk);
      if (seen.contentStarted) firstContentMs ??= Math.round(options.nowMs() - startMs);
      if (!options.stream) {
        keep(chunk, WHOLE_ANSWER_BYTES_MAX);
        return;
      }
      let body = chunk;
      if (inTail || seen.finalFrom >= 0) {
        const from = inTail ? 0 : seen.finalFrom;
        inTail = true;
        const end = chunk.subarray(from);
        body = chunk.subarray(0, from);
        tailBytes += end.length;
        if (tailBytes > FRAMING_BYTES_MAX) return fail("too_long");
        tail.push(end);
      }
      if (body.length > 0) {
        if (sink !== undefined) {
          if (!sink.write(body)) exchange?.pause();
        } else {
          if (!keep(body, FRAMING_BYTES_MAX)) return;
          if (isOpen && waitingBytes > WAITING_BYTES_MAX) exchange?.pause();
        }
      }
      if (seen.contentStarted) open({ kind: "content" });
    },
    onEnd: (trailers) => finish(undefined, trailers),
    onError: () => finish(status === 0 ? "unreachable" : "broken", {}),
  };
  try {
    exchange = relay.exchange(request, listener);
  } catch {
    finish("unreachable", {});
  }
  return {
    opened: opened.promise,
    ended: ended.promise,
    contentType: () => single(headers["content-type"]),
    flowTo: (target) => {
      sink = target;
      let ready = true;
      for (const chunk of waiting.splice(0)) ready = target.write(chunk);
      waitingBytes = 0;
      if (ready) exchange?.resume();
      else exchange?.pause();
    },
    resume: () => exchange?.resume(),
    abort: () => fail("aborted"),
  };
}

/** The chunks in one; a single one, which most whole answers are, is not copied. */
function joined(chunks: readonly Buffer[]): Buffer {
  const [only] = chunks;
  return chunks.length === 1 && only !== undefined ? only : Buffer.concat(chunks);
}

function upstreamStatusOf(headers: IncomingHttpHeaders): number | undefined {
  const text = single(headers["daybreak-upstream-status"]);
  return text !== undefined && /^[1-5]\d\d$/.test(text) ? Number(text) : undefined;
}

function single(value: string | string[] | undefined): string | undefined {
  return typeof value === "string" ? value : undefined;
}
