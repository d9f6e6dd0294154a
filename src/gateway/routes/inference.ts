import type { IncomingHttpHeaders, ServerResponse } from "node:http";
import type { FastifyInstance, FastifyReply, FastifyRequest } from "fastify";
import { RouterError } from "../../core/errors.ts";
import { type AccountId, newRequestId, type RunTag } from "../../core/ids.ts";
import { SURFACES, type Surface } from "../../core/surface.ts";
import type { ApiKey, Authenticator } from "../auth.ts";
import type { RateLimiter } from "../rate-limit.ts";
import type { ClientAnswer, InferenceRequest } from "../serve-request.ts";

export interface InferenceDeps {
  readonly auth: Authenticator;
  /** Goes into the ids of requests. */
  readonly run: RunTag;
  readonly rateLimit: RateLimiter;
  /** Makes room for a request. @returns how to leave. @throws RouterError when there is none. */
  readonly admit: (account: AccountId, bodyBytes: number) => () => void;
  /** Serves one request; answers through `client`, or throws before it began to. */
  readonly serve: (request: InferenceRequest, client: ClientAnswer) => Promise<void>;
  readonly bodyBytesMax: number;
}

declare module "fastify" {
  interface FastifyRequest {
    /** The key of an inference request that was admitted. */
    apiKey: ApiKey | undefined;
  }
}

/** `POST /chat/completions` and `POST /messages`. */
export function inferenceRoutes(app: FastifyInstance, deps: InferenceDeps): void {
  app.decorateRequest("apiKey", undefined);

  // Everything that can be refused is refused before the body is read.
  const onRequest = async (request: FastifyRequest, reply: FastifyReply): Promise<void> => {
    const { raw } = request;
    request.inferenceId = newRequestId(Date.now(), deps.run);
    const key = await deps.auth.keyOf(raw.headers);
    if (key.management)
      throw new RouterError("permission_denied", "A management key cannot be used for inference.");
    const limited = deps.rateLimit(key.id, Date.now());
    const waitSeconds = typeof limited === "number" ? limited : await limited;
    // Whoever left in the meantime has had its `close`: what is taken now would never be given back.
    if (reply.raw.destroyed) throw new RouterError("invalid_request", "The connection is closed.");
    if (waitSeconds > 0)
      throw new RouterError(
        "rate_limited",
        `This key sends requests too fast. Try again in ${waitSeconds} s.`,
        { retryAfterSeconds: waitSeconds, details: { limit_source: "gateway_key" } },
      );
    if (raw.headers["content-encoding"] !== undefined)
      throw new RouterError("invalid_request", "Compressed request bodies are not supported.");
    const declared = Number(raw.headers["content-length"] ?? deps.bodyBytesMax);
    const leave = deps.admit(key.account, Math.min(declared, deps.bodyBytesMax));
    reply.raw.once("close", leave);
    request.apiKey = key;
  };

  for (const [surface, { path }] of Object.entries(SURFACES)) {
    app.post(path, { onRequest, bodyLimit: deps.bodyBytesMax }, async (request, reply) => {
      const { apiKey: key, inferenceId: id } = request;
      if (key === undefined || id === undefined) throw new Error("the request was not admitted");
      if (!Buffer.isBuffer(request.body))
        throw new RouterError("invalid_json", "The request has no body.");
      await deps.serve(
        {
          id,
          key,
          surface: surface as Surface,
          body: request.body,
          upstreamHeaders: upstreamHeadersOf(request.raw.headers),
          receivedMs: Date.now(),
        },
        new ClientConnection(reply),
      );
    });
  }
}

/** Headers by which a client chooses a version or a feature of the upstream. */
const UPSTREAM_HEADERS = ["anthropic-version", "anthropic-beta"] as const;
const UPSTREAM_HEADER_CHARS_MAX = 1_000;

function upstreamHeadersOf(headers: IncomingHttpHeaders): Record<string, string> {
  const kept: Record<string, string> = {};
  for (const name of UPSTREAM_HEADERS) {
    const value = headers[name];
    if (typeof value === "string" && value.length <= UPSTREAM_HEADER_CHARS_MAX) kept[name] = value;
  }
  return kept;
}

/**
 * The customer's side of one answer. Fastify is out of it as soon as the answer begins.
 *
 * A class, because one is made for every request: seven closures would be more to make than the work they do.
 */
class ClientConnection implements ClientAnswer {
  readonly #reply: FastifyReply;
  readonly #raw: ServerResponse;

  constructor(reply: FastifyReply) {
    this.#reply = reply;
    this.#raw = reply.raw;
  }

  begin(status: number, headers: Readonly<Record<string, string | number>>): void {
    this.#reply.hijack();
    if (!this.#raw.destroyed) this.#raw.writeHead(status, headers);
  }

  write(chunk: Buffer): boolean {
    return this.#raw.destroyed || this.#raw.write(chunk);
  }

  end(chunk?: Buffer): void {
    if (this.#raw.destroyed) return;
    if (chunk === undefined) this.#raw.end();
    else this.#raw.end(chunk);
  }

  onGone(listener: () => void): void {
    const raw = this.#raw;
    raw.once("close", () => {
      if (!raw.writableFinished) listener();
    });
    // Writing to a socket that a customer closed must not end the process.
    raw.on("error", () => undefined);
  }

  onDrain(listener: () => void): void {
    this.#raw.on("drain", listener);
  }

  destroy(): void {
    this.#raw.destroy();
  }
}
