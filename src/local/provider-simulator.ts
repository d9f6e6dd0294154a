import { type ChatCompletionRequest, LLMock, type ToolDefinition } from "@copilotkit/aimock";
import type { Closable } from "../runtime/shutdown.ts";

/** A stand-in for the providers' APIs: it speaks OpenAI chat and Anthropic messages, streams, and reports usage. */
export interface ProviderSimulator extends Closable {
  readonly url: string;
}

/** Characters per streamed piece: about one token of prose. */
const CHUNK_CHARS = 5;
const CHARS_PER_TOKEN = 4;
/** Requests that the library keeps for inspection; more would only hold memory. */
const JOURNAL_ENTRIES_MAX = 16;
const QUOTED_CHARS_MAX = 200;

/** Starts the simulator on a free loopback port. Delay between streamed pieces: `latencyMs`. */
export async function openProviderSimulator(latencyMs: number): Promise<ProviderSimulator> {
  const mock = new LLMock({
    host: "127.0.0.1",
    port: 0,
    latency: latencyMs,
    chunkSize: CHUNK_CHARS,
    journalMaxEntries: JOURNAL_ENTRIES_MAX,
    logLevel: "silent",
  });
  mock.on({ predicate: () => true }, (request) => {
    const tool = toolToCall(request);
    const input =
      tokensOf(JSON.stringify(request.messages)) + tokensOf(JSON.stringify(request.tools ?? ""));
    if (tool !== undefined) {
      const call = {
        name: tool.function.name,
        arguments: JSON.stringify(exampleOf(tool.function.parameters)),
      };
      return { toolCalls: [call], usage: usage(input, tokensOf(call.name + call.arguments)) };
    }
    const content = wantsJson(request) ? '{"answer":"from the simulator"}' : answerTo(request);
    const allowed = outputBoundOf(request);
    const output = tokensOf(content);
    if (allowed !== undefined && output > allowed) {
      return {
        content: content.slice(0, allowed * CHARS_PER_TOKEN),
        finishReason: "length",
        usage: usage(input, allowed),
      };
    }
    return { content, usage: usage(input, output) };
  });
  await mock.start();
  let closing: Promise<void> | undefined;
  return { url: mock.url, close: () => (closing ??= mock.stop()) };
}

/** Both vendors' names for the same counts; each surface takes its own. */
function usage(input: number, output: number) {
  return {
    prompt_tokens: input,
    completion_tokens: output,
    total_tokens: input + output,
    input_tokens: input,
    output_tokens: output,
  };
}

function tokensOf(text: string): number {
  return Math.max(1, Math.ceil(text.length / CHARS_PER_TOKEN));
}

function outputBoundOf(request: ChatCompletionRequest): number | undefined {
  const bound = request["max_completion_tokens"] ?? request.max_tokens;
  return typeof bound === "number" && bound > 0 ? bound : undefined;
}

/** The first tool is called when the caller may expect it: tools are offered and none has answered yet. */
function toolToCall(request: ChatCompletionRequest): ToolDefinition | undefined {
  if (request.tool_choice === "none" || request.messages.at(-1)?.role === "tool") return undefined;
  const named = (request.tool_choice as { function?: { name?: string } } | undefined)?.function
    ?.name;
  const tools = (request.tools ?? []).filter((tool) => typeof tool.function?.name === "string");
  return tools.find((tool) => tool.function.name === named) ?? tools[0];
}

function wantsJson(request: ChatCompletionRequest): boolean {
  return request.response_format !== undefined && request.response_format.type !== "text";
}

function answerTo(request: ChatCompletionRequest): string {
  const last = request.messages.findLast((message) => message.role === "user")?.content ?? "";
  const text = typeof last === "string" ? last : last.map((part) => part.text ?? "").join(" ");
  return `This is the provider simulator of a local Daybreak network; no model was called. You said: ${text.slice(0, QUOTED_CHARS_MAX)}`;
}

/** The smallest value that a JSON Schema of the usual kind accepts. */
function exampleOf(schema: unknown): unknown {
  if (typeof schema !== "object" || schema === null) return {};
  const { type, properties, required, items, enum: choices } = schema as Record<string, unknown>;
  if (Array.isArray(choices) && choices.length > 0) return choices[0] as unknown;
  switch (type) {
    case "string":
      return "example";
    case "number":
    case "integer":
      return 1;
    case "boolean":
      return true;
    case "array":
      return [exampleOf(items)];
    default: {
      const names = Array.isArray(required)
        ? (required as string[])
        : Object.keys((properties as object | undefined) ?? {});
      return Object.fromEntries(
        names.map((name) => [
          name,
          exampleOf((properties as Record<string, unknown> | undefined)?.[name]),
        ]),
      );
    }
  }
}
