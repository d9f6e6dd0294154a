import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import type { Hotkey } from "../../src/core/ids.ts";
import {
  EMPTY_LEDGER,
  type EpochInputs,
  LEDGER_PARAMETERS,
  type LedgerState,
  ledgerFromJson,
  ledgerToJson,
  owedOf,
  skipEpoch,
  stateHashOf,
  stepLedger,
} from "../../src/validator/miner-pay-ledger.ts";

const HOTKEYS = ["a", "b", "c"] as Hotkey[];
const [A = "a" as Hotkey, B = "b" as Hotkey] = HOTKEYS;
const PRICE = 10n ** 9n;
const parameters = { ...LEDGER_PARAMETERS, expiry: 5, maturity: { direct: 0, resale: 2 } };

const inputs = (e: number, change: Partial<EpochInputs> = {}): EpochInputs => ({
  e,
  price: PRICE,
  pooledRao: 1_000n,
  paidRao: new Map(),
  usage: new Map(),
  registered: new Set(HOTKEYS),
  ...change,
});

const owed = (state: LedgerState) =>
  [...state.accounts.values()].reduce((sum, account) => sum + owedOf(account), 0n);

test("P7: credit is paid, open, expired or void, exactly, in every order of events", () => {
  const reached = new Set<string>();
  const amount = fc.oneof(fc.constant(0n), fc.bigInt({ min: 1n, max: 2_000n }));
  const perHotkey = <T>(value: fc.Arbitrary<T>) =>
    fc
      .tuple(value, value, value)
      .map((values) => new Map(HOTKEYS.map((hk, i) => [hk, values[i] as T])));
  const epoch = fc.record({
    skipped: fc.integer({ min: 0, max: 9 }).map((n) => n === 0),
    price: fc.constantFrom(PRICE, PRICE * 2n, (PRICE * 9n) / 10n),
    pooledRao: fc.constantFrom(0n, 500n, 3_000n),
    paidRao: perHotkey(amount),
    usage: perHotkey(fc.record({ direct: amount, resale: amount })),
    banned: fc.constantFrom(new Set<Hotkey>(), new Set([B])),
    gated: fc.constantFrom(new Set<Hotkey>(), new Set([A])),
    registered: fc.constantFrom(new Set(HOTKEYS), new Set([B])),
  });
  fc.assert(
    fc.property(fc.array(epoch, { minLength: 5, maxLength: 30 }), (epochs) => {
      let state = EMPTY_LEDGER;
      for (const [e, given] of epochs.entries()) {
        const before = state;
        if (given.skipped) {
          state = skipEpoch(state, e, parameters).state;
        } else {
          const step = stepLedger(state, inputs(e, given), parameters);
          state = step.state;
          assert(step.plan.planned <= step.plan.pool);
          for (const hotkey of step.plan.q.keys()) {
            assert(given.registered.has(hotkey) && !given.banned.has(hotkey));
            assert(
              (step.plan.q.get(hotkey) ?? 0n) <=
                owedOf(state.accounts.get(hotkey) ?? { debt: 0n, lots: [] }),
            );
          }
        }
        assert.equal(
          state.creditCum,
          state.paidCum + owed(state) + state.expiredCum + state.voidCum,
        );
        if (state.expiredCum > before.expiredCum) reached.add("expired");
        if (state.voidCum > before.voidCum) reached.add("void");
        if ([...state.accounts.values()].some(({ debt }) => debt > 0n)) reached.add("debt");
        if (given.skipped && state.paidCum > before.paidCum) reached.add("skipped and paid");
        const json: unknown = JSON.parse(JSON.stringify(ledgerToJson(state)));
        assert.equal(stateHashOf(ledgerFromJson(json)), stateHashOf(state));
      }
    }),
    { numRuns: 300 },
  );
  assert.deepEqual(
    [...reached].sort((a, b) => a.localeCompare(b)),
    ["debt", "expired", "skipped and paid", "void"],
  );
});

test("P12: the order of the inputs does not change the state", () => {
  const usage = HOTKEYS.map((hk, i) => [hk, { direct: BigInt(i + 1) * 100n }] as const);
  const paid = HOTKEYS.map((hk, i) => [hk, BigInt(i) * 7n] as const);
  const run = (u: typeof usage, p: typeof paid) => {
    const first = stepLedger(EMPTY_LEDGER, inputs(0, { usage: new Map(u) }), parameters);
    return stateHashOf(
      stepLedger(first.state, inputs(1, { paidRao: new Map(p) }), parameters).state,
    );
  };
  assert.equal(run(usage, paid), run(usage.toReversed(), paid.toReversed()));
});

test("P9: weights that repeat while the log stalls are debited, so the sum paid is the sum earned", () => {
  let { state, plan } = stepLedger(
    EMPTY_LEDGER,
    inputs(0, { usage: new Map([[A, { direct: 300n }]]) }),
    parameters,
  );
  assert.equal(plan.q.get(A), 300n);
  for (const e of [1, 2, 3])
    ({ state, plan } = stepLedger(state, inputs(e, { paidRao: new Map([[A, 300n]]) }), parameters));
  assert.equal(plan.q.size, 0);
  assert.equal(owed(state), -600n);
  ({ state, plan } = stepLedger(
    state,
    inputs(4, { usage: new Map([[A, { direct: 900n }]]) }),
    parameters,
  ));
  assert.equal(plan.q.get(A), 300n, "600 of 900 repay what was paid ahead");
});

test("stepLedger() carries what a pool of zero could not pay, and burns everything then", () => {
  const { state, plan } = stepLedger(
    EMPTY_LEDGER,
    inputs(0, { pooledRao: 0n, usage: new Map([[A, { direct: 300n }]]) }),
    parameters,
  );
  assert.deepEqual([plan.pool, plan.planned, plan.burnBps], [0n, 0n, 10_000]);
  assert.equal(owed(state), 300n);
});

test("an epoch is counted once", () => {
  const { state } = stepLedger(EMPTY_LEDGER, inputs(3), parameters);
  assert.throws(() => stepLedger(state, inputs(3), parameters), /already counted/);
  assert.throws(() => stepLedger(state, inputs(2), parameters), /already counted/);
  assert.throws(() => skipEpoch(state, 3, parameters), /already counted/);
});

test("ledgerFromJson() refuses a state that is not in its own form", () => {
  const json = JSON.parse(JSON.stringify(ledgerToJson(EMPTY_LEDGER))) as Record<string, unknown>;
  assert.throws(() => ledgerFromJson({ ...json, paidCum: "01" }));
  assert.throws(() => ledgerFromJson({ ...json, extra: 1 }));
  assert.throws(() => ledgerFromJson(undefined));
});
