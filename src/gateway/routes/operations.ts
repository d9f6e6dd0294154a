import type { FastifyInstance } from "fastify";
import type { Registry } from "../../runtime/metrics.ts";

export interface OperationDeps {
  readonly metrics: Registry;
  /** Names what is missing; empty when requests can be served. */
  readonly notReady: () => Promise<readonly string[]>;
}

/** `GET /metrics`, `GET /healthz` (the process runs) and `GET /readyz` (it can serve). */
export function operationRoutes(app: FastifyInstance, deps: OperationDeps): void {
  app.get("/metrics", async (_request, reply) => {
    reply.header("content-type", deps.metrics.contentType);
    return await deps.metrics.metrics();
  });
  app.get("/healthz", () => Promise.resolve({ status: "ok" }));
  app.get("/readyz", async (_request, reply) => {
    const missing = await deps.notReady();
    reply.code(missing.length === 0 ? 200 : 503);
    return { status: missing.length === 0 ? "ready" : "not_ready", missing };
  });
}
