import { ERRORS, RouterError } from "../core/errors.ts";
import { generationIdOf, type RequestId } from "../core/ids.ts";
import { formatNano, type NanoUsd } from "../core/money.ts";
import type { Surface } from "../core/surface.ts";

/** Ids of the answer in which an error is reported. */
export interface StreamIds {
  /** What the client knows the answer as; upstream's id when some of it was already sent. */
  readonly id: string;
  readonly model: string;
  /** Unix seconds. */
  readonly createdSeconds: number;
}

/**
 * The body of an error answer.
 *
 * chat: OpenRouter's `{error: {code: <HTTP status>, message, metadata}}` with OpenAI's `type` and `param` beside them.
 * `code` is the integer that OpenRouter's client insists on; the name from docs/ERRORS.md is `metadata.code`.
 * messages: Anthropic's `{type: "error", error: {type, message}, request_id}`, with the same `metadata`.
 *
 * A detail named `param` becomes the `param` of the error. An `internal` error keeps its details to itself.
 *
 * @param request shown as the customer knows it (`gen-…`); undefined before there is one.
 */
export function errorBody(
  surface: Surface,
  error: RouterError,
  request: RequestId | undefined,
): Buffer {
  const requestId = request === undefined ? null : generationIdOf(request);
  return Buffer.from(
    JSON.stringify(
      surface === "chat"
        ? { error: chatErrorOf(error, requestId) }
        : { type: "error", error: messagesErrorOf(error), request_id: requestId },
    ),
  );
}

/**
 * The end of a stream that went wrong after its first byte: the error in band, then the surface's terminator, so that no
 * client waits for more or takes a dropped connection for a reason to send everything again.
 */
export function streamErrorEvents(surface: Surface, error: RouterError, ids: StreamIds): Buffer {
  if (surface === "messages") {
    const body = { type: "error", error: messagesErrorOf(error), request_id: ids.id };
    return Buffer.from(
      `event: error\ndata: ${JSON.stringify(body)}\n\n` +
        `event: message_stop\ndata: {"type":"message_stop"}\n\n`,
    );
  }
  const chunk = {
    id: ids.id,
    object: "chat.completion.chunk",
    created: ids.createdSeconds,
    model: ids.model,
    error: chatErrorOf(error, ids.id),
    choices: [
      {
        index: 0,
        delta: { content: "" },
        finish_reason: "error",
        native_finish_reason: null,
        logprobs: null,
      },
    ],
  };
  return Buffer.from(`data: ${JSON.stringify(chunk)}\n\ndata: [DONE]\n\n`);
}

/**
 * A request that costs more than the account has: 402 with both amounts, exactly and in USD.
 *
 * @param affordableMaxTokens the largest output bound that would be accepted now.
 */
export function insufficientCredit(
  needed: NanoUsd | bigint,
  available: NanoUsd | bigint,
  affordableMaxTokens?: number,
): RouterError {
  return new RouterError(
    "insufficient_credit",
    `This request needs ${formatNano(needed)} USD of credit and ${formatNano(available)} USD is available. ${hintOf("Add funds", affordableMaxTokens)}`,
    { details: amountsOf(needed, available, affordableMaxTokens) },
  );
}

/** A request that costs more than the key's limit leaves: 403, with the same details. */
export function keyLimitExceeded(
  needed: NanoUsd | bigint,
  available: NanoUsd | bigint,
  affordableMaxTokens?: number,
): RouterError {
  return new RouterError(
    "key_limit_exceeded",
    `This request needs ${formatNano(needed)} USD and the key's limit leaves ${formatNano(available)} USD. ${hintOf("Raise the key's limit", affordableMaxTokens)}`,
    { details: amountsOf(needed, available, affordableMaxTokens) },
  );
}

function hintOf(remedy: string, affordableMaxTokens: number | undefined): string {
  return affordableMaxTokens === undefined || affordableMaxTokens < 1
    ? `${remedy} and try again.`
    : `${remedy}, or set max_tokens to ${affordableMaxTokens} or less.`;
}

function amountsOf(
  needed: bigint,
  available: bigint,
  affordableMaxTokens: number | undefined,
): Readonly<Record<string, string | number>> {
  return {
    needed: formatNano(needed),
    available: formatNano(available),
    needed_nusd: needed.toString(),
    available_nusd: available.toString(),
    ...(affordableMaxTokens === undefined ? {} : { affordable_max_tokens: affordableMaxTokens }),
  };
}

function chatErrorOf(error: RouterError, requestId: string | null): object {
  const { status, openaiType } = ERRORS[error.code];
  const param = error.details["param"];
  return {
    code: status,
    message: messageOf(error),
    type: openaiType,
    param: error.code !== "internal" && typeof param === "string" ? param : null,
    metadata: { ...metadataOf(error), ...(requestId === null ? {} : { request_id: requestId }) },
  };
}

function messagesErrorOf(error: RouterError): object {
  const { anthropicType, errorType } = ERRORS[error.code];
  return {
    type: anthropicType,
    message: messageOf(error),
    error_type: errorType,
    metadata: metadataOf(error),
  };
}

function messageOf(error: RouterError): string {
  return error.code === "internal" ? "An internal error occurred." : error.message;
}

function metadataOf(error: RouterError): object {
  const { param: _, ...details } = error.details;
  return {
    ...(error.code === "internal" ? {} : details),
    error_type: ERRORS[error.code].errorType,
    code: error.code,
  };
}
