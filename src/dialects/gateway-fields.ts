import type { Surface } from "../core/surface.ts";

/**
 * What becomes of a top-level field that is not simply the upstream's business. `undefined` means that the value is
 * welcome: then `treatment` says whether it is passed on or taken out first. A text refuses the request and says why.
 */
export interface FieldRule {
  readonly treatment: "pass" | "strip";
  refusal(value: unknown): string | undefined;
}

const always = (): undefined => undefined;
const unless =
  (welcome: (value: unknown) => boolean, why: string) =>
  (value: unknown): string | undefined =>
    value === null || welcome(value) ? undefined : why;
const never = (): boolean => false;
const isEmptyList = (value: unknown): boolean => Array.isArray(value) && value.length === 0;
const isOneOf =
  (...values: readonly unknown[]) =>
  (value: unknown): boolean =>
    values.includes(value);

const strip = (refusal: FieldRule["refusal"]): FieldRule => ({ treatment: "strip", refusal });
const pass = (refusal: FieldRule["refusal"]): FieldRule => ({ treatment: "pass", refusal });

const ONE_MODEL = "a request is served by one model here; send another request to fall back";

/** Fields of both surfaces: OpenRouter's own, which no upstream knows, and options that change the price. */
const COMMON: Readonly<Record<string, FieldRule>> = {
  // Read by the gateway itself, see provider-preferences.ts.
  provider: strip(always),
  // Without effect at OpenRouter too; some clients always send them.
  usage: strip(always),
  session_id: strip(always),
  trace: strip(always),
  // Harmless while they ask for nothing.
  models: strip(unless(isEmptyList, ONE_MODEL)),
  route: strip(unless(isOneOf("fallback"), ONE_MODEL)),
  transforms: strip(unless(isEmptyList, "prompts are never changed here")),
  plugins: strip(unless(isEmptyList, "plugins would read the prompt outside the relay")),
  preset: strip(unless(never, "presets do not exist here")),
  debug: strip(unless(never, "upstream requests are not shown")),
  image_config: strip(unless(never, "images are not generated here")),
  stop_server_tools_when: strip(unless(isEmptyList, "server tools do not exist here")),
};

const STANDARD_PRICE = "only the standard price is quoted by miners";

/** The rules of each surface. A field without a rule passes unread: the upstream knows its own parameters best. */
export const GATEWAY_FIELDS: Readonly<Record<Surface, Readonly<Record<string, FieldRule>>>> = {
  chat: {
    ...COMMON,
    // Legacy switches for `reasoning`; chat upstreams have no such field and decide themselves what they show.
    include_reasoning: strip(unless(isOneOf(true, false), "include_reasoning must be a boolean")),
    // `{effort}` becomes `reasoning_effort`, which upstreams know: see reasoningEffortOf.
    reasoning: strip((value) => {
      const effort = reasoningEffortOf(value);
      return effort.ok
        ? undefined
        : "only reasoning.effort can be translated for a chat upstream; use reasoning_effort";
    }),
    cache_control: strip(unless(never, "chat upstreams cache prompts by themselves")),
    service_tier: pass(unless(isOneOf("auto", "default"), STANDARD_PRICE)),
    web_search_options: pass(unless(never, "web search is billed per call, which is not priced")),
    store: pass(unless(isOneOf(false), "answers are never stored upstream")),
    modalities: pass(
      unless(
        (value) => Array.isArray(value) && value.every((item) => item === "text"),
        "only text is priced as output",
      ),
    ),
    audio: pass(unless(never, "only text is priced as output")),
  },
  messages: {
    ...COMMON,
    reasoning: strip(unless(never, "use thinking on this surface")),
    include_reasoning: strip(unless(never, "use thinking on this surface")),
    service_tier: pass(unless(isOneOf("auto", "standard_only"), STANDARD_PRICE)),
    speed: pass(unless(isOneOf("standard"), STANDARD_PRICE)),
    inference_geo: pass(unless(isOneOf("global"), STANDARD_PRICE)),
  },
};

/** OpenRouter's `reasoning` object as the one field that chat upstreams know. `effort` is absent when it asks for nothing. */
export function reasoningEffortOf(value: unknown): { ok: true; effort?: string } | { ok: false } {
  if (value === null) return { ok: true };
  if (typeof value !== "object" || Array.isArray(value)) return { ok: false };
  const { effort, enabled, exclude, ...rest } = value as Record<string, unknown>;
  const asksMore = Object.values(rest).some((member) => member !== null);
  // `exclude: true` hides reasoning that chat upstreams of this kind never show.
  if (asksMore || enabled === false || (exclude !== undefined && typeof exclude !== "boolean"))
    return { ok: false };
  if (effort === undefined || effort === null) return { ok: true };
  return typeof effort === "string" && /^[a-z]{1,16}$/.test(effort)
    ? { ok: true, effort }
    : { ok: false };
}
