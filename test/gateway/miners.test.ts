import assert from "node:assert/strict";
import { once } from "node:events";
import { createServer, request } from "node:https";
import type { AddressInfo } from "node:net";
import { type TestContext, test } from "node:test";
import { localPolicy } from "../../src/attestation/policy.ts";
import { selfSignedCertificate } from "../../src/attestation/self-signed-certificate.ts";
import { SIMULATED_IMAGE } from "../../src/attestation/simulated/image.ts";
import { keypairOf, newSecret } from "../../src/chain/keys.ts";
import { encodeAnnouncement } from "../../src/core/commitment.ts";
import type { Hotkey } from "../../src/core/ids.ts";
import { signingKey } from "../../src/core/jws.ts";
import { openMinerDirectory } from "../../src/gateway/miner-directory.ts";
import { isPublicAddress } from "../../src/gateway/outbound-address.ts";
import { openRelayConnection, type RelayListener } from "../../src/gateway/relay-connection.ts";
import {
  CHAT_MODEL,
  log,
  openTestGateway,
  openTestMiner,
  type TestGateway,
  type TestNetwork,
  testNetwork,
  until,
  untilServing,
} from "./fixture.ts";

interface ShownMiner {
  readonly hotkey: string;
  readonly state: string;
  readonly reason: {
    readonly code: string;
    readonly stage: string;
    readonly message: string;
  } | null;
}

async function minersOf(gateway: TestGateway): Promise<ShownMiner[]> {
  const { json } = await gateway.get("/v1/network/miners");
  return (json as { data: ShownMiner[] }).data;
}

test("a relay with wrong evidence gets no traffic, and the list of miners says why", async (t) => {
  const network = testNetwork();
  const good = await openTestMiner(t, network);
  const otherRoot = await openTestMiner(t, network, { root: signingKey() });
  const otherHotkey = await openTestMiner(t, network, { statedHotkey: "22".repeat(32) });
  // A relay that shows a stranger's evidence: its own TLS key is not the one in it.
  const cuckoo = await openCuckoo(t, network, good.url);
  const plain = keypairOf(newSecret()).address as Hotkey;
  network.chain.register(plain, [encodeAnnouncement({ kind: "relay", url: "http://127.0.0.1:1" })]);
  const gateway = await openTestGateway(t, network);
  await untilServing(gateway, 1);
  const expected = new Map<string, string>([
    [otherRoot.hotkey, "crypto/signer"],
    [otherHotkey.hotkey, "binding/hotkey"],
    [cuckoo, "binding/hotkey"],
    [plain, "policy/url"],
  ]);
  await until("every relay to be judged", async () => {
    const miners = await minersOf(gateway);
    return [...expected].every(([hotkey, code]) =>
      miners.some((miner) => miner.hotkey === hotkey && miner.reason?.code === code),
    );
  });
  for (const miner of await minersOf(gateway)) {
    assert.equal(miner.state, miner.hotkey === good.hotkey ? "serving" : "refused");
    if (miner.hotkey !== good.hotkey) assert.notEqual(miner.reason?.message, "");
  }
  const { apiKey } = await gateway.customer();
  for (let i = 0; i < 5; i++) {
    const answer = await fetch(`${gateway.url}/v1/chat/completions`, {
      method: "POST",
      headers: { authorization: `Bearer ${apiKey}` },
      body: JSON.stringify({ model: CHAT_MODEL, messages: [{ role: "user", content: "hi" }] }),
    });
    assert.equal(answer.headers.get("x-daybreak-miner"), good.hotkey);
  }
  assert.equal(otherRoot.upstream.seen.length + otherHotkey.upstream.seen.length, 0);
  const { json } = await gateway.get("/v1/models");
  assert((json as { data: { id: string }[] }).data.some(({ id }) => id === CHAT_MODEL));
});

/** A TLS server that passes on another relay's evidence. */
async function openCuckoo(t: TestContext, network: TestNetwork, victim: string): Promise<Hotkey> {
  const { keyPem, certificatePem } = selfSignedCertificate({
    name: "127.0.0.1",
    notBeforeMs: Date.now() - 1_000,
    notAfterMs: Date.now() + 86_400_000,
  });
  const server = createServer({ key: keyPem, cert: certificatePem }, (incoming, response) => {
    const forwarded = request(victim + (incoming.url ?? ""), { rejectUnauthorized: false });
    forwarded.on("response", (answer) => answer.pipe(response));
    forwarded.on("error", () => response.destroy());
    forwarded.end();
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  t.after(async () => {
    server.closeAllConnections();
    server.close();
    await once(server, "close");
  });
  const hotkey = keypairOf(newSecret()).address as Hotkey;
  const url = `https://127.0.0.1:${(server.address() as AddressInfo).port}`;
  network.chain.register(hotkey, [encodeAnnouncement({ kind: "relay", url })]);
  return hotkey;
}

test("a server with another TLS key than the attested one never sees a byte of a request", async (t) => {
  const network = testNetwork();
  const miner = await openTestMiner(t, network);
  const directory = await openMinerDirectory({
    chain: network.chain,
    policy: localPolicy({ simRoot: network.root.jwk, images: [SIMULATED_IMAGE] }),
    allowPrivate: true,
    acceptQuotes: () => undefined,
    keepEvidence: () => Promise.resolve(),
    log,
    nowMs: Date.now,
  });
  network.callers.push(directory);
  await until("the relay to be verified", () => directory.serving().length === 1);
  const peer = directory.serving()[0]?.relay.peer;
  assert(peer !== undefined && peer.enclave === miner.enclave.id());

  let bytes = 0;
  let connections = 0;
  const { keyPem, certificatePem } = selfSignedCertificate({
    name: "127.0.0.1",
    notBeforeMs: Date.now() - 1_000,
    notAfterMs: Date.now() + 86_400_000,
  });
  const impostor = createServer({ key: keyPem, cert: certificatePem });
  impostor.on("connection", () => {
    connections += 1;
  });
  impostor.on("request", () => {
    bytes += 1;
  });
  impostor.on("secureConnection", (socket) => {
    socket.on("data", (chunk: Buffer) => {
      bytes += chunk.length;
    });
  });
  impostor.listen(0, "127.0.0.1");
  await once(impostor, "listening");
  t.after(async () => {
    impostor.closeAllConnections();
    impostor.close();
    await once(impostor, "close");
  });
  const url = `https://127.0.0.1:${(impostor.address() as AddressInfo).port}`;
  const connection = openRelayConnection(url, peer, { allowPrivate: true });
  t.after(() => connection.close());
  const error = await new Promise<Error>((resolve, reject) => {
    const listener: RelayListener = {
      onHead: () => reject(new Error("answered")),
      onData: () => reject(new Error("answered")),
      onEnd: () => reject(new Error("answered")),
      onError: resolve,
    };
    connection.exchange(
      { method: "POST", path: "/v1/chat/completions", headers: {}, body: Buffer.from("secret") },
      listener,
    );
  });
  assert.equal(error.name, "WrongTlsKey");
  await until("the impostor to have been called", () => connections === 1);
  assert.equal(bytes, 0);
  assert.equal(connection.inFlight(), 0);
});

test("evidence that grew old is renewed in time, or else the relay gets no traffic", async (t) => {
  const network = testNetwork();
  const miner = await openTestMiner(t, network);
  const gateway = await openTestGateway(t, network);
  await untilServing(gateway, 1);
  // Past 80 % of the 50 blocks: the evidence is renewed before it is stale.
  network.chain.advance(41);
  const renewed = `${network.chain.head().number}`;
  await until("new evidence", async () => {
    const { json } = await gateway.get("/v1/network/miners");
    const [shown] = (json as { data: { evidence_block: number; state: string }[] }).data;
    assert.equal(shown?.state, "serving");
    return String(shown.evidence_block) === renewed;
  });
  await miner.close();
  network.chain.advance(51);
  await until("the relay to be out", async () => {
    const [shown] = await minersOf(gateway);
    return shown?.state !== "serving";
  });
  const [shown] = await minersOf(gateway);
  assert(
    shown?.reason?.code === "fresh/stale" || shown?.reason?.code === "network/unreachable",
    shown?.reason?.code,
  );
  const { apiKey } = await gateway.customer();
  const answer = await fetch(`${gateway.url}/v1/chat/completions`, {
    method: "POST",
    headers: { authorization: `Bearer ${apiKey}` },
    body: JSON.stringify({ model: CHAT_MODEL, messages: [{ role: "user", content: "hi" }] }),
  });
  assert.equal(answer.status, 503);
  const { error } = (await answer.json()) as { error: { metadata: Record<string, unknown> } };
  assert.equal(error.metadata["code"], "no_miner_available");
  assert.equal(error.metadata["miners_not_attested"], 1);
});

test("addresses that are not public are refused unless allowed", async (t) => {
  for (const address of [
    "127.0.0.1",
    "10.1.2.3",
    "169.254.169.254",
    "::1",
    "fd00::1",
    "::ffff:10.0.0.1",
    "0.0.0.0",
  ])
    assert.equal(isPublicAddress(address), false, address);
  for (const address of ["1.1.1.1", "2606:4700::1111"])
    assert.equal(isPublicAddress(address), true, address);
  const network = testNetwork();
  const miner = await openTestMiner(t, network);
  const gateway = await openTestGateway(t, network, { allowPrivateRelays: false });
  await until("the relay to be refused", async () => {
    const [shown] = await minersOf(gateway);
    return shown?.reason?.code === "policy/address";
  });
  assert.equal(miner.upstream.seen.length, 0);
});
