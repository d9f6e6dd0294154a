import type { Hotkey } from "../core/ids.ts";

/** How one miner has been serving one product, at one moment. */
export interface MinerHealth {
  /** Peak-sensitive average of the time to first content, milliseconds; undefined before the first answer. */
  readonly ttftMs: number | undefined;
  /** Average of recent faults, 0…1. */
  readonly failRate: number;
  /** Average of output tokens per second of a stream; undefined before the first answer. */
  readonly tokensPerSecond: number | undefined;
  /** Requests under way. */
  readonly inflight: number;
  /** Requests it can take at once: what it declared, lowered by its own 429s. At least 1. */
  readonly capacity: number;
}

/** Memory of how miners serve. Everything is per miner and product: a relay may serve one model well and another not. */
export interface MinerHealthBook {
  /** A request begins. Every one is ended by exactly one call of `served`, `faulted`, `busy` or `left`. */
  started(hotkey: Hotkey, product: string): void;
  served(hotkey: Hotkey, product: string, answer: ServedAnswer, nowMs: number): void;
  /** The miner's own failure: unreachable, broken, too slow, 5xx. */
  faulted(hotkey: Hotkey, product: string, nowMs: number): void;
  /** The miner said that it has too much to do. */
  busy(hotkey: Hotkey, product: string, nowMs: number): void;
  /** The request ended for reasons that say nothing about the miner. */
  left(hotkey: Hotkey, product: string): void;
  /** Takes a miner out of every product at once, for what is not an accident: a false receipt. */
  eject(hotkey: Hotkey, nowMs: number): void;
  /** @param declared the `inflight` capacity of its quote. */
  healthOf(hotkey: Hotkey, product: string, declared: number, nowMs: number): MinerHealth;
  /** Those of `pool` that are ejected from `product` now: at most half, those with the longest time to go. */
  ejectedOf(pool: readonly Hotkey[], product: string, nowMs: number): ReadonlySet<Hotkey>;
  /** Drops all memory of a miner that left the subnet. */
  forget(hotkey: Hotkey): void;
}

export interface ServedAnswer {
  readonly ttftMs: number;
  readonly durationMs: number;
  readonly outputTokens: number;
}

/** Time constant of the latency average, milliseconds. */
const EWMA_MS = 10_000;
/** Time constant with which bad news fades while no request brings newer ones, milliseconds. */
const FORGIVE_MS = 60_000;
const FAIL_WEIGHT = 0.1;
const SPEED_WEIGHT = 0.2;
const FAULTS_TO_EJECT = 5;
const EJECT_STEP_MS = 30_000;
const EJECT_MS_MAX = 600_000;
/** An ejection this long ago no longer lengthens the next one, milliseconds. */
const EJECT_MEMORY_MS = 1_800_000;
const BUSY_FACTOR = 0.7;
/** Share of the capacity that has to be in use for a success to prove that there is more. */
const FULL_SHARE = 0.9;
/** Latency towards which an idle miner's average fades, milliseconds. */
export const TTFT_PRIOR_MS = 500;

interface Entry {
  ttftMs: number | undefined;
  ttftAtMs: number;
  failRate: number;
  failAtMs: number;
  tokensPerSecond: number | undefined;
  inflight: number;
  /** Learned limit; Infinity until a 429. */
  capacity: number;
  faultsInARow: number;
  ejections: number;
  ejectedUntilMs: number;
}

/** An empty book. Holds one entry per miner and product that was ever asked, until `forget`. */
export function minerHealthBook(): MinerHealthBook {
  const miners = new Map<Hotkey, Map<string, Entry>>();

  const entryOf = (hotkey: Hotkey, product: string): Entry => {
    const known = miners.get(hotkey)?.get(product);
    if (known !== undefined) return known;
    const products = miners.get(hotkey) ?? new Map<string, Entry>();
    const entry = newEntry();
    miners.set(hotkey, products.set(product, entry));
    return entry;
  };
  const leave = (entry: Entry): void => {
    entry.inflight = Math.max(0, entry.inflight - 1);
  };
  const noteResult = (entry: Entry, failed: boolean, nowMs: number): void => {
    entry.failRate = failRateOf(entry, nowMs) * (1 - FAIL_WEIGHT) + (failed ? FAIL_WEIGHT : 0);
    entry.failAtMs = nowMs;
  };
  const ejectEntry = (entry: Entry, nowMs: number): void => {
    if (nowMs - entry.ejectedUntilMs > EJECT_MEMORY_MS) entry.ejections = 0;
    entry.ejections++;
    entry.ejectedUntilMs = nowMs + Math.min(EJECT_STEP_MS * entry.ejections, EJECT_MS_MAX);
    entry.faultsInARow = 0;
  };

  return {
    started: (hotkey, product) => {
      entryOf(hotkey, product).inflight++;
    },
    served: (hotkey, product, { ttftMs, durationMs, outputTokens }, nowMs) => {
      const entry = entryOf(hotkey, product);
      if (entry.inflight >= FULL_SHARE * entry.capacity) entry.capacity++;
      leave(entry);
      entry.faultsInARow = 0;
      noteResult(entry, false, nowMs);
      entry.ttftMs = peakEwma(entry.ttftMs, nowMs - entry.ttftAtMs, ttftMs);
      entry.ttftAtMs = nowMs;
      const streamingMs = durationMs - ttftMs;
      if (streamingMs > 0 && outputTokens > 1) {
        const speed = ((outputTokens - 1) * 1_000) / streamingMs;
        const before = entry.tokensPerSecond ?? speed;
        entry.tokensPerSecond = before + SPEED_WEIGHT * (speed - before);
      }
    },
    faulted: (hotkey, product, nowMs) => {
      const entry = entryOf(hotkey, product);
      leave(entry);
      noteResult(entry, true, nowMs);
      if (++entry.faultsInARow >= FAULTS_TO_EJECT) ejectEntry(entry, nowMs);
    },
    busy: (hotkey, product) => {
      const entry = entryOf(hotkey, product);
      // Before the first 429 the limit is what was under way when it came.
      const before = Number.isFinite(entry.capacity) ? entry.capacity : entry.inflight;
      entry.capacity = Math.max(1, before * BUSY_FACTOR);
      leave(entry);
    },
    left: (hotkey, product) => leave(entryOf(hotkey, product)),
    eject: (hotkey, nowMs) => {
      for (const entry of miners.get(hotkey)?.values() ?? []) ejectEntry(entry, nowMs);
    },
    healthOf: (hotkey, product, declared, nowMs) => {
      const entry = miners.get(hotkey)?.get(product);
      const limit = Math.min(entry?.capacity ?? declared, declared);
      return {
        ttftMs: entry === undefined ? undefined : ttftOf(entry, nowMs),
        failRate: entry === undefined ? 0 : failRateOf(entry, nowMs),
        tokensPerSecond: entry?.tokensPerSecond,
        inflight: entry?.inflight ?? 0,
        capacity: Math.max(1, Math.floor(limit)),
      };
    },
    ejectedOf: (pool, product, nowMs) => {
      const until = (hotkey: Hotkey): number => untilOf(miners.get(hotkey)?.get(product));
      const remaining = pool
        .filter((hotkey) => until(hotkey) > nowMs)
        .sort((a, b) => until(b) - until(a));
      // A pool that fails as a whole has a common cause, and half of it still serves better than none.
      return new Set(remaining.slice(0, Math.floor(pool.length / 2)));
    },
    forget: (hotkey) => {
      miners.delete(hotkey);
    },
  };
}

function newEntry(): Entry {
  return {
    ttftMs: undefined,
    ttftAtMs: 0,
    failRate: 0,
    failAtMs: 0,
    tokensPerSecond: undefined,
    inflight: 0,
    capacity: Number.POSITIVE_INFINITY,
    faultsInARow: 0,
    ejections: 0,
    ejectedUntilMs: Number.NEGATIVE_INFINITY,
  };
}

function untilOf(entry: Entry | undefined): number {
  return entry?.ejectedUntilMs ?? Number.NEGATIVE_INFINITY;
}

/** A rise counts at once, a fall only as fast as time passes (Finagle's peak EWMA). */
function peakEwma(before: number | undefined, sinceMs: number, sample: number): number {
  if (before === undefined || sample > before) return sample;
  const weight = Math.exp(-Math.max(0, sinceMs) / EWMA_MS);
  return before * weight + sample * (1 - weight);
}

/**
 * Averages change only with requests, and a miner with a bad one gets none: without fading it would never come back.
 */
function ttftOf({ ttftMs, ttftAtMs }: Entry, nowMs: number): number | undefined {
  if (ttftMs === undefined || ttftMs <= TTFT_PRIOR_MS) return ttftMs;
  return TTFT_PRIOR_MS + (ttftMs - TTFT_PRIOR_MS) * faded(nowMs - ttftAtMs);
}

function failRateOf({ failRate, failAtMs }: Entry, nowMs: number): number {
  return failRate === 0 ? 0 : failRate * faded(nowMs - failAtMs);
}

function faded(sinceMs: number): number {
  return Math.exp(-Math.max(0, sinceMs) / FORGIVE_MS);
}
