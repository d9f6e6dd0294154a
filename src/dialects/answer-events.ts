import type { Surface } from "../core/surface.ts";
import { type Member, scanObject } from "./scan-object.ts";

/** What has been read of an answer so far. */
export interface AnswerFacts {
  /** Whether any content has arrived. */
  started: boolean;
  /** The provider's usage object: the last one of a chat, the merged ones of messages. */
  usage: Readonly<Record<string, unknown>> | undefined;
  id: string | undefined;
  model: string | undefined;
  finishReason: string | undefined;
  /** Indices of the choices that have a finish reason. */
  finished: ReadonlySet<number>;
  contentEvents: number;
  /** UTF-8 bytes of text, reasoning and tool calls that the client can see. */
  visibleBytes: number;
  /** The last event that was nothing but a piece of text, around that text. */
  template: EventTemplate | undefined;
  terminated: boolean;
  failed: boolean;
  failure: string | undefined;
}

/**
 * A stream repeats one event with another piece of text a thousand times. An event that starts and ends as a known one,
 * with a plain text between, needs no parser to be understood.
 */
interface EventTemplate {
  readonly prefix: string;
  readonly suffix: string;
  /** Visible bytes apart from the text. */
  readonly otherBytes: number;
}

/** Facts of an answer of which nothing has arrived. */
export function noAnswerYet(): AnswerFacts {
  return {
    started: false,
    usage: undefined,
    id: undefined,
    model: undefined,
    finishReason: undefined,
    finished: new Set(),
    contentEvents: 0,
    visibleBytes: 0,
    template: undefined,
    terminated: false,
    failed: false,
    failure: undefined,
  };
}

const FAILURE_CHARS_MAX = 500;
const NAME_CHARS_MAX = 200;

type Json = Readonly<Record<string, unknown>>;

/**
 * Reads one server-sent event into `facts`. An event that fits the template costs two comparisons and two short searches;
 * any other is parsed.
 *
 * @param event the event with its line ends, one character per byte ("latin1"): keys and punctuation are ASCII, and only
 *   what is parsed needs decoding. It need not be complete.
 */
export function readEvent(surface: Surface, facts: AnswerFacts, event: string): void {
  const { name, payload } = fieldsOf(event);
  if (payload === "" || (name !== "error" && fitsTemplate(facts, payload))) return;
  if (surface === "chat") readChatEvent(facts, name, payload);
  else readMessagesEvent(facts, name, payload);
}

function fitsTemplate(facts: AnswerFacts, payload: string): boolean {
  const { template } = facts;
  if (template === undefined) return false;
  const { prefix, suffix } = template;
  const length = payload.length - prefix.length - suffix.length;
  if (length <= 0 || !payload.startsWith(prefix) || !payload.endsWith(suffix)) return false;
  const text = payload.slice(prefix.length, prefix.length + length);
  if (text.includes('"') || text.includes("\\")) return false;
  addContent(facts, template.otherBytes + length);
  return true;
}

/** Remembers `payload`, which carried content and nothing else, if exactly one of `keys` holds a plain text in it. */
function rememberTemplate(
  facts: AnswerFacts,
  payload: string,
  visibleBytes: number,
  keys: readonly string[],
): void {
  for (const key of keys) {
    const at = payload.indexOf(key);
    if (at < 0) continue;
    const start = valueStartOf(payload, at + key.length) + 1;
    const end = payload.indexOf('"', start);
    if (payload[start - 1] !== '"' || end <= start || end - start > visibleBytes) continue;
    if (payload.slice(start, end).includes("\\")) continue;
    facts.template = {
      prefix: payload.slice(0, start),
      suffix: payload.slice(end),
      otherBytes: visibleBytes - (end - start),
    };
    return;
  }
}

/** The event's name and its data. Nearly every event has one line of data, and at most its name beside it. */
function fieldsOf(text: string): { name: string; payload: string } {
  const at = text.startsWith("data:") ? 0 : text.indexOf("\ndata:") + 1;
  if (at === 0 && !text.startsWith("data:")) return { name: "", payload: "" };
  const lineEnd = text.indexOf("\n", at);
  const end = lineEnd < 0 ? text.length : lineEnd;
  const others = text.slice(0, at) + text.slice(end + 1);
  if (others === "\n" || others === "\r\n" || others === "")
    return { name: "", payload: text.slice(at + 5, end).trim() };
  const lines = others.split("\n");
  const name =
    lines
      .findLast((line) => line.startsWith("event:"))
      ?.slice(6)
      .trim() ?? "";
  const more = lines.filter((line) => line.startsWith("data:")).map((line) => line.slice(5));
  return { name, payload: [text.slice(at + 5, end), ...more].join("\n").trim() };
}

function readChatEvent(facts: AnswerFacts, name: string, payload: string): void {
  if (payload === "[DONE]") {
    facts.terminated = true;
    return;
  }
  const json = parse(payload);
  // The client may make something of what we cannot read.
  if (json === undefined) return addContent(facts, payload.length);
  facts.id ??= nameOf(json["id"]);
  facts.model ??= nameOf(json["model"]);
  if (isObject(json["usage"])) facts.usage = json["usage"];
  if (name === "error" || isGiven(json["error"])) fail(facts, json["error"] ?? json);
  let content = false;
  let plain = !isGiven(json["usage"]) && !isGiven(json["error"]);
  let visibleBytes = 0;
  for (const choice of listOf(json["choices"])) {
    const reason = nameOf(choice["finish_reason"]);
    if (reason !== undefined) {
      const index = choice["index"];
      facts.finished = new Set(facts.finished).add(typeof index === "number" ? index : 0);
      facts.finishReason = reason;
      plain = false;
    }
    const delta = choice["delta"];
    content ||=
      isObject(delta) &&
      Object.entries(delta).some(([key, value]) => key !== "role" && isFull(value));
    visibleBytes += textBytesOf(delta);
  }
  if (!content) return;
  addContent(facts, visibleBytes);
  if (plain) rememberTemplate(facts, payload, visibleBytes, CHAT_TEXTS);
}

function readMessagesEvent(facts: AnswerFacts, name: string, payload: string): void {
  const json = parse(payload);
  if (json === undefined) return addContent(facts, payload.length);
  const type = name === "error" ? "error" : json["type"];
  if (type === "content_block_delta") {
    const visibleBytes = textBytesOf(json["delta"]);
    addContent(facts, visibleBytes);
    rememberTemplate(facts, payload, visibleBytes, MESSAGES_TEXTS);
  } else if (type === "message_start" && isObject(json["message"])) {
    facts.id ??= nameOf(json["message"]["id"]);
    facts.model ??= nameOf(json["message"]["model"]);
    mergeUsage(facts, json["message"]["usage"]);
  } else if (type === "content_block_start") {
    // Text and thinking begin empty and say nothing yet; a tool call already has its name.
    const block = json["content_block"];
    const empty = isObject(block) && !isFull(block["text"]) && !isFull(block["thinking"]);
    const blockType = isObject(block) ? block["type"] : undefined;
    if (!empty || (blockType !== "text" && blockType !== "thinking"))
      addContent(facts, textBytesOf(block));
  } else if (type === "message_delta") {
    mergeUsage(facts, json["usage"]);
    const reason = isObject(json["delta"]) ? nameOf(json["delta"]["stop_reason"]) : undefined;
    if (reason === undefined) return;
    facts.finishReason = reason;
    facts.finished = new Set([0]);
  } else if (type === "message_stop") {
    facts.terminated = true;
  } else if (type === "error") {
    fail(facts, json["error"] ?? json);
  }
}

/** `message_delta.usage` is cumulative and names only what has changed since `message_start`. */
function mergeUsage(facts: AnswerFacts, usage: unknown): void {
  if (!isObject(usage)) return;
  const given = Object.fromEntries(Object.entries(usage).filter(([, value]) => value !== null));
  facts.usage = { ...facts.usage, ...given };
}

/** Longest `choices` of a whole answer that are parsed for their finish reason, in bytes. */
const CHOICES_BYTES_MAX = 1_048_576;

/**
 * Reads a whole JSON answer into `facts`. Only its small members are parsed: an answer may hold megabytes of text.
 */
export function readAnswer(surface: Surface, facts: AnswerFacts, body: Buffer): void {
  const scanned = scanObject(body);
  if (!scanned.ok) return;
  const members = new Map<string, Member>();
  for (const member of scanned.members) {
    // Which of two usages counts is not ours to guess.
    if (member.escapedKey || members.has(member.key)) return;
    members.set(member.key, member);
  }
  const read = (key: string): unknown => {
    const member = members.get(key);
    return member === undefined || member.end - member.start > CHOICES_BYTES_MAX
      ? undefined
      : JSON.parse(body.toString("utf8", member.start, member.end));
  };
  facts.terminated = true;
  facts.id = nameOf(read("id"));
  facts.model = nameOf(read("model"));
  const usage = read("usage");
  if (isObject(usage)) facts.usage = usage;
  if (isGiven(read("error"))) return fail(facts, read("error"));
  const isMessage = surface === "messages";
  const content = members.get(isMessage ? "content" : "choices");
  const size = content === undefined ? 0 : content.end - content.start;
  const parsed = read(isMessage ? "content" : "choices");
  const choices = isMessage ? [] : listOf(parsed);
  facts.finishReason = nameOf(isMessage ? read("stop_reason") : choices[0]?.["finish_reason"]);
  const visible = isMessage ? parsed : choices.map(messageOf);
  addContent(facts, size > CHOICES_BYTES_MAX ? size : textBytesOf(visible));
}

function messageOf(choice: Json): unknown {
  return choice["message"];
}

function addContent(facts: AnswerFacts, visibleBytes: number): void {
  facts.started = true;
  facts.contentEvents++;
  facts.visibleBytes += visibleBytes;
}

function fail(facts: AnswerFacts, error: unknown): void {
  facts.failed = true;
  const message = isObject(error) ? error["message"] : error;
  facts.failure ??= typeof message === "string" ? message.slice(0, FAILURE_CHARS_MAX) : "";
}

const CHAT_TEXTS = ['"content"', '"reasoning_content"', '"reasoning"', '"arguments"'];
const MESSAGES_TEXTS = ['"text"', '"partial_json"', '"thinking"'];

/** Members of deltas and messages that the model did not write. */
const NOT_WRITTEN = new Set(["role", "type", "signature", "citation", "citations", "annotations"]);

/** How deep texts are looked for; JSON itself may be nested deeper than any stack. */
const TEXT_DEPTH_MAX = 32;

/** UTF-8 bytes of all texts in a delta or message; of a tool's input also those of its keys and other values. */
function textBytesOf(value: unknown, depth = 0, all = false): number {
  if (typeof value === "string") return Buffer.byteLength(value);
  if (typeof value !== "object" || value === null) return all ? String(value).length : 0;
  if (depth >= TEXT_DEPTH_MAX) return 0;
  if (Array.isArray(value)) {
    const items: readonly unknown[] = value;
    return items.reduce((sum: number, item) => sum + textBytesOf(item, depth + 1, all), 0);
  }
  let bytes = 0;
  for (const [key, member] of Object.entries(value)) {
    if (!all && NOT_WRITTEN.has(key)) continue;
    bytes += textBytesOf(member, depth + 1, all || key === "input");
    if (all) bytes += Buffer.byteLength(key);
  }
  return bytes;
}

/** Where the value begins after a key that ends at `at`, or -1 if it was no key. */
function valueStartOf(payload: string, at: number): number {
  let i = at;
  while (isSpace(payload[i])) i++;
  if (payload[i] !== ":") return -1;
  i++;
  while (isSpace(payload[i])) i++;
  return i;
}

function isSpace(character: string | undefined): boolean {
  return character === " " || character === "\n" || character === "\t" || character === "\r";
}

function parse(payload: string): Json | undefined {
  try {
    const json: unknown = JSON.parse(Buffer.from(payload, "latin1").toString("utf8"));
    return isObject(json) ? json : undefined;
  } catch {
    return undefined;
  }
}

function isObject(value: unknown): value is Json {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function listOf(value: unknown): readonly Json[] {
  return Array.isArray(value) ? value.filter(isObject) : [];
}

function isGiven(value: unknown): boolean {
  return value !== undefined && value !== null;
}

/** Whether a value says something: not null, not empty. */
function isFull(value: unknown): boolean {
  return isGiven(value) && value !== "" && !(Array.isArray(value) && value.length === 0);
}

function nameOf(value: unknown): string | undefined {
  return typeof value === "string" && value !== "" ? value.slice(0, NAME_CHARS_MAX) : undefined;
}
