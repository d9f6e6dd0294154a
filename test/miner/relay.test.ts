import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import type { IncomingMessage, ServerResponse } from "node:http";
import { join } from "node:path";
import { Readable } from "node:stream";
import { test } from "node:test";
import { connect } from "node:tls";
import { request as undiciRequest } from "undici";
import { parseEvidence } from "../../src/attestation/evidence.ts";
import { newRequestId } from "../../src/core/ids.ts";
import { signingKey } from "../../src/core/jws.ts";
import { claimsHashOf } from "../../src/core/signed-claims.ts";
import { openLogger } from "../../src/runtime/logger.ts";
import { signGrant } from "../signed.ts";
import {
  type Answer,
  CHAT_MODEL,
  chatAnswer,
  chatBody,
  chatEvents,
  grantFor,
  honestAnswer,
  messagesAnswer,
  messagesBody,
  messagesEvents,
  openClient,
  openTestRelay,
  openTestUpstream,
  PATHS,
  pulled,
  pullOrder,
  receiptOf,
  relayed,
  saltedHash,
  send,
  sha256,
  temporaryFolder,
  UPSTREAM_KEY,
  until,
  verifiedReceipt,
} from "./fixture.ts";

for (const { surface, streamed, body, expected, use, id, upm } of [
  {
    surface: "chat",
    streamed: false,
    body: chatBody(),
    expected: chatAnswer(),
    use: { input: 8, cache_read: 4, output: 3, reasoning: 2 },
    id: "chatcmpl-1",
    upm: "gpt-5-mini-2025-08-07",
  },
  {
    surface: "chat",
    streamed: true,
    body: chatBody({ stream: true }),
    expected: Buffer.from(chatEvents().join("")),
    use: { input: 8, cache_read: 4, output: 3, reasoning: 2 },
    id: "chatcmpl-1",
    upm: "gpt-5-mini-2025-08-07",
  },
  {
    surface: "messages",
    streamed: false,
    body: messagesBody(),
    expected: messagesAnswer(),
    use: { input: 10, cache_read: 7, output: 3 },
    id: "msg_1",
    upm: "claude-haiku-4-5-20251001",
  },
  {
    surface: "messages",
    streamed: true,
    body: messagesBody({ stream: true }),
    expected: Buffer.from(messagesEvents().join("")),
    use: { input: 10, cache_read: 7, output: 3 },
    id: "msg_1",
    upm: "claude-haiku-4-5-20251001",
  },
] as const) {
  test(`a relay passes ${streamed ? "a stream of" : ""} ${surface} byte for byte and ends it with a receipt`, async (t) => {
    const upstream = await openTestUpstream(t, honestAnswer);
    const relay = await openTestRelay(t, { upstream });
    const client = openClient(t);
    const grant = grantFor(relay, surface, body);
    const grantToken = signGrant(grant, relay.gatewayKey);
    const answer = await relayed(client, relay, surface, body, { grantToken });
    assert.equal(answer.status, 200);
    assert.deepEqual(answer.body, expected);
    assert.equal(
      answer.headers["content-type"],
      streamed ? "text/event-stream" : "application/json",
    );
    const { salt, ...receipt } = receiptOf(relay, answer);
    assert.match(salt, /^[0-9a-f]{32}$/);
    assert.deepEqual(receipt, {
      v: 1,
      iss: grant.iss,
      aud: relay.gatewayKey.kid,
      ts: receipt.ts,
      rid: grant.rid,
      e: 5,
      grant: claimsHashOf(grantToken),
      att: relay.enclave.id(),
      kind: "sim",
      security: "simulated",
      sealed_by: "gateway",
      model: grant.model,
      upm,
      uph: new URL(upstream.url).host,
      upid: sha256(id),
      quote: grant.quote,
      use,
      src: "provider",
      status: "complete",
      req: saltedHash(salt, body),
      res: saltedHash(salt, expected),
      bytes: { in: body.length, out: expected.length },
      t: receipt.t,
      seq: 0,
      prev: "",
    });
    assert(receipt.t.dur >= receipt.t.ttft);
    const [seen] = upstream.seen;
    assert.equal(upstream.seen.length, 1);
    const sent = JSON.parse(seen?.body.toString() ?? "") as Record<string, unknown>;
    assert.equal(sent["model"], surface === "chat" ? "gpt-5-mini" : "claude-haiku-4-5");
    if (surface === "chat") {
      assert.equal(seen?.url, "/v1/chat/completions");
      assert.equal(seen?.headers["authorization"], `Bearer ${UPSTREAM_KEY}`);
      assert.equal(sent["max_completion_tokens"], 100, "the grant's bound is written in");
      assert.deepEqual(sent["stream_options"], streamed ? { include_usage: true } : undefined);
    } else {
      assert.equal(seen?.url, "/v1/messages");
      assert.equal(seen?.headers["x-api-key"], UPSTREAM_KEY);
      assert.equal(seen?.headers["anthropic-version"], "2023-06-01");
      assert.equal(sent["max_tokens"], 50);
    }
    assert.deepEqual((await pulled(client, relay, grant.rid))?.rid, grant.rid);
  });
}

test("a relay passes on only the headers that upstreams need", async (t) => {
  const upstream = await openTestUpstream(t, honestAnswer);
  const relay = await openTestRelay(t, { upstream });
  await relayed(openClient(t), relay, "messages", messagesBody(), {
    headers: {
      accept: "application/json",
      "anthropic-version": "2026-10-21",
      "anthropic-beta": "context-1m",
      authorization: "Bearer sk-db-customer",
      "x-api-key": "sk-db-customer",
      cookie: "a=b",
      "x-forwarded-for": "192.0.2.1",
      "user-agent": "customer",
    },
  });
  const {
    host: _,
    "content-length": __,
    connection: ___,
    ...headers
  } = upstream.seen[0]?.headers ?? {};
  assert.deepEqual(headers, {
    accept: "application/json",
    "accept-encoding": "identity",
    "anthropic-beta": "context-1m",
    "anthropic-version": "2026-10-21",
    "content-type": "application/json",
    "x-api-key": UPSTREAM_KEY,
  });
});

test("receipts of one enclave form a chain, whatever the outcome", async (t) => {
  const upstream = await openTestUpstream(t, honestAnswer);
  const relay = await openTestRelay(t, { upstream });
  const client = openClient(t);
  let previous = "";
  for (let seq = 0; seq < 4; seq++) {
    upstream.answer =
      seq % 2 === 0
        ? honestAnswer
        : (_request, response) => response.writeHead(500).end('{"error":"no"}');
    const answer = await relayed(client, relay, "chat", chatBody());
    const receipt = receiptOf(relay, answer);
    assert.equal(receipt.seq, seq);
    assert.equal(receipt.prev, previous);
    previous = claimsHashOf(answer.trailers["daybreak-receipt"] ?? "");
  }
});

const GRANT_CASES: readonly {
  name: string;
  refusal: string;
  changes?: Parameters<typeof grantFor>[3];
  body?: Buffer;
  token?: "none" | "garbage" | "stranger" | "tampered";
}[] = [
  { name: "no grant", refusal: "missing", token: "none" },
  { name: "garbage for a grant", refusal: "malformed", token: "garbage" },
  { name: "a grant of a stranger", refusal: "unknown_signer", token: "stranger" },
  { name: "a grant that was changed", refusal: "bad_signature", token: "tampered" },
  {
    name: "a grant for another enclave",
    refusal: "not_for_this_enclave",
    changes: { aud: sha256("other") as never },
  },
  { name: "an expired grant", refusal: "expired", changes: { iat: 1_000, exp: 1_060 } },
  {
    name: "a grant that lives too long",
    refusal: "lives_too_long",
    changes: { exp: Math.floor(Date.now() / 1_000) + 3_600 },
  },
  {
    name: "a grant for another surface",
    refusal: "other_surface",
    changes: { surface: "messages" },
  },
  {
    name: "a grant for another body",
    refusal: "other_body",
    changes: { req: sha256("something else") },
  },
  {
    name: "a grant for another model",
    refusal: "other_model",
    body: chatBody({ model: "openai/gpt-5.5" }),
  },
  {
    name: "a model that does not exist",
    refusal: "other_model",
    body: chatBody({ model: "openai/gpt-9" }),
  },
  {
    name: "a bound above the grant's",
    refusal: "too_long",
    body: chatBody({ max_completion_tokens: 101 }),
  },
  {
    name: "choices that together exceed the grant",
    refusal: "too_long",
    body: chatBody({ max_completion_tokens: 60, n: 2 }),
  },
  {
    name: "more choices than granted tokens",
    refusal: "too_long",
    body: chatBody({ n: 2 }),
    changes: { max_out: 1 },
  },
  {
    name: "a price that was never quoted",
    refusal: "unknown_quote",
    changes: { quote: sha256("cheap") },
  },
];

for (const { name, refusal, changes, body = chatBody(), token } of GRANT_CASES) {
  test(`a relay refuses ${name} without calling the upstream: ${refusal}`, async (t) => {
    const upstream = await openTestUpstream(t, honestAnswer);
    const relay = await openTestRelay(t, { upstream });
    const client = openClient(t);
    const grant = grantFor(relay, "chat", body, changes);
    let grantToken = signGrant(grant, token === "stranger" ? signingKey() : relay.gatewayKey);
    if (token === "garbage") grantToken = "not.a.grant";
    if (token === "tampered") {
      const [head, , signature] = grantToken.split(".");
      const forged = Buffer.from(JSON.stringify({ ...grant, max_out: 9_999 })).toString(
        "base64url",
      );
      grantToken = `${head}.${forged}.${signature}`;
    }
    const answer =
      token === "none"
        ? await send(client, relay.url + PATHS.chat, { method: "POST", body })
        : await relayed(client, relay, "chat", body, { grantToken });
    assert.equal(answer.status, 401);
    assert.equal(errorOf(answer).code, "grant_refused");
    assert.equal(errorOf(answer).refusal, refusal);
    assert.deepEqual(answer.trailers, {});
    assert.equal(upstream.seen.length, 0);
  });
}

test("a relay spends a grant once, also when it comes twice at the same time", async (t) => {
  const upstream = await openTestUpstream(t, honestAnswer);
  const relay = await openTestRelay(t, { upstream });
  const client = openClient(t);
  const body = chatBody();
  const grantToken = signGrant(grantFor(relay, "chat", body), relay.gatewayKey);
  const answers = await Promise.all(
    Array.from({ length: 8 }, () => relayed(client, relay, "chat", body, { grantToken })),
  );
  assert.equal(answers.filter(({ status }) => status === 200).length, 1);
  assert.equal(answers.filter(({ status }) => status === 401).length, 7);
  const late = await relayed(client, relay, "chat", body, { grantToken });
  assert.equal(errorOf(late).refusal, "already_spent");
  assert.equal(upstream.seen.length, 1);
});

test("a refused body does not spend the grant of an honest one", async (t) => {
  const upstream = await openTestUpstream(t, honestAnswer);
  const relay = await openTestRelay(t, { upstream });
  const client = openClient(t);
  const body = chatBody();
  const grantToken = signGrant(grantFor(relay, "chat", body), relay.gatewayKey);
  const stolen = await relayed(client, relay, "chat", chatBody({ seed: 1 }), { grantToken });
  assert.equal(stolen.status, 401);
  assert.equal((await relayed(client, relay, "chat", body, { grantToken })).status, 200);
});

test("a relay looks for a new gateway key before it refuses an unknown one", async (t) => {
  const upstream = await openTestUpstream(t, honestAnswer);
  const relay = await openTestRelay(t, { upstream });
  const client = openClient(t);
  const body = chatBody();
  const newKey = signingKey();
  const token = (): string => signGrant(grantFor(relay, "chat", body), newKey);
  assert.equal((await relayed(client, relay, "chat", body, { grantToken: token() })).status, 401);
  relay.announce(newKey);
  assert.equal((await relayed(client, relay, "chat", body, { grantToken: token() })).status, 200);
  assert.equal(relay.refreshes(), 2);
});

test("a gateway that leaves while its key is looked for takes nothing with it", async (t) => {
  const upstream = await openTestUpstream(t, honestAnswer);
  const refresh = Promise.withResolvers<undefined>();
  const relay = await openTestRelay(t, {
    upstream,
    limits: { inFlightMax: 1 },
    refreshing: () => refresh.promise,
  });
  const newKey = signingKey();
  const body = chatBody();
  const client = openClient(t);
  const grantToken = signGrant(grantFor(relay, "chat", body), newKey);
  const { hostname, port } = new URL(relay.url);
  const socket = connect({ host: hostname, port: Number(port), rejectUnauthorized: false });
  t.after(() => socket.destroy());
  socket.write(
    `POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ndaybreak-grant: ${grantToken}\r\ncontent-length: ${body.length}\r\n\r\n${body.toString()}`,
  );
  await until("the look-up", () => relay.refreshes() === 1);
  socket.destroy();
  // Each answer takes the relay a turn, in which it hears that the other connection is gone.
  for (let n = 0; n < 5; n++) await send(client, `${relay.url}/healthz`);
  relay.announce(newKey);
  refresh.resolve(undefined);
  const next = signGrant(grantFor(relay, "chat", body), newKey);
  const answer = await relayed(client, relay, "chat", body, { grantToken: next });
  assert.equal(answer.status, 200, answer.body.toString());
  assert.equal(upstream.seen.length, 1);
});

test("a relay writes the share of each choice into a request without a bound", async (t) => {
  const upstream = await openTestUpstream(t, honestAnswer);
  const relay = await openTestRelay(t, { upstream });
  await relayed(openClient(t), relay, "chat", chatBody({ n: 3 }));
  const sent = JSON.parse(upstream.seen[0]?.body.toString() ?? "") as Record<string, unknown>;
  assert.equal(sent["max_completion_tokens"], 33);
});

for (const { status, forwarded, body, passes } of [
  { status: 400, forwarded: 400, body: '{"error":{"message":"bad"}}', passes: true },
  { status: 429, forwarded: 429, body: '{"error":{"message":"slow"}}', passes: true },
  { status: 500, forwarded: 500, body: "oops", passes: true },
  { status: 500, forwarded: 500, body: "", passes: false },
  { status: 401, forwarded: 401, body: `{"error":"wrong key"}`, passes: false },
  { status: 403, forwarded: 403, body: `{"error":"no access"}`, passes: false },
  { status: 400, forwarded: 400, body: `{"error":"key ${UPSTREAM_KEY}"}`, passes: false },
  { status: 400, forwarded: 400, body: "x".repeat(65_537), passes: false },
  { status: 302, forwarded: 502, body: "elsewhere", passes: false },
]) {
  test(`an upstream's ${status} (${body.length} bytes) is ${passes ? "passed on" : "replaced"} with a receipt over nothing`, async (t) => {
    const upstream = await openTestUpstream(t, (_request, response) => {
      response.writeHead(status, { "retry-after": "7", location: "http://127.0.0.1:1/" });
      response.end(body);
    });
    const relay = await openTestRelay(t, { upstream });
    const answer = await relayed(openClient(t), relay, "chat", chatBody());
    assert.equal(answer.status, forwarded);
    assert.equal(answer.headers["daybreak-upstream-status"], String(status));
    assert.equal(answer.headers["retry-after"], "7");
    assert.equal(answer.headers["location"], undefined);
    assert.equal(answer.body.toString() === body, passes);
    assert(!answer.body.includes(UPSTREAM_KEY));
    const receipt = receiptOf(relay, answer);
    assert.equal(receipt.status, "upstream_error");
    assert.deepEqual(receipt.use, {});
    assert.equal(receipt.res, saltedHash(receipt.salt, answer.body));
    assert.equal(upstream.seen.length, 1, "nothing is retried or followed");
  });
}

test("an upstream that cannot be reached is an error of the relay, with a receipt over nothing", async (t) => {
  const upstream = await openTestUpstream(t, (_request, _response, raw) => {
    raw.socket.destroy();
  });
  const relay = await openTestRelay(t, { upstream });
  const answer = await relayed(openClient(t), relay, "chat", chatBody());
  assert.equal(answer.status, 502);
  assert.equal(errorOf(answer).code, "upstream_failed");
  assert.equal(answer.headers["daybreak-upstream-status"], undefined);
  assert.equal(receiptOf(relay, answer).status, "upstream_error");
  assert.equal(upstream.seen.length, 1, "a request that may have been billed is not repeated");
});

const QUICK = { connectMs: 1_000, firstByteMs: 1_000, gapMs: 1_000 };

test("an upstream that hangs is given up", async (t) => {
  const upstream = await openTestUpstream(t, () => undefined);
  const relay = await openTestRelay(t, { upstream, timeouts: QUICK });
  const client = openClient(t);
  const answers = await Promise.all([
    relayed(client, relay, "chat", chatBody({ stream: true })),
    relayed(client, relay, "chat", chatBody()),
  ]);
  for (const answer of answers) {
    assert.equal(answer.status, 504);
    assert.equal(errorOf(answer).code, "upstream_timeout");
    assert.deepEqual(receiptOf(relay, answer).use, {});
  }
});

for (const { name, cut } of [
  { name: "cuts the connection", cut: "destroy" },
  { name: "falls silent", cut: "silence" },
  { name: "ends without a terminator", cut: "end" },
] as const) {
  test(`an upstream that ${name} mid-stream leaves a clean end and a receipt over what came`, async (t) => {
    const events = chatEvents(["one", " two", " three"]).slice(0, 4);
    const upstream = await openTestUpstream(t, (_request, response, raw) => {
      response.writeHead(200, { "content-type": "text/event-stream" });
      response.write(events.join(""), () => {
        if (cut === "destroy") raw.socket.destroy();
        else if (cut === "end") response.end();
      });
    });
    const relay = await openTestRelay(t, { upstream, timeouts: QUICK });
    const body = chatBody({ stream: true });
    const answer = await relayed(openClient(t), relay, "chat", body);
    assert.equal(answer.status, 200);
    assert.equal(answer.body.toString(), events.join(""));
    const receipt = receiptOf(relay, answer);
    assert.equal(receipt.status, "truncated");
    assert.equal(receipt.src, "counted");
    assert.equal(receipt.use.input, Math.ceil(body.length / 4));
    assert((receipt.use.output ?? 0) >= 3);
  });
}

test("an upstream that fails before it gave anything is not paid", async (t) => {
  const upstream = await openTestUpstream(t, (_request, response) => {
    response.writeHead(200, { "content-type": "text/event-stream" });
    response.end('data: {"error":{"message":"overloaded"}}\n\n');
  });
  const relay = await openTestRelay(t, { upstream });
  const answer = await relayed(openClient(t), relay, "chat", chatBody({ stream: true }));
  const receipt = receiptOf(relay, answer);
  assert.equal(receipt.status, "truncated");
  assert.deepEqual(receipt.use, {});
});

for (const surface of ["chat", "messages"] as const) {
  test(`a gateway that leaves a ${surface} stream stops the upstream and pays for what it got`, async (t) => {
    const words = ["one", " two", " three"];
    const all = surface === "chat" ? chatEvents(words) : messagesEvents(words);
    const events = all.slice(0, surface === "chat" ? 4 : 5);
    const upstream = await openTestUpstream(t, (_request, response) => {
      response.writeHead(200, { "content-type": "text/event-stream" });
      response.write(events.join(""));
    });
    const relay = await openTestRelay(t, { upstream });
    const client = openClient(t);
    const body = surface === "chat" ? chatBody({ stream: true }) : messagesBody({ stream: true });
    const grant = grantFor(relay, surface, body);
    const { body: stream } = await undiciRequest(relay.url + PATHS[surface], {
      dispatcher: client,
      method: "POST",
      headers: { "daybreak-grant": signGrant(grant, relay.gatewayKey) },
      body,
    });
    let received = 0;
    for await (const chunk of stream) {
      received += (chunk as Buffer).length;
      if (received === Buffer.byteLength(events.join(""))) break;
    }
    await until("the upstream call to end", () => upstream.aborted === 1);
    const receipt = await pulled(client, relay, grant.rid);
    assert.equal(receipt?.status, "client_abort");
    assert.equal(receipt?.src, "counted");
    const { output, ...input } = receipt?.use ?? {};
    assert((output ?? 0) >= 3 && (output ?? 0) <= 100);
    assert.deepEqual(
      input,
      surface === "chat" ? { input: Math.ceil(body.length / 4) } : { input: 10, cache_read: 7 },
    );
  });
}

test("a gateway that leaves before the upstream answered stops the call", async (t) => {
  const upstream = await openTestUpstream(t, () => undefined);
  const relay = await openTestRelay(t, { upstream });
  const client = openClient(t);
  const body = chatBody();
  const grant = grantFor(relay, "chat", body);
  const controller = new AbortController();
  const gone = undiciRequest(relay.url + PATHS.chat, {
    dispatcher: client,
    method: "POST",
    headers: { "daybreak-grant": signGrant(grant, relay.gatewayKey) },
    body,
    signal: controller.signal,
  });
  await until("the upstream to be asked", () => upstream.seen.length === 1);
  controller.abort();
  await assert.rejects(gone);
  await until("the upstream call to end", () => upstream.aborted === 1);
  const receipt = await pulled(client, relay, grant.rid);
  assert.equal(receipt?.status, "client_abort");
  assert.deepEqual(receipt?.use, { input: Math.ceil(body.length / 4) });
});

test("a slow gateway slows the upstream down instead of filling the relay's memory", async (t) => {
  const chunk = Buffer.from(chatEvents(["x".repeat(60_000)])[1] ?? "");
  const CHUNKS = 600;
  let written = 0;
  let blocked = false;
  const upstream = await openTestUpstream(t, (_request, response) => {
    response.writeHead(200, { "content-type": "text/event-stream" });
    const pump = (): void => {
      while (written < CHUNKS) {
        written += 1;
        if (!response.write(chunk)) {
          blocked = true;
          response.once("drain", () => {
            blocked = false;
            pump();
          });
          return;
        }
      }
      response.end(chatEvents([]).join(""));
    };
    pump();
  });
  const relay = await openTestRelay(t, { upstream });
  const body = chatBody({ stream: true });
  const { body: stream, trailers } = await undiciRequest(relay.url + PATHS.chat, {
    dispatcher: openClient(t),
    method: "POST",
    headers: { "daybreak-grant": signGrant(grantFor(relay, "chat", body), relay.gatewayKey) },
    body,
  });
  // Nothing is read here, so the sockets fill up and the upstream has to wait.
  let seen = -1;
  let quiet = 0;
  const deadline = performance.now() + 5_000;
  while (quiet < 200 && performance.now() < deadline) {
    await new Promise((resolve) => setImmediate(resolve));
    quiet = seen === written && blocked ? quiet + 1 : 0;
    seen = written;
  }
  assert(
    written < CHUNKS,
    `the upstream could write all ${CHUNKS} chunks to a reader that does not read`,
  );
  let bytes = 0;
  for await (const piece of stream) bytes += (piece as Buffer).length;
  assert.equal(bytes, CHUNKS * chunk.length + Buffer.byteLength(chatEvents([]).join("")));
  assert.notEqual(trailers["daybreak-receipt"], undefined);
});

test("evidence from a relay verifies, with and without a challenge", async (t) => {
  const upstream = await openTestUpstream(t, honestAnswer);
  const relay = await openTestRelay(t, { upstream });
  const client = openClient(t);
  const nonce = "5a".repeat(32);
  const challenged = await send(client, `${relay.url}/v1/attestation?nonce=${nonce}`);
  const { evidence, statement } = parseEvidence(challenged.body);
  assert.equal(evidence.fresh.nonce, nonce);
  assert.equal(evidence.fresh.block, 77);
  assert.equal(statement.tls_spki, relay.enclave.tls.spkiSha256);
  assert.deepEqual(statement.receipt_jwk, relay.enclave.receiptKey.jwk);
  const plain = await send(client, `${relay.url}/v1/attestation`);
  assert.equal(parseEvidence(plain.body).evidence.fresh.mode, 2);
  for (const bad of ["", "00", "5A".repeat(32), "5a".repeat(33)])
    assert.equal((await send(client, `${relay.url}/v1/attestation?nonce=${bad}`)).status, 400);
});

test("a relay answers what everybody may ask, and nothing else", async (t) => {
  const upstream = await openTestUpstream(t, honestAnswer);
  const relay = await openTestRelay(t, { upstream });
  const client = openClient(t);
  await relayed(client, relay, "chat", chatBody());
  const quotes = await send(client, `${relay.url}/v1/quotes`);
  assert.deepEqual(JSON.parse(quotes.body.toString()), { quotes: relay.quotes });
  assert.deepEqual(JSON.parse((await send(client, `${relay.url}/healthz`)).body.toString()), {
    ok: true,
    in_flight: 0,
  });
  const metrics = (await send(client, `${relay.url}/metrics`)).body.toString();
  assert.match(metrics, /daybreak_relay_requests_total\{surface="chat",status="complete"\} 1/);
  assert.match(metrics, /daybreak_relay_tokens_total\{direction="input"\} 12/);
  assert(!metrics.includes(UPSTREAM_KEY));
  for (const { path, method, status } of [
    { path: "/", method: "GET", status: 404 },
    { path: "/v1/responses", method: "POST", status: 404 },
    { path: "/v1/chat/completions", method: "GET", status: 405 },
    { path: "/v1/quotes", method: "POST", status: 405 },
    { path: "/constructor", method: "GET", status: 404 },
  ] as const)
    assert.equal((await send(client, relay.url + path, { method })).status, status, path);
});

test("receipts are pulled in pages, by gateways only", async (t) => {
  const upstream = await openTestUpstream(t, honestAnswer);
  const relay = await openTestRelay(t, { upstream });
  const client = openClient(t);
  for (let n = 0; n < 3; n++) await relayed(client, relay, "chat", chatBody());
  const pull = async (query: string, order?: string) =>
    await send(client, `${relay.url}/v1/receipts${query}`, {
      headers: { "daybreak-grant": order ?? pullOrder(relay) },
    });
  const seqs = async (query: string): Promise<number[]> => {
    const answer = await pull(query);
    assert.equal(answer.status, 200);
    const page = JSON.parse(answer.body.toString()) as {
      receipts: { token: string; salt: string }[];
      more: boolean;
    };
    assert.equal(page.more, false);
    return page.receipts.map(({ token, salt }) => verifiedReceipt(relay, token, salt).seq);
  };
  assert.deepEqual(await seqs(""), [0, 1, 2]);
  assert.deepEqual(await seqs("?after=-1"), [0, 1, 2]);
  assert.deepEqual(await seqs(`?after=0&att=${relay.enclave.id()}`), [1, 2]);
  assert.deepEqual(await seqs("?after=2"), []);
  assert.deepEqual(await seqs(`?att=${sha256("other")}`), []);
  assert.deepEqual(await seqs(`/${newRequestId(Date.now())}`), []);
  assert.equal((await pull("?after=x")).status, 400);
  assert.equal((await pull("/x")).status, 400);
  const now = Math.floor(Date.now() / 1_000);
  const body = chatBody();
  for (const order of [
    "",
    "a.b.c",
    pullOrder(relay, {}, signingKey()),
    pullOrder(relay, { aud: sha256("other") }),
    pullOrder(relay, { v: 2 }),
    pullOrder(relay, { iat: now - 100, exp: now - 40 }),
    pullOrder(relay, { exp: now + 3_600 }),
    pullOrder(relay, { exp: undefined }),
    signGrant(grantFor(relay, "chat", body), relay.gatewayKey),
  ])
    assert.equal((await pull("", order)).status, 401);
});

test("a restarted relay has the receipts of the boot before, and refuses its grants", async (t) => {
  const upstream = await openTestUpstream(t, honestAnswer);
  const before = await openTestRelay(t, { upstream });
  const client = openClient(t);
  const grant = grantFor(before, "chat", chatBody());
  const answer = await relayed(client, before, "chat", chatBody(), {
    grantToken: signGrant(grant, before.gatewayKey),
  });
  // The first relay is not closed: a killed one would not be either.
  const after = await openTestRelay(t, { upstream, folder: before.folder });
  const pull = await send(client, `${after.url}/v1/receipts/${grant.rid}`, {
    headers: { "daybreak-grant": pullOrder(after) },
  });
  assert.deepEqual(JSON.parse(pull.body.toString()), {
    receipts: [
      {
        token: answer.trailers["daybreak-receipt"],
        salt: answer.trailers["daybreak-receipt-salt"],
      },
    ],
    more: false,
  });
  const again = await relayed(client, after, "chat", chatBody(), {
    grantToken: signGrant({ ...grant, quote: sha256("x") }, after.gatewayKey),
  });
  assert.equal(errorOf(again).refusal, "not_for_this_enclave");
});

test("an answer without a stored receipt does not look complete", async (t) => {
  const upstream = await openTestUpstream(t, honestAnswer);
  const relay = await openTestRelay(t, { upstream });
  await relay.receipts.close();
  await assert.rejects(relayed(openClient(t), relay, "chat", chatBody()));
  const client = openClient(t);
  assert.match(
    (await send(client, `${relay.url}/metrics`)).body.toString(),
    /status="receipt_not_stored"\} 1/,
  );
  assert.equal((await send(client, `${relay.url}/healthz`)).status, 200);
});

test("prompts, answers, keys and grants are in no log, metric or receipt, however a request ends", async (t) => {
  const canary = "canary-7f3a9c";
  const folder = temporaryFolder(t);
  const logPath = join(folder, "relay.log");
  const logged = openLogger("relay", "trace", logPath);
  const upstream = await openTestUpstream(t, honestAnswer);
  const relay = await openTestRelay(t, { upstream, folder, log: logged });
  const client = openClient(t);
  const tokens: string[] = [];
  const ask = async (body: Buffer): Promise<Answer> => {
    const grantToken = signGrant(grantFor(relay, "chat", body), relay.gatewayKey);
    tokens.push(grantToken);
    return await relayed(client, relay, "chat", body, { grantToken });
  };
  const messages = [{ role: "user", content: canary }];
  const receipts: string[] = [];
  for (const answer of [
    honestAnswer,
    (_request: unknown, response: ServerResponse) => response.writeHead(500).end(canary),
    (_request: unknown, response: ServerResponse) => response.writeHead(401).end(UPSTREAM_KEY),
    (_request: unknown, response: ServerResponse) => response.end(canary),
    (_request: unknown, _response: unknown, raw: IncomingMessage) => raw.socket.destroy(),
  ]) {
    upstream.answer = answer;
    for (const stream of [false, true]) {
      const { trailers } = await ask(chatBody({ messages, stream }));
      const receipt = trailers["daybreak-receipt"] ?? "";
      receipts.push(Buffer.from(receipt.split(".")[1] ?? "", "base64url").toString());
    }
  }
  await ask(Buffer.from(`{"model":"${CHAT_MODEL}","messages":"${canary}"}`));
  await ask(Buffer.from(`{"${canary}`));
  const metrics = (await send(client, `${relay.url}/metrics`)).body.toString();
  await new Promise<void>((resolve, reject) => {
    logged.flush((error) => (error === undefined ? resolve() : reject(error)));
  });
  const log = readFileSync(logPath, "utf8");
  assert(log.includes("request.relayed") && log.includes("request.ended_early"));
  assert.equal(receipts.filter((receipt) => receipt !== "").length, 10);
  const stored = readFileSync(join(folder, "receipts.jsonl"), "utf8");
  for (const secret of [canary, UPSTREAM_KEY, "Say hello", ...tokens])
    for (const text of [log, metrics, stored, ...receipts]) assert(!text.includes(secret));
});

test("a body longer than the limit is refused, declared or not", async (t) => {
  const upstream = await openTestUpstream(t, honestAnswer);
  const relay = await openTestRelay(t, { upstream, limits: { bodyBytesMax: 1_000 } });
  const client = openClient(t);
  const body = chatBody({ seed: 1, user: "x".repeat(2_000) });
  const declared = await relayed(client, relay, "chat", body);
  assert.equal(declared.status, 413);
  const chunked = await undiciRequest(relay.url + PATHS.chat, {
    dispatcher: client,
    method: "POST",
    headers: { "daybreak-grant": signGrant(grantFor(relay, "chat", body), relay.gatewayKey) },
    body: Readable.from(
      Array.from({ length: 20 }, (_, at) => body.subarray(at * 110, (at + 1) * 110)),
    ),
  });
  assert.equal(chunked.statusCode, 413);
  await chunked.body.dump();
  assert.equal(upstream.seen.length, 0);
  assert.equal((await relayed(client, relay, "chat", chatBody())).status, 200);
});

test("bodies that cannot be read are refused, although they are granted", async (t) => {
  const upstream = await openTestUpstream(t, honestAnswer);
  const relay = await openTestRelay(t, { upstream });
  const client = openClient(t);
  for (const text of [
    "",
    "{",
    "[]",
    "null",
    `{"model":"${CHAT_MODEL}","model":"${CHAT_MODEL}","messages":[]}`,
    `{"model":"${CHAT_MODEL}"}`,
    "[".repeat(50_000),
  ]) {
    const answer = await relayed(client, relay, "chat", Buffer.from(text));
    assert.equal(answer.status, 400, text.slice(0, 20));
  }
  assert.equal(upstream.seen.length, 0);
});

test("more requests than the limit are refused at once", async (t) => {
  const upstream = await openTestUpstream(t, () => undefined);
  const relay = await openTestRelay(t, { upstream, limits: { inFlightMax: 2 }, drainMs: 0 });
  const client = openClient(t);
  const waiting = [1, 2].map(() => relayed(client, relay, "chat", chatBody()));
  await until("both to reach the upstream", () => upstream.seen.length === 2);
  const third = await relayed(client, relay, "chat", chatBody());
  assert.equal(third.status, 503);
  assert.equal(third.headers["retry-after"], "1");
  await relay.relay.close();
  for (const answer of await Promise.all(waiting)) assert.equal(answer.status, 503);
});

function errorOf(answer: Answer): { code: string; refusal?: string } {
  return (JSON.parse(answer.body.toString()) as { error: { code: string; refusal?: string } })
    .error;
}

/** Writes bytes over TLS and collects the answer until the relay closes. */
async function raw(url: string, parts: readonly string[]): Promise<string> {
  const { port, hostname } = new URL(url);
  const socket = connect({ port: Number(port), host: hostname, rejectUnauthorized: false });
  return await new Promise<string>((resolve) => {
    let text = "";
    socket.setEncoding("latin1");
    socket.on("data", (piece) => {
      text += piece;
    });
    socket.on("error", () => undefined);
    socket.on("close", () => resolve(text));
    socket.on("secureConnect", () => {
      for (const part of parts) socket.write(part);
    });
  });
}

test("a head that never ends, or is too long, costs a connection and nothing else", async (t) => {
  const upstream = await openTestUpstream(t, honestAnswer);
  const relay = await openTestRelay(t, {
    upstream,
    limits: { headTimeoutMs: 300, requestTimeoutMs: 400 },
  });
  const grantToken = signGrant(grantFor(relay, "chat", chatBody()), relay.gatewayKey);
  const [slowHead, slowBody, longHead, garbage] = await Promise.all([
    raw(relay.url, ["POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\n", "a: b\r\n"]),
    raw(relay.url, [
      `POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ndaybreak-grant: ${grantToken}\r\ncontent-length: 100\r\n\r\n{`,
    ]),
    raw(relay.url, [`GET /healthz HTTP/1.1\r\nhost: x\r\na: ${"b".repeat(20_000)}\r\n\r\n`]),
    raw(relay.url, ["\u0016\u0003 not http\r\n\r\n"]),
  ]);
  assert.match(slowHead, /^HTTP\/1\.1 408 /);
  assert.match(slowBody, /^HTTP\/1\.1 408 /);
  assert.match(longHead, /^HTTP\/1\.1 431 /);
  assert.match(garbage, /^HTTP\/1\.1 400 /);
  assert.equal((await send(openClient(t), `${relay.url}/healthz`)).status, 200);
});

test("a stranger's long body is not read", async (t) => {
  const upstream = await openTestUpstream(t, honestAnswer);
  const relay = await openTestRelay(t, { upstream });
  const answer = await raw(relay.url, [
    "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 33554432\r\n\r\n{",
  ]);
  assert.match(answer, /^HTTP\/1\.1 401 /);
  assert.match(answer, /connection: close/i);
});

test("a closing relay lets streams end, and refuses new requests", async (t) => {
  let finish: (() => void) | undefined;
  const events = chatEvents();
  const upstream = await openTestUpstream(t, (_request, response) => {
    response.writeHead(200, { "content-type": "text/event-stream" });
    response.write(events[0]);
    finish = () => response.end(events.slice(1).join(""));
  });
  const relay = await openTestRelay(t, { upstream });
  const client = openClient(t);
  const running = relayed(client, relay, "chat", chatBody({ stream: true }));
  await until("the stream to start", () => finish !== undefined);
  const closing = relay.relay.close();
  await assert.rejects(send(openClient(t), `${relay.url}/healthz`), /ECONNREFUSED/);
  finish?.();
  const answer = await running;
  assert.equal(receiptOf(relay, answer).status, "complete");
  await closing;
  await relay.relay.close();
});

test("a closing relay cuts streams at its deadline, with a receipt", async (t) => {
  const events = chatEvents(["one", " two"]);
  const upstream = await openTestUpstream(t, (_request, response) => {
    response.writeHead(200, { "content-type": "text/event-stream" });
    response.write(events.slice(0, 3).join(""));
  });
  const relay = await openTestRelay(t, { upstream, drainMs: 50 });
  const client = openClient(t);
  const body = chatBody({ stream: true });
  const { body: stream, trailers } = await undiciRequest(relay.url + PATHS.chat, {
    dispatcher: client,
    method: "POST",
    headers: { "daybreak-grant": signGrant(grantFor(relay, "chat", body), relay.gatewayKey) },
    body,
  });
  const iterator = stream[Symbol.asyncIterator]();
  await iterator.next();
  const closing = relay.relay.close();
  for (let next = await iterator.next(); next.done !== true; next = await iterator.next());
  await closing;
  const receipt = receiptOf(relay, { trailers });
  assert.equal(receipt.status, "truncated");
  await until("the upstream call to end", () => upstream.aborted === 1);
});
