import type { FastifyInstance } from "fastify";
import type { RequestRecord } from "../../billing/ledger.ts";
import { RouterError } from "../../core/errors.ts";
import { type AccountId, generationIdOf } from "../../core/ids.ts";
import { inputTokensOf, outputTokensOf } from "../../core/pricing.ts";
import type { Authenticator } from "../auth.ts";
import { receiptOfLeaf } from "../log-leaf.ts";
import type { GenerationRow } from "../settle-request.ts";
import { dollarsOf } from "./credits.ts";

/** Longest id that is looked up, in characters. */
const ID_CHARS_MAX = 200;

export interface GenerationDeps {
  readonly auth: Authenticator;
  /** Finds a request of the account by our id or by the upstream's. */
  readonly generationOf: (id: string, account: AccountId) => Promise<RequestRecord | undefined>;
}

/** `GET /generation?id=`: OpenRouter's fields, and the receipt that was paid. */
export function generationRoutes(app: FastifyInstance, deps: GenerationDeps): void {
  app.get<{ Querystring: { id?: unknown } }>("/generation", async (request) => {
    const key = await deps.auth.keyOf(request.raw.headers);
    const { id } = request.query;
    if (typeof id !== "string" || id === "" || id.length > ID_CHARS_MAX)
      throw new RouterError("invalid_request", "Give the id of a request as ?id=.", {
        details: { param: "id" },
      });
    const found = await deps.generationOf(id, key.account);
    if (found === undefined) throw new RouterError("not_found", "There is no such request.");
    return { data: dataOf(found) };
  });
}

function dataOf(generation: RequestRecord) {
  // Only this gateway's own code ends requests, and it adds these fields.
  const row = generation.row as Partial<GenerationRow> | undefined;
  const cost = dollarsOf(generation.chargedNusd);
  const usage = row?.usage ?? {};
  return {
    id: generationIdOf(generation.request),
    request_id: generation.request,
    upstream_id: row?.upstreamId ?? null,
    total_cost: cost,
    usage: cost,
    cache_discount: null,
    upstream_inference_cost: row === undefined ? null : dollarsOf(generation.minerNusd),
    created_at: new Date(generation.createdMs).toISOString(),
    model: generation.model,
    app_id: null,
    streamed: generation.streamed,
    cancelled: row?.status === "client_abort",
    provider_name: row?.hotkey ?? null,
    latency: row?.ttftMs ?? null,
    moderation_latency: null,
    generation_time: row?.durationMs ?? null,
    finish_reason: row?.finishReason ?? null,
    native_finish_reason: row?.finishReason ?? null,
    tokens_prompt: row?.usage === undefined ? null : inputTokensOf(usage),
    tokens_completion: row?.usage === undefined ? null : outputTokensOf(usage),
    native_tokens_prompt: row?.usage === undefined ? null : inputTokensOf(usage),
    native_tokens_completion: row?.usage === undefined ? null : outputTokensOf(usage),
    native_tokens_completion_images: usage.image_output ?? null,
    native_tokens_reasoning: usage.reasoning ?? 0,
    native_tokens_cached: usage.cache_read ?? 0,
    num_media_prompt: null,
    num_input_audio_prompt: null,
    num_media_completion: null,
    num_search_results: null,
    num_fetches: null,
    origin: "",
    is_byok: false,
    external_user: null,
    api_type: generation.surface === "chat" ? "completions" : "messages",
    router: null,
    provider_responses: null,
    user_agent: null,
    http_referer: null,
    preset_id: null,
    service_tier: null,
    web_search_engine: null,
    workspace_id: null,
    data_region: "global",
    state: generation.state,
    reason: generation.reason ?? null,
    refunded_nusd: generation.refundedNusd.toString(),
    cost_nusd: generation.chargedNusd.toString(),
    miner_nusd: generation.minerNusd.toString(),
    miner: row?.hotkey ?? null,
    security: row?.security ?? null,
    mode: "attested",
    promo: generation.promo,
    attempts: row?.attempts ?? null,
    usage_by_dimension: usage,
    usage_source: row?.source ?? null,
    status: row?.status ?? null,
    receipt: generation.leaf === undefined ? null : receiptOfLeaf(generation.leaf),
    receipt_salt: row?.receiptSalt ?? null,
  };
}
