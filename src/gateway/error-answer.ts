import { ERRORS, RouterError } from "../core/errors.ts";
import type { RequestId } from "../core/ids.ts";
import type { Surface } from "../core/surface.ts";

declare module "fastify" {
  interface FastifyRequest {
    /** Id of an inference request, from its first moment: errors before the route's own code name it too. */
    inferenceId: RequestId | undefined;
  }
}

/** The surface whose error shape a path's clients understand. */
export function surfaceOfPath(path: string): Surface {
  return /\/messages(\/|\?|$)/.test(path) ? "messages" : "chat";
}

/** An expected error as it is, anything else as `internal`, without details. */
export function routerErrorOf(error: unknown): RouterError {
  if (error instanceof RouterError) return error;
  const code = (error as { code?: unknown }).code;
  if (code === "FST_ERR_CTP_BODY_TOO_LARGE")
    return new RouterError("body_too_large", "The request body is too large.", { cause: error });
  const status = (error as { statusCode?: unknown }).statusCode;
  if (typeof status === "number" && status >= 400 && status < 500)
    return new RouterError("invalid_request", "The request is malformed.", { cause: error });
  return new RouterError("internal", "Something went wrong on our side.", { cause: error });
}

/** Headers of an answer that is an error. */
export function errorHeaders(error: RouterError): Record<string, string> {
  const headers: Record<string, string> = { "content-type": "application/json" };
  const wait = error.retryAfterSeconds;
  if (wait !== undefined) headers["retry-after"] = String(wait);
  // OpenAI's and Anthropic's SDKs retry 409, 429 and 5xx unless told otherwise.
  const { remedy } = ERRORS[error.code];
  if (remedy !== "retry" && remedy !== "slow_down") headers["x-should-retry"] = "false";
  return headers;
}
