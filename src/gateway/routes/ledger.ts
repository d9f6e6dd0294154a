import type { FastifyInstance } from "fastify";
import type { Authenticator } from "../auth.ts";
import type { AuditLine } from "../running-gateway.ts";

export interface LedgerDeps {
  readonly auth: Authenticator;
  readonly auditLedger: () => Promise<readonly AuditLine[]>;
}

/** `GET /ledger/audit`, for the operator: every invariant, checked against the transfers themselves. */
export function ledgerRoutes(app: FastifyInstance, deps: LedgerDeps): void {
  app.get("/ledger/audit", async (request) => {
    deps.auth.requireAdmin(request.raw.headers);
    return { data: await deps.auditLedger() };
  });
}
