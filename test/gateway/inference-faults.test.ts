import assert from "node:assert/strict";
import { once } from "node:events";
import { request as httpRequest, type IncomingMessage, type ServerResponse } from "node:http";
import { connect } from "node:net";
import { test } from "node:test";
import OpenAI from "openai";
import { apiKeyIdOf } from "../../src/billing/accounts.ts";
import { decodeClaims } from "../../src/core/signed-claims.ts";
import type { Database } from "../../src/runtime/database.ts";
import {
  CHAT_MODEL,
  chatEvents,
  failing,
  MESSAGES_MODEL,
  openTestGateway,
  openTestMiner,
  sharedDatabase,
  type TestGateway,
  testNetwork,
  until,
  untilServing,
} from "./fixture.ts";

const chat = (fields: object = {}): string =>
  JSON.stringify({ model: CHAT_MODEL, messages: [{ role: "user", content: "hi" }], ...fields });

async function post(
  gateway: TestGateway,
  path: string,
  body: string,
  headers: Record<string, string> = {},
) {
  const answer = await fetch(gateway.url + path, {
    method: "POST",
    body,
    headers: { "content-type": "application/json", ...headers },
  });
  const text = await answer.text();
  return {
    status: answer.status,
    headers: answer.headers,
    text,
    json: (): Record<string, never> => JSON.parse(text) as Record<string, never>,
  };
}

test("a client that leaves while its key is looked up gives its place back", async (t) => {
  const network = testNetwork();
  await openTestMiner(t, network);
  const real = await sharedDatabase();
  const lookUp = Promise.withResolvers<undefined>();
  let slowKey: string | undefined;
  let isAsked = false;
  const database: Database = {
    ...real,
    query: async <Row extends object>(sql: string, params?: readonly unknown[]) => {
      if (slowKey !== undefined && params?.includes(slowKey) === true) {
        isAsked = true;
        await lookUp.promise;
      }
      return await real.query<Row>(sql, params);
    },
  };
  const gateway = await openTestGateway(t, network, { database, requestsMax: 1 });
  await untilServing(gateway, 1);
  const stays = await gateway.customer();
  const leaves = await gateway.customer();
  slowKey = apiKeyIdOf(leaves.apiKey);
  const socket = connect(Number(new URL(gateway.url).port), "127.0.0.1");
  t.after(() => socket.destroy());
  socket.write(
    `POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer ${leaves.apiKey}\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n{`,
  );
  await until("the look-up", () => isAsked);
  socket.destroy();
  // Each answer takes the gateway a turn, in which it hears that the other connection is gone.
  for (let n = 0; n < 5; n++) await gateway.get("/healthz");
  lookUp.resolve(undefined);
  await until("its end", async () => (await gateway.get("/healthz")).status === 200);
  const answer = await post(gateway, "/v1/chat/completions", chat(), {
    authorization: `Bearer ${stays.apiKey}`,
  });
  assert.equal(answer.status, 200, answer.text);
});

test("failure before the first content moves to the next miner, within one hold", async (t) => {
  const network = testNetwork();
  const cheap = await openTestMiner(t, network, { discountBps: 5_000 });
  const dear = await openTestMiner(t, network, { discountBps: 1_000 });
  const gateway = await openTestGateway(t, network);
  await untilServing(gateway, 2);
  const { apiKey, account } = await gateway.customer();
  const headers = { authorization: `Bearer ${apiKey}` };

  for (const [name, answer] of [
    ["a 500", failing(500)],
    ["a 429", failing(429)],
    ["a 401 of the upstream key", failing(401)],
    ["a dropped connection", (_: unknown, response: { destroy(): void }) => response.destroy()],
    [
      "an error inside the stream before content",
      (_: unknown, response: ServerResponse) => {
        response.writeHead(200, { "content-type": "text/event-stream" });
        response.end(`data: ${JSON.stringify({ error: { message: "overloaded" } })}\n\n`);
      },
    ],
  ] as const) {
    cheap.upstream.answer = answer;
    const streamed = await post(gateway, "/v1/chat/completions", chat({ stream: true }), headers);
    assert.equal(streamed.status, 200, name);
    assert.equal(streamed.headers.get("x-daybreak-miner"), dear.hotkey, name);
    assert(streamed.text.endsWith("data: [DONE]\n\n"), name);
    assert(!streamed.text.includes("overloaded"), name);
  }
  assert(cheap.upstream.seen.length > 0);
  const { heldNusd } = await gateway.ledger.balance(account);
  assert.equal(heldNusd, 0n);
  const paid = (await gateway.ledger.leaves(0n, 100)).filter(({ leaf }) => {
    const amount = decodeClaims(leaf.split("\n")[1] ?? "")?.payload["amt"];
    return amount !== "0";
  });
  assert.equal(paid.length, 5, "only the miner that answered earns");
});

test("a refusal that is the customer's own fault is passed back, and nothing is charged", async (t) => {
  const network = testNetwork();
  const miner = await openTestMiner(t, network);
  const other = await openTestMiner(t, network);
  const gateway = await openTestGateway(t, network);
  await untilServing(gateway, 2);
  const { apiKey, account } = await gateway.customer();
  miner.upstream.answer = failing(400, "temperature is too high");
  other.upstream.answer = failing(400, "temperature is too high");
  const answer = await post(gateway, "/v1/chat/completions", chat({ temperature: 9 }), {
    authorization: `Bearer ${apiKey}`,
  });
  assert.equal(answer.status, 400);
  const { error } = answer.json() as unknown as {
    error: { message: string; metadata: Record<string, unknown> };
  };
  assert.equal(error.message, "temperature is too high");
  assert.equal(error.metadata["code"], "upstream_refused_request");
  assert.equal(miner.upstream.seen.length + other.upstream.seen.length, 1, "nobody else is asked");
  await until("the hold to be released", async () => {
    const { heldNusd, chargedNusd } = await gateway.ledger.balance(account);
    assert.equal(chargedNusd, 0n);
    return heldNusd === 0n;
  });
});

test("refusals say what to do, in the shape of the surface", async (t) => {
  const network = testNetwork();
  const miner = await openTestMiner(t, network);
  const gateway = await openTestGateway(t, network, { bodyBytesMax: 4_096 });
  await untilServing(gateway, 1);
  const rich = await gateway.customer();
  const poor = await gateway.customer(1_000n);
  const bearer = { authorization: `Bearer ${rich.apiKey}` };
  const { seen } = miner.upstream;

  const cases: readonly {
    readonly name: string;
    readonly path: string;
    readonly body?: string;
    readonly headers?: Record<string, string>;
    readonly status: number;
    readonly code: string;
    readonly method?: string;
  }[] = [
    {
      name: "no key",
      path: "/v1/chat/completions",
      body: chat(),
      status: 401,
      code: "missing_api_key",
    },
    {
      name: "unknown key",
      path: "/v1/chat/completions",
      body: chat(),
      headers: { "x-api-key": "sk-nope" },
      status: 401,
      code: "invalid_api_key",
    },
    {
      name: "unknown model",
      path: "/v1/chat/completions",
      body: chat({ model: "acme/none" }),
      headers: bearer,
      status: 404,
      code: "unknown_model",
    },
    {
      name: "wrong surface",
      path: "/api/v1/chat/completions",
      body: chat({ model: MESSAGES_MODEL }),
      headers: bearer,
      status: 400,
      code: "wrong_surface",
    },
    {
      name: "not JSON",
      path: "/v1/chat/completions",
      body: "{",
      headers: { "x-goog-api-key": rich.apiKey },
      status: 400,
      code: "invalid_json",
    },
    {
      name: "too large",
      path: "/v1/chat/completions",
      body: chat({ user: "x".repeat(5_000) }),
      headers: bearer,
      status: 413,
      code: "body_too_large",
    },
    {
      name: "no money",
      path: "/v1/chat/completions",
      body: chat({ max_tokens: 1_000 }),
      headers: { authorization: `Bearer ${poor.apiKey}` },
      status: 402,
      code: "insufficient_credit",
    },
    { name: "no path", path: "/v1/nothing", body: "", status: 404, code: "not_found" },
  ];
  for (const { name, path, body, headers, status, code } of cases) {
    const answer = await post(gateway, path, body ?? "", headers);
    assert.equal(answer.status, status, name);
    const { error } = answer.json() as unknown as {
      error: { code: number; type: string; param: unknown; metadata: Record<string, unknown> };
    };
    assert.equal(error.code, status, name);
    assert.equal(error.metadata["code"], code, name);
    assert.equal(typeof error.type, "string", name);
    assert(error.param === null || typeof error.param === "string", name);
  }
  const method = await fetch(`${gateway.url}/v1/chat/completions`);
  assert.equal(method.status, 405);
  const head = await fetch(`${gateway.url}/v1/models`, {
    headers: { "x-long": "y".repeat(20_000) },
  });
  assert.equal(head.status, 431);
  assert.equal(
    ((await head.json()) as { error: { metadata: { code: string } } }).error.metadata.code,
    "headers_too_large",
  );

  const wrong = await post(
    gateway,
    "/v1/messages",
    JSON.stringify({ model: CHAT_MODEL, max_tokens: 9, messages: [] }),
    bearer,
  );
  const envelope = wrong.json() as unknown as {
    type: string;
    error: { type: string; message: string };
    request_id: string;
  };
  assert.equal(wrong.status, 400);
  assert.equal(envelope.type, "error");
  assert.equal(envelope.error.type, "invalid_request_error");
  assert.match(envelope.error.message, /POST \/v1\/chat\/completions/);
  assert.match(envelope.request_id, /^gen-/);

  const poorAnswer = await post(gateway, "/v1/chat/completions", chat({ max_tokens: 1_000 }), {
    authorization: `Bearer ${poor.apiKey}`,
  });
  const { metadata } = (
    poorAnswer.json() as unknown as {
      error: { metadata: Record<string, string> & { top_up: { address: string } } };
    }
  ).error;
  assert.equal(metadata["available_nusd"], "1000");
  assert(BigInt(metadata["needed_nusd"] ?? "0") > 1_000n);
  assert.equal(metadata.top_up.address, poor.depositAddress);
  assert.equal(poorAnswer.headers.get("x-should-retry"), "false");
  assert.equal(seen.length, 0, "no refusal reaches an upstream");
});

test("an account with little credit is served with a smaller bound instead of refused", async (t) => {
  const network = testNetwork();
  const miner = await openTestMiner(t, network);
  const gateway = await openTestGateway(t, network);
  await untilServing(gateway, 1);
  // 16 384 output tokens would cost 0.03 USD.
  const { apiKey } = await gateway.customer(2_000_000n);
  for (let i = 0; i < 3; i++) {
    const answer = await post(gateway, "/v1/chat/completions", chat(), {
      authorization: `Bearer ${apiKey}`,
    });
    assert.equal(answer.status, 200);
  }
  const bound = miner.upstream.seen[0]?.body["max_completion_tokens"];
  assert(typeof bound === "number" && bound < 1_100 && bound >= 256, String(bound));
});

test("a client that leaves stops the upstream and pays for what it got", async (t) => {
  const network = testNetwork();
  const miner = await openTestMiner(t, network);
  const gateway = await openTestGateway(t, network);
  await untilServing(gateway, 1);
  const { apiKey, account } = await gateway.customer();
  miner.upstream.answer = (_seen, response) => {
    response.writeHead(200, { "content-type": "text/event-stream" });
    for (const event of chatEvents(["one", " two"]).slice(0, 3)) response.write(event);
  };
  const openai = new OpenAI({ apiKey, baseURL: `${gateway.url}/v1`, maxRetries: 0 });
  const stream = await openai.chat.completions.create({
    model: CHAT_MODEL,
    messages: [{ role: "user", content: "hi" }],
    stream: true,
  });
  let words = "";
  for await (const chunk of stream) {
    words += chunk.choices[0]?.delta.content ?? "";
    if (words === "one two") stream.controller.abort();
  }
  await until("the upstream to be stopped", () => miner.upstream.aborted === 1);
  await until("the request to be settled", async () => {
    const { heldNusd, chargedNusd } = await gateway.ledger.balance(account);
    return heldNusd === 0n && chargedNusd > 0n;
  });
  const [leaf] = await gateway.ledger.leaves(0n, 10);
  const receipt = decodeClaims(leaf?.leaf.split("\n")[0] ?? "")?.payload;
  assert.equal(receipt?.["status"], "client_abort");
});

test("a miner that dies after the first content ends the stream in band, and what came is paid", async (t) => {
  const network = testNetwork();
  const miner = await openTestMiner(t, network);
  const gateway = await openTestGateway(t, network);
  await untilServing(gateway, 1);
  const { apiKey, account } = await gateway.customer();
  miner.upstream.answer = (_seen, response) => {
    response.writeHead(200, { "content-type": "text/event-stream" });
    for (const event of chatEvents(["one", " two"]).slice(0, 3)) response.write(event);
    setImmediate(() => response.destroy());
  };
  const answer = await post(gateway, "/v1/chat/completions", chat({ stream: true }), {
    authorization: `Bearer ${apiKey}`,
  });
  assert.equal(answer.status, 200);
  assert(answer.text.includes('"content":"one"'));
  const events = answer.text.trim().split("\n\n");
  assert.equal(events.at(-1), "data: [DONE]");
  const error = JSON.parse((events.at(-2) ?? "").replace(/^data: /, "")) as {
    error: { code: number };
    choices: { finish_reason: string }[];
  };
  assert.equal(error.error.code, 502);
  assert.equal(error.choices[0]?.finish_reason, "error");
  await until("the request to be settled", async () => {
    const { heldNusd, chargedNusd } = await gateway.ledger.balance(account);
    return heldNusd === 0n && chargedNusd > 0n;
  });
});

test("no byte leaves before the hold, and the end of a stream not before its settlement", async (t) => {
  const network = testNetwork();
  const miner = await openTestMiner(t, network);
  let openHold: () => void = () => undefined;
  let openSettle: () => void = () => undefined;
  const holdGate = new Promise<void>((resolve) => (openHold = resolve));
  const settleGate = new Promise<void>((resolve) => (openSettle = resolve));
  let gated = false;
  const gateway = await openTestGateway(t, network, {
    ledgerSeam: (ledger) => ({
      ...ledger,
      hold: async (order) => {
        const verdict = await ledger.hold(order);
        if (gated) await holdGate;
        return verdict;
      },
      settle: async (order) => {
        if (gated) await settleGate;
        return await ledger.settle(order);
      },
    }),
  });
  await untilServing(gateway, 1);
  const { apiKey } = await gateway.customer();
  const headers = { authorization: `Bearer ${apiKey}`, "content-type": "application/json" };
  // The first request puts the account in good standing, so that the next is dispatched beside its hold.
  await post(gateway, "/v1/chat/completions", chat(), headers);
  gated = true;
  const request = httpRequest(`${gateway.url}/v1/chat/completions`, { method: "POST", headers });
  let text = "";
  let began = false;
  const response = once(request, "response").then(([answer]) => {
    began = true;
    (answer as IncomingMessage).on("data", (chunk: Buffer) => {
      text += chunk.toString();
    });
    return answer as IncomingMessage;
  });
  request.end(chat({ stream: true }));
  await until("the upstream to have answered", () => miner.upstream.seen.length === 2);
  await new Promise((resolve) => setTimeout(resolve, 50));
  assert.equal(began, false, "nothing before the hold");
  openHold();
  const answer = await response;
  await until("the content", () => text.includes('"content":"lo"'));
  await new Promise((resolve) => setTimeout(resolve, 50));
  assert(
    !text.includes("[DONE]") && !text.includes('"usage":{'),
    "nothing final before settlement",
  );
  openSettle();
  await once(answer, "end");
  assert(text.endsWith("data: [DONE]\n\n"));
  assert(text.includes('"usage":{'));
});

test("a client that leaves before its hold is committed costs nobody anything", async (t) => {
  const network = testNetwork();
  const miner = await openTestMiner(t, network);
  let openHold: () => void = () => undefined;
  let asked = false;
  const holdGate = new Promise<void>((resolve) => (openHold = resolve));
  const gateway = await openTestGateway(t, network, {
    ledgerSeam: (ledger) => ({
      ...ledger,
      hold: async (order) => {
        const verdict = await ledger.hold(order);
        asked = true;
        await holdGate;
        return verdict;
      },
    }),
  });
  await untilServing(gateway, 1);
  const { apiKey, account } = await gateway.customer();
  const headers = { authorization: `Bearer ${apiKey}`, "content-type": "application/json" };
  // The account's first request: its hold comes before anybody is asked.
  const request = httpRequest(`${gateway.url}/v1/chat/completions`, { method: "POST", headers });
  request.on("error", () => undefined);
  request.end(chat({ stream: true }));
  await until("the hold to be asked for", () => asked);
  const closed = new Promise((resolve) => request.once("close", resolve));
  request.destroy();
  await closed;
  await new Promise((resolve) => setTimeout(resolve, 50));
  openHold();
  await until("the hold to be released", async () => {
    const { heldNusd, chargedNusd } = await gateway.ledger.balance(account);
    assert.equal(chargedNusd, 0n);
    return heldNusd === 0n;
  });
  assert.equal(miner.upstream.seen.length, 0);
});

test("one account cannot fill the memory for everybody's bodies", async (t) => {
  const network = testNetwork();
  await openTestMiner(t, network);
  const gateway = await openTestGateway(t, network, {
    bodyBytesMax: 4_000,
    bodyBytesInFlightMax: 16_000,
  });
  await untilServing(gateway, 1);
  const [greedy, other] = [await gateway.customer(), await gateway.customer()];
  const slow = httpRequest(`${gateway.url}/v1/chat/completions`, {
    method: "POST",
    headers: {
      authorization: `Bearer ${greedy.apiKey}`,
      "content-type": "application/json",
      "content-length": 4_000,
    },
  });
  slow.on("error", () => undefined);
  slow.write("{");
  await until("the slow request to be admitted", async () =>
    (await gateway.metrics.metrics()).includes("daybreak_gateway_body_bytes 4000"),
  );
  const own = { authorization: `Bearer ${greedy.apiKey}` };
  assert.equal((await post(gateway, "/v1/chat/completions", chat(), own)).status, 429);
  const headers = { authorization: `Bearer ${other.apiKey}` };
  assert.equal((await post(gateway, "/v1/chat/completions", chat(), headers)).status, 200);
  slow.destroy();
});

test("a body that nobody asked for is refused before it is read", async (t) => {
  const gateway = await openTestGateway(t, testNetwork());
  for (const path of ["/v1/accounts", "/v1/deposits", "/v1/nothing"])
    assert.equal((await post(gateway, path, "x".repeat(20_000))).status, 413, path);
});

test("shutdown lets a running stream end, and refuses new requests", async (t) => {
  const network = testNetwork();
  const miner = await openTestMiner(t, network);
  const gateway = await openTestGateway(t, network, { drainMs: 10_000 });
  await untilServing(gateway, 1);
  const { apiKey, account } = await gateway.customer();
  const headers = { authorization: `Bearer ${apiKey}` };
  let finish: () => void = () => undefined;
  miner.upstream.answer = (_seen, response) => {
    response.writeHead(200, { "content-type": "text/event-stream" });
    const events = chatEvents(["one", " two"]);
    response.write(events.slice(0, 2).join(""));
    finish = () => response.end(events.slice(2).join(""));
  };
  const running = post(gateway, "/v1/chat/completions", chat({ stream: true }), headers);
  await until("the stream to run", () => miner.upstream.seen.length === 1);
  const closed = gateway.close();
  const refused = await post(gateway, "/v1/chat/completions", chat(), headers);
  assert.equal(refused.status, 503);
  assert.equal(
    (refused.json() as unknown as { error: { metadata: { code: string } } }).error.metadata.code,
    "shutting_down",
  );
  finish();
  const answer = await running;
  assert(answer.text.endsWith("data: [DONE]\n\n"));
  await closed;
  const [row] = await gateway.database.query<{ open: bigint }>(
    "SELECT count(*) AS open FROM ledger.request WHERE account = $1 AND state <> 1",
    [account],
  );
  assert.equal(row?.open, 0n, "the request is settled");
});

test("limits on concurrency and rate answer with Retry-After", async (t) => {
  const network = testNetwork();
  const miner = await openTestMiner(t, network);
  const gateway = await openTestGateway(t, network, { requestsMax: 1 });
  const slow = await openTestGateway(t, network, {
    requestsPerMinute: 6,
    signingKey: gateway.signingKey,
  });
  await untilServing(gateway, 1);
  await untilServing(slow, 1);
  const { apiKey } = await gateway.customer();
  const headers = { authorization: `Bearer ${apiKey}` };
  let finish: () => void = () => undefined;
  miner.upstream.answer = (_seen, response) => {
    finish = () => failing(400)(_seen, response) as undefined;
  };
  const first = post(gateway, "/v1/chat/completions", chat(), headers);
  await until("the first request to run", () => miner.upstream.seen.length === 1);
  const second = await post(gateway, "/v1/chat/completions", chat(), headers);
  assert.equal(second.status, 503);
  assert.equal(second.headers.get("retry-after"), "1");
  finish();
  await first;

  const other = await slow.customer();
  const limited = { authorization: `Bearer ${other.apiKey}` };
  miner.upstream.answer = failing(400);
  assert.equal((await post(slow, "/v1/chat/completions", chat(), limited)).status, 400);
  const refused = await post(slow, "/v1/chat/completions", chat(), limited);
  assert.equal(refused.status, 429);
  assert(Number(refused.headers.get("retry-after")) >= 1);
});
