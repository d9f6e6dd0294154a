import { type ChildProcess } from "node:child_process";
import { readFileSync, writeFileSync } from "node:fs";
import type { IncomingMessage, ServerResponse } from "node:http";
import { createServer as createHttpsServer } from "node:https";
import type { AddressInfo } from "node:net";
import { join } from "node:path";
import { type Keypair, keypairOf, newSecret } from "../../src/chain/keys.ts";
import type { Subtensor } from "../../src/chain/subtensor.ts";
import { encodeAnnouncement } from "../../src/core/commitment.ts";
import type { Hotkey, Netuid } from "../../src/core/ids.ts";
import { type SigningKey, signingKey } from "../../src/core/jws.ts";
import { modelOf } from "../../src/core/models.ts";
import { bootEnclave, type Enclave } from "../../src/miner/enclave.ts";
import { openPriceQuotes } from "../../src/miner/price-quotes.ts";
import { getJson, type RunningNetwork, runCli, temporaryFolder, waitFor } from "./local-network.ts";

/** The network's own key that stands where a CPU vendor's would. */
export function simulatedTeeKeyFile(network: RunningNetwork): string {
  return join(network.directory, "data", "keys", "simulated-tee-key");
}

/** Registers a new hotkey in the subnet, paid by a development account. @returns its secret and its keypair. */
export async function registerHotkey(
  chain: Subtensor,
  netuid: number,
): Promise<{ secret: string; keypair: Keypair }> {
  const secret = newSecret();
  const keypair = keypairOf(secret);
  await chain.submit(
    { kind: "burned_register", netuid: netuid as Netuid, hotkey: keypair.address as Hotkey },
    keypairOf("//Alice"),
  );
  return { secret, keypair };
}

export interface MinerState {
  readonly hotkey: string;
  readonly state: string;
  readonly reason: {
    readonly code: string;
    readonly stage: string;
    readonly message: string;
  } | null;
}

export async function minerState(
  network: RunningNetwork,
  hotkey: string,
): Promise<MinerState | undefined> {
  const { data } = await getJson<{ data: MinerState[] }>(
    `${network.ready.base_url}/network/miners`,
  );
  return data.find((miner) => miner.hotkey === hotkey);
}

/** Starts `daybreak miner` in a process of its own, with one upstream, and waits until the gateway serves through it. */
export async function startMiner(
  network: RunningNetwork,
  secret: string,
  upstreamUrl: string,
): Promise<ChildProcess> {
  const folder = temporaryFolder();
  const hotkeyFile = join(folder, "hotkey");
  writeFileSync(hotkeyFile, secret, { mode: 0o600 });
  const upstreams = [
    {
      name: "test",
      kind: "openai",
      base_url: upstreamUrl,
      api_key: "sk-test",
      models: ["gpt-5-mini", "gpt-4.1-mini"],
    },
  ];
  const child = runCli(
    [
      "miner",
      "--port",
      "0",
      "--chain",
      network.ready.chain_ws,
      "--netuid",
      String(network.ready.netuid),
      "--hotkey-file",
      hotkeyFile,
      "--data",
      join(folder, "data"),
      "--sim-tee-key-file",
      simulatedTeeKeyFile(network),
      "--discount-bps",
      "5000",
    ],
    { DAYBREAK_UPSTREAMS: JSON.stringify(upstreams) },
  );
  let output = "";
  child.stdout?.on("data", (chunk: Buffer) => (output += chunk.toString()));
  child.stderr?.on("data", (chunk: Buffer) => (output += chunk.toString()));
  const { address } = keypairOf(secret);
  await waitFor("the miner to serve", async () => {
    if (child.exitCode !== null)
      throw new Error(`daybreak miner ended with ${child.exitCode}: ${output}`);
    return (await minerState(network, address))?.state === "serving";
  });
  return child;
}

/** What a dishonest relay does with a request that carries a genuine grant. */
export type Misdeed = (
  request: IncomingMessage,
  body: Buffer,
  response: ServerResponse,
  enclave: Enclave,
) => void;

export interface RogueRelay {
  readonly url: string;
  readonly hotkey: Hotkey;
  readonly enclave: Enclave;
  close(): Promise<void>;
}

export interface RogueOptions {
  readonly misdeed: Misdeed;
  /** Signs the evidence; the network's own key unless the test wants a wrong one. */
  readonly simulatedTee?: SigningKey;
  /** The hotkey that the evidence names, when it is not the one that announces the relay. */
  readonly evidenceHotkey?: Keypair;
  /** The block that dates the evidence, when it is not the newest. */
  readonly evidenceBlock?: { readonly number: number; readonly hash: string };
  /** The enclave whose TLS key the server shows, when it is not its own. */
  readonly tlsOf?: Enclave;
}

/** A relay that attests like an honest one, as far as the options leave it, and then does what it likes. */
export async function startRogueRelay(
  network: RunningNetwork,
  chain: Subtensor,
  options: RogueOptions,
): Promise<RogueRelay> {
  const { ready } = network;
  const netuid = ready.netuid as Netuid;
  const { keypair } = await registerHotkey(chain, netuid);
  const hotkey = keypair.address as Hotkey;
  const named = options.evidenceHotkey ?? keypair;
  const enclave = bootEnclave({
    simulatedTee:
      options.simulatedTee ?? signingKey(readFileSync(simulatedTeeKeyFile(network), "utf8")),
    net: chain.genesisHash,
    netuid,
    hotkeyPublicKeyHex: named.publicKeyHex,
    signWithHotkey: (message) => named.sign(message),
    worker: "rogue",
    host: "127.0.0.1",
    upstreams: ["127.0.0.1:1"],
    measuredConfig: {},
    nowMs: Date.now,
  });
  const model = modelOf("gpt-5-mini");
  if (model === undefined) throw new Error("the catalogue lacks the model");
  const quotes = openPriceQuotes({
    hotkey,
    sign: (message) => keypair.sign(message),
    models: [model],
    discountBps: 6_000,
    capacity: { rpm: 1_000, tpm: 1_000_000, inflight: 64 },
    directory: temporaryFolder(),
    enclave: () => enclave.id(),
    nowMs: Date.now,
  });
  const { tls } = options.tlsOf ?? enclave;
  const server = createHttpsServer(
    { key: tls.keyPem, cert: tls.certificatePem },
    (request, response) => {
      const json = (body: unknown) =>
        response.setHeader("content-type", "application/json").end(JSON.stringify(body));
      const url = new URL(request.url ?? "/", "https://relay");
      if (url.pathname === "/v1/attestation") {
        void chain
          .finalizedHead()
          .then((head) =>
            json(
              enclave.evidence(
                options.evidenceBlock ?? head,
                url.searchParams.get("nonce") ?? undefined,
              ),
            ),
          )
          // The chain is closed while the gateway still asks.
          .catch(() => response.destroy());
      } else if (url.pathname === "/v1/quotes") {
        json({ quotes: quotes.current() });
      } else {
        const chunks: Buffer[] = [];
        request.on("data", (chunk: Buffer) => chunks.push(chunk));
        request.on("end", () => options.misdeed(request, Buffer.concat(chunks), response, enclave));
      }
    },
  );
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const url = `https://127.0.0.1:${(server.address() as AddressInfo).port}`;
  await chain.submit(
    { kind: "set_commitment", netuid, fields: [encodeAnnouncement({ kind: "relay", url })] },
    keypair,
  );
  return {
    url,
    hotkey,
    enclave,
    close: async () => {
      await quotes.close();
      server.closeAllConnections();
      await new Promise((resolve) => server.close(resolve));
    },
  };
}
