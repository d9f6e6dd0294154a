import assert from "node:assert/strict";
import { createServer, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { after, before, test } from "node:test";
import OpenAI from "openai";
import { Agent, request as undiciRequest } from "undici";
import { keypairOf } from "../../src/chain/keys.ts";
import { openSubtensor, type Subtensor } from "../../src/chain/subtensor.ts";
import { signingKey } from "../../src/core/jws.ts";
import type { Receipt } from "../../src/core/receipt.ts";
import { claimsHashOf, decodeClaims } from "../../src/core/signed-claims.ts";
import { openLogger } from "../../src/runtime/logger.ts";
import { signReceipt } from "../signed.ts";
import {
  minerState,
  type RogueRelay,
  registerHotkey,
  startMiner,
  startRogueRelay,
} from "./joining-miner.ts";
import { getJson, postJson, type RunningNetwork, startLocal, waitFor } from "./local-network.ts";

let network: RunningNetwork;
let chain: Subtensor;
const messages = [{ role: "user" as const, content: "Hello" }];
const HASH = "h".repeat(43);

before(async () => {
  network = await startLocal({ args: ["--miners", "1", "--validators", "0", "--block-ms", "250"] });
  chain = await openSubtensor({
    endpoints: [network.ready.chain_ws],
    connectTimeoutMs: 10_000,
    log: openLogger("test", "silent"),
  });
});
after(async () => {
  await chain.close();
  await network.stop();
});

interface Credits {
  data: { balance_nusd: string; held_nusd: string };
}
const credits = async () =>
  (await getJson<Credits>(`${network.ready.base_url}/credits`, network.ready.api_key)).data;
const ask = async (body: object) =>
  await postJson<{ error?: { message: string }; choices?: unknown[] }>(
    `${network.ready.base_url}/chat/completions`,
    network.ready.api_key,
    {
      model: "openai/gpt-5-mini",
      messages,
      ...body,
    },
  );

/** A provider on loopback that answers as the test wants. */
async function startUpstream(
  answer: (response: ServerResponse) => void,
): Promise<{ url: string; close(): void }> {
  const server = createServer((request, response) => {
    request.resume();
    request.on("end", () => answer(response));
  }).listen(0, "127.0.0.1");
  await new Promise((resolve) => server.once("listening", resolve));
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}/v1`,
    close: () => {
      server.closeAllConnections();
      server.close();
    },
  };
}

const chunk = (delta: object, rest: object = {}) =>
  `data: ${JSON.stringify({ id: "chatcmpl-1", object: "chat.completion.chunk", created: 1, model: "gpt-5-mini", choices: [{ index: 0, delta, finish_reason: null }], ...rest })}\n\n`;
const completion = (usage: object) =>
  JSON.stringify({
    id: "chatcmpl-1",
    object: "chat.completion",
    created: 1,
    model: "gpt-5-mini",
    choices: [{ index: 0, message: { role: "assistant", content: "Hi." }, finish_reason: "stop" }],
    usage,
  });

test("a miner killed in mid-stream: the client gets an error in the stream and is not charged for what has no receipt", async () => {
  const upstream = await startUpstream((response) => {
    response.writeHead(200, { "content-type": "text/event-stream" });
    for (let i = 0; i < 5; i += 1) response.write(chunk({ content: "word " }));
  });
  const { secret, keypair } = await registerHotkey(chain, network.ready.netuid);
  const miner = await startMiner(network, secret, upstream.url);
  const before = await credits();
  const openai = new OpenAI({
    baseURL: network.ready.base_url,
    apiKey: network.ready.api_key,
    maxRetries: 0,
  });
  const body = {
    model: "openai/gpt-5-mini",
    messages,
    stream: true as const,
    provider: { only: [keypair.address], allow_fallbacks: false },
  };
  const stream = await openai.chat.completions.create(body);
  let text = "";
  await assert.rejects(async () => {
    for await (const part of stream) {
      text += part.choices[0]?.delta.content ?? "";
      if (text.length >= 25) miner.kill("SIGKILL");
    }
  }, OpenAI.APIError);
  assert.equal(text, "word ".repeat(5));
  await waitFor("the hold to end", async () => (await credits()).held_nusd === "0", 90_000);
  assert.equal((await credits()).balance_nusd, before.balance_nusd);
  upstream.close();
});

test("a miner that dies before its first content: another one serves, within the same hold", async () => {
  const rogue = await startRogueRelay(network, chain, {
    misdeed: (request) => request.socket.destroy(),
  });
  await serving(rogue);
  const before = await credits();
  for (let i = 0; i < 5; i += 1) {
    const { status, headers } = await ask({ provider: { order: [rogue.hotkey] } });
    assert.equal(status, 200);
    assert.notEqual(headers.get("x-daybreak-miner"), rogue.hotkey);
  }
  assert.equal((await credits()).held_nusd, "0");
  assert.notEqual((await credits()).balance_nusd, before.balance_nusd);
  await rogue.close();
});

test("a miner whose provider inflates usage is not paid, and the customer is not charged", async () => {
  const upstream = await startUpstream((response) => {
    response
      .writeHead(200, { "content-type": "application/json" })
      .end(completion({ prompt_tokens: 1, completion_tokens: 1_500, total_tokens: 1_501 }));
  });
  const { secret, keypair } = await registerHotkey(chain, network.ready.netuid);
  const miner = await startMiner(network, secret, upstream.url);
  const before = await credits();
  const { status, body } = await ask({
    model: "openai/gpt-4.1-mini",
    max_tokens: 2_000,
    provider: { only: [keypair.address], allow_fallbacks: false },
  });
  assert(status >= 500 && body.error !== undefined, JSON.stringify(body));
  await waitFor("the hold to end", async () => (await credits()).held_nusd === "0");
  assert.equal((await credits()).balance_nusd, before.balance_nusd);
  await waitFor(
    "the miner to be ejected",
    async () => (await minerState(network, keypair.address))?.state === "ejected",
  );
  miner.kill("SIGKILL");
  upstream.close();
});

test("a stolen grant buys nothing: not at another relay, not twice, not for another body", async () => {
  const stolen: string[] = [];
  const bodies: Buffer[] = [];
  const rogue = await startRogueRelay(network, chain, {
    misdeed: (request, body, response) => {
      stolen.push(String(request.headers["daybreak-grant"]));
      bodies.push(body);
      response.writeHead(500).end();
    },
  });
  await serving(rogue);
  await ask({ provider: { only: [rogue.hotkey], allow_fallbacks: false } });
  assert(stolen.length > 0);
  const honest = network.ready.miners[0]?.url ?? "";
  const dispatcher = new Agent({ connect: { rejectUnauthorized: false } });
  for (const grant of [stolen[0] ?? "", "", "a.b.c"]) {
    const { statusCode, body } = await undiciRequest(`${honest}/v1/chat/completions`, {
      dispatcher,
      method: "POST",
      headers: {
        "content-type": "application/json",
        ...(grant === "" ? {} : { "daybreak-grant": grant }),
      },
      body: bodies[0] ?? Buffer.from("{}"),
    });
    const text = await body.text();
    assert.equal(statusCode, 401, text);
    assert.match(text, /grant_refused/);
  }
  await dispatcher.close();
  await rogue.close();
});

for (const { name, forge, settles } of [
  { name: "on the floor: never sent, never kept", forge: undefined, settles: false },
  {
    name: "on the floor, but the relay still has it: it is fetched, and settles",
    forge: (receipt: Receipt, enclave: RogueRelay["enclave"]) =>
      signReceipt(receipt, enclave.receiptKey),
    settles: true,
  },
  {
    name: "signed by a key that was not attested",
    forge: (receipt: Receipt) => signReceipt(receipt, signingKey()),
    settles: false,
  },
  {
    name: "for more tokens than were delivered",
    forge: (receipt: Receipt, enclave: RogueRelay["enclave"]) =>
      signReceipt({ ...receipt, use: { input: 5, output: 49 } }, enclave.receiptKey),
    settles: false,
  },
] as const) {
  test(`a receipt dropped ${name}`, async () => {
    let token: string | undefined;
    const rogue = await startRogueRelay(network, chain, {
      misdeed: (request, body, response, enclave) => {
        if (request.method === "GET") {
          const receipts = token === undefined ? [] : [{ token, salt: "00" }];
          response
            .writeHead(200, { "content-type": "application/json" })
            .end(JSON.stringify({ receipts, more: false }));
          return;
        }
        const answer = completion({ prompt_tokens: 5, completion_tokens: 2, total_tokens: 7 });
        const grantToken = String(request.headers["daybreak-grant"]);
        const grant = decodeClaims(grantToken);
        if (forge !== undefined && grant !== undefined) {
          const { payload } = grant;
          token = forge(
            {
              v: 1,
              iss: rogue.hotkey,
              aud: grant.kid,
              ts: Date.now(),
              rid: payload["rid"] as Receipt["rid"],
              e: payload["e"] as number,
              grant: claimsHashOf(grantToken),
              att: enclave.id(),
              kind: "sim",
              security: "simulated",
              sealed_by: "gateway",
              model: "openai/gpt-5-mini",
              upm: "gpt-5-mini",
              uph: "127.0.0.1:1",
              upid: HASH,
              quote: payload["quote"] as string,
              use: { input: 5, output: 2 },
              src: "provider",
              status: "complete",
              req: HASH,
              res: HASH,
              bytes: { in: body.length, out: answer.length },
              t: { ttft: 1, dur: 1 },
              seq: 0,
              prev: "",
            },
            enclave,
          );
        }
        response.writeHead(200, { "content-type": "application/json" }).end(answer);
      },
    });
    await serving(rogue);
    const before = await credits();
    const { status } = await ask({
      max_tokens: 2_000,
      provider: { only: [rogue.hotkey], allow_fallbacks: false },
    });
    assert.equal(status === 200, settles);
    await waitFor("the hold to end", async () => (await credits()).held_nusd === "0", 90_000);
    assert.equal((await credits()).balance_nusd !== before.balance_nusd, settles);
    await rogue.close();
  });
}

const other = keypairOf("//Somebody");
for (const { name, options, code } of [
  {
    name: "evidence signed by somebody else's hardware",
    options: { simulatedTee: signingKey() },
    code: /crypto/,
  },
  {
    name: "evidence that names another hotkey",
    options: { evidenceHotkey: other },
    code: /hotkey/,
  },
  {
    name: "evidence dated by a block that is not on the chain",
    options: { evidenceBlock: { number: 1, hash: `0x${"00".repeat(32)}` } },
    code: /block/,
  },
]) {
  test(`${name}: no traffic, and the reason is public`, async () => {
    let requests = 0;
    const rogue = await startRogueRelay(network, chain, {
      ...options,
      misdeed: (_request, _body, response) => void ((requests += 1), response.end()),
    });
    await refused(rogue, code);
    await ask({ provider: { order: [rogue.hotkey] } });
    assert.equal(requests, 0);
    await rogue.close();
  });
}

test("another TLS key than the attested one: the server never sees a byte of a request", async () => {
  const victim = await startRogueRelay(network, chain, {
    misdeed: (_request, _body, response) => void response.end(),
  });
  let requests = 0;
  const rogue = await startRogueRelay(network, chain, {
    tlsOf: victim.enclave,
    misdeed: (_request, _body, response) => void ((requests += 1), response.end()),
  });
  await refused(rogue, /tls/);
  await ask({ provider: { order: [rogue.hotkey] } });
  assert.equal(requests, 0);
  await rogue.close();
  await victim.close();
});

test("evidence that gets old: a relay that stops renewing it loses its traffic", async () => {
  const head = await chain.finalizedHead();
  const rogue = await startRogueRelay(network, chain, {
    evidenceBlock: head,
    misdeed: (_request, _body, response) => void response.end(),
  });
  await refused(rogue, /block|stale|fresh/);
  await rogue.close();
});

async function serving(rogue: RogueRelay): Promise<void> {
  await waitFor(
    "the relay to be accepted",
    async () => (await minerState(network, rogue.hotkey))?.state === "serving",
  );
}

async function refused(rogue: RogueRelay, code: RegExp): Promise<void> {
  await waitFor(
    `the relay to be refused for ${code}`,
    async () => {
      const miner = await minerState(network, rogue.hotkey);
      return (
        miner?.state === "refused" && code.test(`${miner.reason?.code} ${miner.reason?.stage}`)
      );
    },
    60_000,
  );
}
