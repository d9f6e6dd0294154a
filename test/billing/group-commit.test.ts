import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { type Order, openGroupCommit } from "../../src/billing/group-commit.ts";
import { RouterError } from "../../src/core/errors.ts";
import { DatabaseError } from "../../src/runtime/queryable.ts";

interface Numbered extends Order {
  readonly n: number;
}

/** A queue whose commits are ended by the test. */
function openManual(holdWaitMs = 10_000) {
  const batches: { orders: readonly number[]; end: (error?: Error) => void }[] = [];
  const done: number[] = [];
  const failed: { n: number; code: string; wasSent: boolean }[] = [];
  const retries: number[] = [];
  const refused: string[] = [];
  const poisoned: string[] = [];
  let wake: (() => void) | undefined;
  const queue = openGroupCommit<Numbered>(
    (batch) =>
      new Promise((resolve, reject) => {
        batches.push({
          orders: batch.map(({ n }) => n),
          end: (error) => {
            if (error !== undefined) reject(error);
            else resolve(() => done.push(...batch.map(({ n }) => n)));
          },
        });
        wake?.();
      }),
    {
      committed: () => {},
      retrying: (_, orders) => retries.push(orders),
      refused: (error, orders) => refused.push(`${orders}: ${error.message}`),
      poisoned: (error) => poisoned.push(error.message),
    },
    holdWaitMs,
  );
  const push = (n: number, over: Partial<Numbered> = {}): void => {
    queue.push({
      n,
      request: `request${n}`,
      isHold: false,
      queuedMs: Date.now(),
      fail: (error, wasSent) => {
        failed.push({
          n,
          code: error instanceof RouterError ? error.code : error.message,
          wasSent,
        });
      },
      ...over,
    });
  };
  /** The batch with this number, as soon as it is in flight. */
  const batch = async (index: number) => {
    for (;;) {
      const found = batches[index];
      if (found !== undefined) return found;
      await new Promise<void>((resolve) => {
        wake = resolve;
      });
    }
  };
  return { queue, push, batch, batches, done, failed, retries, refused, poisoned };
}

describe("openGroupCommit()", () => {
  test("pauses after a batch of several orders, not after one alone", async () => {
    const { queue, push, batch, batches } = openManual();
    push(1);
    for (const n of [2, 3]) push(n);
    (await batch(0)).end();
    const startedMs = performance.now();
    (await batch(1)).end();
    assert.equal(queue.waiting(), 0);
    push(4);
    push(5);
    await batch(2);
    // Half of the period, since the clocks of timers are coarse.
    assert.ok(performance.now() - startedMs >= 2);
    (await batch(2)).end();
    await queue.close();
    assert.deepEqual(
      batches.map(({ orders }) => orders),
      [[1], [2, 3], [4, 5]],
    );
  });

  test("has one batch in flight; everything that arrives meanwhile is the next", async () => {
    const { queue, push, batch, batches, done } = openManual();
    for (const n of [1, 2, 3, 4]) push(n);
    (await batch(0)).end();
    const second = await batch(1);
    for (const n of [5, 6]) push(n);
    assert.equal(batches.length, 2);
    assert.equal(queue.waiting(), 2);
    second.end();
    (await batch(2)).end();
    await queue.close();
    assert.deepEqual(
      batches.map(({ orders }) => orders),
      [[1], [2, 3, 4], [5, 6]],
    );
    assert.deepEqual(done, [1, 2, 3, 4, 5, 6]);
  });

  test("never puts two orders of one request into a batch, and keeps their order", async () => {
    const { queue, push, batch, batches } = openManual();
    push(0);
    for (const n of [1, 2, 3, 4, 5]) push(n, { request: n % 2 === 1 ? "same" : `other${n}` });
    for (let i = 0; i < 4; i += 1) (await batch(i)).end();
    await queue.close();
    assert.deepEqual(
      batches.map(({ orders }) => orders),
      [[0], [1, 2, 4], [3], [5]],
    );
  });

  test("repeats the same batch while the database is lost, and does not mix in others", async () => {
    const { queue, push, batch, batches, done, retries } = openManual();
    push(1);
    push(2);
    (await batch(0)).end();
    (await batch(1)).end(new DatabaseError("connection lost"));
    push(3);
    (await batch(2)).end(new DatabaseError("deadlock", "40P01"));
    (await batch(3)).end();
    (await batch(4)).end();
    await queue.close();
    assert.deepEqual(
      batches.map(({ orders }) => orders),
      [[1], [2], [2], [2], [3]],
    );
    assert.deepEqual(done, [1, 2, 3]);
    assert.deepEqual(retries, [1, 1]);
  });

  test("finds the order that the database refuses, and commits the others", async () => {
    const { queue, push, batch, batches, done, failed, refused, poisoned } = openManual();
    push(0);
    for (const n of [1, 2, 3]) push(n);
    (await batch(0)).end();
    (await batch(1)).end(new DatabaseError("bad value", "22003"));
    (await batch(2)).end();
    (await batch(3)).end(new DatabaseError("bad value", "22003"));
    (await batch(4)).end();
    await queue.close();
    assert.deepEqual(
      batches.slice(2).map(({ orders }) => orders),
      [[1], [2], [3]],
    );
    assert.deepEqual(done, [0, 1, 3]);
    assert.deepEqual(failed, [{ n: 2, code: "bad value", wasSent: false }]);
    assert.deepEqual(refused, ["3: bad value"]);
    assert.deepEqual(poisoned, ["bad value"]);
  });

  test("gives up holds, and only holds, when the database does not answer in time", async () => {
    const { queue, push, batch, batches, done, failed } = openManual(40);
    push(1, { isHold: true });
    push(2);
    const first = await batch(0);
    push(3, { isHold: true });
    const deadlineMs = Date.now() + 5_000;
    while (failed.length < 2 && Date.now() < deadlineMs) {
      await new Promise((resolve) => {
        setTimeout(resolve, 5);
      });
    }
    assert.deepEqual(failed, [
      { n: 1, code: "ledger_unavailable", wasSent: true },
      { n: 3, code: "ledger_unavailable", wasSent: false },
    ]);
    first.end(new DatabaseError("connection lost"));
    (await batch(1)).end();
    await queue.close();
    assert.deepEqual(
      batches.map(({ orders }) => orders),
      [[1], [2]],
    );
    assert.deepEqual(done, [2]);
  });

  test("refuses holds when 10,000 wait, and still takes what ends them", async () => {
    const { queue, push, batch } = openManual();
    push(0, { isHold: true });
    const first = await batch(0);
    for (let n = 1; n <= 10_000; n += 1) push(n, { isHold: true });
    assert.throws(
      () => push(10_001, { isHold: true }),
      (error) => error instanceof RouterError && error.code === "overloaded",
    );
    push(10_002);
    first.end();
    for (let i = 1; i <= 21; i += 1) (await batch(i)).end();
    await queue.close();
  });

  test("close() commits what waits and refuses what comes", async () => {
    const { queue, push, batch, done } = openManual();
    push(1);
    push(2);
    const closed = queue.close();
    assert.throws(
      () => push(3, { isHold: true }),
      (error) => error instanceof RouterError && error.code === "shutting_down",
    );
    push(4);
    (await batch(0)).end();
    (await batch(1)).end();
    await closed;
    assert.deepEqual(done, [1, 2, 4]);
    assert.throws(() => push(5), RouterError);
  });
});
