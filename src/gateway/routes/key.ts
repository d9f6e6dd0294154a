import type { FastifyInstance } from "fastify";
import type { KeyBudget } from "../../billing/accounts.ts";
import type { Authenticator } from "../auth.ts";
import { dollarsOf } from "./credits.ts";
import { limitFieldsOf } from "./keys.ts";

/** What a key has spent, nano-USD: ever, and in the current UTC day, week (from Monday) and month. */
export interface KeyUsage {
  readonly total: bigint;
  readonly day: bigint;
  readonly week: bigint;
  readonly month: bigint;
}

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
        usage: dollarsOf(usage.total),
        usage_daily: dollarsOf(usage.day),
        usage_weekly: dollarsOf(usage.week),
        usage_monthly: dollarsOf(usage.month),
        byok_usage: 0,
        byok_usage_daily: 0,
        byok_usage_weekly: 0,
        byok_usage_monthly: 0,
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
