import { createHash, type Hash, hash, randomBytes } from "node:crypto";
import type { IncomingHttpHeaders, ServerResponse } from "node:http";
import { type Dispatcher, errors as undiciErrors } from "undici";
import { ERRORS, type ErrorCode } from "../core/errors.ts";
import type { Grant } from "../core/grant.ts";
import type { Hotkey } from "../core/ids.ts";
import type { Receipt, ReceiptStatus } from "../core/receipt.ts";
import { claimsHashOf } from "../core/signed-claims.ts";
import { type Meter, type MeterEnd, openMeter } from "../dialects/stream-meter.ts";
import { asSold } from "../dialects/usage.ts";
import type { Enclave } from "./enclave.ts";
import { meteredUsage } from "./metered-usage.ts";
import type { ReceiptStore, StoredReceipt } from "./receipts.ts";
import type { Upstream } from "./upstreams.ts";

/** Longest error body of an upstream that is passed on, in bytes. */
const ERROR_BODY_BYTES_MAX = 64 * 1_024;
/** Bytes of an answer that is not streamed which wait for its receipt, so that both go out in one TLS record. */
const WAITING_BYTES_MAX = 64 * 1_024;
/** Longest text in a receipt, in characters. */
const RECEIPT_TEXT_CHARS_MAX = 200;

/** Length of the salt of a receipt's hashes. */
const SALT_BYTES = 16;

/** What a receipt says of this relay. */
export interface ReceiptIssuer {
  readonly hotkey: Hotkey;
  readonly enclave: Enclave;
  readonly receipts: ReceiptStore;
}

/** A request whose grant was checked and spent. */
export interface GrantedRequest {
  readonly grant: Grant;
  readonly grantToken: string;
  /** Key id of the gateway that signed the grant. */
  readonly signer: string;
  readonly upstream: Upstream;
  readonly streamed: boolean;
  readonly choices: number;
  /** As the gateway sent it. */
  readonly body: Buffer;
  /** As the upstream gets it. */
  readonly upstreamBody: Buffer;
  readonly upstreamHeaders: Readonly<Record<string, string>>;
}

/** How an exchange ended, for logs and metrics. */
export interface ExchangeEnd {
  /** Undefined when no receipt could be stored. */
  readonly receipt: Receipt | undefined;
  /** Status that the upstream answered with; 0 when it never answered. */
  readonly upstreamStatus: number;
  /** Code of the network error or of the failure to store the receipt, if there was one. */
  readonly failure: string | undefined;
}

/**
 * One request under way: bytes from the upstream to the gateway as they come, metered as they pass, ended by a receipt.
 *
 * A class, because undici calls it for every chunk. Whatever happens first, end, error, or the gateway leaving, ends it,
 * and it ends once.
 */
export class RelayExchange implements Dispatcher.DispatchHandler {
  readonly #issuer: ReceiptIssuer;
  readonly #request: GrantedRequest;
  readonly #response: ServerResponse;
  readonly #nowMs: () => number;
  readonly #onEnd: (end: ExchangeEnd) => void;
  readonly #startMs = performance.now();
  readonly #salt = nextSalt();
  readonly #responseHash: Hash;
  readonly #meter: Meter;
  #controller: Dispatcher.DispatchController | undefined;
  #over = false;
  #upstreamStatus = 0;
  #upstreamHeaders: IncomingHttpHeaders = {};
  /** Error bodies are held back whole, so that they can be looked into. */
  #errorChunks: Buffer[] | undefined;
  #errorBytes = 0;
  #bytesOut = 0;
  readonly #waiting: Buffer[] = [];
  #firstByteMs: number | undefined;

  constructor(
    issuer: ReceiptIssuer,
    request: GrantedRequest,
    response: ServerResponse,
    options: {
      readonly nowMs: () => number;
      /** Called exactly once. */
      readonly onEnd: (end: ExchangeEnd) => void;
    },
  ) {
    this.#issuer = issuer;
    this.#request = request;
    this.#response = response;
    this.#nowMs = options.nowMs;
    this.#onEnd = options.onEnd;
    this.#responseHash = createHash("sha256").update(this.#salt);
    this.#meter = openMeter(request.grant.surface, {
      stream: request.streamed,
      choices: request.choices,
    });
    response.on("close", () => this.#onGatewayGone());
    response.on("drain", () => this.#controller?.resume());
  }

  /** Calls the upstream. */
  start(): void {
    // The gateway may have left while its request was read; then `close` was told before anyone listened.
    if (this.#response.destroyed) return this.#onGatewayGone();
    const { upstream, upstreamBody, upstreamHeaders, streamed } = this.#request;
    upstream.send({ body: upstreamBody, headers: upstreamHeaders, streamed }, this);
  }

  /** Ends the answer here, as the relay has to stop. */
  cut(): void {
    this.#fail("shutting_down", "the relay is shutting down", "shutdown");
  }

  onRequestStart(controller: Dispatcher.DispatchController): void {
    this.#controller = controller;
    if (this.#over) controller.abort(new Error("the exchange is over"));
  }

  onResponseStart(
    _controller: Dispatcher.DispatchController,
    status: number,
    headers: IncomingHttpHeaders,
  ): void {
    // 1xx answers announce the one to come.
    if (this.#over || status < 200) return;
    this.#upstreamStatus = status;
    this.#upstreamHeaders = headers;
    const encoding = headers["content-encoding"] ?? "identity";
    if (status > 299 || encoding !== "identity") {
      this.#errorChunks = [];
      return;
    }
    // Any other success, such as 204, would forbid the trailers.
    this.#writeHead(200, {});
  }

  onResponseData(controller: Dispatcher.DispatchController, chunk: Buffer): void {
    if (this.#over) return;
    if (this.#errorChunks !== undefined) {
      this.#errorBytes += chunk.length;
      if (this.#errorBytes <= ERROR_BODY_BYTES_MAX) this.#errorChunks.push(chunk);
      else this.#endWithUpstreamError();
      return;
    }
    this.#meter.push(chunk);
    if (!this.#write(chunk)) controller.pause();
  }

  onResponseEnd(): void {
    if (this.#over) return;
    if (this.#errorChunks !== undefined) return this.#endWithUpstreamError();
    const metered = this.#meter.end();
    this.#finish(metered.complete ? "complete" : "truncated", metered);
  }

  onResponseError(_controller: Dispatcher.DispatchController, error: Error): void {
    if (this.#over) return;
    if (this.#errorChunks !== undefined) return this.#endWithUpstreamError();
    const timedOut =
      error instanceof undiciErrors.HeadersTimeoutError ||
      error instanceof undiciErrors.BodyTimeoutError ||
      error instanceof undiciErrors.ConnectTimeoutError;
    if (timedOut) this.#fail("upstream_timeout", "the upstream did not answer in time", error.name);
    else this.#fail("upstream_failed", "the upstream could not be reached", failureCodeOf(error));
  }

  /** The gateway closed the connection: stop paying for an answer that nobody reads. */
  #onGatewayGone(): void {
    if (this.#over) return;
    this.#over = true;
    this.#abort("the gateway disconnected");
    void this.#writeReceipt("client_abort", this.#meter.end()).then(({ receipt, failure }) => {
      this.#onEnd({ receipt, upstreamStatus: this.#upstreamStatus, failure });
    });
  }

  /** Before the first byte an error answer, after it a clean end that the receipt calls truncated. */
  #fail(code: ErrorCode, message: string, failure: string): void {
    if (this.#over) return;
    if (this.#response.headersSent) {
      this.#finish("truncated", this.#meter.end(), failure);
    } else {
      this.#upstreamStatus = 0;
      this.#writeHead(ERRORS[code].status, { "content-type": "application/json" });
      this.#write(Buffer.from(JSON.stringify({ error: { code, message } })));
      this.#finish("upstream_error", undefined, failure);
    }
    this.#abort(message);
  }

  /** Comes after the end was recorded: undici tells of the error before it returns. */
  #abort(reason: string): void {
    this.#controller?.abort(new Error(reason));
  }

  #endWithUpstreamError(): void {
    const status = this.#upstreamStatus;
    const body = this.#errorBodyToForward();
    // A redirect is not ours to follow or to pass on, and a compressed answer cannot be read: the upstream is at fault.
    const forwarded = status >= 400 && status <= 599 ? status : ERRORS.upstream_failed.status;
    this.#writeHead(forwarded, {
      "daybreak-upstream-status": String(status),
      ...(body === undefined ? { "content-type": "application/json" } : {}),
    });
    this.#write(
      body ??
        Buffer.from(
          JSON.stringify({
            error: { code: "upstream_failed", message: `the upstream answered ${status}` },
          }),
        ),
    );
    this.#finish("upstream_error", undefined);
    if (this.#errorBytes > ERROR_BODY_BYTES_MAX) this.#abort("the rest of the error is not needed");
  }

  /**
   * The upstream's own words, when they concern the request. Refusals of the key concern the miner alone, and providers
   * quote parts of the key in them.
   */
  #errorBodyToForward(): Buffer | undefined {
    const status = this.#upstreamStatus;
    if (status < 400 || status > 599 || status === 401 || status === 403 || status === 407)
      return undefined;
    if (this.#errorBytes === 0 || this.#errorBytes > ERROR_BODY_BYTES_MAX) return undefined;
    if ((this.#upstreamHeaders["content-encoding"] ?? "identity") !== "identity") return undefined;
    const body = Buffer.concat(this.#errorChunks ?? []);
    return this.#request.upstream.leaksKey(body.toString("latin1")) ? undefined : body;
  }

  #writeHead(status: number, headers: Readonly<Record<string, string>>): void {
    const { "content-type": contentType, "retry-after": retryAfter } = this.#upstreamHeaders;
    const head: Record<string, string> = { trailer: "daybreak-receipt, daybreak-receipt-salt" };
    if (contentType !== undefined) head["content-type"] = contentType;
    if (retryAfter !== undefined && status >= 400) head["retry-after"] = retryAfter;
    this.#response.writeHead(status, Object.assign(head, headers));
  }

  #write(chunk: Buffer): boolean {
    this.#firstByteMs ??= performance.now() - this.#startMs;
    this.#bytesOut += chunk.length;
    this.#responseHash.update(chunk);
    if (!this.#request.streamed && this.#bytesOut <= WAITING_BYTES_MAX) {
      this.#waiting.push(chunk);
      return true;
    }
    this.#writeWaiting();
    return this.#response.write(chunk);
  }

  #writeWaiting(): void {
    for (const chunk of this.#waiting.splice(0)) this.#response.write(chunk);
  }

  #finish(status: ReceiptStatus, metered: MeterEnd | undefined, failure?: string): void {
    this.#over = true;
    const upstreamStatus = this.#upstreamStatus;
    void this.#writeReceipt(status, metered).then((written) => {
      if (written.stored === undefined) {
        // Without a stored receipt the answer must not look complete: nobody could prove or pay it.
        this.#response.destroy();
      } else {
        this.#writeWaiting();
        this.#response.addTrailers({
          "daybreak-receipt": written.stored.token,
          "daybreak-receipt-salt": written.stored.salt,
        });
        this.#response.end();
      }
      this.#onEnd({
        receipt: written.receipt,
        upstreamStatus,
        failure: written.failure ?? failure,
      });
    });
  }

  /** Never rejects. */
  async #writeReceipt(
    status: ReceiptStatus,
    metered: MeterEnd | undefined,
  ): Promise<{ receipt?: Receipt; stored?: StoredReceipt; failure?: string }> {
    const { hotkey, enclave, receipts } = this.#issuer;
    const { grant, grantToken, signer, upstream, body } = this.#request;
    try {
      let receipt: Receipt = {
        v: 1,
        iss: hotkey,
        aud: signer,
        ts: this.#nowMs(),
        rid: grant.rid,
        e: grant.e,
        grant: claimsHashOf(grantToken),
        att: grant.aud,
        kind: enclave.kind,
        security: enclave.security,
        sealed_by: "gateway",
        model: grant.model,
        upm: (metered?.upstreamModel ?? "").slice(0, RECEIPT_TEXT_CHARS_MAX),
        uph: upstream.host.slice(0, RECEIPT_TEXT_CHARS_MAX),
        upid:
          metered?.upstreamId === undefined ? "" : hash("sha256", metered.upstreamId, "base64url"),
        quote: grant.quote,
        ...this.#usage(status, metered),
        status,
        req: createHash("sha256").update(this.#salt).update(body).digest("base64url"),
        res: this.#responseHash.digest("base64url"),
        bytes: { in: body.length, out: this.#bytesOut },
        t: {
          ttft: Math.round(this.#firstByteMs ?? 0),
          dur: Math.round(performance.now() - this.#startMs),
        },
        seq: 0,
        prev: "",
      };
      const stored = await receipts.append({
        enclave: grant.aud,
        rid: grant.rid,
        salt: this.#salt.toString("hex"),
        key: enclave.receiptKey,
        claimsAt: (seq, prev) => {
          receipt = { ...receipt, seq, prev };
          return receipt;
        },
      });
      return { receipt, stored };
    } catch (error) {
      return { failure: `receipt_not_stored:${failureCodeOf(error)}` };
    }
  }

  #usage(status: ReceiptStatus, metered: MeterEnd | undefined): Pick<Receipt, "use" | "src"> {
    // An upstream that failed before it gave anything is not paid; a gateway that left is, for what it set in motion.
    const wasAsked = this.#controller !== undefined;
    const isOwed =
      status === "complete" ||
      (status === "client_abort" && wasAsked && this.#errorChunks === undefined) ||
      (status === "truncated" && (metered?.contentEvents ?? 0) > 0);
    if (metered === undefined || !isOwed) return { use: {}, src: "provider" };
    const { grant, body, upstream } = this.#request;
    const { use, src } = meteredUsage(metered, body.length, grant.max_out);
    return { use: asSold(use, upstream.model.retail), src };
  }
}

// One call to the generator makes 256 salts: a call costs 1.6 µs, whatever it asks for (measured).
let salts = Buffer.alloc(0);
let saltsUsed = 0;

function nextSalt(): Buffer {
  if (saltsUsed === salts.length) {
    salts = randomBytes(256 * SALT_BYTES);
    saltsUsed = 0;
  }
  saltsUsed += SALT_BYTES;
  return salts.subarray(saltsUsed - SALT_BYTES, saltsUsed);
}

/** A word for logs that cannot hold anything of a request. */
function failureCodeOf(error: unknown): string {
  if (!(error instanceof Error)) return "unknown";
  const { code } = (error.cause ?? error) as NodeJS.ErrnoException;
  return typeof code === "string" ? code : error.name;
}
