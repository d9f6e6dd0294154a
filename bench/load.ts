import { once } from "node:events";
import { connect, type Socket } from "node:net";
import { forkListening, type ListeningChild } from "./child.ts";

/** What to send, how hard, and what a whole answer looks like. */
export interface LoadSpec {
  readonly port: number;
  readonly path: string;
  readonly headers: Readonly<Record<string, string>>;
  readonly body: string;
  /** Closed loop: each connection sends its next request when the last one is answered. Open loop: at most this many at once. */
  readonly connections: number;
  /** Arrivals per second of the open loop; absent means closed loop. */
  readonly rate?: number;
  readonly warmMs: number;
  readonly windowMs: number;
  /** Content chunks that a stream must have; absent means a JSON answer. */
  readonly chunks?: number;
  /** Spreads the first requests of a closed loop over this time, so that long streams do not run in step, ms. */
  readonly staggerMs: number;
}

/** Percentiles of one quantity, µs. */
export interface Percentiles {
  readonly count: number;
  readonly p50: number;
  readonly p99: number;
}

/** What one run of the generator saw. Latencies, rates and chunks are of the window; the counters are of the whole run. */
export interface LoadResult {
  /** Whole and correct answers, with the warm-up. */
  readonly answers: number;
  /** Content chunks received, with the warm-up. */
  readonly allChunks: number;
  /** Answers that were refused, broken or of the wrong length, with the first one's beginning. */
  readonly errors: number;
  readonly firstError: string;
  /** Streams that ended without all their chunks, usage and terminator. */
  readonly truncated: number;
  readonly answersPerSecond: number;
  readonly chunksPerSecond: number;
  /** Request sent → last byte of the answer. */
  readonly latency: Percentiles;
  /** Request sent → first content chunk; streams only. */
  readonly firstChunk: Percentiles;
  /** Provider's write of a chunk → read by the client; paced streams only. */
  readonly chunkDelay: Percentiles;
  /** The longest time by which the open loop was behind its schedule, µs. */
  readonly lagMaxUs: number;
}

/** A load generator in its own process. One run at a time. */
export interface Load {
  readonly pid: number;
  run(spec: LoadSpec): Promise<LoadResult>;
  close(): Promise<void>;
}

/** Time after the window in which open answers may still arrive, ms. */
const DRAIN_LIMIT_MS = 8_000;
/** Measurements kept per quantity; later ones are not recorded. */
const SAMPLES_MAX = 2_000_000;
/** A timer of Node fires up to this late; a later send is the generator's or machine's fault and counts as latency, ns. */
const TIMER_SLACK_NS = 2_000_000;
/** Pause before a closed connection is used again, ms. */
const REDIAL_MS = 5;
/** Bytes of a refused answer that are kept for the report. */
const ERROR_TEXT_MAX = 300;
/** Response headers larger than this are an error, bytes. */
const HEAD_BYTES_MAX = 32_768;

const HEAD_END = Buffer.from("\r\n\r\n");
const EVENT_END = 0x0a;
const QUOTE = 0x22;
const STAMP = Buffer.from('"obfuscation":"');
const STAMP_DIGITS = 19;
const USAGE = Buffer.from('"completion_tokens":');
const DONE = Buffer.from("data: [DONE]");

/** Starts the generator as its own process. */
export async function startLoad(): Promise<Load> {
  const child: ListeningChild = await forkListening(import.meta.url);
  return {
    pid: child.pid,
    async run(spec) {
      child.child.send(spec);
      const limit = spec.warmMs + spec.windowMs + DRAIN_LIMIT_MS * 2;
      const [result] = (await once(child.child, "message", {
        signal: AbortSignal.timeout(Math.ceil(limit)),
      })) as [LoadResult];
      return result;
    },
    close: () => child.close(),
  };
}

interface Samples {
  add(ns: number): void;
  percentiles(): Percentiles;
}

function newSamples(): Samples {
  const values: number[] = [];
  return {
    add(ns) {
      if (values.length < SAMPLES_MAX) values.push(ns);
    },
    percentiles() {
      const sorted = Float64Array.from(values).sort();
      const at = (p: number): number =>
        (sorted[Math.round(p * (sorted.length - 1))] ?? Number.NaN) / 1_000;
      return { count: sorted.length, p50: at(0.5), p99: at(0.99) };
    },
  };
}

/** State of one connection; `phase` says which part of an answer comes next. */
interface Connection {
  socket: Socket;
  phase: "idle" | "head" | "sized" | "chunk-head" | "chunk-data" | "trailers";
  /** Bytes kept until a head, chunk head or trailer line is whole. */
  held: Buffer;
  /** Bytes of the body or chunk still to come. */
  left: number;
  status: number;
  mustClose: boolean;
  sentNs: number;
  firstChunkNs: number;
  chunks: number;
  sawUsage: boolean;
  sawDone: boolean;
  /** Tail of the last event-stream bytes when an event was cut. */
  tail: Buffer;
  errorText: string;
}

const EMPTY = Buffer.alloc(0);

/** The monotonic clock in ns; exact enough as a double for the first hundred days of uptime. */
function nowNs(): number {
  return Number(process.hrtime.bigint());
}

async function run(spec: LoadSpec): Promise<LoadResult> {
  const bodyBytes = Buffer.byteLength(spec.body);
  const headers = Object.entries(spec.headers).map(([name, value]) => `${name}: ${value}\r\n`);
  const request = Buffer.from(
    `POST ${spec.path} HTTP/1.1\r\nHost: 127.0.0.1:${spec.port}\r\nContent-Type: application/json\r\nAccept: */*\r\n${headers.join("")}Content-Length: ${bodyBytes}\r\n\r\n${spec.body}`,
  );
  const startNs = nowNs();
  const windowNs = startNs + spec.warmMs * 1e6;
  const endNs = windowNs + spec.windowMs * 1e6;
  const latency = newSamples();
  const firstChunk = newSamples();
  const chunkDelay = newSamples();
  const idle: Connection[] = [];
  const all: Connection[] = [];
  let answers = 0;
  let windowAnswers = 0;
  let allChunks = 0;
  let windowChunks = 0;
  let errors = 0;
  let truncated = 0;
  let firstError = "";
  let lagMaxNs = 0;
  let stopping = false;
  let allIdle: () => void = () => {};
  const drained = new Promise<void>((resolve) => {
    allIdle = resolve;
  });

  function fail(connection: Connection, why: string): void {
    errors += 1;
    if (firstError === "") {
      const from = connection.status === 0 ? "" : ` (status ${connection.status})`;
      firstError = `${why}${from} ${connection.errorText}`.trim();
    }
  }

  function send(connection: Connection, scheduledNs: number): void {
    const now = nowNs();
    connection.phase = "head";
    connection.held = EMPTY;
    connection.status = 0;
    connection.mustClose = false;
    connection.firstChunkNs = 0;
    connection.chunks = 0;
    connection.sawUsage = false;
    connection.sawDone = false;
    connection.tail = EMPTY;
    connection.errorText = "";
    connection.sentNs = now - scheduledNs > TIMER_SLACK_NS ? scheduledNs : now;
    connection.socket.write(request);
  }

  function release(connection: Connection): void {
    connection.phase = "idle";
    if (spec.rate === undefined && !stopping) {
      send(connection, nowNs());
      return;
    }
    idle.push(connection);
    if (stopping && idle.length === all.length) allIdle();
  }

  function finish(connection: Connection, now: number): void {
    const whole =
      spec.chunks === undefined
        ? connection.sawUsage
        : connection.sawUsage && connection.sawDone && connection.chunks === spec.chunks;
    if (connection.status !== 200) fail(connection, "refused");
    else if (!whole) {
      truncated += 1;
      fail(connection, `answer with ${connection.chunks} chunks was not whole:`);
    } else {
      answers += 1;
      if (now >= windowNs && now < endNs) {
        windowAnswers += 1;
        latency.add(now - connection.sentNs);
        if (connection.firstChunkNs > 0)
          firstChunk.add(connection.firstChunkNs - connection.sentNs);
      }
    }
    // The socket's close handler opens the next connection.
    if (connection.mustClose) connection.socket.destroy();
    else release(connection);
  }

  function content(connection: Connection, piece: Buffer, now: number): void {
    if (connection.status !== 200 && connection.errorText.length < ERROR_TEXT_MAX)
      connection.errorText += piece.toString("utf8", 0, ERROR_TEXT_MAX);
    if (spec.chunks === undefined) {
      const bytes = connection.tail.length === 0 ? piece : Buffer.concat([connection.tail, piece]);
      connection.sawUsage ||= bytes.includes(USAGE);
      connection.tail = Buffer.from(bytes.subarray(-USAGE.length));
      return;
    }
    const bytes = connection.tail.length === 0 ? piece : Buffer.concat([connection.tail, piece]);
    let at = 0;
    for (;;) {
      const found = bytes.indexOf(STAMP, at);
      if (found < 0) break;
      const stampAt = found + STAMP.length;
      if (bytes[stampAt] === QUOTE) {
        at = stampAt; // the empty padding of a final event
        continue;
      }
      if (bytes.length < stampAt + STAMP_DIGITS) break;
      at = stampAt + STAMP_DIGITS;
      connection.chunks += 1;
      if (connection.firstChunkNs === 0) connection.firstChunkNs = now;
      allChunks += 1;
      if (now < windowNs || now >= endNs) continue;
      windowChunks += 1;
      const writtenNs = Number(bytes.toString("latin1", stampAt, stampAt + STAMP_DIGITS));
      if (writtenNs > 0) chunkDelay.add(now - writtenNs);
    }
    if (connection.chunks >= spec.chunks) {
      connection.sawUsage ||= bytes.includes(USAGE);
      connection.sawDone ||= bytes.includes(DONE);
    }
    // Whole events need no tail. A cut one is kept from where the search stopped.
    connection.tail = bytes.at(-1) === EVENT_END ? EMPTY : Buffer.from(bytes.subarray(at));
  }

  /** Reads one head; false when it is not whole yet. */
  function head(connection: Connection): boolean {
    const end = connection.held.indexOf(HEAD_END);
    if (end < 0) {
      if (connection.held.length > HEAD_BYTES_MAX) connection.socket.destroy();
      return false;
    }
    const text = connection.held.toString("latin1", 0, end).toLowerCase();
    connection.held = connection.held.subarray(end + HEAD_END.length);
    connection.status = Number(text.slice(9, 12));
    connection.mustClose = text.includes("\r\nconnection: close");
    if (text.includes("\r\ntransfer-encoding: chunked")) {
      connection.phase = "chunk-head";
      return true;
    }
    connection.left = Number(/\r\ncontent-length: *(\d+)/.exec(text)?.[1] ?? 0);
    connection.phase = "sized";
    return true;
  }

  function consume(connection: Connection, data: Buffer): void {
    const now = nowNs();
    connection.held = connection.held.length === 0 ? data : Buffer.concat([connection.held, data]);
    for (;;) {
      const { held } = connection;
      switch (connection.phase) {
        case "idle":
          connection.held = EMPTY;
          return;
        case "head":
          if (!head(connection)) break;
          continue;
        case "sized": {
          const piece = held.subarray(0, connection.left);
          connection.left -= piece.length;
          connection.held = held.subarray(piece.length);
          if (piece.length > 0) content(connection, piece, now);
          if (connection.left > 0) return;
          finish(connection, now);
          return;
        }
        case "chunk-head": {
          const lineEnd = held.indexOf("\r\n");
          if (lineEnd < 0) break;
          const size = Number.parseInt(held.toString("latin1", 0, lineEnd), 16);
          connection.held = held.subarray(lineEnd + 2);
          connection.left = size + 2; // with the line end behind the data
          connection.phase = size === 0 ? "trailers" : "chunk-data";
          continue;
        }
        case "chunk-data": {
          const taken = Math.min(held.length, connection.left);
          const payload = Math.min(taken, Math.max(connection.left - 2, 0));
          if (payload > 0) content(connection, held.subarray(0, payload), now);
          connection.left -= taken;
          connection.held = held.subarray(taken);
          if (connection.left > 0) return;
          connection.phase = "chunk-head";
          continue;
        }
        case "trailers": {
          const lineEnd = held.indexOf("\r\n");
          if (lineEnd < 0) break;
          connection.held = held.subarray(lineEnd + 2);
          if (lineEnd > 0) continue;
          finish(connection, now);
          return;
        }
      }
      // An unfinished head or line is copied, because the read buffer is reused for every socket.
      connection.held = Buffer.from(connection.held);
      return;
    }
  }

  const readBuffer = Buffer.allocUnsafe(256 * 1024);
  function open(connection: Connection): void {
    const socket = connect({
      host: "127.0.0.1",
      port: spec.port,
      noDelay: true,
      onread: {
        buffer: readBuffer,
        callback(count, buffer) {
          consume(connection, Buffer.from(buffer.buffer, buffer.byteOffset, count));
          return true;
        },
      },
    });
    connection.socket = socket;
    socket.on("error", (error) => {
      if (connection.phase === "idle") return;
      connection.errorText ||= error.message;
    });
    socket.on("close", () => {
      if (connection.socket !== socket || closed) return;
      if (connection.phase !== "idle" && !connection.mustClose) {
        if (spec.chunks !== undefined && connection.status === 200) truncated += 1;
        fail(connection, "connection closed");
      }
      const idleAt = idle.indexOf(connection);
      if (stopping) {
        if (idleAt < 0) release(connection);
        return;
      }
      if (idleAt >= 0) idle.splice(idleAt, 1);
      open(connection);
      // A refused connect would otherwise redial in a tight loop.
      setTimeout(() => release(connection), REDIAL_MS).unref();
    });
  }

  let closed = false;
  for (let i = 0; i < spec.connections; i++) {
    const connection = { phase: "idle", held: EMPTY, tail: EMPTY } as Connection;
    connection.errorText = "";
    connection.status = 0;
    all.push(connection);
    open(connection);
    if (spec.rate !== undefined) idle.push(connection);
    else if (spec.staggerMs === 0) send(connection, nowNs());
    else setTimeout(() => release(connection), (spec.staggerMs * i) / spec.connections);
  }

  await new Promise<void>((resolve) => {
    if (spec.rate === undefined) {
      setTimeout(resolve, spec.warmMs + spec.windowMs);
      return;
    }
    const periodNs = 1e9 / spec.rate;
    let arrival = 0;
    const tick = (): void => {
      const now = nowNs();
      if (now >= endNs) {
        resolve();
        return;
      }
      for (;;) {
        const dueNs = startNs + arrival * periodNs;
        if (dueNs > now) break;
        const connection = idle.pop();
        if (connection === undefined) break;
        lagMaxNs = Math.max(lagMaxNs, now - dueNs);
        arrival += 1;
        send(connection, dueNs);
      }
      const waitMs = (startNs + arrival * periodNs - nowNs()) / 1e6;
      setTimeout(tick, Math.max(1, Math.ceil(waitMs)));
    };
    tick();
  });
  stopping = true;
  if (idle.length < all.length) {
    const limit = setTimeout(allIdle, DRAIN_LIMIT_MS);
    await drained;
    clearTimeout(limit);
  }
  closed = true;
  for (const connection of all) {
    if (connection.phase !== "idle") {
      if (spec.chunks !== undefined) truncated += 1;
      fail(connection, "no end of the answer");
    }
    connection.socket.destroy();
  }
  const seconds = spec.windowMs / 1_000;
  return {
    answers,
    allChunks,
    errors,
    firstError: firstError.slice(0, ERROR_TEXT_MAX),
    truncated,
    answersPerSecond: windowAnswers / seconds,
    chunksPerSecond: windowChunks / seconds,
    latency: latency.percentiles(),
    firstChunk: firstChunk.percentiles(),
    chunkDelay: chunkDelay.percentiles(),
    lagMaxUs: lagMaxNs / 1_000,
  };
}

if (import.meta.main) {
  process.on("message", (spec) => {
    run(spec as LoadSpec).then(
      (result) => process.send?.(result),
      (error: unknown) => {
        console.error(error);
        process.exit(1);
      },
    );
  });
  process.on("disconnect", () => process.exit(0));
  process.send?.({ port: 0 });
}
