import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import Anthropic from "@anthropic-ai/sdk";
import OpenAI from "openai";
import { getJson, postJson, type RunningNetwork, startLocal, waitFor } from "./local-network.ts";

let network: RunningNetwork;
let openai: OpenAI;
let anthropic: Anthropic;
const hello = [{ role: "user" as const, content: "Say hello to the harbour." }];

before(async () => {
  network = await startLocal();
  openai = new OpenAI({
    baseURL: network.ready.base_url,
    apiKey: network.ready.api_key,
    maxRetries: 0,
  });
  anthropic = new Anthropic({
    baseURL: network.origin,
    apiKey: network.ready.api_key,
    maxRetries: 0,
  });
});
after(async () => {
  await network.stop();
});

interface Credits {
  data: { total_credits: number; total_usage: number; balance_nusd: string; held_nusd: string };
}
const credits = async () =>
  (await getJson<Credits>(`${network.ready.base_url}/credits`, network.ready.api_key)).data;

test("the first screen shows everything in order, and its snippets name the real address and key", () => {
  const text = network.output();
  const order = [
    "Daybreak local network, ready in",
    "Runs",
    "Base URL",
    "API key",
    "curl",
    "openai",
    "@anthropic-ai/sdk",
    "Data",
    "Stop",
  ];
  let at = -1;
  for (const word of order) {
    const found = text.indexOf(word, at + 1);
    assert(found > at, `${word} is missing or out of order:\n${text}`);
    at = found;
  }
  assert(text.includes(network.ready.base_url) && text.includes(network.ready.api_key));
});

test("openai: a completion, with usage that is charged to the last nano-USD", async () => {
  const before = await credits();
  const { data, response } = await openai.chat.completions
    .create({ model: "openai/gpt-5-mini", messages: hello })
    .withResponse();
  assert.match(data.choices[0]?.message.content ?? "", /harbour/);
  assert(data.usage !== undefined && data.usage.completion_tokens > 0);
  const charged = BigInt(before.balance_nusd) - BigInt((await credits()).balance_nusd);
  assert.equal(response.headers.get("x-daybreak-cost-nusd"), charged.toString());
  assert(charged > 0n);
  assert.equal(response.headers.get("x-daybreak-security"), "simulated");
  const id = response.headers.get("x-generation-id");
  const generation = await getJson<{ data: Record<string, unknown> }>(
    `${network.ready.base_url}/generation?id=${id}`,
    network.ready.api_key,
  );
  assert.equal(generation.data["id"], id);
  assert.equal(generation.data["native_tokens_prompt"], data.usage.prompt_tokens);
  assert.equal(generation.data["native_tokens_completion"], data.usage.completion_tokens);
});

test("openai: a stream whose usage is known at its end although nobody asked for it", async () => {
  const stream = await openai.chat.completions.create({
    model: "gpt-5-mini",
    messages: hello,
    stream: true,
  });
  let text = "";
  let usage: OpenAI.CompletionUsage | null | undefined;
  for await (const chunk of stream) {
    text += chunk.choices[0]?.delta.content ?? "";
    usage = chunk.usage ?? usage;
  }
  assert.match(text, /harbour/);
  assert((usage?.completion_tokens ?? 0) > 0);
});

test("openai: a tool call, streamed and not", async () => {
  const request = {
    model: "openai/gpt-5-mini",
    messages: hello,
    tools: [
      {
        type: "function" as const,
        function: {
          name: "weather",
          parameters: {
            type: "object",
            properties: { city: { type: "string" } },
            required: ["city"],
          },
        },
      },
    ],
  };
  const completion = await openai.chat.completions.create(request);
  const call = completion.choices[0]?.message.tool_calls?.[0];
  assert(call?.type === "function");
  assert.equal(call.function.name, "weather");
  assert.deepEqual(Object.keys(JSON.parse(call.function.arguments) as object), ["city"]);
  const final = await openai.chat.completions.stream(request).finalChatCompletion();
  assert.equal(final.choices[0]?.finish_reason, "tool_calls");
});

test("anthropic: a tool call, streamed and not", async () => {
  const request = {
    model: "claude-haiku-4-5",
    max_tokens: 200,
    messages: hello,
    tools: [
      {
        name: "weather",
        description: "Tells the weather of a city, as it is now and as it will be tomorrow.",
        input_schema: {
          type: "object" as const,
          properties: { city: { type: "string" } },
          required: ["city"],
        },
      },
    ],
  };
  const message = await anthropic.messages.create(request);
  const call = message.content.find((block) => block.type === "tool_use");
  assert.equal(call?.name, "weather");
  const final = await anthropic.messages.stream(request).finalMessage();
  assert.equal(final.stop_reason, "tool_use");
});

test("anthropic: a message and a stream, with the key in either header", async () => {
  const request = { model: "claude-haiku-4-5", max_tokens: 200, messages: hello };
  const message = await anthropic.messages.create(request);
  assert.equal(message.content[0]?.type, "text");
  assert(message.usage.output_tokens > 0);
  const final = await anthropic.messages.stream(request).finalMessage();
  assert(final.content[0]?.type === "text");
  assert.match(final.content[0].text, /harbour/);
  assert(final.usage.output_tokens > 0);
});

test("every way to send a key works on every surface, under /v1 and /api/v1", async () => {
  for (const prefix of ["/v1", "/api/v1"]) {
    for (const headers of [
      { authorization: `Bearer ${network.ready.api_key}` },
      { "x-api-key": network.ready.api_key },
      { "x-goog-api-key": network.ready.api_key },
    ]) {
      for (const [path, model] of [
        ["/chat/completions", "openai/gpt-5-mini"],
        ["/messages", "anthropic/claude-haiku-4-5"],
      ]) {
        const response = await fetch(`${network.origin}${prefix}${path}`, {
          method: "POST",
          headers: { ...headers, "content-type": "application/json" } as Record<string, string>,
          body: JSON.stringify({ model, max_tokens: 20, messages: hello }),
        });
        assert.equal(response.status, 200, `${prefix}${path}: ${await response.clone().text()}`);
        await response.arrayBuffer();
      }
      const key = await fetch(`${network.origin}${prefix}/key`, {
        headers: headers as Record<string, string>,
      });
      assert.equal(key.status, 200);
    }
  }
});

test("errors are the clients' own classes, with what to do in them", async () => {
  const bad = new OpenAI({ baseURL: network.ready.base_url, apiKey: "sk-db-wrong", maxRetries: 0 });
  await assert.rejects(
    bad.chat.completions.create({ model: "openai/gpt-5-mini", messages: hello }),
    OpenAI.AuthenticationError,
  );
  await assert.rejects(
    openai.chat.completions.create({ model: "openai/gpt-none", messages: hello }),
    OpenAI.NotFoundError,
  );
  await assert.rejects(
    openai.chat.completions.create({ model: "anthropic/claude-haiku-4-5", messages: hello }),
    (error: unknown) => {
      assert(error instanceof OpenAI.BadRequestError);
      assert.match(error.message, /\/v1\/messages/);
      return true;
    },
  );
  await assert.rejects(
    anthropic.messages.create({ model: "openai/gpt-5-mini", max_tokens: 9, messages: hello }),
    (error: unknown) => {
      assert(error instanceof Anthropic.BadRequestError);
      assert.match(error.message, /\/v1\/chat\/completions/);
      return true;
    },
  );
});

test("an account without credit gets 402 with what is needed and what is there", async () => {
  const account = await postJson<{ api_key: string }>(
    `${network.ready.base_url}/accounts`,
    network.ready.admin_key,
    { name: "poor" },
  );
  assert.equal(account.status, 201);
  const { status, body } = await postJson<{
    error: { code: number; metadata: Record<string, string> };
  }>(`${network.ready.base_url}/chat/completions`, account.body.api_key, {
    model: "openai/gpt-5-mini",
    messages: hello,
    max_tokens: 100,
  });
  assert.equal(status, 402);
  assert.equal(body.error.code, 402);
  assert.equal(body.error.metadata["available_nusd"], "0");
  assert(BigInt(body.error.metadata["needed_nusd"] ?? 0) > 0n);
});

test("a client that goes away in mid-stream pays for what it got, and nothing stays held", async () => {
  const before = await credits();
  const abort = new AbortController();
  const long = [{ role: "user" as const, content: "tell me everything ".repeat(10) }];
  const stream = await openai.chat.completions.create(
    { model: "openai/gpt-5-mini", messages: long, stream: true },
    { signal: abort.signal },
  );
  let seen = 0;
  try {
    for await (const _ of stream) if (++seen === 5) abort.abort();
  } catch {
    // The SDK may or may not report its own abort.
  }
  await waitFor("the hold to end", async () => (await credits()).held_nusd === "0");
  await waitFor("the charge", async () => (await credits()).balance_nusd !== before.balance_nusd);
  const charged = BigInt(before.balance_nusd) - BigInt((await credits()).balance_nusd);
  const whole = 200n * 2_000n * 2n;
  assert(charged > 0n && charged < whole, `charged ${charged} nano-USD`);
});

test("GET /models lists what miners sell now, in OpenRouter's and OpenAI's form", async () => {
  const list = await openai.models.list();
  const model = list.data.find(({ id }) => id === "openai/gpt-5-mini") as unknown as {
    pricing: { prompt: string };
    context_length: number;
  };
  assert(model !== undefined);
  assert.match(model.pricing.prompt, /^0\.\d+$/);
  assert.equal(model.context_length, 400_000);
});

test("GET /network/miners says of every miner that it serves, and at what price", async () => {
  const miners = await getJson<{ data: { hotkey: string; state: string; products: unknown[] }[] }>(
    `${network.ready.base_url}/network/miners`,
  );
  assert.deepEqual(
    miners.data.map(({ hotkey }) => hotkey).sort(),
    network.ready.miners.map(({ hotkey }) => hotkey).sort(),
  );
  for (const miner of miners.data) {
    assert.equal(miner.state, "serving");
    assert(miner.products.length > 0);
  }
});

test("provider preferences are honoured: only, ignore, and a price no miner offers", async () => {
  const wanted = network.ready.miners[1]?.hotkey ?? "";
  const ask = async (provider: object) =>
    await postJson<{ error?: { message: string } }>(
      `${network.ready.base_url}/chat/completions`,
      network.ready.api_key,
      { model: "openai/gpt-5-mini", messages: hello, provider },
    );
  for (let i = 0; i < 3; i += 1)
    assert.equal((await ask({ only: [wanted] })).headers.get("x-daybreak-miner"), wanted);
  for (let i = 0; i < 3; i += 1)
    assert.notEqual((await ask({ ignore: [wanted] })).headers.get("x-daybreak-miner"), wanted);
  const tooCheap = await ask({ max_price: { prompt: "0.0001", completion: "0.0001" } });
  assert.equal(tooCheap.status, 503);
  assert.match(tooCheap.body.error?.message ?? "", /price/);
});
