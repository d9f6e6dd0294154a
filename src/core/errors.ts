/** What the receiver of an error can do about it. */
export type Remedy = "fix_request" | "fix_key" | "add_funds" | "slow_down" | "retry" | "stop";

interface ErrorRow {
  readonly status: number;
  readonly remedy: Remedy;
  /** OpenRouter's `error.metadata.error_type`. */
  readonly errorType: string;
  /** OpenAI's `error.type`. */
  readonly openaiType: string;
  /** Anthropic's `error.type`. */
  readonly anthropicType: string;
}

const row = (
  status: number,
  remedy: Remedy,
  errorType: string,
  openaiType: string,
  anthropicType: string,
): ErrorRow => ({ status, remedy, errorType, openaiType, anthropicType });

const badRequest = (errorType: string): ErrorRow =>
  row(400, "fix_request", errorType, "invalid_request_error", "invalid_request_error");

/** Every stable error code, once. docs/ERRORS.md is checked against this table. */
export const ERRORS = {
  invalid_request: badRequest("invalid_request"),
  invalid_json: badRequest("invalid_request"),
  unsupported_parameter: badRequest("invalid_request"),
  wrong_surface: badRequest("invalid_request"),
  challenge_refused: badRequest("invalid_request"),
  signature_refused: badRequest("invalid_request"),
  context_length_exceeded: badRequest("context_length_exceeded"),
  upstream_refused_request: badRequest("invalid_request"),
  missing_api_key: row(
    401,
    "fix_key",
    "authentication",
    "authentication_error",
    "authentication_error",
  ),
  invalid_api_key: row(
    401,
    "fix_key",
    "authentication",
    "authentication_error",
    "authentication_error",
  ),
  insufficient_credit: row(
    402,
    "add_funds",
    "payment_required",
    "insufficient_quota",
    "billing_error",
  ),
  key_limit_exceeded: row(
    403,
    "fix_key",
    "permission_denied",
    "insufficient_quota",
    "permission_error",
  ),
  permission_denied: row(
    403,
    "fix_key",
    "permission_denied",
    "permission_error",
    "permission_error",
  ),
  unknown_model: row(404, "fix_request", "not_found", "invalid_request_error", "not_found_error"),
  not_found: row(404, "fix_request", "not_found", "invalid_request_error", "not_found_error"),
  method_not_allowed: row(
    405,
    "fix_request",
    "invalid_request",
    "invalid_request_error",
    "invalid_request_error",
  ),
  request_id_conflict: row(
    409,
    "fix_request",
    "invalid_request",
    "invalid_request_error",
    "invalid_request_error",
  ),
  conflict: row(
    409,
    "fix_request",
    "invalid_request",
    "invalid_request_error",
    "invalid_request_error",
  ),
  body_too_large: row(
    413,
    "fix_request",
    "payload_too_large",
    "invalid_request_error",
    "invalid_request_error",
  ),
  headers_too_large: row(
    431,
    "fix_request",
    "payload_too_large",
    "invalid_request_error",
    "invalid_request_error",
  ),
  rate_limited: row(
    429,
    "slow_down",
    "rate_limit_exceeded",
    "rate_limit_error",
    "rate_limit_error",
  ),
  internal: row(500, "retry", "server", "server_error", "api_error"),
  upstream_failed: row(502, "retry", "provider_unavailable", "server_error", "api_error"),
  no_miner_available: row(503, "retry", "provider_overloaded", "server_error", "overloaded_error"),
  overloaded: row(503, "retry", "provider_overloaded", "server_error", "overloaded_error"),
  ledger_unavailable: row(503, "retry", "provider_overloaded", "server_error", "overloaded_error"),
  price_unavailable: row(503, "retry", "provider_overloaded", "server_error", "overloaded_error"),
  shutting_down: row(503, "retry", "provider_overloaded", "server_error", "overloaded_error"),
  upstream_timeout: row(504, "retry", "timeout", "server_error", "timeout_error"),
  evidence_refused: row(502, "stop", "provider_unavailable", "server_error", "api_error"),
  grant_refused: row(401, "stop", "authentication", "authentication_error", "authentication_error"),
} as const satisfies Record<string, ErrorRow>;

export type ErrorCode = keyof typeof ERRORS;

/** Facts that help a client act on an error. Never prompts, completions, keys or peer addresses. */
export type ErrorDetails = Readonly<
  Record<
    string,
    | string
    | number
    | boolean
    | null
    | readonly string[]
    | Readonly<Record<string, string | number | null>>
  >
>;

/**
 * An expected failure that crosses a module boundary. Bugs are assertions, not this.
 * `message` may be shown to a customer: no keys, no prompts, no peer addresses.
 */
export class RouterError extends Error {
  override readonly name = "RouterError";
  readonly code: ErrorCode;
  readonly details: ErrorDetails;
  /** Seconds after which a retry makes sense; sent as `Retry-After`. */
  readonly retryAfterSeconds: number | undefined;

  constructor(
    code: ErrorCode,
    message: string,
    options: ErrorOptions & { details?: ErrorDetails; retryAfterSeconds?: number } = {},
  ) {
    super(message, options);
    this.code = code;
    this.details = options.details ?? {};
    this.retryAfterSeconds = options.retryAfterSeconds;
  }

  get status(): number {
    return ERRORS[this.code].status;
  }
}
