import type { Socket } from "node:net";
import Fastify, {
  type FastifyError,
  type FastifyInstance,
  type FastifyReply,
  type FastifyRequest,
} from "fastify";
import { ERRORS, RouterError } from "../core/errors.ts";
import { generationIdOf } from "../core/ids.ts";
import { errorBody } from "../dialects/error-body.ts";
import type { Logger } from "../runtime/logger.ts";
import { errorHeaders, routerErrorOf, surfaceOfPath } from "./error-answer.ts";
import { PaymentRequiredError, paymentRequiredHeader } from "./payment-required.ts";
import { type AccountDeps, accountRoutes } from "./routes/accounts.ts";
import { type CreditDeps, creditRoutes } from "./routes/credits.ts";
import { type DepositQuoteDeps, depositQuoteRoutes } from "./routes/deposit-quotes.ts";
import { type DepositDeps, depositRoutes } from "./routes/deposits.ts";
import { type GenerationDeps, generationRoutes } from "./routes/generation.ts";
import { type InferenceDeps, inferenceRoutes } from "./routes/inference.ts";
import { type KeyDeps, keyRoutes } from "./routes/key.ts";
import { type ManagementDeps, managementRoutes } from "./routes/keys.ts";
import { type LedgerDeps, ledgerRoutes } from "./routes/ledger.ts";
import { type LedgerDepositDeps, ledgerDepositRoutes } from "./routes/ledger-deposits.ts";
import { type LogDeps, logRoutes } from "./routes/log.ts";
import { type ModelDeps, modelRoutes } from "./routes/models.ts";
import { type NetworkDeps, networkRoutes } from "./routes/network.ts";
import { type OperationDeps, operationRoutes } from "./routes/operations.ts";
import { type PriceDeps, priceRoutes } from "./routes/price.ts";
import { type StatementDeps, statementRoutes } from "./routes/statements.ts";
import { type UsageDeps, usageRoutes } from "./routes/usage.ts";
import { type WalletDeps, walletRoutes } from "./routes/wallets.ts";
import { type WithdrawalDeps, withdrawalRoutes } from "./routes/withdrawals.ts";

/** Time a client has to send a whole request, in milliseconds. */
const REQUEST_TIMEOUT_MS = 120_000;
/** How long an idle connection stays open; longer than the usual load balancer's minute. */
const KEEP_ALIVE_MS = 72_000;
/** Longest body outside inference, which sets its own limit once it knows the key. */
const SMALL_BODY_BYTES_MAX = 16_384;
const CONNECTIONS_MAX = 20_000;
/** OpenRouter's path and OpenAI's: the same API under both. */
const PREFIXES = ["/v1", "/api/v1"];

export interface GatewayDeps
  extends AccountDeps,
    CreditDeps,
    DepositDeps,
    DepositQuoteDeps,
    GenerationDeps,
    InferenceDeps,
    KeyDeps,
    ManagementDeps,
    LedgerDeps,
    LedgerDepositDeps,
    LogDeps,
    ModelDeps,
    NetworkDeps,
    OperationDeps,
    PriceDeps,
    StatementDeps,
    UsageDeps,
    WalletDeps,
    WithdrawalDeps {
  readonly log: Logger;
  readonly headerBytesMax: number;
}

/** The HTTP side of the gateway, not listening yet. */
export function buildGateway(deps: GatewayDeps): FastifyInstance {
  const app = Fastify({
    bodyLimit: SMALL_BODY_BYTES_MAX,
    requestTimeout: REQUEST_TIMEOUT_MS,
    keepAliveTimeout: KEEP_ALIVE_MS,
    http: { maxHeaderSize: deps.headerBytesMax },
    forceCloseConnections: "idle",
    // The gateway logs what it means to log; a request logger would see headers.
    logger: false,
    routerOptions: { maxParamLength: 200 },
    clientErrorHandler: refuseMalformed,
  });
  app.server.maxConnections = CONNECTIONS_MAX;
  app.decorateRequest("inferenceId", undefined);
  app.removeAllContentTypeParsers();
  app.addContentTypeParser("*", { parseAs: "buffer" }, (_request, body, done) => done(null, body));
  app.setErrorHandler((error: FastifyError | RouterError, request, reply) =>
    sendError(deps.log, error, request, reply),
  );
  app.setNotFoundHandler((request) => {
    throw unknownRoute(app, request);
  });
  for (const prefix of PREFIXES) {
    for (const routes of [
      accountRoutes,
      creditRoutes,
      depositRoutes,
      depositQuoteRoutes,
      generationRoutes,
      inferenceRoutes,
      keyRoutes,
      ledgerRoutes,
      ledgerDepositRoutes,
      managementRoutes,
      modelRoutes,
      networkRoutes,
      priceRoutes,
      statementRoutes,
      usageRoutes,
      walletRoutes,
      withdrawalRoutes,
    ])
      app.register(async (scope) => routes(scope, deps), { prefix });
  }
  app.register(async (scope) => logRoutes(scope, deps));
  app.register(async (scope) => operationRoutes(scope, deps));
  return app;
}

function sendError(
  log: Logger,
  thrown: FastifyError | RouterError,
  request: FastifyRequest,
  reply: FastifyReply,
): FastifyReply {
  const error = routerErrorOf(thrown);
  if (error.code === "internal")
    log.error({ name: thrown.name, stack: stackOf(thrown) }, "request.failed");
  const id = request.inferenceId;
  reply.code(error.status).headers(errorHeaders(error));
  if (id !== undefined) reply.header("x-generation-id", generationIdOf(id));
  if (error instanceof PaymentRequiredError)
    reply.header("payment-required", paymentRequiredHeader(error, request.url.split("?")[0] ?? ""));
  // A body that was not read would otherwise be read to its end for nothing.
  if (error.code === "body_too_large" || !request.raw.complete) reply.header("connection", "close");
  return reply.send(errorBody(surfaceOfPath(request.url), error, id));
}

/** Where a bug is, without its message: that may quote what a customer sent. */
function stackOf(error: Error): string {
  return (error.stack ?? "")
    .split("\n")
    .filter((line) => line.trimStart().startsWith("at "))
    .join("\n");
}

function unknownRoute(app: FastifyInstance, request: FastifyRequest): RouterError {
  const url = request.url.split("?")[0] ?? "";
  const methods = (["GET", "POST", "PATCH", "DELETE"] as const).filter((method) =>
    app.hasRoute({ method, url }),
  );
  return methods.length === 0
    ? new RouterError("not_found", "There is no such path.")
    : new RouterError("method_not_allowed", `This path takes ${methods.join(", ")}.`);
}

/** Answers what Node's parser refused, on the bare socket. */
function refuseMalformed(error: NodeJS.ErrnoException, socket: Socket): void {
  if (error.code === "ECONNRESET" || socket.destroyed || !socket.writable) {
    socket.destroy();
    return;
  }
  const refusal =
    error.code === "HPE_HEADER_OVERFLOW"
      ? new RouterError("headers_too_large", "The request's headers are too large.")
      : new RouterError("invalid_request", "The request is not valid HTTP.");
  const body = errorBody("chat", refusal, undefined);
  const status = ERRORS[refusal.code].status;
  socket.end(
    `HTTP/1.1 ${status} Refused\r\ncontent-type: application/json\r\ncontent-length: ${body.length}\r\nconnection: close\r\n\r\n${body.toString("utf8")}`,
  );
}
