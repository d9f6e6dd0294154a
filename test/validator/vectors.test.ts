import assert from "node:assert/strict";
import { existsSync, readFileSync } from "node:fs";
import { resolve } from "node:path";
import { test } from "node:test";
import type { Hotkey, Uid } from "../../src/core/ids.ts";
import {
  EMPTY_LEDGER,
  type LedgerParameters,
  ledgerFromJson,
  ledgerToJson,
  stateHashOf,
  stepLedger,
  type UsageClass,
} from "../../src/validator/miner-pay-ledger.ts";
import { planToWeights } from "../../src/validator/plan-to-weights.ts";

interface LedgerCase {
  name: string;
  params: {
    delta: number;
    expiry: number;
    grant: string;
    hmax: number;
    markup_bps: number;
    maturity: Record<UsageClass, number>;
    sink: "off" | "enforce";
  };
  steps: {
    in: {
      A: string;
      R: Record<string, string>;
      U: Record<string, Partial<Record<UsageClass, string>>>;
      ban?: string[];
      burn_uid: number;
      e: number;
      gate?: Record<string, number>;
      h?: Record<string, number>;
      n: number;
      p: string;
      sinkCum: string;
      uid: Record<string, number>;
    };
    out: {
      E: string;
      T: string;
      burn_bps: string;
      paidNow: string;
      planned: string;
      q: Record<string, string>;
      state_hash: string;
      w: number[];
    };
  }[];
  final: unknown;
}

interface WeightCase {
  name: string;
  n: number;
  burn_uid: number;
  pool: string;
  q: [number, string][];
  w: number[];
  T: string;
}

const amounts = (record: Record<string, string>) =>
  new Map(Object.entries(record).map(([hotkey, v]) => [hotkey as Hotkey, BigInt(v)]));

function runLedgerCase({ params, steps, final }: LedgerCase): number {
  const parameters: LedgerParameters = {
    delta: params.delta,
    expiry: params.expiry,
    maturity: params.maturity,
    haircutBpsMax: params.hmax,
    sink: params.sink,
    markupBps: params.markup_bps,
    grantNusd: BigInt(params.grant),
  };
  let state = EMPTY_LEDGER;
  for (const { in: given, out } of steps) {
    const uids = new Map(Object.entries(given.uid) as [Hotkey, Uid][]);
    const next = stepLedger(
      state,
      {
        e: given.e,
        price: BigInt(given.p),
        pooledRao: BigInt(given.A),
        paidRao: amounts(given.R),
        usage: new Map(
          Object.entries(given.U).map(([hotkey, classes]) => [
            hotkey as Hotkey,
            Object.fromEntries(Object.entries(classes).map(([c, v]) => [c, BigInt(v)])),
          ]),
        ),
        registered: new Set(uids.keys()),
        banned: new Set(given.ban as Hotkey[] | undefined),
        gated: new Set(
          Object.entries(given.gate ?? {}).flatMap(([hotkey, g]) =>
            g === 0 ? [hotkey as Hotkey] : [],
          ),
        ),
        haircutBps: new Map(Object.entries(given.h ?? {}) as [Hotkey, number][]),
        sinkCum: BigInt(given.sinkCum),
      },
      parameters,
    );
    state = ledgerFromJson(JSON.parse(JSON.stringify(ledgerToJson(next.state))));
    const shares = new Map(
      [...next.plan.q].map(([hotkey, v]) => [uids.get(hotkey) ?? (-1 as Uid), v]),
    );
    const { weights, total } = planToWeights({
      n: given.n,
      burnUid: given.burn_uid as Uid,
      pool: next.plan.pool,
      shares,
    });
    assert.deepEqual(
      {
        E: next.plan.pool.toString(),
        T: total.toString(),
        burn_bps: next.plan.burnBps.toString(),
        paidNow: [...next.plan.paid.values()].reduce((a, b) => a + b, 0n).toString(),
        planned: next.plan.planned.toString(),
        q: Object.fromEntries([...next.plan.q].map(([hk, v]) => [hk, v.toString()])),
        state_hash: stateHashOf(next.state),
        w: weights,
      },
      out,
      `epoch ${given.e}`,
    );
  }
  assert.deepEqual(ledgerToJson(state), final);
  return steps.length;
}

function runWeightCase({ n, burn_uid, pool, q, w, T }: WeightCase): void {
  const shares = new Map(q.map(([uid, share]) => [uid as Uid, BigInt(share)]));
  const { weights, total } = planToWeights({
    n,
    burnUid: burn_uid as Uid,
    pool: BigInt(pool),
    shares,
  });
  assert.deepEqual(weights, w);
  assert.equal(total.toString(), T);
}

for (const [folder, epochs, cases] of [
  ["test/vectors/scoring", 40, 12],
  ["../shared/vectors/scoring", 126, 67],
] as const) {
  const read = (file: string): unknown => JSON.parse(readFileSync(resolve(folder, file), "utf8"));
  const missing = existsSync(resolve(folder, "ledger.json")) ? false : `${folder} is not here`;

  test(`stepLedger() equals the worked epochs in ${folder}`, { skip: missing }, () => {
    const { cases: all } = read("ledger.json") as { cases: LedgerCase[] };
    assert.equal(
      all.map(runLedgerCase).reduce((a, b) => a + b, 0),
      epochs,
    );
  });

  test(`planToWeights() equals the worked cases in ${folder}`, { skip: missing }, () => {
    const { cases: all } = read("plan_weights.json") as { cases: WeightCase[] };
    all.forEach(runWeightCase);
    assert.equal(all.length, cases);
  });
}
