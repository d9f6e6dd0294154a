import { type ChildProcess, spawn } from "node:child_process";
import { existsSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { keypairOf } from "../../src/chain/keys.ts";
import { signingKey } from "../../src/core/jws.ts";
import { stop } from "../child.ts";
import { freePort, listens, type Target, type Upstream, until } from "./target.ts";

const START_LIMIT_MS = 60_000;
/** How long the last holds may take to be settled after the load ends, ms. */
const SETTLE_LIMIT_MS = 10_000;
/** Characters of a failed process's output that are shown. */
const OUTPUT_SHOWN = 2_000;
/** Above any rate that the load generator can reach. */
const REQUESTS_PER_MINUTE = "10000000";

/** How Daybreak is started for a benchmark. */
export interface DaybreakOptions {
  /** Folder for CPU profiles of its processes and threads, written when they end. */
  readonly profileFolder?: string | undefined;
}

/** What `daybreak local` writes when it is ready. */
interface Ready {
  readonly base_url: string;
  readonly api_key: string;
  readonly netuid: number;
}

/** The part of a local network's secrets that its services need as processes of their own. */
interface Secrets {
  readonly treasury: string;
  readonly simulatedTeeKey: string;
  readonly adminKey: string;
}

type Flags = Readonly<Record<string, string | true>>;

interface Credits {
  readonly data: { readonly total_usage: number; readonly held_nusd: string };
}

/**
 * Chain, gateway and relay as processes of their own, as an operator runs them.
 *
 * `daybreak local` first makes the network (keys, registrations, a funded account) in a folder and ends; the services
 * then go on from that folder.
 */
export async function openDaybreak(upstream: Upstream, options: DaybreakOptions): Promise<Target> {
  const folder = mkdtempSync(join(tmpdir(), "daybreak-bench-"));
  const children: ChildProcess[] = [];
  const processes: Record<string, number> = {};
  async function close(): Promise<void> {
    for (const child of children.toReversed()) await stop(child);
    rmSync(folder, { recursive: true, force: true });
  }
  async function serve(name: string, port: number, flags: Flags): Promise<void> {
    const child = start([name, ...wordsOf({ ...flags, port: `${port}` })], upstream, options);
    children.push(child);
    processes[name] = child.pid ?? 0;
    await until(`daybreak ${name}`, START_LIMIT_MS, () => {
      assertRunning(child);
      return listens(port);
    });
  }
  try {
    const { api_key: apiKey, netuid } = await makeNetwork(folder, upstream);
    const file = join(folder, "network.json");
    const secrets = JSON.parse(readFileSync(file, "utf8")) as Secrets;
    const simulatedTee = signingKey(secrets.simulatedTeeKey);
    const chainPort = await freePort();
    const gatewayPort = await freePort();
    await serve("devchain", chainPort, { data: join(folder, "chain") });
    const common = { chain: `ws://127.0.0.1:${chainPort}`, netuid: `${netuid}` };
    await serve("gateway", gatewayPort, {
      ...common,
      data: join(folder, "gateway"),
      "hotkey-file": join(folder, "keys", "owner-hotkey"),
      "admin-key": secrets.adminKey,
      treasury: keypairOf(`${secrets.treasury}//deposits`).address,
      "sim-tee-root": JSON.stringify(simulatedTee.jwk),
      "tao-usd": "fixed:400.00",
      "allow-private-relays": true,
      "requests-per-minute": REQUESTS_PER_MINUTE,
    });
    await serve("miner", await freePort(), {
      ...common,
      data: join(folder, "miners", "1"),
      "hotkey-file": join(folder, "keys", "miner-1-hotkey"),
      "sim-tee-key-file": join(folder, "keys", "simulated-tee-key"),
      worker: "miner-1",
    });
    const baseUrl = `http://127.0.0.1:${gatewayPort}/v1`;
    await until("a miner that serves", START_LIMIT_MS, async () => {
      const answer = await fetch(`${baseUrl}/network/miners`);
      const { data } = (await answer.json()) as { data: { state: string }[] };
      return data.some(({ state }) => state === "serving") ? true : undefined;
    });
    const does = "whole path; gateway, relay and chain as processes";
    return { ...targetOf(baseUrl, apiKey), name: "Daybreak", does, processes, close };
  } catch (error) {
    await close();
    throw error;
  }
}

/** A whole network in the one process of `npm start`. */
export async function openDaybreakLocal(
  upstream: Upstream,
  options: DaybreakOptions,
): Promise<Target> {
  const folder = mkdtempSync(join(tmpdir(), "daybreak-bench-local-"));
  const { child, network } = await startLocal(folder, upstream, options);
  return {
    ...targetOf(network.base_url, network.api_key),
    name: "Daybreak local",
    does: "whole path; everything in one process",
    processes: { local: child.pid ?? 0 },
    async close() {
      await stop(child);
      rmSync(folder, { recursive: true, force: true });
    },
  };
}

/** Makes a network with one miner in `folder`, and ends it. */
async function makeNetwork(folder: string, upstream: Upstream): Promise<Ready> {
  const { child, network } = await startLocal(folder, upstream, {});
  await stop(child);
  return network;
}

async function startLocal(
  folder: string,
  upstream: Upstream,
  options: DaybreakOptions,
): Promise<{ child: ChildProcess; network: Ready }> {
  const readyFile = join(folder, "ready.json");
  const counts = ["--miners", "1", "--validators", "0"];
  const files = ["--data", folder, "--ready-file", readyFile];
  const child = start(["local", "--port", "0", ...counts, ...files], upstream, options);
  try {
    await until("daybreak local", START_LIMIT_MS, () => {
      assertRunning(child);
      return existsSync(readyFile) ? true : undefined;
    });
    return { child, network: JSON.parse(readFileSync(readyFile, "utf8")) as Ready };
  } catch (error) {
    await stop(child);
    rmSync(folder, { recursive: true, force: true });
    throw error;
  }
}

/** The last output of each process, for the message when it ends too early. */
const outputs = new WeakMap<ChildProcess, string>();

function start(
  args: readonly string[],
  upstream: Upstream,
  { profileFolder }: DaybreakOptions,
): ChildProcess {
  const provider = {
    name: "bench",
    kind: "openai",
    base_url: upstream.baseUrl,
    api_key: "sk-bench-upstream",
    models: ["gpt-5-mini"],
  };
  const profile =
    profileFolder === undefined ? [] : ["--cpu-prof", "--cpu-prof-dir", profileFolder];
  const child = spawn(
    process.execPath,
    ["--max-semi-space-size=16", ...profile, "src/cli.ts", ...args],
    {
      stdio: ["ignore", "pipe", "pipe"],
      env: {
        ...process.env,
        DAYBREAK_UPSTREAMS: JSON.stringify([provider]),
        DAYBREAK_LOG_LEVEL: "warn",
        DAYBREAK_GATEWAY_REQUESTS_PER_MINUTE: REQUESTS_PER_MINUTE,
      },
    },
  );
  const keep = (text: Buffer): void => {
    outputs.set(child, ((outputs.get(child) ?? "") + text.toString()).slice(-OUTPUT_SHOWN));
  };
  child.stdout.on("data", keep);
  child.stderr.on("data", keep);
  return child;
}

function assertRunning(child: ChildProcess): void {
  if (child.exitCode === null && child.signalCode === null) return;
  throw new Error(`daybreak ended with code ${child.exitCode}: ${outputs.get(child) ?? ""}`);
}

/** `--name value` of each flag, `--name` of one that is on. */
function wordsOf(flags: Flags): readonly string[] {
  return Object.entries(flags).flatMap(([name, value]) =>
    value === true ? [`--${name}`] : [`--${name}`, value],
  );
}

function targetOf(
  baseUrl: string,
  apiKey: string,
): Pick<Target, "port" | "path" | "headers" | "model" | "epilogue"> {
  return {
    port: Number(new URL(baseUrl).port),
    path: `${new URL(baseUrl).pathname}/chat/completions`,
    headers: { authorization: `Bearer ${apiKey}` },
    model: "openai/gpt-5-mini",
    epilogue: () => moneyAfter(baseUrl, apiKey),
  };
}

/** Reads the balance until no hold is open. @throws Error if one stays open or nothing was charged. */
async function moneyAfter(baseUrl: string, apiKey: string): Promise<string> {
  const usage = await until("settlement of the last holds", SETTLE_LIMIT_MS, async () => {
    const answer = await fetch(`${baseUrl}/credits`, {
      headers: { authorization: `Bearer ${apiKey}` },
    });
    if (!answer.ok) throw new Error(`GET /credits answered ${answer.status}`);
    const { data } = (await answer.json()) as Credits;
    return data.held_nusd === "0" ? data.total_usage : undefined;
  });
  if (!(usage > 0)) throw new Error("the load was served but not charged");
  return `charged $${usage.toFixed(4)} for all load; no hold is open`;
}
