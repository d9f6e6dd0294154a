import { NANO } from "../core/money.ts";

/** How a customer narrows or orders the miners, from OpenRouter's `provider` object. */
export interface ProviderPreferences {
  /** Hotkeys or names to try first, in this order. */
  readonly order?: readonly string[];
  readonly only?: readonly string[];
  readonly ignore?: readonly string[];
  /** Whether miners outside `order`, or a second miner, may serve. */
  readonly allowFallbacks: boolean;
  readonly sort?: MinerSort;
  /** Most the customer pays, nano-USD per million tokens. */
  readonly maxPrice?: { readonly prompt?: bigint; readonly completion?: bigint };
}

export const MINER_SORTS = ["price", "latency", "throughput"] as const;
export type MinerSort = (typeof MINER_SORTS)[number];

/** Most names in one list of the `provider` object. */
export const PROVIDER_NAMES_MAX = 64;
const PROVIDER_NAME_CHARS_MAX = 100;

export type ProviderVerdict =
  | { readonly ok: true; readonly preferences: ProviderPreferences }
  | {
      readonly ok: false;
      readonly code: "invalid_request" | "unsupported_parameter";
      readonly param: string;
      readonly message: string;
    };

type Draft = { -readonly [Name in keyof ProviderPreferences]: ProviderPreferences[Name] };
/** Reads one member into the draft. @returns undefined when it is fine, else what it must be or why it is refused. */
type Rule = (value: unknown, draft: Draft) => undefined | string | { refused: string };

const NOT_ATTESTED = "what the upstream provider keeps is not attested, so it cannot be promised";

/** Every member of the object that OpenRouter knows, and what becomes of it here. Any other is refused. */
const RULES: Readonly<Record<string, Rule>> = {
  order: names("order"),
  only: names("only"),
  ignore: names("ignore"),
  allow_fallbacks: (value, draft) => {
    if (typeof value !== "boolean") return "a boolean";
    draft.allowFallbacks = value;
    return undefined;
  },
  sort: (value, draft) => {
    const by =
      typeof value === "object" && value !== null && "by" in value && onlyKeys(value, SORT_KEYS)
        ? value.by
        : value;
    const sort = MINER_SORTS.find((name) => name === by);
    if (sort === undefined) return `one of ${MINER_SORTS.join(", ")}`;
    draft.sort = sort;
    return undefined;
  },
  max_price: maxPrice,
  // Parameters are never dropped on the way, so requiring them asks for nothing more.
  require_parameters: boolean,
  // Soft preferences by OpenRouter's definition: they never exclude, and routing already weighs both.
  preferred_min_throughput: () => undefined,
  preferred_max_latency: () => undefined,
  data_collection: (value) => {
    if (value === "deny") return { refused: NOT_ATTESTED };
    return value === "allow" ? undefined : 'either "allow" or "deny"';
  },
  zdr: (value) => (value === true ? { refused: NOT_ATTESTED } : boolean(value)),
  enforce_distillable_text: (value) =>
    value === true ? { refused: "licences of answers are not known here" } : boolean(value),
  quantizations: (value) =>
    Array.isArray(value) && value.length === 0
      ? undefined
      : { refused: "miners do not declare a quantization yet" },
};

const SORT_KEYS = ["by", "partition"];

/**
 * Reads the `provider` object of a request.
 *
 * A member that is `null` counts as absent. What cannot be honoured is refused by name, never ignored.
 */
export function parseProviderPreferences(json: unknown): ProviderVerdict {
  if (json === null) return { ok: true, preferences: { allowFallbacks: true } };
  if (typeof json !== "object" || Array.isArray(json))
    return invalid("provider", "provider must be an object");
  const draft: Draft = { allowFallbacks: true };
  for (const [key, value] of Object.entries(json)) {
    if (value === null) continue;
    const param = `provider.${key}`;
    const rule = Object.hasOwn(RULES, key) ? RULES[key] : undefined;
    if (rule === undefined)
      return {
        ok: false,
        code: "unsupported_parameter",
        param: param.slice(0, PROVIDER_NAME_CHARS_MAX),
        message: `${param.slice(0, PROVIDER_NAME_CHARS_MAX)} is not supported`,
      };
    const problem = rule(value, draft);
    if (typeof problem === "string") return invalid(param, `${param} must be ${problem}`);
    if (problem !== undefined)
      return {
        ok: false,
        code: "unsupported_parameter",
        param,
        message: `${param} is not supported with this value: ${problem.refused}`,
      };
  }
  return { ok: true, preferences: draft };
}

function invalid(param: string, message: string): ProviderVerdict {
  return { ok: false, code: "invalid_request", param, message };
}

function names(list: "order" | "only" | "ignore"): Rule {
  return (value, draft) => {
    if (!Array.isArray(value) || value.length > PROVIDER_NAMES_MAX) return NAMES_RULE;
    const items: readonly unknown[] = value;
    const texts = items.filter((name) => typeof name === "string");
    if (texts.length !== items.length) return NAMES_RULE;
    if (texts.some((name) => name.length > PROVIDER_NAME_CHARS_MAX)) return NAMES_RULE;
    // An empty list is what an unset option looks like in many clients.
    if (texts.length > 0) draft[list] = texts;
    return undefined;
  };
}

const NAMES_RULE = `a list of at most ${PROVIDER_NAMES_MAX} names of at most ${PROVIDER_NAME_CHARS_MAX} characters`;

function boolean(value: unknown): undefined | string {
  return typeof value === "boolean" ? undefined : "a boolean";
}

function onlyKeys(value: object, allowed: readonly string[]): boolean {
  return Object.keys(value).every((key) => allowed.includes(key));
}

function maxPrice(value: unknown, draft: Draft): undefined | string | { refused: string } {
  if (typeof value !== "object" || value === null || Array.isArray(value)) return "an object";
  const limits: { prompt?: bigint; completion?: bigint } = {};
  for (const [key, limit] of Object.entries(value)) {
    if (limit === null) continue;
    const price = nanoUsdPerMtokOf(limit);
    if (price === undefined) return `an object of prices in USD; ${key.slice(0, 40)} is not one`;
    if (key === "prompt" || key === "completion") limits[key] = price;
    // Nothing is charged per request, so any limit on it is kept.
    else if (key !== "request")
      return { refused: `there is no price for ${key.slice(0, 40)} to compare it with` };
  }
  draft.maxPrice = limits;
  return undefined;
}

/**
 * A price in USD per million tokens, as decimal text or as a number, in nano-USD per million tokens.
 * Digits below one nano-USD are dropped, so that the limit never becomes looser than it was written.
 *
 * @returns undefined for negative, non-finite and malformed prices.
 */
export function nanoUsdPerMtokOf(price: unknown): bigint | undefined {
  if (typeof price !== "string" && typeof price !== "number") return undefined;
  const match = /^(\d{1,18})(?:\.(\d{1,40}))?(?:e([+-]?\d{1,3}))?$/i.exec(String(price));
  if (match?.[1] === undefined) return undefined;
  const fraction = match[2] ?? "";
  const shift = Number(match[3] ?? "0") - fraction.length;
  const digits = BigInt(match[1] + fraction) * NANO;
  if (shift > 18) return undefined;
  return shift >= 0 ? digits * 10n ** BigInt(shift) : digits / 10n ** BigInt(-shift);
}
