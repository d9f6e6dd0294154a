import assert from "node:assert/strict";
import { test } from "node:test";
import { closeAll } from "../../src/runtime/shutdown.ts";

test("closeAll() closes newest first, all of them, and reports every failure", async () => {
  const closed: number[] = [];
  const service = (n: number, fails: boolean) => ({
    close: async () => {
      closed.push(n);
      if (fails) throw new Error(`service ${n}`);
    },
  });
  await assert.rejects(
    closeAll([service(1, true), service(2, false), service(3, true)]),
    (error: unknown) => {
      assert(error instanceof AggregateError);
      assert.deepEqual(
        error.errors.map((e) => (e as Error).message),
        ["service 3", "service 1"],
      );
      return true;
    },
  );
  assert.deepEqual(closed, [3, 2, 1]);
});
