import assert from "node:assert/strict";
import { test } from "node:test";
import Anthropic from "@anthropic-ai/sdk";
import OpenAI from "openai";
import { auditLedger } from "../../src/billing/audit.ts";
import {
  CHAT_MODEL,
  chatEvents,
  MESSAGES_MODEL,
  openTestGateway,
  openTestMiner,
  testNetwork,
  untilServing,
} from "./fixture.ts";

test("the openai and anthropic clients are served, streaming and not, and every request is paid once", async (t) => {
  const network = testNetwork();
  const miner = await openTestMiner(t, network);
  const gateway = await openTestGateway(t, network);
  await untilServing(gateway, 1);
  const { apiKey, account } = await gateway.customer();
  const openai = new OpenAI({ apiKey, baseURL: `${gateway.url}/v1`, maxRetries: 0 });
  const anthropic = new Anthropic({ apiKey, baseURL: gateway.url, maxRetries: 0 });

  const whole = await openai.chat.completions
    .create({ model: CHAT_MODEL, messages: [{ role: "user", content: "hi" }] })
    .withResponse();
  assert.equal(whole.data.choices[0]?.message.content, "Hello");
  assert.equal(whole.data.usage?.total_tokens, 17);
  const id = whole.response.headers.get("x-generation-id") ?? "";
  assert.match(id, /^gen-[0-9a-f-]{36}$/);
  assert.equal(whole.response.headers.get("x-daybreak-security"), "simulated");
  assert.equal(whole.response.headers.get("x-daybreak-mode"), "attested");
  const cost = BigInt(whole.response.headers.get("x-daybreak-cost-nusd") ?? "-1");
  assert(cost > 0n);

  const words: string[] = [];
  let usage: number | undefined;
  const stream = await openai.chat.completions.create({
    model: CHAT_MODEL,
    messages: [{ role: "user", content: "hi" }],
    stream: true,
  });
  for await (const chunk of stream) {
    words.push(chunk.choices[0]?.delta.content ?? "");
    usage = chunk.usage?.total_tokens ?? usage;
  }
  assert.equal(words.join(""), "Hello");
  assert.equal(usage, 17);

  const message = await anthropic.messages.create({
    model: MESSAGES_MODEL,
    max_tokens: 100,
    messages: [{ role: "user", content: "hi" }],
  });
  assert.equal(message.content[0]?.type === "text" && message.content[0].text, "Hello");
  const streamed = anthropic.messages.stream({
    model: MESSAGES_MODEL,
    max_tokens: 100,
    messages: [{ role: "user", content: "hi" }],
  });
  assert.equal(await streamed.finalText(), "Hello");

  // What the provider wrote is what the customer reads, to the byte.
  const raw = await fetch(`${gateway.url}/api/v1/chat/completions`, {
    method: "POST",
    headers: { "x-goog-api-key": apiKey },
    body: JSON.stringify({
      model: CHAT_MODEL,
      messages: [{ role: "user", content: "hi" }],
      stream: true,
      provider: { sort: "price" },
    }),
  });
  assert.equal(await raw.text(), chatEvents(["Hel", "lo"]).join(""));
  const seen = miner.upstream.seen.at(-1);
  assert.equal(seen?.body["provider"], undefined, "what is meant for the gateway stays there");

  const balance = await gateway.ledger.balance(account);
  assert.equal(balance.heldNusd, 0n);
  assert(balance.chargedNusd > cost);
  assert.equal(await gateway.ledger.leafCount(), 5n);
  assert(
    (await auditLedger(gateway.database)).every(({ ok }) => ok),
    "the books balance",
  );

  const generation = await gateway.get(`/api/v1/generation?id=${id}`, apiKey);
  assert.equal(generation.status, 200);
  const { data } = generation.json as { data: Record<string, unknown> };
  assert.equal(data["cost_nusd"], cost.toString());
  assert.equal(data["native_tokens_prompt"], 12);
  assert.equal(data["finish_reason"], "stop");
  assert.equal(typeof data["receipt"], "string");
});
