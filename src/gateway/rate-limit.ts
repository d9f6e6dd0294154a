/** How fast one API key may send requests. */
export interface RateLimit {
  /** Requests that may come at once. */
  readonly burst: number;
  readonly perSecond: number;
}

/**
 * Takes one request of a key: 0, or the whole seconds to wait. A promise only when the answer is not known in this process;
 * it never rejects.
 */
export type RateLimiter = (key: string, nowMs: number) => number | Promise<number>;

/** Keys that are remembered; beyond this the longest unused is forgotten, which only ever favours its owner. */
const BUCKETS_MAX = 10_000;

/** A token bucket per key, in memory: what one process allows by itself. */
export function localRateLimiter(limit: RateLimit): (key: string, nowMs: number) => number {
  const buckets = new Map<string, { tokens: number; atMs: number }>();
  return (key, nowMs) => {
    let bucket = buckets.get(key);
    if (bucket === undefined) {
      forgetOldest(buckets);
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

/** Makes room for one more entry. */
export function forgetOldest(map: Map<string, unknown>): void {
  if (map.size < BUCKETS_MAX) return;
  const oldest = map.keys().next();
  if (oldest.done !== true) map.delete(oldest.value);
}
