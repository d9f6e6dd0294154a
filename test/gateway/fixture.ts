import { once } from "node:events";
import { mkdtempSync, rmSync } from "node:fs";
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, type TestContext } from "node:test";
import { localPolicy, type Policy } from "../../src/attestation/policy.ts";
import { SIMULATED_IMAGE } from "../../src/attestation/simulated/image.ts";
import { type Ledger, openLedger } from "../../src/billing/ledger.ts";
import { fixedPrice, type TaoPrice } from "../../src/billing/price.ts";
import {
  canonicalAddressOf,
  deriveDepositAddress,
  keypairOf,
  newSecret,
  publicKeyHexOf,
  verifySignedText,
  verifySr25519,
} from "../../src/chain/keys.ts";
import { encodeAnnouncement } from "../../src/core/commitment.ts";
import type { AccountId, Coldkey, Hotkey, Netuid, Uid } from "../../src/core/ids.ts";
import { type SigningKey, signingKey, type VerifyingKey } from "../../src/core/jws.ts";
import type { Receipt } from "../../src/core/receipt.ts";
import { openGatewayService } from "../../src/gateway/gateway-service.ts";
import type { BlockHead } from "../../src/gateway/miner-directory.ts";
import { bootEnclave, type Enclave } from "../../src/miner/enclave.ts";
import { openPriceQuotes } from "../../src/miner/price-quotes.ts";
import { openReceiptStore, type ReceiptStore } from "../../src/miner/receipts.ts";
import { buildRelay } from "../../src/miner/relay.ts";
import { openUpstreams, upstreamList } from "../../src/miner/upstreams.ts";
import { type Database, openDatabase } from "../../src/runtime/database.ts";
import { type Logger, openLogger } from "../../src/runtime/logger.ts";
import { Registry } from "../../src/runtime/metrics.ts";

export const log = openLogger("test", "silent");
export const GENESIS = `0x${"11".repeat(32)}`;
export const NETUID = 2 as Netuid;
export const CHAT_MODEL = "openai/gpt-5-mini";
export const MESSAGES_MODEL = "anthropic/claude-haiku-4-5";

/** A folder that is gone after the test. */
export function temporaryFolder(t: TestContext): string {
  const folder = mkdtempSync(join(tmpdir(), "daybreak-gateway-"));
  t.after(() => rmSync(folder, { recursive: true, force: true }));
  return folder;
}

/** Waits until `condition` holds, for at most ten seconds. */
export async function until(
  what: string,
  condition: () => boolean | Promise<boolean>,
): Promise<void> {
  const deadline = performance.now() + 10_000;
  while (!(await condition())) {
    if (performance.now() > deadline) throw new Error(`waited in vain: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}

/** A chain in memory: blocks are made by hand, and neurons publish what they like. */
export interface TestChain {
  readonly genesisHash: string;
  readonly netuid: Netuid;
  head(): BlockHead;
  /** Makes blocks. */
  advance(blocks?: number): void;
  /** Runs an epoch in a new block. */
  runEpoch(): void;
  epoch(): number;
  register(hotkey: Hotkey, fields: readonly Uint8Array[]): void;
  commitmentOf(hotkey: Hotkey): readonly Uint8Array[] | undefined;
  finalizedHead(): Promise<BlockHead>;
  onFinalizedHead(listener: (head: BlockHead) => void): () => void;
  blockHash(number: number): Promise<string | undefined>;
  neurons(): Promise<readonly { uid: Uid; hotkey: Hotkey; coldkey: Coldkey }[]>;
  commitments(): Promise<ReadonlyMap<Hotkey, { readonly fields: readonly Uint8Array[] }>>;
  publicKeyHexOf(hotkey: Hotkey): string;
  verifySr25519(message: Uint8Array, signature: Uint8Array, publicKeyHex: string): boolean;
}

export function testChain(): TestChain {
  let number = 100;
  let epoch = 7;
  const hotkeys: Hotkey[] = [];
  const published = new Map<Hotkey, { fields: readonly Uint8Array[] }>();
  const listeners = new Set<(head: BlockHead) => void>();
  const hashOf = (n: number) => `0x${n.toString(16).padStart(64, "0")}`;
  const head = (): BlockHead => ({ number, hash: hashOf(number) });
  const advance = (blocks = 1): void => {
    number += blocks;
    for (const listener of listeners) listener(head());
  };
  return {
    genesisHash: GENESIS,
    netuid: NETUID,
    head,
    advance,
    runEpoch: () => {
      epoch += 1;
      advance();
    },
    epoch: () => epoch,
    register: (hotkey, fields) => {
      if (!hotkeys.includes(hotkey)) hotkeys.push(hotkey);
      published.set(hotkey, { fields });
    },
    commitmentOf: (hotkey) => published.get(hotkey)?.fields,
    finalizedHead: () => Promise.resolve(head()),
    onFinalizedHead: (listener) => {
      listeners.add(listener);
      return () => listeners.delete(listener);
    },
    blockHash: (n) => Promise.resolve(n <= number ? hashOf(n) : undefined),
    neurons: () =>
      Promise.resolve(
        hotkeys.map((hotkey, uid) => ({
          uid: uid as Uid,
          hotkey,
          coldkey: `cold-${uid}` as Coldkey,
        })),
      ),
    commitments: () => Promise.resolve(new Map(published)),
    publicKeyHexOf,
    verifySr25519,
  };
}

/** What an upstream saw of one request. */
export interface Seen {
  readonly path: string;
  readonly body: Record<string, unknown>;
  readonly raw: Buffer;
  readonly headers: IncomingMessage["headers"];
}

/** A provider on loopback that answers as the test says. */
export interface TestUpstream {
  readonly url: string;
  readonly seen: Seen[];
  /** Answers that were cut by the caller. */
  aborted: number;
  answer: (seen: Seen, response: ServerResponse) => void | Promise<void>;
}

export async function openTestUpstream(t: TestContext): Promise<TestUpstream> {
  const server = createServer((request, response) => {
    const chunks: Buffer[] = [];
    request.on("data", (chunk: Buffer) => chunks.push(chunk));
    request.on("end", () => {
      const raw = Buffer.concat(chunks);
      const seen = {
        path: request.url ?? "",
        body: JSON.parse(raw.toString("utf8")) as Record<string, unknown>,
        raw,
        headers: request.headers,
      };
      upstream.seen.push(seen);
      response.once("close", () => {
        if (!response.writableFinished) upstream.aborted += 1;
      });
      void upstream.answer(seen, response);
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
    answer: honest,
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

const chatChunk = (fields: object): string =>
  `data: ${JSON.stringify({ id: "chatcmpl-7", object: "chat.completion.chunk", created: 1_750_000_000, model: "gpt-5-mini-2025-08-07", system_fingerprint: "fp_1", ...fields })}\n\n`;

/** Events of a streamed chat. */
export function chatEvents(words: readonly string[]): string[] {
  const choice = (delta: object, finish: string | null = null) => ({
    choices: [{ index: 0, delta, logprobs: null, finish_reason: finish }],
  });
  return [
    chatChunk(choice({ role: "assistant", content: "" })),
    ...words.map((content) => chatChunk(choice({ content }))),
    chatChunk(choice({}, "stop")),
    chatChunk({ choices: [], usage: CHAT_USAGE }),
    "data: [DONE]\n\n",
  ];
}

/** Events of a streamed message. */
export function messageEvents(words: readonly string[]): string[] {
  const event = (json: { type: string } & Record<string, unknown>): string =>
    `event: ${json.type}\ndata: ${JSON.stringify(json)}\n\n`;
  return [
    event({
      type: "message_start",
      message: {
        id: "msg_7",
        type: "message",
        role: "assistant",
        model: "claude-haiku-4-5-20251001",
        content: [],
        stop_reason: null,
        stop_sequence: null,
        usage: { input_tokens: 10, output_tokens: 1 },
      },
    }),
    event({ type: "content_block_start", index: 0, content_block: { type: "text", text: "" } }),
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

export function chatAnswer(content: string): object {
  return {
    id: "chatcmpl-7",
    object: "chat.completion",
    created: 1_750_000_000,
    model: "gpt-5-mini-2025-08-07",
    system_fingerprint: "fp_1",
    choices: [
      {
        index: 0,
        message: { role: "assistant", content, refusal: null },
        logprobs: null,
        finish_reason: "stop",
      },
    ],
    usage: CHAT_USAGE,
  };
}

export function messageAnswer(text: string): object {
  return {
    id: "msg_7",
    type: "message",
    role: "assistant",
    model: "claude-haiku-4-5-20251001",
    content: [{ type: "text", text }],
    stop_reason: "end_turn",
    stop_sequence: null,
    usage: { input_tokens: 10, output_tokens: 3 },
  };
}

/** What a good provider answers. */
export function honest({ path, body }: Seen, response: ServerResponse): void {
  const isMessages = path.endsWith("/messages");
  if (body["stream"] !== true) {
    response.writeHead(200, { "content-type": "application/json" });
    response.end(JSON.stringify(isMessages ? messageAnswer("Hello") : chatAnswer("Hello")));
    return;
  }
  response.writeHead(200, { "content-type": "text/event-stream" });
  for (const event of isMessages ? messageEvents(["Hel", "lo"]) : chatEvents(["Hel", "lo"]))
    response.write(event);
  response.end();
}

/** Refuses with a status and an OpenAI error. */
export function failing(status: number, message = "no"): TestUpstream["answer"] {
  return (_seen, response) => {
    response.writeHead(status, { "content-type": "application/json" });
    response.end(JSON.stringify({ error: { message, type: "x", code: null, param: null } }));
  };
}

/** A relay as miners run it, on loopback with real TLS, registered on the test chain. */
export interface TestMiner {
  readonly hotkey: Hotkey;
  readonly url: string;
  readonly enclave: Enclave;
  readonly upstream: TestUpstream;
  close(): Promise<void>;
}

export interface TestNetwork {
  readonly chain: TestChain;
  /** The network's simulated TEE. */
  readonly root: SigningKey;
  /** Keys whose grants the relays take. */
  readonly gatewayKeys: VerifyingKey[];
  /** What calls the relays; closed before them, as hooks run in the order in which they were made. */
  readonly callers: { close(): Promise<void> }[];
}

export function testNetwork(): TestNetwork {
  return { chain: testChain(), root: signingKey(), gatewayKeys: [], callers: [] };
}

/** A receipt store that rewrites what it signs, as a broken enclave could. */
function inflating(receipts: ReceiptStore): ReceiptStore {
  return {
    ...receipts,
    append: (order) =>
      receipts.append({
        ...order,
        claimsAt: (seq, prev) => {
          const receipt = order.claimsAt(seq, prev) as Receipt;
          return { ...receipt, use: { ...receipt.use, output: 4 } };
        },
      }),
  };
}

export async function openTestMiner(
  t: TestContext,
  network: TestNetwork,
  options: {
    readonly discountBps?: number;
    readonly folder?: string;
    /** Another hotkey in the statement than the one that is registered. */
    readonly statedHotkey?: string;
    readonly root?: SigningKey;
    readonly announce?: boolean;
    readonly secret?: string;
    /** Its enclave signs receipts for more than the provider billed. */
    readonly inflate?: boolean;
  } = {},
): Promise<TestMiner> {
  const pair = keypairOf(options.secret ?? newSecret());
  const hotkey = pair.address as Hotkey;
  const upstream = await openTestUpstream(t);
  const upstreams = openUpstreams(
    upstreamList(
      JSON.stringify([
        { name: "chat", kind: "openai", base_url: `${upstream.url}/v1`, api_key: "sk-upstream-1" },
        { name: "claude", kind: "anthropic", base_url: upstream.url, api_key: "sk-upstream-2" },
      ]),
    ),
  );
  const folder = options.folder ?? temporaryFolder(t);
  const enclave = bootEnclave({
    simulatedTee: options.root ?? network.root,
    net: GENESIS,
    netuid: NETUID,
    hotkeyPublicKeyHex: options.statedHotkey ?? pair.publicKeyHex,
    signWithHotkey: (message) => pair.sign(message),
    worker: "w1",
    host: "127.0.0.1",
    upstreams: [new URL(upstream.url).host],
    measuredConfig: {},
    nowMs: Date.now,
  });
  const receipts = await openReceiptStore(folder, log);
  const quotes = openPriceQuotes({
    hotkey,
    sign: (message) => pair.sign(message),
    models: upstreams.models,
    discountBps: options.discountBps ?? 1_000,
    capacity: { rpm: 6_000, tpm: 10_000_000, inflight: 64 },
    directory: folder,
    enclave: () => enclave.id(),
    nowMs: Date.now,
  });
  const relay = buildRelay({
    hotkey,
    enclave,
    upstreams,
    quotes,
    receipts: options.inflate === true ? inflating(receipts) : receipts,
    gatewayKeyOf: (kid) => network.gatewayKeys.find((key) => key.kid === kid),
    refreshGatewayKeys: () => Promise.resolve(),
    head: () => network.chain.head(),
    nowMs: Date.now,
    log,
    drainMs: 100,
  });
  const port = await relay.listen("127.0.0.1", 0);
  const url = `https://127.0.0.1:${port}`;
  if (options.announce !== false)
    network.chain.register(hotkey, [encodeAnnouncement({ kind: "relay", url })]);
  let closing: Promise<void> | undefined;
  const close = async (): Promise<void> => {
    await relay.close();
    await quotes.close();
    await receipts.close();
    await upstreams.close();
  };
  const miner = { hotkey, url, enclave, upstream, close: () => (closing ??= close()) };
  t.after(async () => {
    for (const caller of network.callers.splice(0)) await caller.close();
    await miner.close();
  });
  return miner;
}

/** What to start a gateway with in a test. */
export interface GatewayOptions {
  readonly database?: Database;
  readonly folder?: string;
  readonly signingKey?: SigningKey;
  readonly policy?: Policy;
  readonly requestsPerMinute?: number;
  readonly requestsMax?: number;
  readonly bodyBytesMax?: number;
  readonly bodyBytesInFlightMax?: number;
  readonly allowPrivateRelays?: boolean;
  /** Stands between the gateway and its ledger. */
  readonly ledgerSeam?: (ledger: Ledger) => Ledger;
  readonly log?: Logger;
  readonly drainMs?: number;
  readonly price?: TaoPrice;
}

export interface TestGateway {
  readonly url: string;
  readonly database: Database;
  readonly ledger: Ledger;
  readonly folder: string;
  readonly signingKey: SigningKey;
  readonly hotkey: Hotkey;
  readonly metrics: Registry;
  /** Opens an account with a key and, unless 0n, credit. */
  customer(nanoUsd?: bigint): Promise<{
    apiKey: string;
    managementKey: string;
    account: AccountId;
    depositAddress: string;
  }>;
  get(path: string, apiKey?: string): Promise<{ status: number; json: unknown }>;
  close(): Promise<void>;
}

export const ADMIN_KEY = "sk-db-admin-0123456789abcdef";
const TREASURY = keypairOf("//Treasury").publicKeyHex;

let shared: Promise<Database> | undefined;

/** One embedded database in memory per test file: opening one takes seconds, and gateways do not see each other's logs. */
export async function sharedDatabase(): Promise<Database> {
  shared ??= openDatabase({ log });
  return await shared;
}

after(async () => {
  await (await shared)?.close();
});

/** A gateway on a free port, with the real ledger on an embedded database in memory. */
export async function openTestGateway(
  t: TestContext,
  network: TestNetwork,
  options: GatewayOptions = {},
): Promise<TestGateway> {
  const { chain } = network;
  const database = options.database ?? (await sharedDatabase());
  const folder = options.folder ?? temporaryFolder(t);
  const key = options.signingKey ?? signingKey();
  if (!network.gatewayKeys.includes(key)) network.gatewayKeys.push(key);
  const hotkey = keypairOf("//Owner").address as Hotkey;
  const metrics = new Registry();
  const ledger = await openLedger({ database, gateway: key.kid, log, metrics });
  const service = await openGatewayService({
    config: {
      host: "127.0.0.1",
      port: 0,
      publicUrl: undefined,
      data: folder,
      markupBps: 500,
      allowPrivateRelays: options.allowPrivateRelays ?? true,
      bodyBytesMax: options.bodyBytesMax ?? 1_048_576,
      headerBytesMax: 8_192,
      requestsMax: options.requestsMax ?? 100,
      bodyBytesInFlightMax: options.bodyBytesInFlightMax ?? 268_435_456,
      requestsPerMinute: options.requestsPerMinute ?? 600_000,
      drainMs: options.drainMs ?? 2_000,
      depositMinimumTao: 10_000_000n,
    },
    chain: {
      directory: chain,
      log: {
        finalizedHead: () => chain.finalizedHead(),
        onFinalizedHead: (listener) => chain.onFinalizedHead(listener),
        epochIndex: () => Promise.resolve(chain.epoch()),
        commitment: () => Promise.resolve(chain.commitmentOf(hotkey)),
        commit: (fields) => {
          chain.register(hotkey, fields);
          return Promise.resolve(chain.head().hash);
        },
      },
      reports: {
        metagraph: () =>
          Promise.resolve({
            block: chain.head().number,
            blockHash: chain.head().hash,
            epochIndex: chain.epoch(),
            ownerHotkey: hotkey,
            neurons: [{ hotkey, stakeRao: 1n, incentive: 65_535 }],
          }),
        commitments: () => chain.commitments(),
      },
      deposits: {
        genesisHash: GENESIS,
        finalizedHead: () => Promise.resolve({ ...chain.head(), parentHash: GENESIS }),
        onFinalizedHead: () => () => undefined,
        bestHead: () => Promise.resolve({ ...chain.head(), parentHash: GENESIS }),
        onBestHead: () => () => undefined,
        blockHash: (number) => chain.blockHash(number),
        blockFacts: () => Promise.reject(new Error("no blocks here")),
      },
      depositAddressOf: (index) => deriveDepositAddress(TREASURY, index),
      treasury: {},
      walletAddressOf: canonicalAddressOf,
      verifySignedText,
    },
    policy: options.policy ?? localPolicy({ simRoot: network.root.jwk, images: [SIMULATED_IMAGE] }),
    database,
    ledger: options.ledgerSeam === undefined ? ledger : options.ledgerSeam(ledger),
    metrics,
    signingKey: key,
    adminKey: ADMIN_KEY,
    hotkey,
    price: options.price ?? fixedPrice(400_000_000_000n),
    log: options.log ?? log,
  });
  let closing: Promise<void> | undefined;
  const close = async (): Promise<void> => {
    await service.close();
    await ledger.close();
  };
  network.callers.push({ close: () => (closing ??= close()) });
  t.after(() => (closing ??= close()));
  const get = async (path: string, apiKey?: string) => {
    const answer = await fetch(service.url + path, {
      headers: apiKey === undefined ? {} : { authorization: `Bearer ${apiKey}` },
    });
    return { status: answer.status, json: (await answer.json()) as unknown };
  };
  return {
    url: service.url,
    database,
    ledger,
    folder,
    signingKey: key,
    hotkey,
    metrics,
    customer: async (nanoUsd = 1_000_000_000n) => {
      const answer = await fetch(`${service.url}/v1/accounts`, {
        method: "POST",
        headers: { authorization: `Bearer ${ADMIN_KEY}`, "content-type": "application/json" },
        body: JSON.stringify({ name: "test" }),
      });
      const created = (await answer.json()) as Record<string, string>;
      const account = created["account_id"] as AccountId;
      if (nanoUsd > 0n)
        await database.query(
          `SELECT ledger.post($1, 'deposit', NULL, NULL, ARRAY[1]::smallint[],
             ARRAY[(SELECT id FROM ledger.acct WHERE ledger = 1 AND code = 40)],
             ARRAY[(SELECT id FROM ledger.acct WHERE ledger = 1 AND code = 10 AND owner = $2)],
             ARRAY[$3::bigint])`,
          [`deposit:test:${account}`, account, nanoUsd],
        );
      return {
        apiKey: created["api_key"] ?? "",
        managementKey: created["management_key"] ?? "",
        account,
        depositAddress: created["deposit_address"] ?? "",
      };
    },
    get,
    close: () => (closing ??= close()),
  };
}

/** Waits until the gateway sends requests to this many miners. */
export async function untilServing(gateway: TestGateway, count: number): Promise<void> {
  await until(`${count} miners to serve`, async () => {
    const { json } = await gateway.get("/v1/network/miners");
    const { data } = json as { data: { state: string; products: unknown[] }[] };
    return data.filter((m) => m.state === "serving" && m.products.length > 0).length === count;
  });
}
