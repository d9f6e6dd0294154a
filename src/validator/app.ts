import Fastify, { type FastifyInstance } from "fastify";
import type { Registry } from "../runtime/metrics.ts";
import type { EpochReport } from "./epoch-report.ts";
import type { ProbeSummary } from "./probe.ts";

/** Nothing that this API answers takes a body. */
const BODY_BYTES_MAX = 1_024;
const REQUEST_TIMEOUT_MS = 10_000;

interface AppDeps {
  readonly hotkey: string;
  readonly netuid: number;
  readonly metrics: Registry;
  /** Newest last. */
  readonly reports: () => readonly EpochReport[];
  readonly probe: () => ProbeSummary | undefined;
  /** The last finalized block that was handled; −1 before the first. */
  readonly handledBlock: () => number;
}

/** The validator's public API, not listening: what it decided and why, read-only. */
export function buildValidatorApp(deps: AppDeps): FastifyInstance {
  const app = Fastify({
    logger: false,
    bodyLimit: BODY_BYTES_MAX,
    requestTimeout: REQUEST_TIMEOUT_MS,
  });
  app.get("/healthz", () => ({
    status: "ok",
    block: deps.handledBlock(),
    epoch: deps.reports().at(-1)?.epoch ?? null,
  }));
  app.get("/metrics", async (_request, reply) => {
    reply.header("content-type", deps.metrics.contentType);
    return await deps.metrics.metrics();
  });
  app.get("/v1/epochs", () => ({
    hotkey: deps.hotkey,
    netuid: deps.netuid,
    epochs: deps.reports().toReversed(),
  }));
  app.get("/v1/probes", () => deps.probe() ?? { epoch: null, results: [] });
  return app;
}
