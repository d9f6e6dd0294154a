import assert from "node:assert/strict";
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { test } from "node:test";
import { probeReportOf, runProbes } from "../../src/validator/probe.ts";
import { MINER_1, MINER_2, MINER_3 } from "./world.ts";

const CHAT = "openai/gpt-4.1-mini";
const MESSAGES = "anthropic/claude-haiku-4-5";
const KEY = "sk-db-v1-secret";

interface Asked {
  readonly path: string;
  readonly authorization: string | undefined;
  readonly body: {
    model: string;
    max_tokens?: number;
    max_completion_tokens?: number;
    provider: unknown;
  };
}

/** A gateway with a list of miners and an answer for each request. */
async function withGateway(
  miners: unknown,
  answer: (asked: Asked, response: ServerResponse) => void,
  run: (url: string, asked: Asked[]) => Promise<void>,
): Promise<void> {
  const all: Asked[] = [];
  const handle = async (request: IncomingMessage, response: ServerResponse) => {
    if (request.method === "GET") {
      response.end(JSON.stringify(miners));
      return;
    }
    const parts: Buffer[] = [];
    for await (const part of request) parts.push(part as Buffer);
    const asked = {
      path: request.url ?? "",
      authorization: request.headers.authorization,
      body: JSON.parse(Buffer.concat(parts).toString()) as Asked["body"],
    };
    all.push(asked);
    answer(asked, response);
  };
  const server = createServer((request, response) => void handle(request, response));
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  try {
    await run(`http://127.0.0.1:${(server.address() as AddressInfo).port}`, all);
  } finally {
    server.closeAllConnections();
    await new Promise((resolve) => server.close(resolve));
  }
}

const options = (gatewayUrl: string) => ({
  epoch: 7,
  gatewayUrl,
  apiKey: KEY,
  signal: new AbortController().signal,
});

const miner = (hotkey: string, models: readonly string[], state = "serving") => ({
  hotkey,
  state,
  products: models.map((model) => ({ model })),
});

const onlyOf = ({ body }: Asked) => (body.provider as { only: string[] }).only[0] ?? "";

test("runProbes() buys one tiny answer per miner and model, as any customer can", async () => {
  const miners = {
    data: [
      miner(MINER_1, [CHAT, MESSAGES]),
      miner(MINER_2, [CHAT, "nobody/nothing"]),
      miner(MINER_3, [CHAT], "refused"),
      { hotkey: "not a hotkey", state: "serving", products: [{ model: CHAT }] },
      null,
    ],
  };
  await withGateway(
    miners,
    (asked, response) => {
      response.setHeader("x-daybreak-miner", onlyOf(asked));
      response.setHeader("x-daybreak-cost-nusd", "1000");
      response.end("{}");
    },
    async (url, asked) => {
      const summary = await runProbes(options(url));
      assert.deepEqual(
        summary && { ...summary, results: summary.results.map(({ outcome }) => outcome) },
        {
          epoch: 7,
          attempted: 3,
          succeeded: 3,
          skipped: 0,
          spent_nusd: "3000",
          results: ["ok", "ok", "ok"],
        },
      );
      assert.equal(asked.length, 3);
      for (const request of asked) {
        assert.equal(request.authorization, `Bearer ${KEY}`);
        assert.deepEqual(request.body.provider, {
          only: [onlyOf(request)],
          allow_fallbacks: false,
        });
        const isChat = request.body.model === CHAT;
        assert.equal(request.path, isChat ? "/v1/chat/completions" : "/v1/messages");
        assert.equal(isChat ? request.body.max_completion_tokens : request.body.max_tokens, 16);
      }
      assert(!JSON.stringify(summary).includes(KEY));
    },
  );
});

test("runProbes() says how each probe ended, and no failure stops the others", async () => {
  const models = [CHAT, MESSAGES, "openai/gpt-5-mini", "openai/gpt-5-nano", "openai/gpt-4o-mini"];
  await withGateway(
    { data: [miner(MINER_1, models)] },
    (asked, response) => {
      response.setHeader("x-daybreak-miner", onlyOf(asked));
      switch (asked.body.model) {
        case CHAT:
          response.end("{}");
          break;
        case MESSAGES:
          response.setHeader("x-daybreak-miner", MINER_2);
          response.end("{}");
          break;
        case "openai/gpt-5-mini":
          response.writeHead(503).end("{}");
          break;
        case "openai/gpt-5-nano":
          response.destroy();
          break;
        default:
          response.end("not json");
      }
    },
    async (url) => {
      const summary = (await runProbes(options(url))) ?? assert.fail("there is a summary");
      const outcomes = Object.fromEntries(summary.results.map((r) => [r.model, r.outcome]));
      assert.deepEqual(outcomes, {
        [CHAT]: "ok",
        [MESSAGES]: "wrong_miner",
        "openai/gpt-5-mini": "http_503",
        "openai/gpt-5-nano": "unreachable",
        "openai/gpt-4o-mini": "malformed_answer",
      });
      const report = probeReportOf(summary);
      assert.deepEqual([report.attempted, report.succeeded], [5, 1]);
      assert.equal(report.outcomes["ok"], 1);
      assert(report.latency_ms_p50 !== undefined);
    },
  );
});

test("runProbes() stops buying at its budget", async () => {
  const miners = [MINER_1, MINER_2, MINER_3].map((hotkey) => miner(hotkey, [CHAT]));
  await withGateway(
    { data: miners },
    (asked, response) => {
      response.setHeader("x-daybreak-miner", onlyOf(asked));
      // No cost header: the most it can have cost counts.
      response.end("{}");
    },
    async (url, asked) => {
      // 64 tokens in at 0.40 USD and 16 out at 1.60 USD per million, doubled: 102400 nano-USD each.
      const summary = await runProbes({ ...options(url), budgetNusd: 210_000n });
      assert.deepEqual(
        [summary?.attempted, summary?.skipped, summary?.spent_nusd, asked.length],
        [2, 1, "204800", 2],
      );
    },
  );
});

test("runProbes() gives nothing when the gateway lists nobody, or is not there", async () => {
  for (const answer of [{ data: [] }, { data: "no" }, {}, []]) {
    await withGateway(
      answer,
      () => assert.fail("nothing is bought"),
      async (url) => assert.equal(await runProbes(options(url)), undefined),
    );
  }
  assert.equal(await runProbes(options("http://127.0.0.1:1")), undefined);
});

test("runProbes() ends early when the validator stops", async () => {
  const stopping = new AbortController();
  await withGateway(
    { data: [miner(MINER_1, [CHAT]), miner(MINER_2, [CHAT])] },
    () => stopping.abort(), // It never answers.
    async (url) => {
      const summary = await runProbes({ ...options(url), signal: stopping.signal });
      assert.equal(summary?.succeeded, 0);
    },
  );
});
