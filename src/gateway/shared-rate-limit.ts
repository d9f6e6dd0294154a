import type { Logger } from "../runtime/logger.ts";
import type { RedisConnection } from "../runtime/redis.ts";
import { forgetOldest, localRateLimiter, type RateLimit, type RateLimiter } from "./rate-limit.ts";

/** A portion is what a key may send in this time, so that a busy key asks Redis about ten times a second. */
const PORTION_SECONDS = 0.1;
/** No portion is more than this part of the burst: what several gateways hold is still there for the others. */
const PORTIONS_PER_BURST = 32;
/** After Redis has failed, the local limit decides alone for so long before it is asked again. */
const LOCAL_MS = 1_000;

/**
 * Takes up to `want` tokens of the bucket KEYS[1]; the clock is Redis's own, which is the same for every gateway.
 * ARGV: tokens per second, burst, want. Returns how many were taken and, if none, the milliseconds until there is one.
 */
const TAKE = `
local now = redis.call('TIME')
local now_ms = now[1] * 1000 + math.floor(now[2] / 1000)
local per_second, burst, want = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local bucket = redis.call('HMGET', KEYS[1], 'tokens', 'at')
local tokens = tonumber(bucket[1]) or burst
local elapsed = math.max(0, now_ms - (tonumber(bucket[2]) or now_ms))
tokens = math.min(burst, tokens + elapsed * per_second / 1000)
local taken = math.min(want, math.floor(tokens))
tokens = tokens - taken
redis.call('HSET', KEYS[1], 'tokens', string.format('%.6f', tokens), 'at', now_ms)
redis.call('PEXPIRE', KEYS[1], math.ceil(burst / per_second * 1000) + 1000)
return { taken, taken > 0 and 0 or math.ceil((1 - tokens) / per_second * 1000) }
`;

interface Lease {
  /** Tokens of the shared bucket that this process has taken and not used. */
  tokens: number;
  /** Until then the shared bucket is known to be empty. */
  emptyUntilMs: number;
  /** Requests that wait for the call under way. */
  readonly waiting: ((waitSeconds: number) => void)[];
  isAsking: boolean;
}

/**
 * A token bucket per key in Redis, shared by all gateways. Tokens are taken in portions, the next one before the last
 * is used up, so few requests wait for Redis; nor do those that the empty bucket refuses.
 *
 * While Redis does not answer, each gateway allows the whole limit by itself; that is logged once, and once when it is over.
 */
export function sharedRateLimiter(
  redis: Pick<RedisConnection, "isReady" | "script">,
  limit: RateLimit,
  log: Logger,
): RateLimiter {
  const local = localRateLimiter(limit);
  const leases = new Map<string, Lease>();
  const portion = Math.max(
    1,
    Math.floor(Math.min(limit.perSecond * PORTION_SECONDS, limit.burst / PORTIONS_PER_BURST)),
  );
  // Not of a small burst: one gateway would keep from the others what it does not use.
  const isAhead = limit.burst >= PORTIONS_PER_BURST;
  let isShared = true;
  let localUntilMs = 0;

  const useLocal = (error: unknown): void => {
    localUntilMs = Date.now() + LOCAL_MS;
    if (!isShared) return;
    isShared = false;
    log.warn({ err: error }, "rate_limit.local");
  };

  const take = async (key: string, want: number): Promise<{ taken: number; waitMs: number }> => {
    if (!redis.isReady()) throw new Error("Redis is not connected");
    const answer = await redis.script(
      TAKE,
      [`daybreak:rate:${key}`],
      [limit.perSecond, limit.burst, want],
    );
    const [taken = 0, waitMs = 0] = answer as readonly number[];
    if (!isShared) log.info("rate_limit.shared");
    isShared = true;
    return { taken, waitMs };
  };

  /** Fills the lease and answers who waits, until nobody does. */
  const ask = async (key: string, lease: Lease): Promise<void> => {
    lease.isAsking = true;
    try {
      do {
        const { taken, waitMs } = await take(key, Math.max(portion, lease.waiting.length));
        lease.tokens += taken;
        while (lease.tokens > 0 && lease.waiting.length > 0) {
          lease.tokens -= 1;
          lease.waiting.shift()?.(0);
        }
        if (taken === 0) {
          lease.emptyUntilMs = Date.now() + waitMs;
          for (const answer of lease.waiting.splice(0)) answer(secondsOf(waitMs));
        }
      } while (lease.waiting.length > 0);
    } catch (error) {
      useLocal(error);
      for (const answer of lease.waiting.splice(0)) answer(local(key, Date.now()));
    } finally {
      lease.isAsking = false;
    }
  };

  const leaseOf = (key: string): Lease => {
    let lease = leases.get(key);
    if (lease === undefined) {
      forgetOldest(leases);
      lease = { tokens: 0, emptyUntilMs: 0, waiting: [], isAsking: false };
    } else {
      leases.delete(key);
    }
    leases.set(key, lease);
    return lease;
  };

  return (key, nowMs) => {
    if (nowMs < localUntilMs) return local(key, nowMs);
    const lease = leaseOf(key);
    if (lease.tokens > 0) {
      lease.tokens -= 1;
      if (isAhead && lease.tokens <= portion / 2 && !lease.isAsking && nowMs >= lease.emptyUntilMs)
        void ask(key, lease);
      return 0;
    }
    if (nowMs < lease.emptyUntilMs) return secondsOf(lease.emptyUntilMs - nowMs);
    // Whether Redis is back is found out without a request that waits for it.
    if (!isShared) {
      if (!lease.isAsking) void ask(key, lease);
      return local(key, nowMs);
    }
    return new Promise((resolve) => {
      lease.waiting.push(resolve);
      if (!lease.isAsking) void ask(key, lease);
    });
  };
}

function secondsOf(waitMs: number): number {
  return Math.max(1, Math.ceil(waitMs / 1_000));
}
