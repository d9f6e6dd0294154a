import assert from "node:assert/strict";
import type { ChildProcess } from "node:child_process";
import { once } from "node:events";
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { after, before, suite, test } from "node:test";
import { auditLedger } from "../../src/billing/audit.ts";
import { keypairOf } from "../../src/chain/keys.ts";
import { openSubtensor } from "../../src/chain/subtensor.ts";
import { parseLogRoot } from "../../src/core/commitment.ts";
import {
  type AccountId,
  type Hotkey,
  type Netuid,
  type RequestId,
  requestOfGenerationId,
  runOfRequest,
} from "../../src/core/ids.ts";
import { nanoUsd } from "../../src/core/money.ts";
import { parseQuote } from "../../src/core/quote.ts";
import { receiptFromJson } from "../../src/core/receipt.ts";
import { decodeClaims } from "../../src/core/signed-claims.ts";
import { amountsOf } from "../../src/gateway/settle-request.ts";
import { type Database, openDatabase } from "../../src/runtime/database.ts";
import { openLogger } from "../../src/runtime/logger.ts";
import { findPostgres, fund, type PostgresServer, startPostgres } from "../billing/stores.ts";
import { findRedis, type RedisServer, startRedis } from "../runtime/redis-server.ts";
import { postJson, type RunningNetwork, runCli, startLocal, waitFor } from "./local-network.ts";

const MODEL = "openai/gpt-5-mini";
/** What all gateways together let one key send: 200 at once, and 20 in a second after them. */
const REQUESTS_PER_MINUTE = 1_200;
const BURST = 200;
const PER_SECOND = 20;
const MARKUP_BPS = 500;

/** A `daybreak gateway` process. */
interface Gateway {
  readonly url: string;
  readonly child: ChildProcess;
  output(): string;
}

interface Customer {
  readonly account: AccountId;
  readonly apiKey: string;
}

const silent = openLogger("test", "silent");
const postgresBin = findPostgres();
const redisProgram = findRedis();
const missing = [
  postgresBin === undefined ? "no PostgreSQL is installed" : undefined,
  redisProgram === undefined ? "no redis-server is installed" : undefined,
].filter((reason) => reason !== undefined);

suite("three gateways on one Postgres and one Redis", {
  skip: missing.length > 0 ? missing.join(", ") : false,
}, () => {
  let postgres: PostgresServer;
  let redis: RedisServer;
  let databaseUrl: string;
  let database: Database;
  let network: RunningNetwork;
  let gateways: Gateway[];

  before(async () => {
    assert(postgresBin !== undefined && redisProgram !== undefined);
    [postgres, redis] = await Promise.all([startPostgres(postgresBin), startRedis(redisProgram)]);
    databaseUrl = await postgres.newDatabase();
    network = await startLocal({
      args: ["--miners", "2", "--validators", "0", "--block-ms", "250", "--tempo", "20"],
      env: { DATABASE_URL: databaseUrl, DAYBREAK_SIMULATOR_LATENCY_MS: "30" },
    });
    database = await openDatabase({ url: databaseUrl, log: silent });
    gateways = await Promise.all([1, 2, 3].map(startGateway));
  });
  after(async () => {
    await Promise.all(gateways.map(stop));
    await network.stop();
    await database.close();
    await redis.close();
    await postgres.close();
  });

  /** A gateway with the keys of the local network's own, beside it. */
  const startGateway = async (number: number): Promise<Gateway> => {
    const data = join(network.directory, "data");
    const folder = join(network.directory, `gateway-${number}`);
    const { treasury } = JSON.parse(readFileSync(join(data, "network.json"), "utf8")) as {
      treasury: string;
    };
    const child = runCli(["gateway"], {
      DATABASE_URL: databaseUrl,
      REDIS_URL: redis.url,
      DAYBREAK_GATEWAY_PORT: "0",
      DAYBREAK_GATEWAY_DATA: folder,
      DAYBREAK_GATEWAY_PUBLIC_URL: network.origin,
      DAYBREAK_GATEWAY_CHAIN: network.ready.chain_ws,
      DAYBREAK_GATEWAY_NETUID: `${network.ready.netuid}`,
      DAYBREAK_GATEWAY_HOTKEY_FILE: join(data, "keys", "owner-hotkey"),
      DAYBREAK_GATEWAY_SIGNING_KEY_FILE: join(data, "gateway", "signing-key.pem"),
      DAYBREAK_GATEWAY_TAO_USD: "fixed:400.00",
      DAYBREAK_GATEWAY_ADMIN_KEY: network.ready.admin_key,
      DAYBREAK_GATEWAY_TREASURY: keypairOf(`${treasury}//deposits`).address,
      DAYBREAK_GATEWAY_SIM_TEE_ROOT: readFileSync(join(data, "keys", "simulated-tee-root"), "utf8"),
      DAYBREAK_GATEWAY_ALLOW_PRIVATE_RELAYS: "true",
      DAYBREAK_GATEWAY_REQUESTS_PER_MINUTE: `${REQUESTS_PER_MINUTE}`,
      DAYBREAK_GATEWAY_DRAIN_MS: "1000",
    });
    let output = "";
    for (const stream of [child.stdout, child.stderr])
      stream?.on("data", (chunk: Buffer) => (output += chunk.toString()));
    const running = join(folder, "running.json");
    await waitFor(`gateway ${number}`, () => {
      if (child.exitCode !== null) throw new Error(`gateway ${number} ended:\n${output}`);
      return existsSync(running);
    });
    const { url } = JSON.parse(readFileSync(running, "utf8")) as { url: string };
    await waitFor(`gateway ${number} to serve`, async () => {
      const { data } = (await (await fetch(`${url}/v1/models`)).json()) as { data: unknown[] };
      return data.length > 0 && (await fetch(`${url}/readyz`)).ok;
    });
    return { url, child, output: () => output };
  };

  const customer = async (credit: bigint): Promise<Customer> => {
    const { body } = await postJson<{ account_id: AccountId; api_key: string }>(
      `${network.ready.base_url}/accounts`,
      network.ready.admin_key,
      { name: "shared" },
    );
    if (credit > 0n) await fund(database, body.account_id, credit);
    return { account: body.account_id, apiKey: body.api_key };
  };

  const ask = async (
    gateway: Gateway,
    { apiKey }: Customer,
    fields: object = {},
  ): Promise<Response> =>
    await fetch(`${gateway.url}/v1/chat/completions`, {
      method: "POST",
      headers: { authorization: `Bearer ${apiKey}` },
      body: JSON.stringify({
        model: MODEL,
        max_tokens: 100,
        messages: [{ role: "user", content: "word ".repeat(40) }],
        ...fields,
      }),
    });

  test("share an account under race, and end the requests of one that is killed", async () => {
    const [first, second, third] = gateways as [Gateway, Gateway, Gateway];
    const [held] = await heldBy(await customer(1_000_000_000n));
    assert(held !== undefined);
    // Enough for the four that will be cut off, and for some dozens of the others.
    const credit = 30n * held;
    const shared = await customer(credit);

    const cut = await Promise.all(
      [1, 2, 3, 4].map(async () => await ask(second, shared, { stream: true })),
    );
    const cutIds = cut.map(requestOf);
    const begun = await Promise.all(
      cut.map(async ({ status, body }) => {
        assert.equal(status, 200);
        const reader = body?.getReader();
        await reader?.read();
        return reader;
      }),
    );
    const ids: RequestId[] = [];
    const statuses = new Map<number, number>();
    /** Three clients of each gateway ask until there is no credit left, not even for one. */
    const race = async (): Promise<void> => {
      const client = async (gateway: Gateway): Promise<void> => {
        for (let isRefused = false; !isRefused; ) {
          const answer = await ask(gateway, shared);
          await answer.text();
          statuses.set(answer.status, (statuses.get(answer.status) ?? 0) + 1);
          if (answer.status === 200) ids.push(requestOf(answer));
          isRefused = answer.status !== 200;
        }
      };
      await Promise.all([first, third].flatMap((gateway) => [1, 2, 3].map(() => client(gateway))));
    };
    const racing = race();
    second.child.kill("SIGKILL");
    await once(second.child, "exit");
    for (const reader of begun)
      await assert.rejects(async () => {
        while ((await reader?.read())?.done === false);
      });
    await racing;
    await waitFor(
      "the others to end what the dead one began",
      async () => (await database.query("SELECT id FROM ledger.hold")).length === 0,
    );
    // What it had set aside is free again.
    await race();

    assert.deepEqual(new Set(statuses.keys()), new Set([200, 402]));
    const rows = await endedOf(shared.account);
    const settled = rows.filter(({ state }) => state === 1);
    assert.deepEqual(
      settled.map(({ id }) => id).sort(),
      [...cutIds, ...ids].sort(),
      "every request that was answered is settled, once",
    );
    assert(rows.every(({ state }) => state === 1));
    for (const id of cutIds)
      assert.equal(settled.find((row) => row.id === id)?.receipt.status, "client_abort");
    const living = await database.query<{ tag: string }>("SELECT tag FROM gateway.run");
    const runs = new Set(ids.map((id) => runOfRequest(id)));
    assert.equal(runs.size, 2);
    for (const run of runs) assert(living.some(({ tag }) => tag === run));
    const charged = settled.reduce((sum, row) => sum + row.charged, 0n);
    assert(charged <= credit, `${charged} of ${credit}`);
    // They raced for the last of it: what is left is not enough for all of them at once.
    assert(credit - charged < 6n * held, `${credit - charged} left of ${credit}`);
    for (const row of settled) {
      const amounts = amountsOf(row.receipt, row.quote, nanoUsd(row.amount), MARKUP_BPS);
      assert.equal(row.charged, amounts?.charge);
      assert.equal(row.miner_amount, amounts?.minerAmount);
    }
    assert.deepEqual(
      (await auditLedger(database)).filter(({ ok }) => !ok),
      [],
    );
  });

  test("share the rate limit of a key", async () => {
    const poor = await customer(0n);
    const startMs = performance.now();
    const answers = await Promise.all(
      Array.from({ length: 2 * BURST }, async (_, i) => {
        const gateway = gateways[i % 2 === 0 ? 0 : 2];
        assert(gateway !== undefined);
        const answer = await ask(gateway, poor);
        await answer.text();
        return answer.status;
      }),
    );
    const seconds = (performance.now() - startMs) / 1_000;
    const passed = answers.filter((status) => status === 402).length;
    assert.equal(answers.filter((status) => status === 429).length, answers.length - passed);
    assert(passed >= BURST, `${passed} passed`);
    assert(passed <= BURST + PER_SECOND * seconds + 1, `${passed} passed in ${seconds} s`);
  });

  test("keep one log, whose roots one of them brings on the chain", async () => {
    const chain = await openSubtensor({
      endpoints: [network.ready.chain_ws],
      connectTimeoutMs: 10_000,
      log: silent,
    });
    try {
      const { ownerHotkey } = await chain.metagraph(network.ready.netuid as Netuid);
      const [head] = await database.query<{ gateway: string; size: bigint }>(
        "SELECT gateway, size FROM ledger.log_head",
      );
      assert(head !== undefined && head.size > 0n);
      const rootOf = async () => {
        const [, field] =
          (await chain.commitmentOf(network.ready.netuid as Netuid, ownerHotkey as Hotkey))
            ?.fields ?? [];
        return field === undefined ? undefined : parseLogRoot(field);
      };
      await waitFor("a root with every leaf", async () => (await rootOf())?.size === head.size);
      const root = await rootOf();
      assert(root !== undefined);
      const served = [network.origin, gateways[0]?.url, gateways[2]?.url];
      const fetchAll = async (path: string): Promise<Set<string>> => {
        const copies = await Promise.all(
          served.map(async (url) => {
            const answer = await fetch(`${url}/log/${path}`);
            assert.equal(answer.status, 200, `${url} ${path}`);
            return Buffer.from(await answer.arrayBuffer()).toString("hex");
          }),
        );
        return new Set(copies);
      };
      const partial = `tile/0/000.p/${head.size}`;
      assert(head.size < 256n, "one tile is enough");
      for (const path of ["checkpoint", partial, `epoch/${root.epoch}.json`])
        assert.equal((await fetchAll(path)).size, 1, `${path} is the same everywhere`);
      const sides = await database.query<{ kind: string; name: string }>(
        "SELECT kind, name FROM gateway.side_file WHERE kind = 'quote'",
      );
      for (const { kind, name } of sides)
        assert.equal((await fetchAll(`${kind}/${name}.json`)).size, 1);
      await waitFor("every epoch's job to end", async () => {
        const open = await database.query(
          "SELECT 1 FROM jobs.outbox WHERE state <> 'done' AND (payload::json->>'epoch')::int <= $1",
          [root.epoch],
        );
        return open.length === 0;
      });
    } finally {
      await chain.close();
    }
  });

  /** What one request of `ask` sets aside. */
  const heldBy = async (who: Customer): Promise<bigint[]> => {
    const [gateway] = gateways;
    assert(gateway !== undefined);
    await (await ask(gateway, who)).text();
    const rows = await database.query<{ amount: bigint }>(
      "SELECT amount FROM ledger.ended WHERE account = $1",
      [who.account],
    );
    return rows.map(({ amount }) => amount);
  };

  /** Ended requests of an account, with the receipts and the quotes that the log has for them. */
  const endedOf = async (account: AccountId) => {
    const rows = await database.query<{
      id: string;
      state: number;
      amount: bigint;
      charged: bigint;
      miner_amount: bigint;
      leaf_text: string;
    }>(
      `SELECT e.id, e.state, e.amount, e.charged, e.miner_amount, l.leaf AS leaf_text FROM ledger.ended e
           LEFT JOIN ledger.log_leaf l ON l.gateway = e.gateway AND l.index = e.leaf WHERE e.account = $1`,
      [account],
    );
    return await Promise.all(
      rows.map(async (row) => {
        const claims = decodeClaims(row.leaf_text.split("\n")[0] ?? "");
        const receipt = receiptFromJson(claims?.payload ?? {});
        assert(receipt !== undefined);
        const answer = await fetch(`${gateways[0]?.url}/log/quote/${receipt.quote}.json`);
        const { quote } = (await answer.json()) as { quote: string };
        const parsed = parseQuote(quote);
        assert(parsed !== undefined);
        return { ...row, receipt, quote: parsed };
      }),
    );
  };
});

/** The request behind an answer. */
function requestOf({ headers }: Response): RequestId {
  const id = requestOfGenerationId(headers.get("x-generation-id") ?? "");
  assert(id !== undefined);
  return id;
}

async function stop({ child }: Gateway): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const ended = once(child, "exit");
  child.kill("SIGTERM");
  await ended;
}
