import assert from "node:assert/strict";
import { test } from "node:test";
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import fc from "fast-check";
import type { Surface } from "../../src/core/surface.ts";
import {
  ANSWER_BYTES_MAX,
  EVENT_BYTES_MAX,
  type MeterEnd,
  openMeter,
} from "../../src/dialects/stream-meter.ts";

interface Run {
  readonly end: MeterEnd;
  /** What may flow before the money is settled, and what waits. */
  readonly flowed: Buffer;
  readonly withheld: Buffer;
  readonly steps: readonly { contentStarted: boolean; finalFrom: number; failed: boolean }[];
}

function run(surface: Surface, chunks: readonly Buffer[], choices = 1): Run {
  const meter = openMeter(surface, { stream: true, choices });
  const flowed: Buffer[] = [];
  const withheld: Buffer[] = [];
  const steps = chunks.map((chunk) => {
    const before = Buffer.from(chunk);
    const step = meter.push(chunk);
    assert(chunk.equals(before), "a chunk was changed");
    assert(withheld.length === 0 || step.finalFrom === 0, "the end began twice");
    assert(step.finalFrom >= -1 && step.finalFrom <= chunk.length);
    const from = step.finalFrom < 0 ? chunk.length : step.finalFrom;
    flowed.push(chunk.subarray(0, from));
    if (step.finalFrom >= 0) withheld.push(chunk.subarray(from));
    return step;
  });
  return {
    end: meter.end(),
    flowed: Buffer.concat(flowed),
    withheld: Buffer.concat(withheld),
    steps,
  };
}

/** Cuts `bytes` at the given places, which may repeat. */
function cut(bytes: Buffer, places: readonly number[]): Buffer[] {
  const at = [...places.map((place) => place % (bytes.length + 1)), bytes.length].sort(
    (a, b) => a - b,
  );
  let from = 0;
  return at.map((to) => {
    const chunk = bytes.subarray(from, to);
    from = to;
    return chunk;
  });
}

const chunk = (delta: object, more: object = {}, finish: string | null = null): string =>
  `data: ${JSON.stringify({
    id: "chatcmpl-1",
    object: "chat.completion.chunk",
    created: 1,
    model: "gpt-5-mini-2025-08-07",
    choices: [{ index: 0, delta, finish_reason: finish, logprobs: null }],
    usage: null,
    ...more,
  })}\n\n`;
const usageJson = {
  prompt_tokens: 9,
  completion_tokens: 12,
  total_tokens: 21,
  prompt_tokens_details: { cached_tokens: 4 },
  completion_tokens_details: { reasoning_tokens: 2 },
};

const CHAT =
  ": OPENROUTER PROCESSING\n\n" +
  chunk({ role: "assistant", content: "" }) +
  chunk({ content: 'Hé said "usage":{} and \\"error\\": {' }) +
  ": keep-alive\n\n" +
  chunk({ content: "漢字😀" }) +
  chunk({ tool_calls: [{ index: 0, function: { name: "f", arguments: '{"a":"\\"b\\""}' } }] }) +
  chunk({}, {}, "stop");
const CHAT_END =
  `data: ${JSON.stringify({ id: "chatcmpl-1", object: "chat.completion.chunk", created: 1, model: "gpt-5-mini-2025-08-07", choices: [], usage: usageJson })}\n\n` +
  "data: [DONE]\n\n";

const event = (type: string, rest: object): string =>
  `event: ${type}\ndata: ${JSON.stringify({ type, ...rest })}\n\n`;
const MESSAGES =
  event("message_start", {
    message: {
      id: "msg_1",
      model: "claude-haiku-4-5-20251001",
      content: [],
      usage: {
        input_tokens: 10,
        cache_read_input_tokens: 100,
        cache_creation_input_tokens: 30,
        cache_creation: { ephemeral_5m_input_tokens: 10, ephemeral_1h_input_tokens: 20 },
        output_tokens: 1,
      },
    },
  }) +
  event("content_block_start", { index: 0, content_block: { type: "text", text: "" } }) +
  event("ping", {}) +
  event("content_block_delta", { index: 0, delta: { type: "text_delta", text: "Hello é" } }) +
  event("content_block_delta", {
    index: 0,
    delta: { type: "text_delta", text: ' "message_delta" {"usage":1}' },
  }) +
  event("content_block_stop", { index: 0 }) +
  event("content_block_start", {
    index: 1,
    content_block: { type: "tool_use", id: "t", name: "look", input: {} },
  }) +
  event("content_block_delta", {
    index: 1,
    delta: { type: "input_json_delta", partial_json: '{"q":1}' },
  }) +
  event("content_block_stop", { index: 1 });
const MESSAGES_END =
  event("message_delta", {
    delta: { stop_reason: "tool_use", stop_sequence: null },
    usage: { output_tokens: 15, cache_read_input_tokens: null },
  }) + event("message_stop", {});

const expectedChat = {
  usage: { input: 5, cache_read: 4, output: 10, reasoning: 2 },
  upstreamId: "chatcmpl-1",
  upstreamModel: "gpt-5-mini-2025-08-07",
  finishReason: "stop",
  contentEvents: 3,
  complete: true,
  failed: false,
};
const expectedMessages = {
  usage: { input: 10, cache_read: 100, cache_write_5m: 10, cache_write_1h: 20, output: 15 },
  upstreamId: "msg_1",
  upstreamModel: "claude-haiku-4-5-20251001",
  finishReason: "tool_use",
  contentEvents: 4,
  complete: true,
  failed: false,
};

for (const { surface, body, end, expected, text } of [
  {
    surface: "chat",
    body: CHAT,
    end: CHAT_END,
    expected: expectedChat,
    text: 'Hé said "usage":{} and \\"error\\": {漢字😀f{"a":"\\"b\\""}',
  },
  {
    surface: "messages",
    body: MESSAGES,
    end: MESSAGES_END,
    expected: expectedMessages,
    text: 'Hello é "message_delta" {"usage":1}tlook{"q":1}',
  },
] as const) {
  for (const newline of ["\n", "\r\n"]) {
    const name = `${surface} with ${JSON.stringify(newline)}`;
    const bodyBytes = Buffer.from(body.replaceAll("\n", newline));
    const bytes = Buffer.concat([bodyBytes, Buffer.from(end.replaceAll("\n", newline))]);
    const finalLine = bytes.indexOf("data:", bodyBytes.length);

    test(`openMeter() meters ${name}`, () => {
      const { end: result, flowed, withheld } = run(surface, [bytes]);
      const { visibleBytes, ...rest } = result;
      assert.deepEqual(rest, expected);
      assert.equal(visibleBytes, Buffer.byteLength(text));
      assert.equal(flowed.toString(), bodyBytes.toString());
      assert.equal(Buffer.concat([flowed, withheld]).compare(bytes), 0);
    });

    test(`openMeter() gives the same for ${name} however it is cut`, () => {
      const whole = run(surface, [bytes]);
      const places = fc.array(fc.nat(bytes.length), { maxLength: 40 });
      const check = (chunks: readonly Buffer[]): void => {
        const part = run(surface, chunks);
        assert.deepEqual(part.end, whole.end);
        assert(Buffer.concat([part.flowed, part.withheld]).equals(bytes));
        // Nothing before the final event waits, and the line that carries the usage never flows whole.
        assert(part.flowed.length >= bodyBytes.length, "content was withheld");
        assert(part.flowed.length <= bytes.indexOf("\n", finalLine), "usage flowed");
      };
      fc.assert(
        fc.property(places, (at) => check(cut(bytes, at))),
        { numRuns: 300 },
      );
      for (let at = 0; at <= bytes.length; at++) check(cut(bytes, [at]));
      check(cut(bytes, [...bytes.keys()]));
    });
  }
}

test("openMeter() says when content starts", () => {
  const chunks = CHAT.split("\n\n").map((part) => Buffer.from(`${part}\n\n`));
  const started = run("chat", chunks).steps.map((step) => step.contentStarted);
  assert.deepEqual(started.slice(0, 4), [false, false, true, true]);
  const messages = MESSAGES.split("\n\n").map((part) => Buffer.from(`${part}\n\n`));
  const begun = run("messages", messages).steps.map((step) => step.contentStarted);
  assert.deepEqual(begun.slice(0, 5), [false, false, false, true, true]);
});

for (const { name, delta } of [
  { name: "reasoning_content", delta: { reasoning_content: "x" } },
  { name: "reasoning", delta: { reasoning: "x" } },
  { name: "refusal", delta: { content: null, refusal: "x" } },
  { name: "tool_calls", delta: { tool_calls: [{ index: 0 }] } },
  { name: "audio", delta: { audio: { data: "x" } } },
]) {
  test(`openMeter() takes ${name} for content`, () => {
    assert.equal(run("chat", [Buffer.from(chunk(delta))]).steps[0]?.contentStarted, true);
  });
}

test("openMeter() takes empty deltas for no content", () => {
  const text = chunk({ role: "assistant", content: "", refusal: null, tool_calls: [] });
  assert.equal(run("chat", [Buffer.from(text)]).steps[0]?.contentStarted, false);
});

test("openMeter() lets a stream flow whose chunks all carry usage", () => {
  const at = (n: number): object => ({
    usage: { prompt_tokens: 9, completion_tokens: n, total_tokens: 9 + n },
  });
  const body = chunk({ role: "assistant" }, at(0)) + chunk({ content: "a" }, at(1));
  const end = chunk({ content: "b" }, at(2), "stop");
  const { end: result, flowed } = run("chat", [Buffer.from(`${body}${end}data: [DONE]\n\n`)]);
  assert.deepEqual(result.usage, { input: 9, output: 2 });
  assert.equal(flowed.toString(), body);
});

test("openMeter() waits for every choice", () => {
  const of = (index: number, finish: string | null): string =>
    chunk(
      {},
      { choices: [{ index, delta: { content: "x" }, finish_reason: finish }], usage: usageJson },
    );
  const body = of(0, null) + of(0, "stop") + of(1, null);
  const { flowed } = run("chat", [Buffer.from(body + of(1, "stop"))], 2);
  assert.equal(flowed.toString(), body);
});

test("openMeter() takes the last usage", () => {
  const more = { choices: [], usage: { prompt_tokens: 1, completion_tokens: 2 } };
  const { end } = run("chat", [Buffer.from(CHAT + CHAT_END + chunk({}, more))]);
  assert.deepEqual(end.usage, { input: 1, output: 2 });
});

test("openMeter() takes the last usage of several that come with content", () => {
  const text = [1, 2, 1]
    .map((n) =>
      chunk(n === 2 ? {} : { content: "a" }, { usage: { prompt_tokens: n, completion_tokens: n } }),
    )
    .join("");
  assert.deepEqual(run("chat", [Buffer.from(text)]).end.usage, { input: 1, output: 1 });
});

test("openMeter() reports an error that the upstream puts into a chat", () => {
  const error = chunk({ content: "" }, { error: { code: 502, message: "Provider disconnected" } });
  const { end, steps, flowed } = run("chat", [Buffer.from(CHAT), Buffer.from(error + CHAT_END)]);
  assert.equal(end.failed, true);
  assert.equal(end.failure, "Provider disconnected");
  assert.equal(end.complete, false);
  assert.deepEqual(
    steps.map(({ failed }) => failed),
    [false, true],
  );
  assert.equal(flowed.toString(), CHAT);
});

test("openMeter() reports an error before any content", () => {
  const error = 'data: {"error":{"message":"overloaded","code":529}}\n\ndata: [DONE]\n\n';
  const { steps } = run("chat", [Buffer.from(error)]);
  assert.deepEqual(steps, [{ contentStarted: false, finalFrom: 0, failed: true }]);
  const named = run("chat", [Buffer.from('event: error\ndata: {"message":"broken"}\n\n')]);
  assert.equal(named.end.failure, "broken");
});

test("openMeter() reports an error that the upstream puts into messages", () => {
  const error = event("error", { error: { type: "overloaded_error", message: "Overloaded" } });
  const { end, flowed } = run("messages", [Buffer.from(MESSAGES + error)]);
  assert.equal(end.failed, true);
  assert.equal(end.failure, "Overloaded");
  assert.equal(flowed.toString(), MESSAGES);
  // Usage from the start is known although the end never came.
  assert.equal(end.usage?.cache_read, 100);
});

test("openMeter() does not call a cut stream complete", () => {
  for (const [surface, body, end] of [
    ["chat", CHAT, CHAT_END],
    ["messages", MESSAGES, MESSAGES_END],
  ] as const) {
    const all = body + end;
    const terminator = surface === "chat" ? all.indexOf("[DONE]") : all.lastIndexOf("message_stop");
    for (let length = 0; length <= terminator; length++)
      assert.equal(run(surface, [Buffer.from(all.slice(0, length))]).end.complete, false);
  }
});

test("openMeter() finds blank lines the same wherever they are cut", () => {
  const [first = "", second = ""] = CHAT_END.split("\n\n");
  for (const blank of ["\n\n", "\n\r\n", "\r\n\r\n", "\r\n\n", "\n\r\r\n", "\r\r\n\r\n"]) {
    const bytes = Buffer.from(`${first}${blank}${second}${blank}`);
    const whole = run("chat", [bytes]).end;
    for (let a = 0; a <= bytes.length; a++)
      for (const b of [a, a + 1, a + 2])
        assert.deepEqual(run("chat", cut(bytes, [a, b])).end, whole);
  }
});

test("openMeter() reads an event whose blank line never came", () => {
  const { end } = run("chat", [Buffer.from((CHAT + CHAT_END).trimEnd())]);
  assert.equal(end.complete, true);
});

test("openMeter() reads data that is spread over lines", () => {
  const spread = JSON.stringify(
    {
      id: "a",
      model: "b",
      choices: [{ delta: { content: "x" }, finish_reason: "stop" }],
      usage: usageJson,
    },
    undefined,
    1,
  );
  const bytes = Buffer.from(`data:${spread.replaceAll("\n", "\ndata:")}\n\ndata:[DONE]\n\n`);
  const whole = run("chat", [bytes]);
  assert.equal(whole.end.complete, true);
  assert.deepEqual(whole.end.usage, { input: 5, cache_read: 4, output: 10, reasoning: 2 });
  for (let at = 0; at <= bytes.length; at++)
    assert.deepEqual(run("chat", cut(bytes, [at])).end, whole.end);
});

test("openMeter() withholds a usage line that arrives without its blank line", () => {
  const lines = CHAT_END.split("\n\n").map((line) => `${line}\n`);
  const [usageLine = ""] = lines;
  const { flowed, withheld } = run("chat", [
    Buffer.from(CHAT),
    Buffer.from(usageLine),
    Buffer.from(`\n${lines[1]}\n`),
  ]);
  assert.equal(flowed.toString(), CHAT);
  assert(withheld.toString().startsWith(usageLine));
});

test("openMeter() passes an endless event without keeping it", async () => {
  const meter = openMeter("chat", { stream: true });
  const piece = Buffer.alloc(65_536, "x");
  meter.push(Buffer.from("data: "));
  setFlagsFromString("--expose-gc");
  const collectGarbage = runInNewContext("gc") as () => void;
  for (let sent = 0; sent < 64 * EVENT_BYTES_MAX; sent += piece.length)
    assert.equal(meter.push(Buffer.from(piece)).finalFrom, -1);
  // Buffers are freed by a thread of their own some time after they were found to be unused.
  for (
    let tries = 0;
    tries < 500 && process.memoryUsage().arrayBuffers >= 16 * EVENT_BYTES_MAX;
    tries++
  ) {
    collectGarbage();
    await new Promise((resolve) => setImmediate(resolve));
  }
  assert(process.memoryUsage().arrayBuffers < 16 * EVENT_BYTES_MAX, "the event was kept");
  // After it the stream is read again.
  const step = meter.push(Buffer.from(`\n\n${CHAT_END}`));
  assert.equal(step.contentStarted, true);
  const end = meter.end();
  assert.equal(end.complete, true);
  assert.equal(end.usage?.cache_read, 4);
  assert(end.visibleBytes > 64 * EVENT_BYTES_MAX);
});

test("openMeter() is not slowed down by many small pieces of one event", () => {
  const meter = openMeter("chat", { stream: true });
  const startMs = performance.now();
  for (let line = 0; line < 100_000; line++) meter.push(Buffer.from("data: a\n"));
  meter.end();
  assert(performance.now() - startMs < 3_000);
});

test("openMeter() survives nesting deeper than the stack", () => {
  const deep = `${"[".repeat(200_000)}${"]".repeat(200_000)}`;
  for (const json of [
    `{"choices":[{"index":0,"delta":{"content":${deep}}}]}`,
    `{"type":"content_block_delta","delta":{"text":${deep}}}`,
    `{"type":"content_block_start","content_block":{"type":"tool_use","input":${deep}}}`,
  ]) {
    for (const surface of ["chat", "messages"] as const) {
      run(surface, [Buffer.from(`data: ${json}\n\n`)]);
      answer(surface, json, 65_536);
    }
  }
});

test("openMeter() counts the same bytes with and without escapes, names and changes of shape", () => {
  const texts = ["a", "é", "漢", 'x"y', "\n", "", "tail"];
  const chat = texts.map((content) => chunk({ content })).join("");
  const bytes = Buffer.byteLength(texts.join(""));
  assert.equal(run("chat", [Buffer.from(chat)]).end.visibleBytes, bytes);
  assert.equal(run("chat", [Buffer.from(chat)]).end.contentEvents, texts.length - 1);
  const reasoning = texts.map((text) => chunk({ content: null, reasoning_content: text })).join("");
  assert.equal(run("chat", [Buffer.from(reasoning + chat)]).end.visibleBytes, 2 * bytes);
  const messages = texts
    .map((text) => event("content_block_delta", { index: 0, delta: { type: "text_delta", text } }))
    .join("");
  assert.equal(run("messages", [Buffer.from(messages)]).end.visibleBytes, bytes);
});

test("openMeter() is not deceived by an event that looks like the last one", () => {
  const plain = chunk({ content: "a" });
  const sly = plain
    .replace('"a"', '"b","finish_reason":"stop"')
    .replace('"usage":null', `"usage":${JSON.stringify(usageJson)}`);
  const { end } = run("chat", [Buffer.from(plain + plain + sly)]);
  assert.equal(end.usage?.cache_read, 4);
  const same = plain.replace('"a"', '"b"},"finish_reason":"length","x":{"y":"z"');
  assert.equal(run("chat", [Buffer.from(plain + plain + same)]).end.finishReason, undefined);
  // Between the start and the end of a known event there is room for more than a text.
  const bare = `data: {"id":"x","choices":[{"index":0,"delta":{"content":"a"}}]}\n\n`;
  const more = `b"}}],"usage":${JSON.stringify(usageJson)},"x":[{"delta":{"content":"c`;
  const smuggled = bare + bare + bare.replace('"a', `"${more}`);
  assert.equal(run("chat", [Buffer.from(smuggled)]).end.usage?.cache_read, 4);
  const named = run("chat", [Buffer.from(`${plain}${plain}event: error\n${plain}`)]);
  assert.equal(named.end.failed, true);
});

test("openMeter() never throws, whatever arrives", () => {
  const piece = fc.oneof(
    fc.constantFrom(
      "data: ",
      "data:{",
      "\n",
      "\r\n",
      "\r",
      "event: error",
      ":",
      "[DONE]",
      '"usage":{',
      "}",
    ),
    fc.constantFrom(
      '{"choices":[null]}',
      '{"choices":{}}',
      '{"error":1}',
      '{"usage":[]}',
      "null",
      "[]",
    ),
    fc.constantFrom('{"type":"message_start"}', '{"type":"message_delta","delta":null}'),
    fc.string({ unit: "binary" }),
  );
  fc.assert(
    fc.property(fc.array(piece, { maxLength: 30 }), fc.nat(20), (pieces, at) => {
      const bytes = Buffer.from(pieces.join(""));
      for (const surface of ["chat", "messages"] as const) {
        const whole = run(surface, [bytes]);
        const parts = run(surface, cut(bytes, [at, at * 2, at * 3]));
        assert.deepEqual(parts.end, whole.end);
      }
    }),
    { numRuns: 1_000 },
  );
});

const answer = (surface: Surface, json: unknown, size = 7): MeterEnd => {
  const meter = openMeter(surface, { stream: false });
  const bytes = Buffer.from(typeof json === "string" ? json : JSON.stringify(json));
  for (let at = 0; at < bytes.length; at += size) meter.push(bytes.subarray(at, at + size));
  return meter.end();
};

const wholeChat = {
  id: "chatcmpl-2",
  model: "gpt-5-mini",
  choices: [
    { index: 0, finish_reason: "length", message: { role: "assistant", content: "Hello" } },
  ],
  usage: usageJson,
};
const wholeMessage = {
  id: "msg_2",
  type: "message",
  model: "claude",
  content: [{ type: "text", text: "Hello" }],
  stop_reason: "end_turn",
  usage: { input_tokens: 5, output_tokens: 2 },
};

test("openMeter() reads a whole chat", () => {
  assert.deepEqual(answer("chat", wholeChat), {
    usage: expectedChat.usage,
    upstreamId: "chatcmpl-2",
    upstreamModel: "gpt-5-mini",
    finishReason: "length",
    contentEvents: 1,
    visibleBytes: 5,
    complete: true,
    failed: false,
  });
});

test("openMeter() reads a whole message", () => {
  const { visibleBytes, ...rest } = answer("messages", wholeMessage);
  assert.deepEqual(rest, {
    usage: { input: 5, output: 2 },
    upstreamId: "msg_2",
    upstreamModel: "claude",
    finishReason: "end_turn",
    contentEvents: 1,
    complete: true,
    failed: false,
  });
  assert(visibleBytes >= 5);
});

for (const { name, json } of [
  { name: "truncated", json: JSON.stringify(wholeChat).slice(0, -1) },
  { name: "empty", json: "" },
  { name: "HTML", json: "<html>" },
  { name: "ambiguous", json: `{"usage":{},${JSON.stringify(wholeChat).slice(1)}` },
]) {
  test(`openMeter() takes no usage from an answer that is ${name}`, () => {
    const end = answer("chat", json);
    assert.equal(end.usage, undefined);
    assert.equal(end.complete, false);
  });
}

test("openMeter() reports a whole answer that is an error", () => {
  const end = answer("chat", { error: { message: "no", code: 500 } });
  assert.deepEqual([end.failed, end.failure, end.complete], [true, "no", false]);
});

test("openMeter() gives up on an answer that is too long, not on the process", () => {
  const meter = openMeter("chat", { stream: false });
  const piece = Buffer.alloc(1_048_576, 0x20);
  for (let sent = 0; sent <= ANSWER_BYTES_MAX; sent += piece.length) meter.push(piece);
  assert.equal(meter.end().complete, false);
});
