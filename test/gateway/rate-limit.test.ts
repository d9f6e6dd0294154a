import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { after, before, suite, test } from "node:test";
import {
  localRateLimiter,
  type RateLimit,
  type RateLimiter,
} from "../../src/gateway/rate-limit.ts";
import { sharedRateLimiter } from "../../src/gateway/shared-rate-limit.ts";
import { openLogger } from "../../src/runtime/logger.ts";
import { openRedis, type RedisConnection } from "../../src/runtime/redis.ts";
import { findRedis, type RedisServer, startRedis } from "../runtime/redis-server.ts";
import { log, until } from "./fixture.ts";

/** What every implementation of the limit does. */
function limits(limiterOf: (limit: RateLimit) => RateLimiter): void {
  const take = async (limiter: RateLimiter, key: string): Promise<number> =>
    await limiter(key, Date.now());

  test("lets the burst through at once, and then says how long to wait", async () => {
    const limiter = limiterOf({ burst: 5, perSecond: 0.1 });
    const key = randomUUID();
    const waits = await Promise.all(Array.from({ length: 7 }, () => take(limiter, key)));
    assert.deepEqual(waits.slice(0, 5), [0, 0, 0, 0, 0]);
    for (const wait of waits.slice(5)) assert(wait >= 9 && wait <= 10, `${wait}`);
    const [again] = [await take(limiter, key)];
    assert((again ?? 0) >= 9);
  });

  test("counts every key by itself", async () => {
    const limiter = limiterOf({ burst: 1, perSecond: 0.1 });
    const [one, other] = [randomUUID(), randomUUID()];
    assert.equal(await take(limiter, one), 0);
    assert.notEqual(await take(limiter, one), 0);
    assert.equal(await take(limiter, other), 0);
  });

  test("gives back what time brings, and no more than the burst", async () => {
    const limiter = limiterOf({ burst: 2, perSecond: 20 });
    const key = randomUUID();
    const startMs = performance.now();
    let passed = 0;
    await until("ten requests to pass", async () => {
      if ((await take(limiter, key)) === 0) passed += 1;
      return passed === 10;
    });
    // Eight after the burst of two, at 50 ms each; a timer's and a clock's millisecond are not counted.
    assert(performance.now() - startMs >= 390, `${performance.now() - startMs} ms`);
  });

  test("never lets more through than it should, in portions as well", async () => {
    const limiter = limiterOf({ burst: 640, perSecond: 200 });
    const key = randomUUID();
    const startMs = performance.now();
    let passed = 0;
    for (let round = 0; round < 20; round += 1) {
      const waits = await Promise.all(Array.from({ length: 50 }, () => take(limiter, key)));
      passed += waits.filter((wait) => wait === 0).length;
    }
    const seconds = (performance.now() - startMs + 2) / 1_000;
    assert(passed >= 640 && passed <= 640 + 200 * seconds, `${passed} in ${seconds} s`);
  });
}

suite("rate limit in one process", () => limits(localRateLimiter));

const program = findRedis();
suite("rate limit in Redis", {
  skip: program === undefined ? "no redis-server is installed" : false,
}, () => {
  let server: RedisServer;
  let redis: RedisConnection;
  let other: RedisConnection;
  before(async () => {
    assert(program !== undefined);
    server = await startRedis(program);
    redis = openRedis(server.url, log);
    other = openRedis(server.url, log);
    await until("both connections", () => redis.isReady() && other.isReady());
  });
  after(async () => {
    await redis.close();
    await other.close();
    await server.close();
  });

  suite("alone", () => limits((limit) => sharedRateLimiter(redis, limit, log)));

  test("is one for all gateways", async () => {
    const limit = { burst: 6, perSecond: 0.1 };
    const gateways = [redis, other].map((each) => sharedRateLimiter(each, limit, log));
    const key = randomUUID();
    const waits = await Promise.all(
      Array.from({ length: 20 }, async (_, i) => await gateways[i % 2]?.(key, Date.now())),
    );
    assert.equal(waits.filter((wait) => wait === 0).length, 6);
  });

  test("asks Redis once for a portion, and most requests wait for nothing", async () => {
    let calls = 0;
    const counted = {
      isReady: () => redis.isReady(),
      script: (...call: Parameters<RedisConnection["script"]>) => {
        calls += 1;
        return redis.script(...call);
      },
    };
    const limiter = sharedRateLimiter(counted, { burst: 3_200, perSecond: 1_000 }, log);
    const key = randomUUID();
    assert.equal(await limiter(key, Date.now()), 0);
    let waited = 0;
    for (let n = 0; n < 1_000; n += 1) {
      const answer = limiter(key, Date.now());
      if (typeof answer !== "number") waited += 1;
      assert.equal(await answer, 0);
      // As between requests of a real client, the event loop gets its turn.
      if (n % 10 === 0) await new Promise((resolve) => setImmediate(resolve));
    }
    assert(calls <= 30, `${calls} calls`);
    assert(waited <= 100, `${waited} of 1000 waited`);
  });

  test("falls back to one limit per process, says so once, and comes back", async () => {
    const lines: string[] = [];
    const told = openLogger("test", "info");
    for (const level of ["info", "warn"] as const)
      told[level] = ((...parts: unknown[]) => {
        lines.push(String(parts.at(-1)));
      }) as never;
    const limiter = sharedRateLimiter(redis, { burst: 2, perSecond: 0.1 }, told);
    const key = randomUUID();
    assert.equal(await limiter(key, Date.now()), 0);
    assert.equal(await limiter(key, Date.now()), 0);
    await server.crash();
    await until("the connection to be lost", () => !redis.isReady());
    const down = randomUUID();
    const startMs = performance.now();
    const waits = await Promise.all([1, 2, 3].map(async () => await limiter(down, Date.now())));
    assert.deepEqual(
      waits.map((wait) => wait === 0),
      [true, true, false],
    );
    assert(performance.now() - startMs < 200, "no request waits for a Redis that is down");
    assert.deepEqual(lines, ["rate_limit.local"]);
    await server.start();
    await until("the limit to be shared again", async () => {
      await limiter(randomUUID(), Date.now());
      return lines.length === 2;
    });
    assert.deepEqual(lines, ["rate_limit.local", "rate_limit.shared"]);
  });

  test("waits a second for a Redis that hangs, once", async () => {
    await until("the connection", () => other.isReady());
    const limiter = sharedRateLimiter(other, { burst: 100, perSecond: 10 }, log);
    server.pause();
    try {
      const startMs = performance.now();
      assert.equal(await limiter(randomUUID(), Date.now()), 0);
      const firstMs = performance.now() - startMs;
      assert(firstMs > 900 && firstMs < 5_000, `${firstMs} ms`);
      assert.equal(typeof limiter(randomUUID(), Date.now()), "number");
    } finally {
      server.resume();
    }
  });
});
