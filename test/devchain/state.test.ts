import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import type { Hex } from "../../src/devchain/scale/bytes.ts";
import { openOverlay, openState } from "../../src/devchain/state.ts";

const HISTORY = 4;
const KEYS: readonly Hex[] = ["0x01", "0x02", "0x0201", "0x03"];

const block = fc.array(
  fc.tuple(
    fc.constantFrom(...KEYS),
    fc.option(fc.integer({ min: 0, max: 255 }), { nil: undefined }),
  ),
  { maxLength: 5 },
);

test("a state and its past are what a copy per block would be", () => {
  let reached = 0;
  const property = fc.property(fc.array(block, { minLength: 1, maxLength: 12 }), (blocks) => {
    const state = openState(HISTORY);
    /** The model: all of every state. */
    const copies: Map<Hex, number>[] = [new Map<Hex, number>()];
    for (const changes of blocks) {
      const copy = new Map(copies.at(-1));
      const applied = new Map<Hex, Uint8Array | undefined>();
      for (const [key, value] of changes) {
        applied.set(key, value === undefined ? undefined : Uint8Array.of(value));
        if (value === undefined) copy.delete(key);
        else copy.set(key, value);
      }
      copies.push(copy);
      state.apply(applied);
      for (let ago = 0; ago <= state.history(); ago++) {
        const then = copies.at(-1 - ago) ?? new Map<Hex, number>();
        const view = state.before(ago);
        for (const key of KEYS) assert.equal(view?.get(key)?.[0], then.get(key));
        assert.deepEqual(state.keys("0x", ago), [...then.keys()].toSorted());
        assert.deepEqual(
          state.keys("0x02", ago),
          [...then.keys()].filter((key) => key.startsWith("0x02")).toSorted(),
        );
        assert.deepEqual(
          [...state.entries(ago)].map(([key, [value]]) => [key, value]),
          [...then].toSorted(([a], [b]) => (a < b ? -1 : 1)),
        );
        reached += 1;
      }
      // Replaying what each kept block changed on top of the oldest state gives the newest.
      const depth = state.history();
      const replayed = new Map(state.entries(depth));
      for (let ago = depth - 1; ago >= 0; ago--)
        for (const [key, value] of state.changesOf(ago))
          if (value === undefined) replayed.delete(key);
          else replayed.set(key, value);
      assert.deepEqual([...replayed].map(([key]) => key).toSorted(), state.keys("0x", 0));
      assert.equal(state.before(HISTORY + 1), undefined);
    }
  });
  fc.assert(property, { numRuns: 200 });
  assert(reached > 1_000);
});

test("an overlay undoes a layer that throws, and keeps the ones around it", () => {
  const overlay = openOverlay({ get: (key) => (key === "0x01" ? Uint8Array.of(1) : undefined) });
  const value = (key: Hex) => overlay.get(key)?.[0];
  overlay.set("0x02", Uint8Array.of(2));
  overlay.layered(() => {
    overlay.set("0x01", undefined);
    assert.throws(() =>
      overlay.layered(() => {
        overlay.set("0x02", Uint8Array.of(9));
        overlay.set("0x01", Uint8Array.of(9));
        throw new Error("undo");
      }),
    );
    assert.equal(value("0x01"), undefined);
    assert.equal(value("0x02"), 2);
  });
  assert.deepEqual([...overlay.changes().keys()].toSorted(), ["0x01", "0x02"]);
  assert.equal(value("0x01"), undefined);
});
