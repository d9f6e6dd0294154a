import type { IncomingMessage, ServerResponse } from "node:http";
import { createServer, type Server } from "node:https";
import type { AddressInfo, Socket } from "node:net";
import { ERRORS, type ErrorCode } from "../core/errors.ts";
import { GRANT_LIFE_SECONDS_MAX } from "../core/grant.ts";
import type { Hotkey } from "../core/ids.ts";
import { requestIdOf } from "../core/ids.ts";
import { decodeJws, type VerifyingKey, verifyJws } from "../core/jws.ts";
import { modelOf } from "../core/models.ts";
import { inputTokensOf, outputTokensOf } from "../core/pricing.ts";
import type { Surface } from "../core/surface.ts";
import { readRequest } from "../dialects/read-request.ts";
import { forUpstream } from "../dialects/splice-request.ts";
import type { Logger } from "../runtime/logger.ts";
import type { Closable } from "../runtime/shutdown.ts";
import type { Enclave } from "./enclave.ts";
import {
  checkGrantedWork,
  checkGrantHeader,
  type GrantVerdict,
  isGrantedBody,
  type RelayGrantRefusal,
  spentGrants,
} from "./grant-check.ts";
import type { PriceQuotes } from "./price-quotes.ts";
import type { ReceiptStore } from "./receipts.ts";
import { type ExchangeEnd, RelayExchange } from "./relay-exchange.ts";
import { buildRelayMetrics } from "./relay-metrics.ts";
import type { Upstreams } from "./upstreams.ts";

/** What a relay bears before it says no. */
export interface RelayLimits {
  readonly bodyBytesMax: number;
  /** Request bodies in memory at once, together. */
  readonly bodyBytesInFlightMax: number;
  /** Requests under way. */
  readonly inFlightMax: number;
  readonly connectionsMax: number;
  readonly headBytesMax: number;
  /** To the end of a request's head, in milliseconds. */
  readonly headTimeoutMs: number;
  /** To the end of a request, in milliseconds. */
  readonly requestTimeoutMs: number;
  /** Silence on a connection, longer than any upstream may be silent, in milliseconds. */
  readonly idleTimeoutMs: number;
}

export const RELAY_LIMITS: RelayLimits = {
  bodyBytesMax: 32 * 1_048_576,
  bodyBytesInFlightMax: 512 * 1_048_576,
  inFlightMax: 512,
  connectionsMax: 2_048,
  headBytesMax: 16_384,
  headTimeoutMs: 10_000,
  requestTimeoutMs: 60_000,
  idleTimeoutMs: 330_000,
};

/** A request body this short is read to its end even when the answer is already no, to keep the connection. */
const DISCARD_BYTES_MAX = 65_536;

/** What a relay is made of. No chain in here: what it needs to know of it is handed in. */
export interface RelayDeps {
  readonly hotkey: Hotkey;
  readonly enclave: Enclave;
  readonly upstreams: Upstreams;
  readonly quotes: Pick<PriceQuotes, "current" | "isOffered">;
  readonly receipts: ReceiptStore;
  /** The gateway's key of that id, if the relay serves that gateway. */
  gatewayKeyOf(kid: string): VerifyingKey | undefined;
  /** Looks for a gateway key that was announced a moment ago. Called when a signer is unknown. */
  refreshGatewayKeys(): Promise<void>;
  /** The newest finalized block that is known. */
  head(): { readonly number: number; readonly hash: string };
  nowMs(): number;
  readonly log: Logger;
  readonly limits?: Partial<RelayLimits>;
  /** How long running requests may take to end when the relay closes, in milliseconds. */
  readonly drainMs: number;
}

export interface Relay extends Closable {
  /** Starts to listen. @returns the port. */
  listen(host: string, port: number): Promise<number>;
}

const SURFACE_OF_PATH: Readonly<Record<string, Surface>> = {
  "/v1/chat/completions": "chat",
  "/v1/messages": "messages",
};

/** Headers of the gateway's request that the upstream gets to see; everything else stays here. */
const FORWARDED_HEADERS = [
  "content-type",
  "accept",
  "anthropic-version",
  "anthropic-beta",
] as const;
const ANTHROPIC_VERSION = "2023-06-01";

/** The relay's server, not listening yet. TLS only; the key is the one in the enclave's statement. */
export function buildRelay(deps: RelayDeps): Relay {
  const limits: RelayLimits = { ...RELAY_LIMITS, ...deps.limits };
  const { enclave, log } = deps;
  const spent = spentGrants();
  // Not a Set: V8 moves one that entries come to and leave to a new table again and again, and each old table points to
  // the next. Once an old one has been promoted, every later exchange is kept until the next full collection, with its
  // request and response: 14 to 30 µs a request on this thread, and 25 on V8's helpers (measured, Node 24.21).
  const running: RelayExchange[] = [];
  const sockets = new Set<Socket>();
  let inFlight = 0;
  let bodyBytesInFlight = 0;
  let closing: Promise<void> | undefined;
  let onIdle: (() => void) | undefined;
  const metrics = buildRelayMetrics(() => inFlight);

  const nowSeconds = (): number => Math.floor(deps.nowMs() / 1_000);

  const release = (): void => {
    inFlight -= 1;
    if (inFlight === 0) onIdle?.();
  };

  const refuse = (
    request: IncomingMessage,
    response: ServerResponse,
    code: ErrorCode,
    message: string,
    refusal?: RelayGrantRefusal,
  ): void => {
    metrics.refusals.inc({ refusal: refusal ?? code });
    answerError(request, response, code, message, refusal);
  };

  /**
   * POST: from the grant to the start of the exchange. Nothing of the body is read before the grant was checked.
   *
   * Callbacks, not promises: only a grant of an unknown signer has to wait for anything but the body.
   *
   * @returns a promise when the gateway's keys had to be looked for first.
   */
  const serve = (
    surface: Surface,
    request: IncomingMessage,
    response: ServerResponse,
  ): Promise<void> | undefined => {
    if (closing !== undefined) {
      refuse(request, response, "shutting_down", "the relay is shutting down");
      return undefined;
    }
    const token = single(request.headers["daybreak-grant"]);
    const check = (): GrantVerdict =>
      checkGrantHeader(
        token,
        surface,
        enclave.ids(),
        (kid) => deps.gatewayKeyOf(kid),
        nowSeconds(),
      );
    const verdict = check();
    if (verdict.ok || verdict.refusal !== "unknown_signer") {
      admit(surface, request, response, token, verdict);
      return undefined;
    }
    return deps.refreshGatewayKeys().then(() => {
      if (response.destroyed) return;
      if (closing !== undefined)
        return refuse(request, response, "shutting_down", "the relay is shutting down");
      admit(surface, request, response, token, check());
    });
  };

  const admit = (
    surface: Surface,
    request: IncomingMessage,
    response: ServerResponse,
    grantToken: string | undefined,
    verdict: GrantVerdict,
  ): void => {
    if (!verdict.ok)
      return refuse(request, response, "grant_refused", "the grant is not valid", verdict.refusal);
    const { grant, signer } = verdict;
    const declared = Number(request.headers["content-length"] ?? 0);
    if (declared > limits.bodyBytesMax)
      return refuse(request, response, "body_too_large", tooLarge(limits.bodyBytesMax));
    if (inFlight >= limits.inFlightMax || bodyBytesInFlight >= limits.bodyBytesInFlightMax)
      return refuse(request, response, "overloaded", "the relay is busy");

    inFlight += 1;
    let held = 0;
    const hold = (bytes: number): void => {
      held += bytes;
      bodyBytesInFlight += bytes;
    };
    let settled = false;
    const settle = (): void => {
      if (settled) return;
      settled = true;
      bodyBytesInFlight -= held;
      release();
    };
    readBody(request, limits.bodyBytesMax, hold, (body) => {
      try {
        if (body === "gone") return settle();
        if (body === "too_large") {
          refuse(request, response, "body_too_large", tooLarge(limits.bodyBytesMax));
          return settle();
        }
        const exchange = grantedExchange(surface, request, response, body, grant, {
          grantToken: grantToken ?? "",
          signer,
          onEnd: settle,
        });
        if (exchange === undefined) return settle();
        running.push(exchange);
        exchange.start();
      } catch (error) {
        settle();
        answerFailure(error, request, response);
      }
    });
  };

  const grantedExchange = (
    surface: Surface,
    request: IncomingMessage,
    response: ServerResponse,
    body: Buffer,
    grant: Extract<GrantVerdict, { ok: true }>["grant"],
    options: { grantToken: string; signer: string; onEnd: () => void },
  ): RelayExchange | undefined => {
    const refuseGrant = (refusal: RelayGrantRefusal): undefined => {
      refuse(request, response, "grant_refused", "the grant is not for this request", refusal);
    };
    if (!isGrantedBody(grant, body)) return refuseGrant("other_body");
    const read = readRequest(surface, body);
    if (!read.ok) {
      refuse(request, response, read.code, read.message);
      return undefined;
    }
    const facts = read.request;
    const model = modelOf(facts.model);
    const work = checkGrantedWork(grant, {
      model,
      maxOutputTokens: facts.maxOutputTokens,
      choices: facts.choices,
    });
    if (!work.ok) return refuseGrant(work.refusal);
    const upstream = model === undefined ? undefined : deps.upstreams.of(model);
    if (upstream === undefined || upstream.model.surface !== surface) {
      refuse(request, response, "unknown_model", "this relay does not serve the model");
      return undefined;
    }
    if (!deps.quotes.isOffered(grant.quote, grant.model)) return refuseGrant("unknown_quote");
    const upstreamBody = forUpstream(surface, body, facts, {
      model: upstream.upstreamModel,
      ...(work.bound === undefined ? {} : { maxOutputTokens: work.bound }),
    });
    switch (spent.spend(grant.rid, grant.exp, nowSeconds())) {
      case "already_spent":
        return refuseGrant("already_spent");
      case "full":
        refuse(request, response, "overloaded", "too many grants are live");
        return undefined;
      case "spent":
        break;
    }
    const exchange: RelayExchange = new RelayExchange(
      deps,
      {
        grant,
        grantToken: options.grantToken,
        signer: options.signer,
        upstream,
        streamed: facts.stream,
        choices: facts.choices,
        body,
        upstreamBody,
        upstreamHeaders: upstreamHeadersOf(surface, request),
      },
      response,
      {
        nowMs: () => deps.nowMs(),
        onEnd: (end) => {
          takeOut(running, exchange);
          observe(surface, end);
          options.onEnd();
        },
      },
    );
    return exchange;
  };

  const observe = (surface: Surface, { receipt, upstreamStatus, failure }: ExchangeEnd): void => {
    metrics.countRequest(surface, receipt?.status ?? "receipt_not_stored");
    if (receipt === undefined) {
      log.error({ failure }, "receipt.not_stored");
      return;
    }
    metrics.seconds.observe({ surface }, receipt.t.dur / 1_000);
    metrics.countTokens(inputTokensOf(receipt.use), outputTokensOf(receipt.use));
    const { rid, model, status, t, bytes } = receipt;
    const fields = { rid, model, status, upstreamStatus, ttftMs: t.ttft, durationMs: t.dur, bytes };
    if (status === "complete") log.debug(fields, "request.relayed");
    else log.info({ ...fields, failure }, "request.ended_early");
  };

  /** Whether the request carries a pull order by a gateway that this relay serves. */
  const mayPull = async (request: IncomingMessage): Promise<boolean> => {
    const token = single(request.headers["daybreak-grant"]);
    const kid = token === undefined ? undefined : decodeJws(token)?.kid;
    if (token === undefined || kid === undefined) return false;
    if (deps.gatewayKeyOf(kid) === undefined) await deps.refreshGatewayKeys();
    const key = deps.gatewayKeyOf(kid);
    const order = key === undefined ? undefined : verifyJws(token, "receipts-pull+jwt", key);
    if (order === undefined || order["v"] !== 1) return false;
    const { aud, iat, exp } = order;
    if (!enclave.ids().some((id) => id === aud)) return false;
    if (!Number.isSafeInteger(iat) || !Number.isSafeInteger(exp)) return false;
    const [from, to, now] = [iat as number, exp as number, nowSeconds()];
    return to > now && from <= now + GRANT_LIFE_SECONDS_MAX && to - from <= GRANT_LIFE_SECONDS_MAX;
  };

  const pullReceipts = async (
    path: string,
    query: URLSearchParams,
    request: IncomingMessage,
    response: ServerResponse,
  ): Promise<void> => {
    if (!(await mayPull(request)))
      return refuse(request, response, "grant_refused", "the pull order is not valid");
    const named = path.slice(RECEIPTS_PATH.length + 1);
    if (path !== RECEIPTS_PATH) {
      const rid = requestIdOf(named);
      if (rid === undefined)
        return answerError(request, response, "invalid_request", "not a request id");
      const receipt = await deps.receipts.byRequest(rid);
      return answerJson(response, 200, {
        receipts: receipt === undefined ? [] : [receipt],
        more: false,
      });
    }
    const after = query.get("after") ?? "-1";
    const att = query.get("att");
    if (!/^(-1|\d{1,15})$/.test(after) || (att !== null && !/^[\w-]{43}$/.test(att)))
      return answerError(request, response, "invalid_request", "after or att is malformed");
    const [current] = enclave.ids();
    const of = (att ?? current) as typeof current;
    const page =
      of === undefined
        ? { receipts: [], more: false }
        : await deps.receipts.page(of, Number(after));
    answerJson(response, 200, page);
  };

  const attest = (
    query: URLSearchParams,
    request: IncomingMessage,
    response: ServerResponse,
  ): void => {
    const nonce = query.get("nonce");
    if (nonce !== null && !/^[0-9a-f]{64}$/.test(nonce))
      return answerError(
        request,
        response,
        "invalid_request",
        "nonce must be 32 bytes in lower-case hex",
      );
    answerJson(response, 200, enclave.evidence(deps.head(), nonce ?? undefined));
  };

  const route = (request: IncomingMessage, response: ServerResponse): Promise<void> | undefined => {
    const url = request.url ?? "/";
    const mark = url.indexOf("?");
    const path = mark < 0 ? url : url.slice(0, mark);
    const surface = Object.hasOwn(SURFACE_OF_PATH, path) ? SURFACE_OF_PATH[path] : undefined;
    const isReceipts = path === RECEIPTS_PATH || path.startsWith(`${RECEIPTS_PATH}/`);
    const isKnown = surface !== undefined || isReceipts || GET_PATHS.includes(path);
    if (!isKnown) {
      answerError(request, response, "not_found", "no such path");
      return undefined;
    }
    const method = surface === undefined ? "GET" : "POST";
    if (request.method !== method) {
      response.setHeader("allow", method);
      answerError(request, response, "method_not_allowed", `use ${method}`);
      return undefined;
    }
    if (surface !== undefined) return serve(surface, request, response);
    const query = new URLSearchParams(mark < 0 ? "" : url.slice(mark + 1));
    return answerGet(path, query, request, response);
  };

  const answerGet = async (
    path: string,
    query: URLSearchParams,
    request: IncomingMessage,
    response: ServerResponse,
  ): Promise<void> => {
    switch (path) {
      case "/v1/attestation":
        return attest(query, request, response);
      case "/v1/quotes":
        return answerJson(response, 200, { quotes: deps.quotes.current() });
      case "/metrics":
        response.writeHead(200, { "content-type": metrics.registry.contentType });
        response.end(await metrics.registry.metrics());
        return;
      case "/healthz":
        return answerJson(response, 200, { ok: closing === undefined, in_flight: inFlight });
      default:
        return await pullReceipts(path, query, request, response);
    }
  };

  /** The message of an error may quote a body, so only its kind and its place are logged. */
  const answerFailure = (
    error: unknown,
    request: IncomingMessage,
    response: ServerResponse,
  ): void => {
    log.error(placeOf(error), "request.failed");
    if (response.headersSent) response.destroy();
    else answerError(request, response, "internal", "the relay failed");
  };

  const server = createTlsServer(deps, limits, sockets, (request, response) => {
    request.on("error", ignore);
    response.on("error", ignore);
    try {
      route(request, response)?.catch((error: unknown) => answerFailure(error, request, response));
    } catch (error) {
      answerFailure(error, request, response);
    }
  });

  const close = async (): Promise<void> => {
    const closed = new Promise<void>((resolve) => {
      server.close(() => resolve());
    });
    if (inFlight > 0) {
      await new Promise<void>((resolve) => {
        const timer = setTimeout(resolve, deps.drainMs);
        onIdle = () => {
          clearTimeout(timer);
          resolve();
        };
      });
    }
    for (const exchange of running.splice(0)) exchange.cut();
    await flushed(server);
    server.closeAllConnections();
    for (const socket of sockets) socket.destroy();
    await closed;
  };

  return {
    listen: async (host, port) => {
      await new Promise<void>((resolve, reject) => {
        server.once("error", reject);
        server.listen(port, host, () => {
          server.off("error", reject);
          resolve();
        });
      });
      return (server.address() as AddressInfo).port;
    },
    close: async () => {
      closing ??= close();
      await closing;
    },
  };
}

const RECEIPTS_PATH = "/v1/receipts";
const GET_PATHS: readonly string[] = ["/v1/attestation", "/v1/quotes", "/metrics", "/healthz"];

function createTlsServer(
  { enclave, log }: RelayDeps,
  limits: RelayLimits,
  sockets: Set<Socket>,
  onRequest: (request: IncomingMessage, response: ServerResponse) => void,
): Server {
  const server = createServer(
    {
      key: enclave.tls.keyPem,
      cert: enclave.tls.certificatePem,
      minVersion: "TLSv1.2",
      ALPNProtocols: ["http/1.1"],
      handshakeTimeout: limits.headTimeoutMs,
      maxHeaderSize: limits.headBytesMax,
      headersTimeout: limits.headTimeoutMs,
      requestTimeout: limits.requestTimeoutMs,
      // How often the two limits above are enforced.
      connectionsCheckingInterval: Math.min(5_000, limits.headTimeoutMs),
      // Longer than a gateway keeps an idle connection, so that it is the gateway that closes it.
      keepAliveTimeout: 65_000,
      noDelay: true,
    },
    onRequest,
  );
  server.maxConnections = limits.connectionsMax;
  server.timeout = limits.idleTimeoutMs;
  // A connection counts for `closeAllConnections` only once its handshake is done; those before it would hold up the end.
  server.on("connection", (socket: Socket) => {
    sockets.add(socket);
    socket.once("close", () => sockets.delete(socket));
  });
  server.on("tlsClientError", (error: NodeJS.ErrnoException, socket: Socket) => {
    log.debug({ code: error.code }, "tls.failed");
    socket.destroy();
  });
  return server;
}

/** Time for the last bytes of cut answers to reach the sockets. */
async function flushed(server: Server): Promise<void> {
  server.closeIdleConnections();
  await new Promise<void>((resolve) => {
    setImmediate(resolve);
  });
}

type Body = Buffer | "gone" | "too_large";

/** @param done called exactly once. */
function readBody(
  request: IncomingMessage,
  bytesMax: number,
  hold: (bytes: number) => void,
  done: (body: Body) => void,
): void {
  let chunks: Buffer[] | undefined = [];
  let bytes = 0;
  const end = (body: Body): void => {
    chunks = undefined;
    done(body);
  };
  // Not `once`: it wraps and unhooks a listener of every request, and the guards are needed anyway.
  request.on("data", (chunk: Buffer) => {
    if (chunks === undefined) return;
    bytes += chunk.length;
    if (bytes > bytesMax) {
      request.removeAllListeners("data");
      end("too_large");
      return;
    }
    hold(chunk.length);
    chunks.push(chunk);
  });
  request.on("end", () => {
    if (chunks === undefined) return;
    const [only] = chunks;
    end(chunks.length === 1 && only !== undefined ? only : Buffer.concat(chunks));
  });
  request.on("close", () => {
    if (chunks !== undefined) end("gone");
  });
}

function upstreamHeadersOf(
  surface: Surface,
  request: IncomingMessage,
): Readonly<Record<string, string>> {
  const headers: Record<string, string> = { "content-type": "application/json" };
  if (surface === "messages") headers["anthropic-version"] = ANTHROPIC_VERSION;
  for (const name of FORWARDED_HEADERS) {
    const value = single(request.headers[name]);
    if (value !== undefined) headers[name] = value;
  }
  return headers;
}

function answerJson(response: ServerResponse, status: number, json: unknown): void {
  const body = Buffer.from(JSON.stringify(json));
  response.writeHead(status, {
    "content-type": "application/json",
    "content-length": body.length,
  });
  response.end(body);
}

function answerError(
  request: IncomingMessage,
  response: ServerResponse,
  code: ErrorCode,
  message: string,
  refusal?: RelayGrantRefusal,
): void {
  if (response.headersSent || response.destroyed) return;
  const declared = Number(request.headers["content-length"] ?? Number.NaN);
  if (request.complete || declared <= DISCARD_BYTES_MAX) request.resume();
  // Rather than read the rest of a long body for nothing, the connection is given up.
  else if (hasBody(request)) response.setHeader("connection", "close");
  if (code === "overloaded" || code === "shutting_down") response.setHeader("retry-after", "1");
  answerJson(response, ERRORS[code].status, {
    error: { code, message, ...(refusal === undefined ? {} : { refusal }) },
  });
}

function hasBody(request: IncomingMessage): boolean {
  return (
    request.headers["transfer-encoding"] !== undefined ||
    Number(request.headers["content-length"] ?? 0) > 0
  );
}

function tooLarge(bytesMax: number): string {
  return `the body is longer than ${bytesMax} bytes`;
}

/** Takes `item` out of `list`, if it is there. The order of the others may change. */
function takeOut<T>(list: T[], item: T): void {
  const at = list.indexOf(item);
  if (at < 0) return;
  const last = list.pop();
  if (last !== undefined && at < list.length) list[at] = last;
}

function single(value: string | string[] | undefined): string | undefined {
  return typeof value === "string" ? value : undefined;
}

function ignore(): void {
  // The `close` event that follows does the work.
}

function placeOf(error: unknown): { error: string; at: string | undefined } {
  if (!(error instanceof Error)) return { error: "unknown", at: undefined };
  const at = error.stack?.split("\n").find((line) => line.startsWith("    at "));
  return { error: error.name, at: at?.trim() };
}
