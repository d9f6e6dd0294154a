import assert from "node:assert/strict";
import type { Uid } from "../core/ids.ts";

/** Largest entry of a weight vector. */
export const WEIGHT_MAX = 65_535n;

export interface WeightPlan {
  /** Neurons in the subnet: the length of the vector. */
  readonly n: number;
  /** Takes what no miner earned; the chain burns it. */
  readonly burnUid: Uid;
  /** The pool, in the same unit as the shares. */
  readonly pool: bigint;
  /** What each miner is to get; together at most the pool. */
  readonly shares: ReadonlyMap<Uid, bigint>;
}

/**
 * The u16 vector that pays a plan: entry i is ⌊shareᵢ · T ÷ pool⌋, the burn UID gets T − Σ, and T is chosen so that the
 * largest entry is exactly 65535. The chain then scales by one, and nobody gets more than planned; what rounding leaves
 * out is carried by the ledger.
 *
 * Zeros are explicit, so that bonds of miners without usage are kept.
 *
 * @returns the vector by uid, and T. A pool of zero or an empty plan burns everything.
 */
export function planToWeights(plan: WeightPlan): { weights: number[]; total: bigint } {
  const { n, burnUid, pool } = plan;
  assert(burnUid < n, "the burn UID is a neuron");
  const shares = [...plan.shares].filter(([, share]) => share > 0n);
  for (const [uid] of shares) assert(uid < n && uid !== burnUid, `${uid} cannot earn`);
  const weights = Array.from({ length: n }, () => 0);
  if (pool === 0n || shares.length === 0) {
    weights[burnUid] = Number(WEIGHT_MAX);
    return { weights, total: WEIGHT_MAX };
  }
  const planned = shares.reduce((sum, [, share]) => sum + share, 0n);
  assert(planned <= pool, "a plan spends at most its pool");
  const largest = shares.reduce((most, [, share]) => (share > most ? share : most), pool - planned);

  // One step of T raises no entry by more than one, so T meets 65535 from below and cannot jump over it.
  const start = ((WEIGHT_MAX - BigInt(shares.length)) * pool) / largest - 1n;
  let total = start > 1n ? start : 1n;
  for (;;) {
    const parts = shares.map(([uid, share]) => [uid, (share * total) / pool] as const);
    const burn = parts.reduce((left, [, part]) => left - part, total);
    const top = parts.reduce((most, [, part]) => (part > most ? part : most), burn);
    if (top === WEIGHT_MAX) {
      for (const [uid, part] of parts) weights[uid] = Number(part);
      weights[burnUid] = Number(burn);
      return { weights, total };
    }
    assert(top < WEIGHT_MAX, "the largest entry stays below the limit until it meets it");
    total += WEIGHT_MAX - top;
  }
}
