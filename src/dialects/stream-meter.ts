import type { Usage } from "../core/pricing.ts";
import type { Surface } from "../core/surface.ts";
import { type AnswerFacts, noAnswerYet, readAnswer, readEvent } from "./answer-events.ts";
import { usageOf } from "./usage.ts";

/** Longest event that is looked into, in bytes; a longer one passes and is counted, but not read. */
export const EVENT_BYTES_MAX = 1_048_576;
/** Longest answer that is not streamed and still metered, in bytes. */
export const ANSWER_BYTES_MAX = 32 * 1_048_576;
/** How often an incomplete event is looked into for being the last one. */
const EARLY_LOOKS_MAX = 4;

/** What one chunk changed. */
export interface MeterStep {
  /** Whether content has arrived, in this chunk or before it. */
  readonly contentStarted: boolean;
  /**
   * Offset in this chunk from which bytes belong to the final events (usage, terminator, upstream error), or -1.
   * Once it is not -1 it is 0 for every later chunk. An answer that is not streamed is final from its first byte.
   */
  readonly finalFrom: number;
  /** Whether the upstream has reported an error inside the answer. */
  readonly failed: boolean;
}

/** What an answer was. */
export interface MeterEnd {
  /** The upstream's last word on usage. */
  readonly usage?: Usage;
  readonly upstreamId?: string;
  readonly upstreamModel?: string;
  /** In the words of the surface: `stop`, `end_turn` and so on. */
  readonly finishReason?: string;
  /** Events that carried content; 1 for a whole answer. */
  readonly contentEvents: number;
  /** UTF-8 bytes of text, reasoning and tool calls that the client can see; of what could not be read, all bytes. */
  readonly visibleBytes: number;
  /** Whether the terminator arrived, or the JSON is whole, and no error was reported. */
  readonly complete: boolean;
  /** Whether the upstream reported an error inside the answer; `failure` is its message, at most 500 characters. */
  readonly failed: boolean;
  readonly failure?: string;
}

export interface Meter {
  /** The next bytes of the answer. They are looked at, never changed; the caller passes them on and must not reuse them. */
  push(chunk: Buffer): MeterStep;
  /** The end of the answer. Call once. */
  end(): MeterEnd;
}

/**
 * Meters one answer from the bytes that pass. How the bytes are cut into chunks makes no difference to the result.
 *
 * @param options `choices` is the request's `n`: a stream is final when all of them have finished.
 */
export function openMeter(
  surface: Surface,
  options: { readonly stream: boolean; readonly choices?: number },
): Meter {
  return options.stream ? openStreamMeter(surface, options.choices ?? 1) : openAnswerMeter(surface);
}

/** What the line that has not ended yet consists of. */
type IncompleteLine = "empty" | "cr" | "text";

const NOTHING = Buffer.alloc(0);
const LF = 0x0a;
const CR = 0x0d;

/**
 * Server-sent events (WHATWG HTML §9.2.6). Lines end with LF or CRLF; the lone CR that the standard also allows is not
 * sent by any provider, and to write one only hides the usage.
 */
function openStreamMeter(surface: Surface, choices: number): Meter {
  const facts = noAnswerYet();
  /** Bytes of the incomplete event from earlier chunks; dropped once they are too many, but still counted. */
  let carried: Buffer[] = [];
  let carriedBytes = 0;
  let line: IncompleteLine = "empty";
  let earlyLooks = 0;
  let final = false;

  const finishEvent = (chunk: Buffer, from: number, to: number): void => {
    const size = carriedBytes + to - from;
    if (size > EVENT_BYTES_MAX) {
      // Whatever it is, the client has seen something.
      facts.started = true;
      facts.contentEvents++;
      facts.visibleBytes += size;
    } else {
      const event = chunk.toString("latin1", from, to);
      readEvent(surface, facts, carriedBytes === 0 ? event : textOf(carried) + event);
    }
    carried = [];
    carriedBytes = 0;
    earlyLooks = 0;
  };
  const carry = (bytes: Buffer): void => {
    carriedBytes += bytes.length;
    if (carriedBytes > EVENT_BYTES_MAX) carried = [];
    else carried.push(bytes);
  };
  /** An event counts for a reader of lines as soon as its data line ends, before the blank line that completes it. */
  const incompleteIsFinal = (): boolean => {
    if (carriedBytes > EVENT_BYTES_MAX || earlyLooks++ >= EARLY_LOOKS_MAX) return false;
    const preview = { ...facts };
    readEvent(surface, preview, textOf(carried));
    return isFinal(preview, choices);
  };

  return {
    push: (chunk) => {
      let finalFrom = final ? 0 : -1;
      let eventStart = 0;
      let lineStart = 0;
      let linesOfIncomplete = 0;
      for (let newline = chunk.indexOf(LF); newline >= 0; newline = chunk.indexOf(LF, lineStart)) {
        const size = newline - lineStart;
        const completes =
          (size === 0 && line !== "text") ||
          (size === 1 && line === "empty" && chunk[lineStart] === CR);
        line = "empty";
        lineStart = newline + 1;
        linesOfIncomplete++;
        if (!completes) continue;
        finishEvent(chunk, eventStart, lineStart);
        if (!final && isFinal(facts, choices)) {
          final = true;
          finalFrom = eventStart;
        }
        eventStart = lineStart;
        linesOfIncomplete = 0;
      }
      const rest = chunk.length - lineStart;
      if (rest > 0)
        line = line === "empty" && rest === 1 && chunk[lineStart] === CR ? "cr" : "text";
      if (eventStart < chunk.length) carry(chunk.subarray(eventStart));
      if (!final && linesOfIncomplete > 0 && incompleteIsFinal()) {
        final = true;
        finalFrom = eventStart;
      }
      return { contentStarted: facts.started, finalFrom, failed: facts.failed };
    },
    end: () => {
      // Clients differ on whether an event without its blank line counts; whoever shows it has to pay for it.
      if (carriedBytes > 0) finishEvent(NOTHING, 0, 0);
      return endOf(surface, facts);
    },
  };
}

function textOf(pieces: readonly Buffer[]): string {
  return Buffer.concat(pieces).toString("latin1");
}

function isFinal(facts: AnswerFacts, choices: number): boolean {
  if (facts.failed || facts.terminated) return true;
  // Some upstreams send the usage so far with every chunk: it is the last word only after the finish reasons.
  return facts.usage !== undefined && facts.finished.size >= choices;
}

/** A whole JSON answer: kept by reference until its end. */
function openAnswerMeter(surface: Surface): Meter {
  let chunks: Buffer[] = [];
  let bytes = 0;
  return {
    push: (chunk) => {
      bytes += chunk.length;
      if (bytes > ANSWER_BYTES_MAX) chunks = [];
      else chunks.push(chunk);
      return { contentStarted: bytes > 0, finalFrom: 0, failed: false };
    },
    end: () => {
      const facts = noAnswerYet();
      const [only] = chunks;
      if (bytes <= ANSWER_BYTES_MAX)
        readAnswer(
          surface,
          facts,
          chunks.length === 1 && only !== undefined ? only : Buffer.concat(chunks),
        );
      chunks = [];
      return endOf(surface, facts);
    },
  };
}

function endOf(surface: Surface, facts: AnswerFacts): MeterEnd {
  const usage = facts.usage === undefined ? undefined : usageOf(surface, facts.usage);
  const { id, model, finishReason, failure } = facts;
  return {
    ...(usage === undefined ? {} : { usage }),
    ...(id === undefined ? {} : { upstreamId: id }),
    ...(model === undefined ? {} : { upstreamModel: model }),
    ...(finishReason === undefined ? {} : { finishReason }),
    ...(failure === undefined ? {} : { failure }),
    contentEvents: facts.contentEvents,
    visibleBytes: facts.visibleBytes,
    complete: facts.terminated && !facts.failed,
    failed: facts.failed,
  };
}
