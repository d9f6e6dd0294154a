/**
 * The database goes away while requests run. DAYBREAK_TEST_DATABASE_DOWN_SECONDS makes it stay away longer than the few
 * seconds of the usual run.
 */
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { setTimeout as delay } from "node:timers/promises";
import OpenAI from "openai";
import { findPostgres, startPostgres } from "../billing/stores.ts";
import { cliResult, getJson, postJson, startLocal, waitFor } from "./local-network.ts";

const DOWN_MS = Number(process.env["DAYBREAK_TEST_DATABASE_DOWN_SECONDS"] ?? 8) * 1_000;
const RSS_GROWTH_MIB_MAX = 50;
/** Refusals are this quick once the gateway knows that the database is away. */
const REFUSAL_MS_MAX = 2_000;
const REQUESTS_AT_ONCE = 4;
/** Between two requests of one client; a gateway that refuses must not need a whole core for it. */
const PAUSE_MS = 20;

const hello = [{ role: "user" as const, content: "Hello" }];
const model = "openai/gpt-5-mini";

interface Refusal {
  readonly error: { readonly code: number; readonly metadata: { readonly code: string } };
}

const bin = findPostgres();
if (bin === undefined) {
  console.log("skipped: no PostgreSQL under /usr/lib/postgresql, so it is not taken away");
} else {
  test("while the database is away new requests are refused, running ones end, and afterwards the books balance", {
    timeout: 120_000 + DOWN_MS,
  }, async () => {
    const server = await startPostgres(bin);
    const url = await server.newDatabase();
    const network = await startLocal({
      args: ["--database-url", url, "--miners", "1", "--validators", "0"],
      env: { DAYBREAK_SIMULATOR_LATENCY_MS: "100" },
    });
    try {
      const { base_url: baseURL, api_key: apiKey } = network.ready;
      const openai = new OpenAI({ baseURL, apiKey, maxRetries: 0 });
      const ask = async () =>
        await postJson<Refusal>(`${baseURL}/chat/completions`, apiKey, {
          model,
          messages: hello,
        });
      const stream = await openai.chat.completions.create({
        model,
        messages: hello,
        stream: true,
        stream_options: { include_usage: true },
      });
      let whole: Promise<OpenAI.ChatCompletion> | undefined;
      let id = "";
      let finish: string | null | undefined;
      let usage: OpenAI.CompletionUsage | null | undefined;
      let refusedMs = 0;
      for await (const chunk of stream) {
        if (id === "") {
          id = chunk.id;
          const held = await heldOf(baseURL, apiKey);
          const isHeld = async () => (await heldOf(baseURL, apiKey)) > held;
          // A whole answer may be settled before anybody sees its hold; then another one is asked for.
          do whole = openai.chat.completions.create({ model, messages: hello });
          while (!(await holdsWhile(whole, isHeld)));
          await server.kill();
        }
        finish = chunk.choices[0]?.finish_reason ?? finish;
        usage = chunk.usage ?? usage;
      }
      assert.equal(finish, "stop");
      assert.ok((usage?.completion_tokens ?? 0) > 0);
      assert.ok(((await whole)?.usage?.completion_tokens ?? 0) > 0);

      const first = await ask();
      assert.equal(first.status, 503);
      assert.equal(first.body.error.metadata.code, "ledger_unavailable");
      const rss = residentMib(network.ready.pid);
      const end = performance.now() + DOWN_MS;
      let refused = 0;
      await Promise.all(
        Array.from({ length: REQUESTS_AT_ONCE }, async () => {
          while (performance.now() < end) {
            const askedMs = performance.now();
            const { status, headers, body } = await ask();
            refusedMs = Math.max(refusedMs, performance.now() - askedMs);
            assert.equal(status, 503);
            assert.equal(body.error.metadata.code, "ledger_unavailable");
            assert.ok(Number(headers.get("retry-after")) > 0);
            refused += 1;
            await delay(PAUSE_MS);
          }
        }),
      );
      const growth = residentMib(network.ready.pid) - rss;
      console.log(
        `database away for ${DOWN_MS / 1_000} s: ${refused} requests refused, memory grew by ${growth.toFixed(1)} MiB`,
      );
      assert.ok(refused > 10, `only ${refused} refused`);
      assert.ok(refusedMs < REFUSAL_MS_MAX, `a refusal took ${refusedMs} ms`);
      assert.ok(growth < RSS_GROWTH_MIB_MAX, `memory grew by ${growth} MiB`);

      await server.start();
      await waitFor("a request to be served", async () => (await ask()).status === 200);
      await waitFor("every hold to end", async () => (await heldOf(baseURL, apiKey)) === 0n);
      const { data } = await getJson<{ data: { total_cost: number } }>(
        `${baseURL}/generation?id=${id}`,
        apiKey,
      );
      assert.ok(data.total_cost > 0);
      assert.equal(await network.stop(), 0, network.output());
      const audit = await cliResult(["ledger", "audit", "--database-url", url]);
      assert.equal(audit.code, 0, audit.stdout + audit.stderr);
    } finally {
      await network.stop("SIGKILL");
      await server.close();
    }
  });
}

/** Whether `condition` was seen before the answer came. */
async function holdsWhile(
  answer: Promise<unknown>,
  condition: () => Promise<boolean>,
): Promise<boolean> {
  let isOver = false;
  answer.then(
    () => (isOver = true),
    () => (isOver = true),
  );
  let isSeen = false;
  while (!isOver && !isSeen) isSeen = await condition();
  return isSeen;
}

async function heldOf(baseUrl: string, apiKey: string): Promise<bigint> {
  const { data } = await getJson<{ data: { held_nusd: string } }>(`${baseUrl}/credits`, apiKey);
  return BigInt(data.held_nusd);
}

function residentMib(pid: number): number {
  const [, kib] = /VmRSS:\s+(\d+)/.exec(readFileSync(`/proc/${pid}/status`, "utf8")) ?? [];
  return Number(kib) / 1_024;
}
