import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { parseEvidence } from "../../src/attestation/evidence.ts";
import { localPolicy } from "../../src/attestation/policy.ts";
import { SIMULATED_IMAGE } from "../../src/attestation/simulated/image.ts";
import { verifyEvidence } from "../../src/attestation/verify-evidence.ts";
import { keypairOf, newSecret, verifySr25519 } from "../../src/chain/keys.ts";
import { openSubtensor, type Subtensor } from "../../src/chain/subtensor.ts";
import { encodeAnnouncement, parseAnnouncement } from "../../src/core/commitment.ts";
import type { Grant } from "../../src/core/grant.ts";
import { type Hotkey, newRequestId } from "../../src/core/ids.ts";
import { pemOf, signingKey, signJws } from "../../src/core/jws.ts";
import {
  parseQuote,
  quoteHashOf,
  quoteSigningBytes,
  type SignedQuote,
} from "../../src/core/quote.ts";
import { enclaveIdOf } from "../../src/core/statement.ts";
import { openDevchain } from "../../src/devchain/devchain.ts";
import { minerSettings } from "../../src/miner/config.ts";
import { openMiner } from "../../src/miner/main.ts";
import { lockDirectory } from "../../src/runtime/data-lock.ts";
import { ConfigError, loadSettings } from "../../src/runtime/settings.ts";
import { signGrant } from "../signed.ts";
import {
  CHAT_MODEL,
  chatBody,
  HOTKEY,
  honestAnswer,
  log,
  openClient,
  openTestUpstream,
  send,
  sha256,
  temporaryFolder,
  UPSTREAM_KEY,
} from "./fixture.ts";

const OWNER = keypairOf("//Alice");
const MINER_COLDKEY = keypairOf("//Bob");
const MINER_SECRET = newSecret();
const MINER = keypairOf(MINER_SECRET);
const TAO = 1_000_000_000n;

/** A subnet with a registered miner and a gateway that announced `gatewayKey`. */
async function openNetwork(t: TestContext) {
  const devchain = await openDevchain({
    host: "127.0.0.1",
    port: 0,
    blockMs: 100,
    tempo: 360,
    finalityLagBlocks: 0,
    endowed: [OWNER, MINER_COLDKEY].map(({ address }) => ({ address, rao: 1_000_000n * TAO })),
  });
  const chain = await openSubtensor({ endpoints: [devchain.url], connectTimeoutMs: 10_000, log });
  t.after(async () => {
    await chain.close();
    await devchain.close();
  });
  const ownerHotkey = OWNER.address as Hotkey;
  await chain.submit({ kind: "register_network", hotkey: ownerHotkey }, OWNER);
  const subnet = (await chain.subnets()).find((found) => found.ownerHotkey === ownerHotkey);
  assert(subnet !== undefined);
  const { netuid } = subnet;
  await chain.submit(
    { kind: "burned_register", netuid, hotkey: MINER.address as Hotkey },
    MINER_COLDKEY,
  );
  return { devchain, chain, netuid };
}

async function announceGateway(
  chain: Subtensor,
  netuid: number,
  key: ReturnType<typeof signingKey>,
) {
  const url = "http://127.0.0.1:8080";
  const field = encodeAnnouncement({ kind: "gateway", url, log: `${url}/log`, key: key.jwk });
  await chain.submit({ kind: "set_commitment", netuid: netuid as never, fields: [field] }, OWNER);
}

function environment(
  t: TestContext,
  values: { chain: string; netuid: number; upstream: string },
): Record<string, string> {
  const folder = temporaryFolder(t);
  writeFileSync(join(folder, "hotkey"), `${MINER_SECRET}\n`);
  writeFileSync(join(folder, "tee.pem"), pemOf(signingKey()));
  return {
    DAYBREAK_MINER_PORT: "0",
    DAYBREAK_MINER_CHAIN: values.chain,
    DAYBREAK_MINER_NETUID: String(values.netuid),
    DAYBREAK_MINER_HOTKEY_FILE: join(folder, "hotkey"),
    DAYBREAK_MINER_SIM_TEE_KEY_FILE: join(folder, "tee.pem"),
    DAYBREAK_MINER_DATA: join(folder, "data"),
    DAYBREAK_MINER_DRAIN_MS: "1000",
    DAYBREAK_UPSTREAMS: JSON.stringify([
      { name: "test", kind: "openai", base_url: `${values.upstream}/v1`, api_key: UPSTREAM_KEY },
    ]),
  };
}

async function announcedUrl(chain: Subtensor, netuid: number): Promise<string | undefined> {
  const commitment = await chain.commitmentOf(netuid as never, MINER.address as Hotkey);
  const [field] = commitment?.fields ?? [];
  return field === undefined ? undefined : parseAnnouncement(field)?.url;
}

test("openMiner() announces itself, proves itself and serves the announced gateway", async (t) => {
  const { devchain, chain, netuid } = await openNetwork(t);
  const upstream = await openTestUpstream(t, honestAnswer);
  // Nothing listens at the first: the second takes over.
  const nodes = `ws://127.0.0.1:1,${devchain.url}`;
  const env = environment(t, { chain: nodes, netuid, upstream: upstream.url });
  const config = loadSettings(minerSettings, env);
  const miner = await openMiner(config, log, { HTTPS_PROXY: "x" });
  t.after(async () => await miner.close());
  const client = openClient(t);
  assert.equal(miner.hotkey, MINER.address);
  assert.equal(await announcedUrl(chain, netuid), miner.url);

  const nonce = "ab".repeat(32);
  const answer = await send(client, `${miner.url}/v1/attestation?nonce=${nonce}`);
  const { block } = parseEvidence(answer.body).evidence.fresh;
  const hash = await chain.blockHash(block);
  const { jwk } = signingKey(readFileSync(env["DAYBREAK_MINER_SIM_TEE_KEY_FILE"] ?? "", "utf8"));
  const verified = verifyEvidence(answer.body, {
    policy: localPolicy({ simRoot: jwk, images: [SIMULATED_IMAGE] }),
    expected: {
      net: chain.genesisHash,
      netuid,
      hotkeyPublicKeyHex: MINER.publicKeyHex,
      tlsSpki: null,
    },
    nonce,
    blockHashOf: () => hash,
    headBlock: (await chain.finalizedHead()).number,
    nowMs: Date.now(),
    verifyHotkeySignature: verifySr25519,
  });

  const { quotes } = JSON.parse((await send(client, `${miner.url}/v1/quotes`)).body.toString()) as {
    quotes: SignedQuote[];
  };
  const signed = quotes.find(({ quote }) => parseQuote(quote)?.prod === CHAT_MODEL);
  assert(signed !== undefined);
  assert(
    verifySr25519(
      quoteSigningBytes(signed.quote),
      Buffer.from(signed.sig, "hex"),
      MINER.publicKeyHex,
    ),
  );

  const gatewayKey = signingKey();
  const body = chatBody();
  const request = async (): Promise<number> => {
    const iat = Math.floor(Date.now() / 1_000);
    const grant: Grant = {
      v: 1,
      iss: HOTKEY,
      aud: verified.enclave,
      rid: newRequestId(Date.now()),
      iat,
      exp: iat + 60,
      e: 1,
      surface: "chat",
      model: CHAT_MODEL,
      max_out: 100,
      quote: quoteHashOf(signed.quote),
      req: sha256(body),
      sealed_by: "gateway",
    };
    const relayed = await send(client, `${miner.url}/v1/chat/completions`, {
      method: "POST",
      headers: { "daybreak-grant": signGrant(grant, gatewayKey) },
      body,
    });
    return relayed.status;
  };
  assert.equal(await request(), 401, "nobody announced this key yet");
  await announceGateway(chain, netuid, gatewayKey);
  // The announcement is seen with the next finalized block, or by the refused signer.
  const deadline = performance.now() + 5_000;
  let status = await request();
  while (status !== 200 && performance.now() < deadline) status = await request();
  assert.equal(status, 200);
  assert.equal(upstream.seen.length, 1);

  // A second start finds its announcement; the port is another one here, so it is published again.
  await miner.close();
  await miner.close();
  const again = await openMiner(config, log);
  t.after(async () => await again.close());
  assert.equal(await announcedUrl(chain, netuid), again.url);
  const reborn = parseEvidence((await send(client, `${again.url}/v1/attestation`)).body);
  assert.notEqual(enclaveIdOf(reborn.statementBytes), verified.enclave);
});

test("a relay that is killed in the middle of a stream still has the receipts of what it served", async (t) => {
  const { devchain, chain, netuid } = await openNetwork(t);
  const gatewayKey = signingKey();
  await announceGateway(chain, netuid, gatewayKey);
  const upstream = await openTestUpstream(t, honestAnswer);
  const env = environment(t, { chain: devchain.url, netuid, upstream: upstream.url });
  const start = async () => {
    const child = spawn(
      process.execPath,
      [
        "--input-type=module",
        "--eval",
        `import { minerSettings } from ${JSON.stringify(new URL("../../src/miner/config.ts", import.meta.url).href)};
         import { openMiner } from ${JSON.stringify(new URL("../../src/miner/main.ts", import.meta.url).href)};
         import { openLogger } from ${JSON.stringify(new URL("../../src/runtime/logger.ts", import.meta.url).href)};
         import { loadSettings } from ${JSON.stringify(new URL("../../src/runtime/settings.ts", import.meta.url).href)};
         const miner = await openMiner(loadSettings(minerSettings, process.env), openLogger("miner", "silent"));
         process.stdout.write(miner.url);`,
      ],
      { stdio: ["ignore", "pipe", "inherit"], env: { PATH: process.env["PATH"], ...env } },
    );
    t.after(() => child.kill("SIGKILL"));
    const [url] = (await once(child.stdout, "data")) as [Buffer];
    return { child, url: url.toString() };
  };
  const first = await start();
  const client = openClient(t);
  const enclave = enclaveIdOf(
    parseEvidence((await send(client, `${first.url}/v1/attestation`)).body).statementBytes,
  );
  const { quotes } = JSON.parse((await send(client, `${first.url}/v1/quotes`)).body.toString()) as {
    quotes: SignedQuote[];
  };
  const signed = quotes.find(({ quote }) => parseQuote(quote)?.prod === CHAT_MODEL);
  const grantFor = (body: Buffer): Grant => {
    const iat = Math.floor(Date.now() / 1_000);
    return {
      v: 1,
      iss: HOTKEY,
      aud: enclave,
      rid: newRequestId(Date.now()),
      iat,
      exp: iat + 60,
      e: 1,
      surface: "chat",
      model: CHAT_MODEL,
      max_out: 100,
      quote: quoteHashOf(signed?.quote ?? ""),
      req: sha256(body),
      sealed_by: "gateway",
    };
  };
  const post = async (grant: Grant, body: Buffer) =>
    await send(client, `${first.url}/v1/chat/completions`, {
      method: "POST",
      headers: { "daybreak-grant": signGrant(grant, gatewayKey) },
      body,
    });
  const served = grantFor(chatBody());
  const answer = await post(served, chatBody());
  assert.equal(answer.status, 200);
  let streaming: (() => void) | undefined;
  const isStreaming = new Promise<void>((resolve) => {
    streaming = resolve;
  });
  upstream.answer = (_request, response) => {
    response.writeHead(200, { "content-type": "text/event-stream" });
    response.write(": started\n\n");
    streaming?.();
  };
  const body = chatBody({ stream: true });
  const lost = assert.rejects(post(grantFor(body), body));
  await isStreaming;
  first.child.kill("SIGKILL");
  await lost;

  const second = await start();
  const now = Math.floor(Date.now() / 1_000);
  const aud = enclaveIdOf(
    parseEvidence((await send(client, `${second.url}/v1/attestation`)).body).statementBytes,
  );
  const order = signJws("receipts-pull+jwt", { v: 1, aud, iat: now, exp: now + 60 }, gatewayKey);
  const pull = async (path: string): Promise<unknown> => {
    const headers = { "daybreak-grant": order };
    const pulled = await send(client, `${second.url}/v1/receipts${path}`, { headers });
    return JSON.parse(pulled.body.toString());
  };
  const receipts = [
    {
      token: answer.trailers["daybreak-receipt"],
      salt: answer.trailers["daybreak-receipt-salt"],
    },
  ];
  assert.deepEqual(await pull(`/${served.rid}`), { receipts, more: false });
  assert.deepEqual(await pull(`?after=-1&att=${enclave}`), { receipts, more: false });
  second.child.kill("SIGTERM");
  await once(second.child, "exit");
});

test("openMiner() says what the operator has to mend, and leaves nothing open", async (t) => {
  const { devchain, netuid } = await openNetwork(t);
  const good = environment(t, { chain: devchain.url, netuid, upstream: "http://127.0.0.1:1" });
  const folder = temporaryFolder(t);
  writeFileSync(join(folder, "garbage"), "garbage of a key");
  writeFileSync(join(folder, "stranger"), newSecret());
  const taken = lockDirectory(join(folder, "taken"));
  t.after(() => taken.release());
  for (const { changes, problem } of [
    { changes: { DAYBREAK_MINER_HOTKEY_FILE: join(folder, "none") }, problem: /hotkey.*ENOENT/ },
    { changes: { DAYBREAK_MINER_HOTKEY_FILE: join(folder, "garbage") }, problem: /does not hold/ },
    { changes: { DAYBREAK_MINER_SIM_TEE_KEY_FILE: join(folder, "garbage") }, problem: /PKCS#8/ },
    { changes: { DAYBREAK_UPSTREAMS: "" }, problem: /needs a provider/ },
    { changes: { DAYBREAK_MINER_NETUID: "999" }, problem: /no subnet 999/ },
    {
      changes: { DAYBREAK_MINER_HOTKEY_FILE: join(folder, "stranger") },
      problem: /is not registered on subnet/,
    },
    { changes: { DAYBREAK_MINER_HOST: "0.0.0.0" }, problem: /DAYBREAK_MINER_PUBLIC_URL/ },
    { changes: { DAYBREAK_MINER_DATA: join(folder, "taken") }, problem: /in use by process \d+/ },
  ]) {
    await assert.rejects(
      openMiner(loadSettings(minerSettings, { ...good, ...changes }), log),
      (error: unknown) => {
        assert(error instanceof ConfigError, String(error));
        assert.match(error.message, problem);
        assert(!error.message.includes("garbage of a key"));
        return true;
      },
    );
  }
});
