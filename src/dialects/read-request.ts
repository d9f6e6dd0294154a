import type { Surface } from "../core/surface.ts";
import { GATEWAY_FIELDS, reasoningEffortOf } from "./gateway-fields.ts";
import { type ProviderPreferences, parseProviderPreferences } from "./provider-preferences.ts";
import { JSON_DEPTH_MAX, JSON_MEMBERS_MAX, type Member, scanObject } from "./scan-object.ts";

/** Most elements of `messages`. */
export const MESSAGES_MAX = 10_000;
/** Most elements of `tools`. */
export const TOOLS_MAX = 1_024;
/** Most alternative answers (`n`). */
export const CHOICES_MAX = 128;
/** Largest output bound that is read as one, in tokens. */
export const OUTPUT_TOKENS_MAX = 100_000_000;
const MODEL_CHARS_MAX = 200;
/** Up to this size a body is also parsed as a whole and must agree with the scan. 18–126 µs at the limit. */
export const CROSS_CHECK_BYTES_MAX = 65_536;

/** What the gateway and a relay need to know about a request; everything else passes as it is. */
export interface RequestFacts {
  readonly surface: Surface;
  /** As the client wrote it, escapes resolved. */
  readonly model: string;
  readonly stream: boolean;
  /** The client's own bound on the output tokens of one choice. */
  readonly maxOutputTokens?: number;
  /** How many alternative answers it asks for: `n`, else 1. */
  readonly choices: number;
  readonly provider?: ProviderPreferences;
  /** Elements of `messages` and of `tools`. */
  readonly messages: number;
  readonly tools: number;
  /** Images, files, audio and server tools it seems to hold: their tokens do not follow from their bytes. */
  readonly attachments: number;
  /** Whether it may ask the upstream to write a prompt cache, which costs more than plain input. */
  readonly cacheWrites: boolean;
  /** Whether output may be billed that no byte of the answer shows, and that usage does not report apart. */
  readonly hiddenOutput: boolean;
  /** `reasoning.effort`, to be sent as `reasoning_effort`. */
  readonly reasoningEffort?: string;
  /** Top-level members, in order. */
  readonly members: readonly Member[];
  /** Keys of the members that the upstream must not see. */
  readonly gatewayFields: readonly string[];
}

export type ReadRefusalCode = "invalid_json" | "invalid_request" | "unsupported_parameter";

export interface ReadRefusal {
  readonly ok: false;
  readonly code: ReadRefusalCode;
  /** For the customer; quotes field names only. */
  readonly message: string;
  readonly param?: string;
}

export type ReadVerdict = { readonly ok: true; readonly request: RequestFacts } | ReadRefusal;

const MEDIA_WORDS = [
  "image_url",
  "input_audio",
  "input_image",
  "input_file",
  "video_url",
  "file",
  "image",
  "document",
  "container_upload",
  // Anthropic's server tools add what they find to the input.
  "web_search",
  "web_fetch",
  "code_execution",
  "mcp_servers",
];
/** Anthropic's tools that the provider itself runs and bills by the call, which no quote has a price for. */
const SERVER_TOOLS = ["web_search", "web_fetch", "code_execution", "mcp_toolset"];
const CACHE_WORD = "cache_control";
const WORDS: ReadonlySet<string> = new Set([...MEDIA_WORDS, CACHE_WORD]);

/** Names of the output bound, the preferred one first. */
const OUTPUT_BOUNDS: Readonly<Record<Surface, readonly string[]>> = {
  chat: ["max_completion_tokens", "max_tokens"],
  messages: ["max_tokens"],
};

/**
 * Reads what decides the price and the route of a request, and refuses every body that another parser could read
 * differently: duplicate or escaped keys at the top, a byte order mark, trailing bytes, numbers not written canonically.
 *
 * `body` is the whole body as received; it is not changed and its values are not built, except for the few named here.
 */
export function readRequest(surface: Surface, body: Buffer): ReadVerdict {
  const scanned = scanObject(body, WORDS);
  if (!scanned.ok) return scanRefusal(body, scanned);
  const { members } = scanned;
  const byKey = new Map<string, Member>();
  for (const member of members) {
    if (member.escapedKey)
      return invalid("invalid_request", "field names must be written without escapes");
    if (byKey.has(member.key)) return duplicate(member.key);
    byKey.set(member.key, member);
  }
  try {
    const facts = factsOf(surface, body, members, byKey);
    if (body.length <= CROSS_CHECK_BYTES_MAX) crossCheck(surface, body, facts);
    const attachments = scanned.words.filter((word) => word !== CACHE_WORD).length;
    const disguised = scanned.escapedLetters;
    return {
      ok: true,
      request: {
        ...facts,
        attachments: attachments + (disguised ? 1 : 0),
        cacheWrites: disguised || attachments < scanned.words.length,
      },
    };
  } catch (error) {
    if (error instanceof Refused) return error.refusal;
    throw error;
  }
}

/** Carries a refusal out of the readers below; never leaves this file. */
class Refused extends Error {
  readonly refusal: ReadRefusal;
  constructor(code: ReadRefusalCode, message: string, param?: string) {
    super(message);
    this.refusal = invalid(code, message, param);
  }
}

type Facts = Omit<RequestFacts, "attachments" | "cacheWrites">;

function factsOf(
  surface: Surface,
  body: Buffer,
  members: readonly Member[],
  byKey: ReadonlyMap<string, Member>,
): Facts {
  const gatewayFields: string[] = [];
  for (const member of members) {
    const rules = GATEWAY_FIELDS[surface];
    const rule = Object.hasOwn(rules, member.key) ? rules[member.key] : undefined;
    if (rule === undefined) continue;
    const why = rule.refusal(valueOf(body, member));
    if (why !== undefined)
      throw new Refused(
        "unsupported_parameter",
        `${member.key} is not supported with this value: ${why}`,
        member.key,
      );
    if (rule.treatment === "strip") gatewayFields.push(member.key);
  }
  const maxOutputTokens = outputBoundOf(surface, body, byKey);
  if (surface === "messages" && maxOutputTokens === undefined)
    throw new Refused("invalid_request", "max_tokens is required", "max_tokens");
  if (surface === "messages") refuseServerTools(body, byKey);
  const provider = providerOf(body, byKey);
  const reasoningEffort = effortOf(surface, body, byKey);
  const streamOptions = byKey.get("stream_options");
  if (streamOptions !== undefined && !/^[{n]/.test(textOf(body, streamOptions).slice(0, 1)))
    throw new Refused("invalid_request", "stream_options must be an object", "stream_options");
  return {
    surface,
    model: modelNameOf(body, byKey),
    stream: booleanOf(body, byKey, "stream"),
    ...(maxOutputTokens === undefined ? {} : { maxOutputTokens }),
    choices: surface === "chat" ? (countOf(body, byKey, "n", CHOICES_MAX) ?? 1) : 1,
    ...(provider === undefined ? {} : { provider }),
    messages: listOf(body, byKey, "messages", MESSAGES_MAX, true),
    tools: listOf(body, byKey, "tools", TOOLS_MAX, false),
    hiddenOutput:
      surface === "chat"
        ? isGiven(body, byKey.get("prediction"))
        : isGiven(body, byKey.get("thinking")),
    ...(reasoningEffort === undefined ? {} : { reasoningEffort }),
    members,
    gatewayFields,
  };
}

/** @throws Refused if `JSON.parse` sees another request than the scan did. */
function crossCheck(surface: Surface, body: Buffer, facts: Facts): void {
  if (!agrees(surface, body, facts))
    throw new Refused("invalid_json", "the body can be read in more than one way");
}

function agrees(surface: Surface, body: Buffer, facts: Facts): boolean {
  let fields: Record<string, unknown>;
  try {
    // The scan has seen that it is an object.
    fields = JSON.parse(body.toString("utf8")) as Record<string, unknown>;
  } catch {
    return false;
  }
  const bounds = OUTPUT_BOUNDS[surface].map((name) => fields[name] ?? undefined);
  return (
    Object.keys(fields).length === facts.members.length &&
    fields["model"] === facts.model &&
    (fields["stream"] ?? false) === facts.stream &&
    bounds.find(isPresent) === facts.maxOutputTokens &&
    (surface === "messages" || (fields["n"] ?? 1) === facts.choices) &&
    Array.isArray(fields["messages"]) &&
    fields["messages"].length === facts.messages
  );
}

function isPresent(value: unknown): boolean {
  return value !== undefined;
}

function modelNameOf(body: Buffer, byKey: ReadonlyMap<string, Member>): string {
  const member = byKey.get("model");
  const model = member === undefined ? undefined : valueOf(body, member, MODEL_CHARS_MAX * 6);
  if (typeof model !== "string" || model === "" || model.length > MODEL_CHARS_MAX)
    throw new Refused(
      "invalid_request",
      `model must be a text of 1 to ${MODEL_CHARS_MAX} characters`,
      "model",
    );
  return model;
}

function booleanOf(body: Buffer, byKey: ReadonlyMap<string, Member>, key: string): boolean {
  const member = byKey.get(key);
  const text = member === undefined ? "false" : textOf(body, member);
  if (text !== "true" && text !== "false" && text !== "null")
    throw new Refused("invalid_request", `${key} must be a boolean`, key);
  return text === "true";
}

/** A count in 1…max, written as plain digits: `1e3` and `16.0` are numbers that parsers disagree about. */
function countOf(
  body: Buffer,
  byKey: ReadonlyMap<string, Member>,
  key: string,
  max: number,
): number | undefined {
  const member = byKey.get(key);
  if (member === undefined) return undefined;
  const text = textOf(body, member);
  if (text === "null") return undefined;
  const count = Number(text);
  if (!/^[1-9]\d{0,14}$/.test(text) || count > max)
    throw new Refused(
      "invalid_request",
      `${key} must be an integer from 1 to ${max}, written in plain digits`,
      key,
    );
  return count;
}

function outputBoundOf(
  surface: Surface,
  body: Buffer,
  byKey: ReadonlyMap<string, Member>,
): number | undefined {
  const bounds = OUTPUT_BOUNDS[surface]
    .map((key) => countOf(body, byKey, key, OUTPUT_TOKENS_MAX))
    .filter((bound) => bound !== undefined);
  if (bounds.some((bound) => bound !== bounds[0]))
    throw new Refused(
      "invalid_request",
      `${OUTPUT_BOUNDS[surface].join(" and ")} differ; give one of them`,
      OUTPUT_BOUNDS[surface][0],
    );
  return bounds[0];
}

function listOf(
  body: Buffer,
  byKey: ReadonlyMap<string, Member>,
  key: string,
  max: number,
  required: boolean,
): number {
  const member = byKey.get(key);
  if (member === undefined || body[member.start] !== 0x5b) {
    if (!required && (member === undefined || textOf(body, member) === "null")) return 0;
    throw new Refused("invalid_request", `${key} must be a list`, key);
  }
  if (member.items > max)
    throw new Refused("invalid_request", `${key} may have at most ${max} elements`, key);
  return member.items;
}

/** @throws Refused for tools that would cost the miner what nobody pays for. */
function refuseServerTools(body: Buffer, byKey: ReadonlyMap<string, Member>): void {
  const servers = byKey.get("mcp_servers");
  if (servers !== undefined && textOf(body, servers).replaceAll(/\s/g, "") !== "[]")
    throw new Refused("unsupported_parameter", "mcp_servers is not supported", "mcp_servers");
  const member = byKey.get("tools");
  if (member === undefined) return;
  const tools = valueOf(body, member, body.length);
  for (const tool of Array.isArray(tools) ? (tools as unknown[]) : []) {
    const type = (tool as { type?: unknown } | null)?.type;
    const name = SERVER_TOOLS.find((prefix) => typeof type === "string" && type.startsWith(prefix));
    if (name !== undefined)
      throw new Refused(
        "unsupported_parameter",
        `tools of type ${name} are run and billed by the provider, and are not sold here`,
        "tools",
      );
  }
}

function providerOf(
  body: Buffer,
  byKey: ReadonlyMap<string, Member>,
): ProviderPreferences | undefined {
  const member = byKey.get("provider");
  if (member === undefined) return undefined;
  const verdict = parseProviderPreferences(valueOf(body, member));
  if (!verdict.ok) throw new Refused(verdict.code, verdict.message, verdict.param);
  return verdict.preferences;
}

function effortOf(
  surface: Surface,
  body: Buffer,
  byKey: ReadonlyMap<string, Member>,
): string | undefined {
  const member = byKey.get("reasoning");
  if (surface !== "chat" || member === undefined) return undefined;
  const verdict = reasoningEffortOf(valueOf(body, member));
  const effort = verdict.ok ? verdict.effort : undefined;
  const own = byKey.get("reasoning_effort");
  const ownEffort = own === undefined ? null : valueOf(body, own);
  if (effort === undefined || ownEffort === null) return effort;
  if (ownEffort !== effort)
    throw new Refused(
      "invalid_request",
      "reasoning_effort and reasoning.effort differ; give one of them",
      "reasoning_effort",
    );
  return undefined;
}

/** Whether a member is there and asks for something: neither null nor Anthropic's `{"type":"disabled"}`. */
function isGiven(body: Buffer, member: Member | undefined): boolean {
  if (member === undefined) return false;
  const text = body.toString("latin1", member.start, Math.min(member.end, member.start + 64));
  return text !== "null" && !/^\{\s*"type"\s*:\s*"disabled"\s*\}$/.test(text);
}

/** Largest value of a field with a rule of its own that is looked into, in bytes. */
const FIELD_BYTES_MAX = 65_536;

/** The value of a member. @throws Refused if it is larger than `maxBytes`. */
function valueOf(body: Buffer, member: Member, maxBytes = FIELD_BYTES_MAX): unknown {
  if (member.end - member.start > maxBytes)
    throw new Refused("invalid_request", `${member.key} is too large`, member.key);
  return JSON.parse(body.toString("utf8", member.start, member.end));
}

/** The first bytes of a value, enough to tell a short one. */
function textOf(body: Buffer, member: Member): string {
  return body.toString("latin1", member.start, Math.min(member.end, member.start + 32));
}

function scanRefusal(body: Buffer, { problem, at }: { problem: string; at: number }): ReadRefusal {
  switch (problem) {
    case "too_deep":
      return invalid("invalid_request", `the body is nested deeper than ${JSON_DEPTH_MAX} levels`);
    case "too_many_members":
      return invalid("invalid_request", `the body has more than ${JSON_MEMBERS_MAX} fields`);
    case "encoding":
      return invalid("invalid_json", "the body is not valid UTF-8");
    default:
      return invalid(
        "invalid_json",
        body.length === 0
          ? "the body is empty; it must be a JSON object"
          : `the body is not a JSON object: unexpected byte at offset ${at}`,
      );
  }
}

function duplicate(key: string): ReadRefusal {
  const shown = key.slice(0, 64);
  return invalid("invalid_request", `the field ${shown} is given more than once`, shown);
}

function invalid(code: ReadRefusalCode, message: string, param?: string): ReadRefusal {
  return { ok: false, code, message, ...(param === undefined ? {} : { param }) };
}
