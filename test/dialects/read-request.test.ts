import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import type { Surface } from "../../src/core/surface.ts";
import { GATEWAY_FIELDS } from "../../src/dialects/gateway-fields.ts";
import {
  CHOICES_MAX,
  CROSS_CHECK_BYTES_MAX,
  MESSAGES_MAX,
  type ReadVerdict,
  type RequestFacts,
  readRequest,
  TOOLS_MAX,
} from "../../src/dialects/read-request.ts";

function read(json: string, surface: Surface = "chat"): ReadVerdict {
  return readRequest(surface, Buffer.from(json));
}

function accept(json: string, surface: Surface = "chat"): RequestFacts {
  const verdict = read(json, surface);
  assert(verdict.ok, JSON.stringify(verdict));
  return verdict.request;
}

/** The code and parameter of a refusal. */
function refusal(json: string, surface: Surface = "chat"): string {
  const verdict = read(json, surface);
  assert(!verdict.ok, `accepted ${json.slice(0, 200)}`);
  return [verdict.code, verdict.param].filter((part) => part !== undefined).join(" ");
}

const rest = '"messages":[{"role":"user","content":"hi"}]';
const chat = (fields: string): string => `{"model":"openai/gpt-5-mini",${fields},${rest}}`;
const messages = (fields: string): string =>
  `{"model":"anthropic/claude-haiku-4-5","max_tokens":5,${fields},${rest}}`;

test("readRequest() reads a chat", () => {
  const facts = accept(
    `{ "model" : "openai\\/gpt-5-mini", "stream": true, "max_tokens":16, "n":3, "user":"u", "tools":[{},{}], ${rest} }`,
  );
  const { model, stream, maxOutputTokens, choices, messages: count, tools, gatewayFields } = facts;
  assert.deepEqual(
    { model, stream, maxOutputTokens, choices, count, tools, gatewayFields },
    {
      model: "openai/gpt-5-mini",
      stream: true,
      maxOutputTokens: 16,
      choices: 3,
      count: 1,
      tools: 2,
      gatewayFields: [],
    },
  );
  assert.equal(facts.provider, undefined);
});

test("readRequest() takes null for absent", () => {
  const facts = accept(
    chat(
      '"stream":null,"max_tokens":null,"max_completion_tokens":9,"n":null,"tools":null,"provider":null',
    ),
  );
  assert.equal(facts.stream, false);
  assert.equal(facts.maxOutputTokens, 9);
  assert.equal(facts.choices, 1);
  assert.deepEqual(facts.gatewayFields, ["provider"]);
  assert.equal(accept(`{"model":"m",${rest}}`).maxOutputTokens, undefined);
});

test("readRequest() reads what Claude Code sends", () => {
  const facts = accept(
    messages(
      '"thinking":{"type":"adaptive","display":"omitted"},"context_management":{},"output_config":{"effort":"high"},' +
        '"system":[{"type":"text","text":"s","cache_control":{"type":"ephemeral"}}],"metadata":{"user_id":"u"},"stream":true',
    ),
    "messages",
  );
  assert.deepEqual(facts.gatewayFields, []);
  assert.equal(facts.cacheWrites, true);
  assert.equal(facts.hiddenOutput, true);
  assert.equal(accept(messages('"thinking":{"type":"disabled"}'), "messages").hiddenOutput, false);
  assert.equal(accept(messages('"thinking":null'), "messages").hiddenOutput, false);
});

for (const { name, json, expected } of [
  {
    name: "a duplicate model",
    json: chat('"model":"openai/gpt-5.5"'),
    expected: "invalid_request model",
  },
  {
    name: "a duplicate that a parser would drop",
    json: chat('"x":1,"x":2'),
    expected: "invalid_request x",
  },
  {
    name: "an escaped key",
    json: chat('"mod\\u0065l":"openai/gpt-5.5"'),
    expected: "invalid_request",
  },
  { name: "an escaped slash in a key", json: chat('"a\\/b":1'), expected: "invalid_request" },
  { name: "a byte order mark", json: `\ufeff${chat('"n":1')}`, expected: "invalid_json" },
  { name: "trailing bytes", json: `${chat('"n":1')}x`, expected: "invalid_json" },
  { name: "an exponent", json: chat('"max_tokens":1e9'), expected: "invalid_request max_tokens" },
  { name: "a decimal", json: chat('"max_tokens":16.0'), expected: "invalid_request max_tokens" },
  {
    name: "a text for a number",
    json: chat('"max_tokens":"16"'),
    expected: "invalid_request max_tokens",
  },
  {
    name: "zero tokens",
    json: chat('"max_completion_tokens":0'),
    expected: "invalid_request max_completion_tokens",
  },
  {
    name: "negative tokens",
    json: chat('"max_tokens":-1'),
    expected: "invalid_request max_tokens",
  },
  {
    name: "more digits than a number holds",
    json: chat('"max_tokens":99999999999999999999'),
    expected: "invalid_request max_tokens",
  },
  {
    name: "two bounds that differ",
    json: chat('"max_tokens":1,"max_completion_tokens":2'),
    expected: "invalid_request max_completion_tokens",
  },
  { name: "too many choices", json: chat(`"n":${CHOICES_MAX + 1}`), expected: "invalid_request n" },
  { name: "n as 2.0", json: chat('"n":2.0'), expected: "invalid_request n" },
  { name: "stream as a number", json: chat('"stream":1'), expected: "invalid_request stream" },
  { name: "stream as a text", json: chat('"stream":"true"'), expected: "invalid_request stream" },
  {
    name: "stream_options as a text",
    json: chat('"stream_options":"x"'),
    expected: "invalid_request stream_options",
  },
  { name: "no model", json: `{${rest}}`, expected: "invalid_request model" },
  { name: "an empty model", json: `{"model":"",${rest}}`, expected: "invalid_request model" },
  { name: "a list as model", json: `{"model":["a"],${rest}}`, expected: "invalid_request model" },
  {
    name: "an endless model",
    json: `{"model":"${"a".repeat(2_000)}",${rest}}`,
    expected: "invalid_request model",
  },
  { name: "no messages", json: '{"model":"m"}', expected: "invalid_request messages" },
  {
    name: "messages as a text",
    json: '{"model":"m","messages":"hi"}',
    expected: "invalid_request messages",
  },
  { name: "tools as an object", json: chat('"tools":{}'), expected: "invalid_request tools" },
  { name: "an empty body", json: "", expected: "invalid_json" },
]) {
  test(`readRequest() refuses ${name}`, () => {
    assert.equal(refusal(json), expected);
    // The same must hold where the body is too large to be parsed as a whole.
    const padding = `"pad":"${"x".repeat(CROSS_CHECK_BYTES_MAX)}",`;
    const at = json.indexOf("{") + 1;
    if (at > 0) assert.equal(refusal(json.slice(0, at) + padding + json.slice(at)), expected);
  });
}

test("readRequest() requires max_tokens on the messages surface only", () => {
  assert.equal(refusal(`{"model":"m",${rest}}`, "messages"), "invalid_request max_tokens");
});

test("readRequest() limits messages and tools", () => {
  const list = (count: number): string => `[${Array.from({ length: count }, () => "1").join(",")}]`;
  const request = (m: number, t: number): string =>
    `{"model":"m","messages":${list(m)},"tools":${list(t)}}`;
  assert.equal(accept(request(MESSAGES_MAX, TOOLS_MAX)).messages, MESSAGES_MAX);
  assert.equal(refusal(request(MESSAGES_MAX + 1, 1)), "invalid_request messages");
  assert.equal(refusal(request(1, TOOLS_MAX + 1)), "invalid_request tools");
});

test("readRequest() finds invalid JSON at the end of a large body", () => {
  const large = `{"model":"m","messages":[{"role":"user","content":"${"x".repeat(2_000_000)}"}]`;
  assert.equal(accept(`${large}}`).messages, 1);
  assert.equal(refusal(`${large},"tool`), "invalid_json");
  assert.equal(refusal(`${large},"tools":[tru]}`), "invalid_json");
});

test("readRequest() counts what does not show in bytes", () => {
  const image =
    '"messages":[{"role":"user","content":[{"type":"image_url","image_url":{"url":"https://x/y.png"}}]}]';
  assert.equal(accept(`{"model":"m",${image}}`).attachments, 2);
  assert.equal(accept(`{"model":"m",${image.replace("type", "typ\\u0065")}}`).attachments, 3);
  assert.equal(accept(chat('"user":"u"')).attachments, 0);
  assert.equal(accept(chat('"user":"u"')).cacheWrites, false);
});

for (const { surface, field, welcome, refused } of [
  { surface: "chat", field: "usage", welcome: ['{"include":true}'], refused: [] },
  { surface: "chat", field: "session_id", welcome: ['"s"'], refused: [] },
  { surface: "chat", field: "trace", welcome: ["{}"], refused: [] },
  { surface: "chat", field: "models", welcome: ["[]", "null"], refused: ['["a","b"]'] },
  { surface: "chat", field: "route", welcome: ["null", '"fallback"'], refused: ['"sort"'] },
  { surface: "chat", field: "transforms", welcome: ["[]", "null"], refused: ['["middle-out"]'] },
  { surface: "chat", field: "plugins", welcome: ["[]", "null"], refused: ['[{"id":"web"}]'] },
  { surface: "chat", field: "preset", welcome: ["null"], refused: ['"p"'] },
  { surface: "chat", field: "debug", welcome: ["null"], refused: ['{"echo_upstream_body":true}'] },
  { surface: "chat", field: "image_config", welcome: ["null"], refused: ["{}"] },
  { surface: "chat", field: "stop_server_tools_when", welcome: ["[]"], refused: ["[1]"] },
  { surface: "chat", field: "include_reasoning", welcome: ["true", "false"], refused: ["1"] },
  { surface: "chat", field: "cache_control", welcome: ["null"], refused: ['{"type":"ephemeral"}'] },
  {
    surface: "chat",
    field: "service_tier",
    welcome: ["null", '"auto"', '"default"'],
    refused: ['"priority"', '"flex"', "1"],
  },
  { surface: "chat", field: "web_search_options", welcome: ["null"], refused: ["{}"] },
  { surface: "chat", field: "store", welcome: ["null", "false"], refused: ["true"] },
  {
    surface: "chat",
    field: "modalities",
    welcome: ['["text"]', "null"],
    refused: ['["text","audio"]'],
  },
  { surface: "chat", field: "audio", welcome: ["null"], refused: ['{"voice":"x"}'] },
  {
    surface: "chat",
    field: "reasoning",
    welcome: ["null", "{}", '{"effort":"high"}', '{"enabled":true}'],
    refused: ['{"max_tokens":9}', '{"enabled":false}', '"high"', '{"effort":1}'],
  },
  {
    surface: "messages",
    field: "service_tier",
    welcome: ['"auto"', '"standard_only"'],
    refused: ['"priority"'],
  },
  { surface: "messages", field: "speed", welcome: ['"standard"'], refused: ['"fast"'] },
  { surface: "messages", field: "inference_geo", welcome: ['"global"'], refused: ['"us"'] },
  { surface: "messages", field: "reasoning", welcome: ["null"], refused: ["{}"] },
  { surface: "messages", field: "include_reasoning", welcome: ["null"], refused: ["true"] },
  { surface: "messages", field: "plugins", welcome: ["[]"], refused: ["[1]"] },
] as const) {
  test(`readRequest() knows what to do with ${field} on ${surface}`, () => {
    const request = surface === "chat" ? chat : messages;
    const stripped = GATEWAY_FIELDS[surface][field]?.treatment === "strip" ? [field] : [];
    for (const value of welcome)
      assert.deepEqual(accept(request(`"${field}":${value}`), surface).gatewayFields, stripped);
    for (const value of refused)
      assert.equal(
        refusal(request(`"${field}":${value}`), surface),
        `unsupported_parameter ${field}`,
      );
  });
}

test("readRequest() takes a customer's own tools, and none that the provider runs and bills", () => {
  const own = `{"name":"weather","description":"${"long ".repeat(20_000)}","input_schema":{"type":"object"}}`;
  assert.equal(accept(messages(`"tools":[${own}]`), "messages").tools, 1);
  for (const [type, name] of [
    ["web_search_20250305", "web_search"],
    ["web_fetch_20250910", "web_fetch"],
    ["code_execution_20250825", "code_execution"],
  ])
    assert.equal(
      refusal(messages(`"tools":[${own},{"type":"${type}","name":"${name}"}]`), "messages"),
      "unsupported_parameter tools",
    );
  for (const type of ["custom", "bash_20250124", "text_editor_20250728"])
    assert.equal(accept(messages(`"tools":[{"type":"${type}","name":"x"}]`), "messages").tools, 1);
});

test("readRequest() lets unknown fields pass", () => {
  const facts = accept(
    chat('"chat_template_kwargs":{"a":1},"top_k":5,"__proto__":{"model":"x"},"constructor":1'),
  );
  assert.deepEqual(facts.gatewayFields, []);
});

test("readRequest() translates reasoning.effort once", () => {
  assert.equal(accept(chat('"reasoning":{"effort":"low"}')).reasoningEffort, "low");
  assert.equal(
    accept(chat('"reasoning":{"effort":"low"},"reasoning_effort":"low"')).reasoningEffort,
    undefined,
  );
  assert.equal(
    accept(chat('"reasoning":{"effort":"low"},"reasoning_effort":null')).reasoningEffort,
    "low",
  );
  assert.equal(
    refusal(chat('"reasoning":{"effort":"low"},"reasoning_effort":"high"')),
    "invalid_request reasoning_effort",
  );
});

test("readRequest() reads what JSON.parse reads, from any client that writes JSON", () => {
  const request = fc.record(
    {
      model: fc.string({ unit: "binary", minLength: 1, maxLength: 50 }),
      messages: fc.array(fc.jsonValue(), { maxLength: 5 }),
      stream: fc.option(fc.boolean()),
      max_tokens: fc.option(fc.integer({ min: 1, max: 1_000_000 })),
      n: fc.option(fc.integer({ min: 1, max: CHOICES_MAX })),
      tools: fc.option(fc.array(fc.jsonValue(), { maxLength: 3 })),
      temperature: fc.double({ noNaN: true, noDefaultInfinity: true }),
      extra: fc.jsonValue(),
      pad: fc.constantFrom("", "x".repeat(70_000)),
    },
    { requiredKeys: ["model", "messages"] },
  );
  fc.assert(
    fc.property(request, fc.constantFrom(undefined, 2), (value, indent) => {
      const facts = accept(JSON.stringify(value, undefined, indent));
      // Lone surrogates do not survive UTF-8, in any parser.
      assert.equal(facts.model, (JSON.parse(JSON.stringify(value)) as typeof value).model);
      assert.equal(facts.stream, value.stream ?? false);
      assert.equal(facts.maxOutputTokens, value.max_tokens ?? undefined);
      assert.equal(facts.choices, value.n ?? 1);
      assert.equal(facts.messages, value.messages.length);
      assert.equal(facts.tools, value.tools?.length ?? 0);
    }),
    { numRuns: 300 },
  );
});

test("readRequest() never throws, whatever bytes it gets", () => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 300 }), (bytes) => {
      readRequest("chat", Buffer.from(bytes));
    }),
  );
  const whole = Buffer.from(chat('"provider":{"order":["a"]},"n":2,"stream":true'));
  for (let cut = 0; cut < whole.length; cut++)
    assert.equal(readRequest("chat", whole.subarray(0, cut)).ok, false);
  for (let at = 0; at < whole.length; at++) {
    for (const bit of [1, 8, 32, 128]) {
      const flipped = Buffer.from(whole);
      flipped[at] = (flipped[at] ?? 0) ^ bit;
      readRequest("chat", flipped);
    }
  }
});

test("readRequest() never quotes a value in a refusal", () => {
  const secret = "canary-7f3a";
  for (const json of [
    chat(`"service_tier":"${secret}"`),
    chat(`"max_tokens":"${secret}"`),
    chat(`"provider":{"sort":"${secret}"}`),
    `{"model":["${secret}"],${rest}}`,
    chat(`"n":1}"${secret}"`),
  ]) {
    const verdict = read(json);
    assert(!verdict.ok && !JSON.stringify(verdict).includes(secret));
  }
});
