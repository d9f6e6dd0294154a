import assert from "node:assert/strict";
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { join } from "node:path";
import { test } from "node:test";
import OpenAI from "openai";
import {
  cliResult,
  getJson,
  postJson,
  type RunningNetwork,
  startLocal,
  temporaryFolder,
  waitFor,
} from "./local-network.ts";

const hello = [{ role: "user" as const, content: "Hello" }];

interface Credits {
  data: { balance_nusd: string; held_nusd: string };
}
const creditsOf = async (network: RunningNetwork) =>
  (await getJson<Credits>(`${network.ready.base_url}/credits`, network.ready.api_key)).data;

async function audit(directory: string): Promise<void> {
  const { code, stdout, stderr } = await cliResult([
    "ledger",
    "audit",
    "--data",
    join(directory, "data"),
  ]);
  assert.equal(code, 0, stdout + stderr);
  assert(stdout.split("\n").length > 4, stdout);
}

test("a second start goes on with the same keys, miners, balance and chain; the ledger audits clean while it runs and after", async () => {
  const first = await startLocal();
  const openai = new OpenAI({
    baseURL: first.ready.base_url,
    apiKey: first.ready.api_key,
    maxRetries: 0,
  });
  await openai.chat.completions.create({ model: "openai/gpt-5-mini", messages: hello });
  const before = await creditsOf(first);
  await audit(first.directory);
  assert.equal(await first.stop("SIGINT"), 0, first.output());
  await audit(first.directory);

  const second = await startLocal({ directory: first.directory });
  try {
    assert.equal(second.ready.api_key, first.ready.api_key);
    assert.equal(second.ready.admin_key, first.ready.admin_key);
    assert.equal(second.ready.netuid, first.ready.netuid);
    assert.equal(second.ready.chain_ws, first.ready.chain_ws);
    assert.deepEqual(
      second.ready.miners.map(({ hotkey }) => hotkey),
      first.ready.miners.map(({ hotkey }) => hotkey),
    );
    assert.equal((await creditsOf(second)).balance_nusd, before.balance_nusd);
    const again = new OpenAI({
      baseURL: second.ready.base_url,
      apiKey: second.ready.api_key,
      maxRetries: 0,
    });
    await again.chat.completions.create({ model: "openai/gpt-5-mini", messages: hello });
  } finally {
    await second.stop();
  }

  // Without its ledger the network would show a key that nobody knows as funded.
  rmSync(join(first.directory, "data", "gateway", "ledger"), { recursive: true });
  const { code, stderr } = await cliResult([
    "local",
    "--port",
    "0",
    "--data",
    join(first.directory, "data"),
  ]);
  assert.equal(code, 1, stderr);
  assert.match(stderr, /^daybreak: the ledger does not know the customers .*--data DIR\n$/);
});

test("kill -9 in the middle of traffic: after a restart every hold ends and the books balance", async () => {
  const first = await startLocal();
  const url = `${first.ready.base_url}/chat/completions`;
  let answered = 0;
  const loops = Array.from({ length: 8 }, async () => {
    for (;;) {
      const { status } = await postJson(url, first.ready.api_key, {
        model: "openai/gpt-5-mini",
        messages: hello,
      });
      if (status === 200) answered += 1;
    }
  });
  const broken = Promise.allSettled(loops);
  await waitFor("some answers", () => answered > 20);
  assert.equal(await first.stop("SIGKILL"), "SIGKILL");
  await broken;

  const second = await startLocal({ directory: first.directory });
  try {
    await waitFor(
      "every hold to end",
      async () => (await creditsOf(second)).held_nusd === "0",
      90_000,
    );
    const { data } = await getJson<{ data: { total_usage: number } }>(
      `${second.ready.base_url}/credits`,
      second.ready.api_key,
    );
    assert(data.total_usage > 0);
  } finally {
    assert.equal(await second.stop(), 0, second.output());
  }
  await audit(first.directory);
});

test("SIGTERM lets a running stream end, whole, before the process does", async () => {
  const network = await startLocal({ env: { DAYBREAK_SIMULATOR_LATENCY_MS: "40" } });
  const openai = new OpenAI({
    baseURL: network.ready.base_url,
    apiKey: network.ready.api_key,
    maxRetries: 0,
  });
  const stream = await openai.chat.completions.create({
    model: "openai/gpt-5-mini",
    messages: hello,
    stream: true,
  });
  let stopping: ReturnType<RunningNetwork["stop"]> | undefined;
  let finish: string | null | undefined;
  for await (const chunk of stream) {
    stopping ??= network.stop("SIGTERM");
    finish = chunk.choices[0]?.finish_reason ?? finish;
  }
  assert.equal(finish, "stop");
  assert.equal(await stopping, 0, network.output());
});

test("a canary sent as prompt, tool and error is found in no log, metric, error body or file", async () => {
  const canary = `canary-${Math.random().toString(36).slice(2)}-${Math.random().toString(36).slice(2)}`;
  const network = await startLocal({ env: { DAYBREAK_LOG_LEVEL: "trace" } });
  const texts: string[] = [];
  try {
    const url = `${network.ready.base_url}/chat/completions`;
    const ask = async (body: object) =>
      await postJson<{ error?: unknown }>(url, network.ready.api_key, body);
    const messages = [{ role: "user", content: canary }];
    const tools = [
      {
        type: "function",
        function: { name: "t", description: canary, parameters: { type: "object" } },
      },
    ];
    assert.equal((await ask({ model: "openai/gpt-5-mini", messages })).status, 200);
    assert.equal((await ask({ model: "openai/gpt-5-mini", messages, tools })).status, 200);
    for (const bad of [
      { model: canary, messages },
      { model: "openai/gpt-5-mini", messages, max_tokens: canary },
      { model: "openai/gpt-5-mini", messages, provider: { only: [canary] } },
      { model: "claude-haiku-4-5", messages },
    ]) {
      const { status, body } = await ask(bad);
      assert(status >= 400 && status < 600);
      texts.push(JSON.stringify(body.error).replaceAll(JSON.stringify(bad.model).slice(1, -1), ""));
    }
    const abort = new AbortController();
    const openai = new OpenAI({
      baseURL: network.ready.base_url,
      apiKey: network.ready.api_key,
      maxRetries: 0,
    });
    const stream = await openai.chat.completions.create(
      { model: "openai/gpt-5-mini", messages: [{ role: "user", content: canary }], stream: true },
      { signal: abort.signal },
    );
    try {
      for await (const _ of stream) abort.abort();
    } catch {
      // The SDK may report its own abort.
    }
    await waitFor("the hold to end", async () => (await creditsOf(network)).held_nusd === "0");
    texts.push(await (await fetch(`${network.origin}/metrics`)).text());
    texts.push(JSON.stringify(await getJson(`${network.ready.base_url}/network`)));
    texts.push(JSON.stringify(await getJson(`${network.ready.base_url}/network/miners`)));
  } finally {
    assert.equal(await network.stop(), 0, network.output());
  }
  texts.push(network.output());
  for (const [index, text] of texts.entries())
    assert(!text.includes(canary), `text ${index} has it: ${text.slice(0, 500)}`);
  let files = 0;
  for (const entry of readdirSync(network.directory, { recursive: true, withFileTypes: true })) {
    if (!entry.isFile()) continue;
    files += 1;
    const path = join(entry.parentPath, entry.name);
    assert(!readFileSync(path).includes(canary), `${path} has it`);
  }
  assert(files > 10, "too few files searched");
});

test("a busy port is one clear line and exit code 1", async () => {
  const server = createServer().listen(0, "127.0.0.1");
  await new Promise((resolve) => server.once("listening", resolve));
  const { port } = server.address() as { port: number };
  const { code, stderr } = await cliResult([
    "local",
    "--port",
    String(port),
    "--data",
    join(temporaryFolder(), "data"),
  ]);
  server.close();
  assert.equal(code, 1);
  assert.match(stderr, new RegExp(`^daybreak: port ${port} is in use: .*--port.*\\n$`));
});

for (const { name, prepare, folder, expected } of [
  {
    name: "a file where the folder should be",
    prepare: (data: string) => writeFileSync(data, ""),
    expected: /cannot write to the data folder .* choose another with --data/,
  },
  {
    name: "a folder from a newer version",
    prepare: (data: string) => network(data, '{"format": 99}'),
    expected: /newer version of Daybreak: update/,
  },
  {
    name: "a broken folder",
    prepare: (data: string) => network(data, '{"format": 1, "own'),
    expected: /is damaged .* choose another with --data/,
  },
  {
    name: "a folder that lacks keys",
    prepare: (data: string) => network(data, '{"format": 1}'),
    expected: /is damaged .* choose another with --data/,
  },
  {
    name: "a folder with a chain whose keys are gone",
    prepare: (data: string) => mkdirSync(join(data, "chain"), { recursive: true }),
    expected: /is damaged \(it has a chain but no network\.json\): .* choose another with --data/,
  },
  {
    name: "a damaged key of the gateway",
    prepare: (data: string) => {
      mkdirSync(join(data, "gateway"), { recursive: true });
      writeFileSync(join(data, "gateway", "signing-key.pem"), "garbage");
    },
    expected: /signing-key\.pem is not the PKCS#8 PEM of an Ed25519 key/,
  },
  {
    name: "a folder below one that cannot be written",
    prepare: () => undefined,
    folder: "/proc/daybreak",
    expected: /cannot write to the data folder .* choose another with --data/,
  },
] as { name: string; prepare: (data: string) => void; folder?: string; expected: RegExp }[]) {
  test(`${name} is one clear line and exit code 1`, async () => {
    const data = folder ?? join(temporaryFolder(), "data");
    prepare(data);
    const { code, stderr } = await cliResult(["local", "--port", "0", "--data", data]);
    assert.equal(code, 1, stderr);
    assert.match(stderr, expected);
    assert.equal(stderr.trimEnd().split("\n").length, 1, stderr);
  });
}

test("a ready file that cannot be written is one clear line and exit code 1, before anything runs", async () => {
  const [data, file] = [
    join(temporaryFolder(), "data"),
    join(temporaryFolder(), "no", "ready.json"),
  ];
  const ports = ["--port", "0"];
  const { code, stderr } = await cliResult([
    "local",
    ...ports,
    "--data",
    data,
    "--ready-file",
    file,
  ]);
  assert.equal(code, 1);
  assert.match(stderr, /^daybreak: cannot write the ready file .*ENOENT.*--ready-file\n$/);
  assert(!existsSync(join(data, "chain")));
});

test("a data folder that is in use is one clear line and exit code 1", async () => {
  const running = await startLocal();
  try {
    const { code, stderr } = await cliResult([
      "local",
      "--port",
      "0",
      "--data",
      join(running.directory, "data"),
    ]);
    assert.equal(code, 1);
    assert.match(stderr, /in use|already/);
    assert.equal(stderr.trimEnd().split("\n").length, 1, stderr);
  } finally {
    await running.stop();
  }
});

for (const command of ["local", "gateway", "miner", "validator", "devchain", "ledger audit"]) {
  test(`daybreak ${command} --help lists its options`, async () => {
    const { code, stdout } = await cliResult([...command.split(" "), "--help"]);
    assert.equal(code, 0);
    assert.match(stdout, /--data/);
  });
}

test("settings that are wrong are all listed, with what they must be", async () => {
  const { code, stderr } = await cliResult(["gateway", "--port", "99999", "--chain", "http://x"]);
  assert.equal(code, 1);
  for (const word of ["--port", "0 to 65535", "--chain", "ws://", "--netuid"])
    assert(stderr.includes(word), stderr);
});

function network(data: string, text: string): void {
  mkdirSync(data, { recursive: true });
  writeFileSync(join(data, "network.json"), text);
}
