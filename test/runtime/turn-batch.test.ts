import assert from "node:assert/strict";
import { test } from "node:test";
import { turnBatch } from "../../src/runtime/turn-batch.ts";

test("turnBatch() does what one turn asks for together, in order, and never more than allowed at once", async () => {
  const batches: number[][] = [];
  const double = turnBatch(3, (items: readonly number[]) => {
    batches.push([...items]);
    return items.map((n) => n * 2);
  });
  assert.deepEqual(await Promise.all([1, 2, 3, 4].map(double)), [2, 4, 6, 8]);
  assert.equal(await double(5), 10);
  assert.deepEqual(batches, [[1, 2, 3], [4], [5]]);
});

test("turnBatch() tells everybody of a batch that it failed, and goes on", async () => {
  const work = turnBatch(2, (items: readonly number[]) => {
    if (items.includes(2)) throw new Error("no");
    return items;
  });
  const ends = await Promise.allSettled([1, 2, 3].map(work));
  assert.deepEqual(
    ends.map(({ status }) => status),
    ["rejected", "rejected", "fulfilled"],
  );
  assert.equal(await work(4), 4);
});

test("turnBatch() takes what is asked for while it works into the next batch", async () => {
  const batches: number[][] = [];
  let more: Promise<number> | undefined;
  const echo = turnBatch(10, (items: readonly number[]) => {
    batches.push([...items]);
    if (more === undefined) more = echo(2);
    return items;
  });
  assert.equal(await echo(1), 1);
  assert.equal(await more, 2);
  assert.deepEqual(batches, [[1], [2]]);
});
