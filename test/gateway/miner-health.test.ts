import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import type { Hotkey } from "../../src/core/ids.ts";
import {
  type MinerHealthBook,
  minerHealthBook,
  TTFT_PRIOR_MS,
} from "../../src/gateway/miner-health.ts";

const A = "5A" as Hotkey;
const B = "5B" as Hotkey;
const C = "5C" as Hotkey;
const P = "openai/gpt-5-mini";

function serve(book: MinerHealthBook, ttftMs: number, nowMs: number, hotkey = A): void {
  book.started(hotkey, P);
  book.served(hotkey, P, { ttftMs, durationMs: ttftMs + 1_000, outputTokens: 51 }, nowMs);
}

function fault(book: MinerHealthBook, nowMs: number, hotkey = A, times = 1): void {
  for (let n = 0; n < times; n++) {
    book.started(hotkey, P);
    book.faulted(hotkey, P, nowMs);
  }
}

const ttft = (book: MinerHealthBook, nowMs: number): number | undefined =>
  book.healthOf(A, P, 8, nowMs).ttftMs;
const isEjected = (book: MinerHealthBook, nowMs: number, hotkey = A): boolean =>
  book.ejectedOf([A, B, C], P, nowMs).has(hotkey);

test("a miner without history is healthy and unknown", () => {
  assert.deepEqual(minerHealthBook().healthOf(A, P, 8, 0), {
    ttftMs: undefined,
    failRate: 0,
    tokensPerSecond: undefined,
    inflight: 0,
    capacity: 8,
  });
});

test("latency jumps up at once and comes down with time", () => {
  const book = minerHealthBook();
  serve(book, 100, 0);
  assert.equal(ttft(book, 0), 100);
  serve(book, 300, 1_000);
  assert.equal(ttft(book, 1_000), 300);
  // 300·e^−1 + 100·(1 − e^−1)
  serve(book, 100, 11_000);
  assert.equal(Math.round(ttft(book, 11_000) ?? 0), 174);
});

test("bad latency fades towards the prior while nobody asks", () => {
  const book = minerHealthBook();
  serve(book, 10_500, 0);
  assert.equal(Math.round(ttft(book, 60_000) ?? 0), Math.round(TTFT_PRIOR_MS + 10_000 / Math.E));
  assert((ttft(book, 3_600_000) ?? 0) < TTFT_PRIOR_MS + 1);
  const quick = minerHealthBook();
  serve(quick, 50, 0);
  assert.equal(ttft(quick, 3_600_000), 50);
});

test("the fail rate moves a tenth of the way with every request and fades", () => {
  const book = minerHealthBook();
  fault(book, 0);
  assert.equal(book.healthOf(A, P, 8, 0).failRate, 0.1);
  fault(book, 0);
  assert.equal(book.healthOf(A, P, 8, 0).failRate.toFixed(3), "0.190");
  serve(book, 1, 0);
  assert.equal(book.healthOf(A, P, 8, 0).failRate.toFixed(3), "0.171");
  assert(book.healthOf(A, P, 8, 300_000).failRate < 0.002);
});

test("five faults in a row eject for 30 s, then 60 s, at most ten minutes", () => {
  const book = minerHealthBook();
  fault(book, 0, A, 4);
  serve(book, 1, 0);
  fault(book, 0, A, 4);
  assert.equal(isEjected(book, 0), false, "not in a row");
  fault(book, 0);
  assert.equal(isEjected(book, 29_999), true);
  assert.equal(isEjected(book, 30_000), false);
  let nowMs = 30_000;
  fault(book, nowMs, A, 5);
  assert.equal(isEjected(book, nowMs + 59_999), true);
  assert.equal(isEjected(book, nowMs + 60_000), false);
  for (let n = 0; n < 40; n++) {
    nowMs += 600_000;
    fault(book, nowMs, A, 5);
  }
  assert.equal(isEjected(book, nowMs + 599_999), true);
  assert.equal(isEjected(book, nowMs + 600_000), false);
  // Half an hour of good conduct wipes the slate.
  nowMs += 600_000 + 1_800_001;
  fault(book, nowMs, A, 5);
  assert.equal(isEjected(book, nowMs + 30_000), false);
});

test("at most half of a pool is ejected, those with the longest to go", () => {
  const book = minerHealthBook();
  fault(book, 0, B, 5);
  fault(book, 1_000, A, 5);
  fault(book, 2_000, C, 5);
  assert.deepEqual(book.ejectedOf([A, B, C], P, 3_000), new Set([C]));
  assert.deepEqual(book.ejectedOf([A], P, 3_000), new Set());
  assert.deepEqual(book.ejectedOf([A, B, C, "5D" as Hotkey], P, 3_000), new Set([C, A]));
  assert.deepEqual(book.ejectedOf([A, B, C], "openai/other", 3_000), new Set());
});

test("eject() takes a miner out of every product it serves", () => {
  const book = minerHealthBook();
  book.started(A, P);
  book.started(A, "openai/other");
  book.eject(A, 0);
  assert.equal(isEjected(book, 1), true);
  assert(book.ejectedOf([A, B], "openai/other", 1).has(A));
});

test("429s lower the capacity by three tenths, successes at the limit raise it by one", () => {
  const book = minerHealthBook();
  const capacity = (): number => book.healthOf(A, P, 20, 0).capacity;
  for (let n = 0; n < 11; n++) book.started(A, P);
  assert.equal(capacity(), 20);
  book.busy(A, P, 0);
  assert.equal(capacity(), 7, "0.7 of the eleven under way");
  book.busy(A, P, 0);
  assert.equal(capacity(), 5);
  // Nine are under way: more than the limit.
  book.served(A, P, { ttftMs: 1, durationMs: 2, outputTokens: 1 }, 0);
  assert.equal(capacity(), 6);
  for (let n = 0; n < 8; n++) book.left(A, P);
  serve(book, 1, 0);
  assert.equal(capacity(), 6, "a success far below the limit proves nothing");
  for (let n = 0; n < 30; n++) {
    book.started(A, P);
    book.busy(A, P, 0);
  }
  assert.equal(capacity(), 1);
});

test("the declared capacity is never exceeded", () => {
  const book = minerHealthBook();
  for (let n = 0; n < 9; n++) book.started(A, P);
  book.busy(A, P, 0);
  for (let n = 0; n < 8; n++) book.served(A, P, { ttftMs: 1, durationMs: 2, outputTokens: 1 }, 0);
  assert(book.healthOf(A, P, 2, 0).capacity <= 2);
});

test("speed is averaged from streams", () => {
  const book = minerHealthBook();
  serve(book, 100, 0);
  assert.equal(book.healthOf(A, P, 8, 0).tokensPerSecond, 50);
  book.started(A, P);
  book.served(A, P, { ttftMs: 0, durationMs: 1_000, outputTokens: 101 }, 0);
  assert.equal(book.healthOf(A, P, 8, 0).tokensPerSecond, 60);
});

test("forget() drops everything", () => {
  const book = minerHealthBook();
  fault(book, 0, A, 5);
  book.forget(A);
  assert.equal(isEjected(book, 0), false);
  assert.equal(book.healthOf(A, P, 8, 0).failRate, 0);
});

test("whatever happens, requests under way are counted and every number stays in range", () => {
  const step = fc.record({
    end: fc.constantFrom("served", "faulted", "busy", "left", "none"),
    sinceMs: fc.nat(100_000),
    ttftMs: fc.nat(60_000),
  });
  fc.assert(
    fc.property(fc.array(step, { maxLength: 60 }), (steps) => {
      const book = minerHealthBook();
      let nowMs = 0;
      let open = 0;
      for (const { end, sinceMs, ttftMs } of steps) {
        nowMs += sinceMs;
        if (end === "none" || open === 0) {
          book.started(A, P);
          open++;
        }
        if (end !== "none") open--;
        if (end === "served")
          book.served(A, P, { ttftMs, durationMs: ttftMs, outputTokens: 9 }, nowMs);
        if (end === "faulted") book.faulted(A, P, nowMs);
        if (end === "busy") book.busy(A, P, nowMs);
        if (end === "left") book.left(A, P);
        const health = book.healthOf(A, P, 8, nowMs);
        assert.equal(health.inflight, open);
        assert(health.capacity >= 1 && health.capacity <= 8 && Number.isInteger(health.capacity));
        assert(health.failRate >= 0 && health.failRate <= 1);
        assert(health.ttftMs === undefined || (health.ttftMs >= 0 && health.ttftMs <= 60_000));
        assert(book.ejectedOf([A, B], P, nowMs).size <= 1);
      }
    }),
    { numRuns: 300 },
  );
});
