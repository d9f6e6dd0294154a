/** How fast one API key may send requests. */
export interface RateLimit {
  /** Requests that may come at once. */
  readonly burst: number;
  readonly perSecond: number;
}

/** Keys that are remembered; beyond this the longest unused is forgotten, which only ever favours its owner. */
const BUCKETS_MAX = 10_000;

/**
 * A token bucket per key, in memory.
 *
 * @returns a function that takes one token and yields 0, or the whole seconds to wait when there is none.
 */
export function rateLimiter(limit: RateLimit): (key: string, nowMs: number) => number {
  const buckets = new Map<string, { tokens: number; atMs: number }>();
  return (key, nowMs) => {
    let bucket = buckets.get(key);
    if (bucket === undefined) {
      if (buckets.size >= BUCKETS_MAX) {
        const oldest = buckets.keys().next();
        if (oldest.done !== true) buckets.delete(oldest.value);
      }
      bucket = { tokens: limit.burst, atMs: nowMs };
    } else {
      buckets.delete(key);
      const elapsedSeconds = Math.max(0, nowMs - bucket.atMs) / 1_000;
      bucket.tokens = Math.min(limit.burst, bucket.tokens + elapsedSeconds * limit.perSecond);
      bucket.atMs = nowMs;
    }
    buckets.set(key, bucket);
    if (bucket.tokens < 1) return Math.max(1, Math.ceil((1 - bucket.tokens) / limit.perSecond));
    bucket.tokens -= 1;
    return 0;
  };
}
