import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import type { Surface } from "../../src/core/surface.ts";
import { type RequestFacts, readRequest } from "../../src/dialects/read-request.ts";
import {
  forUpstream,
  type UpstreamOverrides,
  withoutGatewayFields,
} from "../../src/dialects/splice-request.ts";

function factsOf(body: Buffer, surface: Surface = "chat"): RequestFacts {
  const verdict = readRequest(surface, body);
  assert(verdict.ok, JSON.stringify(verdict));
  return verdict.request;
}

function stripped(json: string): string {
  const body = Buffer.from(json);
  return withoutGatewayFields(body, factsOf(body)).toString();
}

function upstream(json: string, overrides: UpstreamOverrides, surface: Surface = "chat"): unknown {
  const body = Buffer.from(json);
  const spliced = forUpstream(surface, body, factsOf(body, surface), overrides);
  // The result must still be a request without duplicate keys.
  factsOf(spliced, surface);
  return JSON.parse(spliced.toString());
}

const m = '"model":"a","messages":[]';

for (const { name, json, expected } of [
  { name: "first", json: `{"provider":{"only":["x"]}, ${m}}`, expected: `{${m}}` },
  { name: "last", json: `{${m} , "provider" : {} }`, expected: `{${m}}` },
  { name: "between", json: `{"model":"a","provider":{},"messages":[]}`, expected: `{${m}}` },
  {
    name: "everywhere",
    json: `{"usage":{},"model":"a","provider":{},"route":null,"messages":[],"trace":1}`,
    expected: `{${m}}`,
  },
]) {
  test(`withoutGatewayFields() takes out what stands ${name}`, () => {
    assert.equal(stripped(json), expected);
  });
}

test("withoutGatewayFields() gives back the same buffer when there is nothing to do", () => {
  const body = Buffer.from(`{ ${m} , "x" : 1.50 }`);
  assert.equal(withoutGatewayFields(body, factsOf(body)), body);
});

test("withoutGatewayFields() keeps the bytes of what stays", () => {
  const json = `{ "provider":{}, "messages" : [ 1.0e2,"\\u00e9\\/" ] ,\n "x":{"b":1,"b":2}, "model":"a"}`;
  assert.equal(
    stripped(json),
    `{"messages" : [ 1.0e2,"\\u00e9\\/" ] ,\n "x":{"b":1,"b":2}, "model":"a"}`,
  );
});

test("withoutGatewayFields() renames reasoning.effort", () => {
  assert.equal(stripped(`{${m},"reasoning":{"effort":"low"}}`), `{${m},"reasoning_effort":"low"}`);
  assert.equal(
    stripped(`{${m},"reasoning_effort":null,"reasoning":{"effort":"low"}}`),
    `{${m},"reasoning_effort":"low"}`,
  );
  assert.equal(stripped(`{${m},"reasoning":{}}`), `{${m}}`);
});

test("withoutGatewayFields() removes exactly the gateway's fields from any request", () => {
  const request = fc
    .record(
      {
        provider: fc.constantFrom({}, { only: ["x"] }),
        usage: fc.constantFrom({ include: true }),
        session_id: fc.string(),
        extra: fc.jsonValue(),
        temperature: fc.double({ noNaN: true, noDefaultInfinity: true }),
        zeta: fc.jsonValue(),
      },
      { requiredKeys: [] },
    )
    .chain((fields) =>
      fc.shuffledSubarray(Object.entries({ ...fields, model: "a", messages: [] }), {
        minLength: Object.keys(fields).length + 2,
      }),
    );
  const gatewayFields = ["provider", "usage", "session_id"];
  fc.assert(
    fc.property(request, fc.constantFrom(undefined, 3), (entries, indent) => {
      const json = JSON.stringify(Object.fromEntries(entries), undefined, indent);
      const expected = Object.entries(JSON.parse(json) as object).filter(
        ([key]) => !gatewayFields.includes(key),
      );
      assert.deepEqual(Object.entries(JSON.parse(stripped(json)) as object), expected);
    }),
    { numRuns: 300 },
  );
});

test("forUpstream() swaps the model and leaves the rest", () => {
  const body = Buffer.from(`{"messages":[], "model" : "openai\\/a","x": 1e3}`);
  const spliced = forUpstream("chat", body, factsOf(body), { model: 'gpt "x"' });
  assert.equal(spliced.toString(), `{"messages":[],"model" : "gpt \\"x\\"","x": 1e3}`);
});

for (const { name, json, overrides, expected, surface = "chat" } of [
  {
    name: "adds a bound where there is none",
    json: `{${m}}`,
    overrides: { maxOutputTokens: 9 },
    expected: { max_completion_tokens: 9 },
  },
  {
    name: "puts a bound in place of null",
    json: `{${m},"max_completion_tokens":null,"max_tokens":null}`,
    overrides: { maxOutputTokens: 9 },
    expected: { max_completion_tokens: 9, max_tokens: null },
  },
  {
    name: "keeps a smaller bound under its own name",
    json: `{${m},"max_tokens":8}`,
    overrides: { maxOutputTokens: 9 },
    expected: { max_tokens: 8 },
  },
  {
    name: "lowers a larger bound under its own name",
    json: `{${m},"max_tokens":10}`,
    overrides: { maxOutputTokens: 9 },
    expected: { max_tokens: 9 },
  },
  {
    name: "lowers both bounds when both are given",
    json: `{${m},"max_tokens":10,"max_completion_tokens":10}`,
    overrides: { maxOutputTokens: 9 },
    expected: { max_tokens: 9, max_completion_tokens: 9 },
  },
  {
    name: "lowers max_tokens of messages",
    json: `{${m},"max_tokens":10}`,
    overrides: { maxOutputTokens: 9 },
    expected: { max_tokens: 9 },
    surface: "messages",
  },
  {
    name: "asks for usage in a streamed chat",
    json: `{${m},"stream":true}`,
    overrides: {},
    expected: { stream: true, stream_options: { include_usage: true } },
  },
  {
    name: "asks for usage against the client's wish and keeps its other options",
    json: `{${m},"stream":true,"stream_options":{"include_usage":true,"include_usage":false,"include_obfuscation":false}}`,
    overrides: {},
    expected: {
      stream: true,
      stream_options: { include_usage: true, include_obfuscation: false },
    },
  },
  {
    name: "asks for usage in place of null",
    json: `{${m},"stream":true,"stream_options":null}`,
    overrides: {},
    expected: { stream: true, stream_options: { include_usage: true } },
  },
  {
    name: "leaves a stream of messages alone",
    json: `{${m},"stream":true,"max_tokens":1}`,
    overrides: {},
    expected: { stream: true, max_tokens: 1 },
    surface: "messages",
  },
  {
    name: "takes out gateway fields too",
    json: `{"provider":{},${m},"reasoning":{"effort":"low"}}`,
    overrides: {},
    expected: { reasoning_effort: "low" },
  },
] as const) {
  test(`forUpstream() ${name}`, () => {
    assert.deepEqual(upstream(json, overrides, surface), {
      model: "a",
      messages: [],
      ...expected,
    });
  });
}
