import assert from "node:assert/strict";
import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { test } from "node:test";
import { type Load, type LoadSpec, startLoad } from "../../bench/load.ts";
import { median } from "../../bench/report.ts";
import { startUpstream } from "../../bench/upstream.ts";

const CHUNKS = 20;

function specOf(port: number, over: Partial<LoadSpec> = {}): LoadSpec {
  const prompt = `chunks=${CHUNKS} pace_ms=${over.staggerMs === undefined ? 0 : 1}`;
  const messages = [{ role: "user", content: prompt }];
  const body = JSON.stringify({ model: "m", messages, stream: over.chunks !== undefined });
  return {
    port,
    path: "/v1/chat/completions",
    headers: {},
    body,
    connections: 4,
    warmMs: 20,
    windowMs: 200,
    staggerMs: 0,
    ...over,
  };
}

async function withLoad(run: (load: Load) => Promise<void>): Promise<void> {
  const load = await startLoad();
  try {
    await run(load);
  } finally {
    await load.close();
  }
}

async function withServer(
  answer: Parameters<typeof createServer>[1],
  run: (port: number) => Promise<void>,
): Promise<void> {
  const server: Server = createServer({}, answer);
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  try {
    await run((server.address() as AddressInfo).port);
  } finally {
    server.closeAllConnections();
    server.close();
  }
}

test("startUpstream() reports usage that agrees with what it sent", async () => {
  const upstream = await startUpstream();
  try {
    const ask = async (body: object): Promise<{ sent: string; text: string }> => {
      const sent = JSON.stringify(body);
      const url = `http://127.0.0.1:${upstream.port}/v1/chat/completions`;
      return { sent, text: await (await fetch(url, { method: "POST", body: sent })).text() };
    };
    const prompt = [{ role: "user", content: `chunks=${CHUNKS} pace_ms=1` }];
    const whole = await ask({ model: "m", messages: prompt });
    const { usage, choices } = JSON.parse(whole.text) as {
      usage: { prompt_tokens: number; completion_tokens: number; total_tokens: number };
      choices: [{ message: { content: string } }];
    };
    assert.equal(usage.completion_tokens, choices[0].message.content.split(" ").length);
    assert.ok(usage.prompt_tokens > 0 && usage.prompt_tokens <= whole.sent.length);

    for (const paceMs of [0, 1]) {
      const content = `chunks=${CHUNKS} pace_ms=${paceMs}`;
      const messages = [{ role: "user", content }];
      const streamed = await ask({ model: "m", messages, stream: true });
      const events = streamed.text.split("\n\n").map((event) => event.replace(/^data: /, ""));
      assert.deepEqual(events.slice(-2), ["[DONE]", ""]);
      const parsed = events.slice(0, -2).map(
        (event) =>
          JSON.parse(event) as {
            choices: { delta: { content?: string } }[];
            usage: { completion_tokens: number } | null;
          },
      );
      const withContent = parsed.filter(({ choices: [c] }) => c?.delta.content !== undefined);
      assert.equal(withContent.length, CHUNKS);
      assert.equal(parsed.at(-1)?.usage?.completion_tokens, CHUNKS);
      assert.equal(parsed.filter((event) => event.usage !== null).length, 1);
    }
  } finally {
    await upstream.close();
  }
});

test("startLoad() counts whole answers and chunks, closed and open loop", async () => {
  const upstream = await startUpstream();
  try {
    await withLoad(async (load) => {
      const json = await load.run(specOf(upstream.port));
      assert.equal(json.errors, 0, json.firstError);
      assert.ok(json.answers > 4 && json.latency.count > 0 && json.latency.p50 > 0);

      const open = await load.run(specOf(upstream.port, { rate: 100 }));
      assert.equal(open.errors, 0, open.firstError);
      assert.ok(open.answers >= 4 && open.answers <= 23, `${open.answers} arrivals in 220 ms`);

      for (const staggerMs of [undefined, 20]) {
        const over = staggerMs === undefined ? {} : { staggerMs };
        const streams = await load.run(specOf(upstream.port, { chunks: CHUNKS, ...over }));
        assert.equal(streams.errors, 0, streams.firstError);
        assert.ok(streams.answers >= 4);
        assert.equal(streams.allChunks, streams.answers * CHUNKS);
        assert.equal(streams.chunkDelay.count > 0, staggerMs !== undefined);
      }
    });
  } finally {
    await upstream.close();
  }
});

test("startLoad() counts refusals, cut-off and short streams", async () => {
  const head = { "content-type": "text/event-stream" };
  const event = `data: {"obfuscation":"${"0".repeat(19)}"}\n\n`;
  const usage = `data: {"usage":{"completion_tokens":${CHUNKS}}}\n\n`;
  const end = `${usage}data: [DONE]\n\n`;
  await withLoad(async (load) => {
    const spec = (port: number) => specOf(port, { chunks: CHUNKS, windowMs: 50 });
    await withServer(
      (_, response) => response.writeHead(429).end("slow down"),
      async (port) => {
        const result = await load.run(spec(port));
        assert.ok(result.errors > 0 && result.answers === 0 && result.truncated === 0);
        assert.equal(result.firstError, "refused (status 429) slow down");
      },
    );
    for (const sent of [
      event.repeat(CHUNKS - 1) + end,
      event.repeat(CHUNKS + 1) + end,
      event.repeat(CHUNKS) + usage,
      event.repeat(CHUNKS),
    ]) {
      await withServer(
        (_, response) => response.writeHead(200, head).end(sent),
        async (port) => {
          const result = await load.run(spec(port));
          assert.ok(result.truncated > 0 && result.answers === 0);
        },
      );
    }
    await withServer(
      (_, response) => {
        response.writeHead(200, head).write(event, () => response.destroy());
      },
      async (port) => {
        const result = await load.run(spec(port));
        assert.ok(result.truncated > 0 && result.answers === 0);
        assert.match(result.firstError, /connection closed/);
      },
    );
    // The same bytes, whole: the checks above fail for the reason they should.
    await withServer(
      (_, response) => response.writeHead(200, head).end(event.repeat(CHUNKS) + end),
      async (port) => {
        const result = await load.run(spec(port));
        assert.equal(result.errors, 0, result.firstError);
        assert.ok(result.answers > 0);
      },
    );
  });
});

for (const { values, expected } of [
  { values: [3, 1, 2], expected: 2 },
  { values: [4, 1], expected: 2.5 },
  { values: [Number.NaN, 7], expected: 7 },
  { values: [], expected: Number.NaN },
]) {
  test(`median() of ${JSON.stringify(values)} is ${expected}`, () => {
    assert.equal(median(values), expected);
  });
}
