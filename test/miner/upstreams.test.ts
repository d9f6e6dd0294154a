import assert from "node:assert/strict";
import { test } from "node:test";
import { modelOf } from "../../src/core/models.ts";
import { minerSettings } from "../../src/miner/config.ts";
import {
  openUpstreams,
  type UpstreamConfig,
  upstreamList,
  upstreamsOfKeys,
} from "../../src/miner/upstreams.ts";
import { ConfigError, loadSettings } from "../../src/runtime/settings.ts";

const KEY = "sk-secret-value";
const GOOD = { name: "a", kind: "openai", base_url: "https://api.example.org/v1", api_key: KEY };

function listOf(...entries: readonly object[]): readonly UpstreamConfig[] {
  return upstreamList(JSON.stringify(entries));
}

test("upstreamList() reads upstreams; models may be ids or slugs, or left out", () => {
  const [a, b] = listOf(
    { ...GOOD, base_url: "https://api.example.org/v1/", models: ["gpt-5-mini", "openai/gpt-5.5"] },
    { name: "b", kind: "anthropic", api_key: KEY },
  );
  assert.equal(a?.baseUrl, "https://api.example.org/v1");
  assert.deepEqual(a?.models, [modelOf("openai/gpt-5-mini"), modelOf("openai/gpt-5.5")]);
  assert.equal(b?.baseUrl, "https://api.anthropic.com");
  assert(b?.models.every(({ id }) => id.startsWith("anthropic/")));
});

for (const { name, text, problem } of [
  { name: "no JSON", text: `${KEY}{`, problem: /a JSON list of \{name/ },
  { name: "no list", text: "{}", problem: /1 to 32 upstreams/ },
  { name: "an empty list", text: "[]", problem: /1 to 32 upstreams/ },
  { name: "an unknown field", text: [{ ...GOOD, secret: 1 }], problem: /unknown field "secret"/ },
  { name: "another kind", text: [{ ...GOOD, kind: "bedrock" }], problem: /a kind of openai/ },
  { name: "no name", text: [{ ...GOOD, name: "" }], problem: /with a name/ },
  { name: "no key", text: [{ ...GOOD, api_key: "" }], problem: /with an api_key/ },
  { name: "a key with a line break", text: [{ ...GOOD, api_key: "a\nb" }], problem: /api_key/ },
  {
    name: "plain http to another machine",
    text: [{ ...GOOD, base_url: "http://api.example.org/v1" }],
    problem: /https base_url/,
  },
  {
    name: "a host that only looks like loopback",
    text: [{ ...GOOD, base_url: "http://127.0.0.1.example.org/v1" }],
    problem: /https base_url/,
  },
  {
    name: "credentials in the URL",
    text: [{ ...GOOD, base_url: "https://u:p@api.example.org" }],
    problem: /https base_url/,
  },
  {
    name: "a query in the URL",
    text: [{ ...GOOD, base_url: "https://api.example.org/?a=b" }],
    problem: /https base_url/,
  },
  { name: "unknown models", text: [{ ...GOOD, models: ["gpt-9"] }], problem: /of the catalogue/ },
  { name: "no models", text: [{ ...GOOD, models: [] }], problem: /a list of models/ },
  {
    name: "a model of the other surface",
    text: [{ ...GOOD, models: ["claude-haiku-4-5"] }],
    problem: /needs Anthropic messages/,
  },
]) {
  test(`upstreamList() refuses ${name}, without repeating the key`, () => {
    const env = {
      DAYBREAK_MINER_CHAIN: "ws://127.0.0.1:9944",
      DAYBREAK_MINER_NETUID: "1",
      DAYBREAK_MINER_HOTKEY_FILE: "hotkey",
      DAYBREAK_MINER_SIM_TEE_KEY_FILE: "key",
      DAYBREAK_UPSTREAMS: typeof text === "string" ? text : JSON.stringify(text),
    };
    assert.throws(
      () => loadSettings(minerSettings, env),
      (error: unknown) => {
        assert(error instanceof ConfigError);
        assert.match(error.message, problem);
        assert(!error.message.includes(KEY));
        return true;
      },
    );
  });
}

test("upstreamsOfKeys() makes one upstream per key that is set", () => {
  const upstreams = upstreamsOfKeys({ openai: KEY, gemini: KEY, anthropic: undefined });
  assert.deepEqual(
    upstreams.map(({ kind, baseUrl }) => ({ kind, baseUrl })),
    [
      { kind: "openai", baseUrl: "https://api.openai.com/v1" },
      { kind: "gemini", baseUrl: "https://generativelanguage.googleapis.com/v1beta/openai" },
    ],
  );
  assert(upstreams[1]?.models.every(({ id }) => id.startsWith("google/")));
});

test("openUpstreams() gives each product to the first upstream that offers it", async () => {
  const upstreams = openUpstreams([
    ...listOf(
      { ...GOOD, models: ["gpt-5-mini"] },
      { ...GOOD, base_url: "http://[::1]:81/v1", models: ["gpt-5-mini", "gemini-2.5-pro"] },
      { ...GOOD, base_url: "http://localhost/v1", models: ["gpt-5.5"] },
    ),
  ]);
  const hostOf = (name: string): string | undefined => {
    const model = modelOf(name);
    return model === undefined ? undefined : upstreams.of(model)?.host;
  };
  assert.equal(hostOf("gpt-5-mini"), "api.example.org:443");
  assert.equal(hostOf("gemini-2.5-pro"), "[::1]:81");
  assert.equal(hostOf("gpt-5.5"), "localhost:80");
  assert.equal(hostOf("gpt-5.4"), undefined);
  assert.deepEqual(upstreams.hosts, ["[::1]:81", "api.example.org:443", "localhost:80"]);
  assert.deepEqual(
    upstreams.models.map(({ id }) => id),
    ["openai/gpt-5-mini", "openai/gpt-5.5", "google/gemini-2.5-pro"],
  );
  await upstreams.close();
  await upstreams.close();
});
