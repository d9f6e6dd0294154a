import { createHash, generateKeyPairSync, sign } from "node:crypto";
import { once } from "node:events";
import { mkdtempSync, rmSync } from "node:fs";
import {
  createServer,
  type IncomingHttpHeaders,
  type IncomingMessage,
  type ServerResponse,
} from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { TestContext } from "node:test";
import { Agent, request as undiciRequest } from "undici";
import type { Grant } from "../../src/core/grant.ts";
import { type Hotkey, newRequestId, type RequestId } from "../../src/core/ids.ts";
import { type SigningKey, signingKey, signJws } from "../../src/core/jws.ts";
import { parseQuote, quoteHashOf, type SignedQuote } from "../../src/core/quote.ts";
import { type Receipt, receiptFromJson } from "../../src/core/receipt.ts";
import { verifyClaims } from "../../src/core/signed-claims.ts";
import type { Surface } from "../../src/core/surface.ts";
import { bootEnclave, type Enclave } from "../../src/miner/enclave.ts";
import { openPriceQuotes } from "../../src/miner/price-quotes.ts";
import { openReceiptStore, type ReceiptStore } from "../../src/miner/receipts.ts";
import { buildRelay, type Relay, type RelayLimits } from "../../src/miner/relay.ts";
import { openUpstreams, type UpstreamTimeouts, upstreamList } from "../../src/miner/upstreams.ts";
import { type Logger, openLogger } from "../../src/runtime/logger.ts";
import { signGrant } from "../signed.ts";

export const HOTKEY = "5GrwvaEF5zXb26Fz9rcQpDWS57CtERHpNehXCPcNoHGKutQY" as Hotkey;
export const UPSTREAM_KEY = "sk-upstream-secret-0123456789";
export const CHAT_MODEL = "openai/gpt-5-mini";
export const MESSAGES_MODEL = "anthropic/claude-haiku-4-5";
export const BLOCK = { number: 77, hash: `0x${"07".repeat(32)}` };

export const log = openLogger("test", "silent");

export function sha256(bytes: Uint8Array | string): string {
  return createHash("sha256").update(bytes).digest("base64url");
}

/** A folder that is gone after the test. */
export function temporaryFolder(t: TestContext): string {
  const folder = mkdtempSync(join(tmpdir(), "daybreak-miner-"));
  t.after(() => rmSync(folder, { recursive: true, force: true }));
  return folder;
}

/** Waits until `condition` holds, for at most five seconds. */
export async function until(what: string, condition: () => boolean): Promise<void> {
  const deadline = performance.now() + 5_000;
  while (!condition()) {
    if (performance.now() > deadline) throw new Error(`waited in vain: ${what}`);
    await new Promise((resolve) => setImmediate(resolve));
  }
}

/** What an upstream saw. */
export interface Seen {
  readonly url: string;
  readonly headers: IncomingHttpHeaders;
  readonly body: Buffer;
}

export interface TestUpstream {
  readonly url: string;
  readonly seen: Seen[];
  /** Connections that were closed before their answer was complete. */
  aborted: number;
  answer: (request: Seen, response: ServerResponse, raw: IncomingMessage) => void;
}

/** A small provider on loopback, closed after the test. */
export async function openTestUpstream(
  t: TestContext,
  answer: TestUpstream["answer"],
): Promise<TestUpstream> {
  const server = createServer((raw, response) => {
    const chunks: Buffer[] = [];
    raw.on("data", (chunk: Buffer) => chunks.push(chunk));
    raw.on("end", () => {
      const seen = { url: raw.url ?? "", headers: raw.headers, body: Buffer.concat(chunks) };
      upstream.seen.push(seen);
      response.once("close", () => {
        if (!response.writableFinished) upstream.aborted += 1;
      });
      upstream.answer(seen, response, raw);
    });
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  t.after(async () => {
    server.closeAllConnections();
    server.close();
    await once(server, "close");
  });
  const upstream: TestUpstream = {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    seen: [],
    aborted: 0,
    answer,
  };
  return upstream;
}

export const CHAT_USAGE = {
  prompt_tokens: 12,
  completion_tokens: 5,
  total_tokens: 17,
  prompt_tokens_details: { cached_tokens: 4 },
  completion_tokens_details: { reasoning_tokens: 2 },
};

export function chatAnswer(content = "Hello there"): Buffer {
  return Buffer.from(
    JSON.stringify({
      id: "chatcmpl-1",
      object: "chat.completion",
      created: 1,
      model: "gpt-5-mini-2025-08-07",
      choices: [{ index: 0, message: { role: "assistant", content }, finish_reason: "stop" }],
      usage: CHAT_USAGE,
    }),
  );
}

function chatEvent(delta: object, finish: string | null = null): string {
  return `data: ${JSON.stringify({
    id: "chatcmpl-1",
    object: "chat.completion.chunk",
    created: 1,
    model: "gpt-5-mini-2025-08-07",
    choices: [{ index: 0, delta, finish_reason: finish }],
  })}\n\n`;
}

/** Events of a streamed chat: role, words, finish, usage, terminator. */
export function chatEvents(words: readonly string[] = ["Hello", " there"]): string[] {
  return [
    chatEvent({ role: "assistant", content: "" }),
    ...words.map((content) => chatEvent({ content })),
    chatEvent({}, "stop"),
    `data: ${JSON.stringify({
      id: "chatcmpl-1",
      object: "chat.completion.chunk",
      created: 1,
      model: "gpt-5-mini-2025-08-07",
      choices: [],
      usage: CHAT_USAGE,
    })}\n\n`,
    "data: [DONE]\n\n",
  ];
}

export function messagesAnswer(): Buffer {
  return Buffer.from(
    JSON.stringify({
      id: "msg_1",
      type: "message",
      role: "assistant",
      model: "claude-haiku-4-5-20251001",
      content: [{ type: "text", text: "Hello there" }],
      stop_reason: "end_turn",
      stop_sequence: null,
      usage: { input_tokens: 10, output_tokens: 3, cache_read_input_tokens: 7 },
    }),
  );
}

/** Events of a streamed message. */
export function messagesEvents(words: readonly string[] = ["Hello", " there"]): string[] {
  const event = (json: { type: string } & Record<string, unknown>): string =>
    `event: ${json.type}\ndata: ${JSON.stringify(json)}\n\n`;
  return [
    event({
      type: "message_start",
      message: {
        id: "msg_1",
        type: "message",
        role: "assistant",
        model: "claude-haiku-4-5-20251001",
        content: [],
        stop_reason: null,
        usage: { input_tokens: 10, output_tokens: 1, cache_read_input_tokens: 7 },
      },
    }),
    event({
      type: "content_block_start",
      index: 0,
      content_block: { type: "text", text: "" },
    }),
    ...words.map((text) =>
      event({ type: "content_block_delta", index: 0, delta: { type: "text_delta", text } }),
    ),
    event({ type: "content_block_stop", index: 0 }),
    event({
      type: "message_delta",
      delta: { stop_reason: "end_turn", stop_sequence: null },
      usage: { output_tokens: 3 },
    }),
    event({ type: "message_stop" }),
  ];
}

/** Answers what was asked, whole or streamed, as the two providers do. */
export function honestAnswer(request: Seen, response: ServerResponse): void {
  const isStream = (JSON.parse(request.body.toString()) as { stream?: boolean }).stream === true;
  const isMessages = request.url.endsWith("/messages");
  if (!isStream) {
    response.writeHead(200, { "content-type": "application/json" });
    response.end(isMessages ? messagesAnswer() : chatAnswer());
    return;
  }
  response.writeHead(200, { "content-type": "text/event-stream" });
  for (const event of isMessages ? messagesEvents() : chatEvents()) response.write(event);
  response.end();
}

export interface TestRelay {
  readonly relay: Relay;
  readonly url: string;
  readonly enclave: Enclave;
  readonly gatewayKey: SigningKey;
  readonly quotes: readonly SignedQuote[];
  readonly folder: string;
  readonly receipts: ReceiptStore;
  /** How often the relay looked for new gateway keys. */
  readonly refreshes: () => number;
  /** Keys that the next refresh finds. */
  announce(key: SigningKey): void;
}

export interface RelayOptions {
  readonly upstream: TestUpstream;
  readonly folder?: string;
  readonly limits?: Partial<RelayLimits>;
  readonly timeouts?: UpstreamTimeouts;
  readonly drainMs?: number;
  readonly nowMs?: () => number;
  readonly log?: Logger;
  /** A refresh of the gateway keys ends when this does. */
  readonly refreshing?: () => Promise<void>;
}

const hotkeyPair = generateKeyPairSync("ed25519");

/** Stands for the hotkey's sr25519 signature, which the relay only passes on. */
export function signWithHotkey(message: Uint8Array): Uint8Array {
  return sign(null, message, hotkeyPair.privateKey);
}

export function enclaveOptions(nowMs: () => number) {
  return {
    simulatedTee: signingKey(),
    net: `0x${"11".repeat(32)}`,
    netuid: 2,
    hotkeyPublicKeyHex: "22".repeat(32),
    signWithHotkey,
    worker: "w1",
    host: "127.0.0.1",
    upstreams: ["127.0.0.1:80"],
    measuredConfig: {},
    nowMs,
  };
}

/** A relay on loopback with real TLS, closed after the test. */
export async function openTestRelay(t: TestContext, options: RelayOptions): Promise<TestRelay> {
  const nowMs = options.nowMs ?? Date.now;
  const folder = options.folder ?? temporaryFolder(t);
  const gatewayKey = signingKey();
  const keys = [gatewayKey];
  const announced: SigningKey[] = [];
  let refreshes = 0;
  const upstreams = openUpstreams(
    upstreamList(
      JSON.stringify([
        {
          name: "chat",
          kind: "openai",
          base_url: `${options.upstream.url}/v1`,
          api_key: UPSTREAM_KEY,
        },
        {
          name: "messages",
          kind: "anthropic",
          base_url: options.upstream.url,
          api_key: UPSTREAM_KEY,
        },
      ]),
    ),
    options.timeouts,
  );
  const enclave = bootEnclave(enclaveOptions(nowMs));
  const receipts = await openReceiptStore(folder, log);
  const quotes = openPriceQuotes({
    hotkey: HOTKEY,
    sign: signWithHotkey,
    models: upstreams.models,
    discountBps: 1_000,
    capacity: { rpm: 60, tpm: 1_000, inflight: 8 },
    directory: folder,
    enclave: () => enclave.id(),
    nowMs,
  });
  const relay = buildRelay({
    hotkey: HOTKEY,
    enclave,
    upstreams,
    quotes,
    receipts,
    gatewayKeyOf: (kid) => keys.find((key) => key.kid === kid),
    refreshGatewayKeys: async () => {
      refreshes += 1;
      await options.refreshing?.();
      keys.push(...announced.splice(0));
    },
    head: () => BLOCK,
    nowMs,
    log: options.log ?? log,
    drainMs: options.drainMs ?? 2_000,
    ...(options.limits === undefined ? {} : { limits: options.limits }),
  });
  const port = await relay.listen("127.0.0.1", 0);
  t.after(async () => {
    await relay.close();
    await quotes.close();
    await receipts.close();
    await upstreams.close();
  });
  return {
    relay,
    url: `https://127.0.0.1:${port}`,
    enclave,
    gatewayKey,
    quotes: quotes.current(),
    folder,
    receipts,
    refreshes: () => refreshes,
    announce: (key) => announced.push(key),
  };
}

export function quoteHashFor(relay: TestRelay, product: string): string {
  const quote = relay.quotes.find((candidate) => parseQuote(candidate.quote)?.prod === product);
  if (quote === undefined) throw new Error(`no quote for ${product}`);
  return quoteHashOf(quote.quote);
}

/** A grant that covers exactly this body, but for `changes`. */
export function grantFor(
  relay: TestRelay,
  surface: Surface,
  body: Uint8Array,
  changes: Partial<Grant> = {},
): Grant {
  const iat = Math.floor(Date.now() / 1_000);
  const model = surface === "chat" ? CHAT_MODEL : MESSAGES_MODEL;
  return {
    v: 1,
    iss: HOTKEY,
    aud: relay.enclave.id(),
    rid: newRequestId(Date.now()),
    iat,
    exp: iat + 60,
    e: 5,
    surface,
    model,
    max_out: 100,
    quote: quoteHashFor(relay, model),
    req: sha256(body),
    sealed_by: "gateway",
    ...changes,
  };
}

export const PATHS: Readonly<Record<Surface, string>> = {
  chat: "/v1/chat/completions",
  messages: "/v1/messages",
};

export function chatBody(fields: object = {}): Buffer {
  return Buffer.from(
    JSON.stringify({
      model: CHAT_MODEL,
      messages: [{ role: "user", content: "Say hello." }],
      ...fields,
    }),
  );
}

export function messagesBody(fields: object = {}): Buffer {
  return Buffer.from(
    JSON.stringify({
      model: MESSAGES_MODEL,
      max_tokens: 50,
      messages: [{ role: "user", content: "Say hello." }],
      ...fields,
    }),
  );
}

/** A dispatcher that accepts the relay's own certificate, closed after the test. */
export function openClient(t: TestContext): Agent {
  const client = new Agent({ connect: { rejectUnauthorized: false } });
  t.after(async () => await client.destroy());
  return client;
}

export interface Answer {
  readonly status: number;
  readonly headers: IncomingHttpHeaders;
  readonly body: Buffer;
  readonly trailers: Record<string, string>;
}

export async function send(
  client: Agent,
  url: string,
  options: {
    method?: "GET" | "POST";
    headers?: Record<string, string>;
    body?: Buffer;
  } = {},
): Promise<Answer> {
  const { statusCode, headers, body, trailers } = await undiciRequest(url, {
    dispatcher: client,
    method: options.method ?? "GET",
    headers: options.headers ?? {},
    ...(options.body === undefined ? {} : { body: options.body }),
  });
  const bytes = Buffer.from(await body.arrayBuffer());
  return { status: statusCode, headers, body: bytes, trailers };
}

/** Sends a granted request. */
export async function relayed(
  client: Agent,
  relay: TestRelay,
  surface: Surface,
  body: Buffer,
  options: { changes?: Partial<Grant>; grantToken?: string; headers?: Record<string, string> } = {},
): Promise<Answer> {
  const token =
    options.grantToken ??
    signGrant(grantFor(relay, surface, body, options.changes), relay.gatewayKey);
  return await send(client, relay.url + PATHS[surface], {
    method: "POST",
    headers: { "content-type": "application/json", "daybreak-grant": token, ...options.headers },
    body,
  });
}

/** The receipt in the trailers of an answer, after its signature was checked. */
export function receiptOf(
  relay: TestRelay,
  answer: Pick<Answer, "trailers">,
): Receipt & { salt: string } {
  return verifiedReceipt(
    relay,
    answer.trailers["daybreak-receipt"] ?? "",
    answer.trailers["daybreak-receipt-salt"] ?? "",
  );
}

export function verifiedReceipt(
  relay: Pick<TestRelay, "enclave">,
  token: string,
  salt: string,
): Receipt & { salt: string } {
  const payload = verifyClaims(token, "usage-receipt", relay.enclave.receiptKey);
  const receipt = payload === undefined ? undefined : receiptFromJson(payload);
  if (receipt === undefined) throw new Error("no valid receipt");
  return { ...receipt, salt };
}

export function saltedHash(salt: string, bytes: Uint8Array): string {
  return createHash("sha256").update(Buffer.from(salt, "hex")).update(bytes).digest("base64url");
}

export function pullOrder(relay: TestRelay, changes: object = {}, key?: SigningKey): string {
  const iat = Math.floor(Date.now() / 1_000);
  return signJws(
    "receipts-pull+jwt",
    { v: 1, aud: relay.enclave.id(), iat, exp: iat + 60, ...changes },
    key ?? relay.gatewayKey,
  );
}

/** The stored receipt of a request, as a gateway pulls it. */
export async function pulled(
  client: Agent,
  relay: TestRelay,
  rid: RequestId,
): Promise<(Receipt & { salt: string }) | undefined> {
  const answer = await send(client, `${relay.url}/v1/receipts/${rid}`, {
    headers: { "daybreak-grant": pullOrder(relay) },
  });
  const { receipts } = JSON.parse(answer.body.toString()) as {
    receipts: { token: string; salt: string }[];
  };
  const [first] = receipts;
  return first === undefined ? undefined : verifiedReceipt(relay, first.token, first.salt);
}
