import type { FastifyInstance } from "fastify";
import type { KeyBudget } from "../../billing/accounts.ts";
import type { Authenticator } from "../auth.ts";
import { type KeyUsage, limitFieldsOf, usageFieldsOf } from "./key-fields.ts";

export interface KeyDeps {
  readonly auth: Authenticator;
  readonly usageOfKey: (keyId: string) => Promise<KeyUsage>;
  readonly budgetOfKey: (keyId: string) => Promise<KeyBudget | undefined>;
}

/** `GET /key`. Fields without a meaning here carry OpenRouter's neutral value, because its SDK insists on them. */
export function keyRoutes(app: FastifyInstance, deps: KeyDeps): void {
  app.get("/key", async (request) => {
    const key = await deps.auth.keyOf(request.raw.headers);
    const usage = await deps.usageOfKey(key.id);
    return {
      data: {
        label: key.label,
        ...limitFieldsOf(await deps.budgetOfKey(key.id)),
        ...usageFieldsOf(usage),
        include_byok_in_limit: false,
        is_free_tier: false,
        is_management_key: key.management,
        is_provisioning_key: key.management,
        creator_user_id: null,
        rate_limit: { requests: -1, interval: "10s", note: "deprecated" },
        allowed_data_regions: [],
        free_model_daily_requests: { limit: 0, remaining: 0, used: 0 },
        organization_id: null,
        workspace_id: null,
        expires_at: key.expiresMs === undefined ? null : new Date(key.expiresMs).toISOString(),
        account_id: key.account,
      },
    };
  });
}
