/**
 * The miner-pay ledger: what the network owes each miner, carried from epoch to epoch.
 *
 * Credit is usage that was proved; debit is what the chain really paid. So a stalled log, a skipped epoch, rounding to
 * u16, a pool that was too small and a validator that lies are all made good by the next plans, and nobody is paid twice.
 *
 * Every number is an integer and the order of the steps is fixed: equal inputs give equal states, down to the hash.
 * Epochs and lots use the field names of the hashed form: `o` origin, `m` maturity, `v` value.
 *
 * @module
 */
import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import type { Hotkey } from "../core/ids.ts";
import { ceilDiv, NANO } from "../core/money.ts";

/** How a miner reached its upstream; the two mature at different times. Direct is credited first. */
export const USAGE_CLASSES = ["direct", "resale"] as const;
export type UsageClass = (typeof USAGE_CLASSES)[number];

/** Rules that all validators of a subnet share. */
export interface LedgerParameters {
  /** Epochs from a plan to its payment: the chain's reveal period, 1 without commit-reveal. */
  readonly delta: number;
  /** Epochs after which a credit that was not paid is dropped. */
  readonly expiry: number;
  /** Epochs before a credit of each class can be paid. */
  readonly maturity: Readonly<Record<UsageClass, number>>;
  /** Largest haircut that is applied, basis points. */
  readonly haircutBpsMax: number;
  /** Whether payouts are capped by what buyers provably burnt on the chain. */
  readonly sink: "off" | "enforce";
  /** What customers pay on top of the miner's quote, basis points. */
  readonly markupBps: number;
  /** What may be paid without proof of payment, nano-USD. */
  readonly grantNusd: bigint;
}

/** The parameters of this version. One week of 72-minute epochs; simulated and resold routes mature after a day. */
export const LEDGER_PARAMETERS: LedgerParameters = {
  delta: 1,
  expiry: 140,
  maturity: { direct: 0, resale: 20 },
  haircutBpsMax: 1_000,
  sink: "off",
  markupBps: 500,
  grantNusd: 0n,
};

interface Lot {
  /** Epoch that credited it, and the first epoch that may pay it. */
  readonly o: number;
  readonly m: number;
  /** Nano-USD still owed. */
  readonly v: bigint;
}

interface MinerAccount {
  /** Nano-USD paid beyond what was owed. */
  readonly debt: bigint;
  /** Oldest first. */
  readonly lots: readonly Lot[];
}

interface Plan {
  readonly e: number;
  readonly q: ReadonlyMap<Hotkey, bigint>;
}

/** Everything that one epoch hands to the next. */
export interface LedgerState {
  /** The epoch it is the state after; −1 before the first. */
  readonly e: number;
  /** Accounts with an open lot or a debt. */
  readonly accounts: ReadonlyMap<Hotkey, MinerAccount>;
  /** Plans that the chain has not paid yet. */
  readonly inflight: readonly Plan[];
  readonly creditCum: bigint;
  readonly paidCum: bigint;
  readonly expiredCum: bigint;
  readonly voidCum: bigint;
}

/** The ledger before the first epoch. */
export const EMPTY_LEDGER: LedgerState = {
  e: -1,
  accounts: new Map(),
  inflight: [],
  creditCum: 0n,
  paidCum: 0n,
  expiredCum: 0n,
  voidCum: 0n,
};

/** Nano-USD per class that one miner proved. */
export type ProvenUsage = Readonly<Partial<Record<UsageClass, bigint>>>;

/** What one epoch brings. All of it is public. */
export interface EpochInputs {
  readonly e: number;
  /** Nano-USD per alpha. */
  readonly price: bigint;
  /** Alpha that all UIDs together were paid, burned part included, in rao. */
  readonly pooledRao: bigint;
  /** Alpha that each miner was paid, in rao. */
  readonly paidRao: ReadonlyMap<Hotkey, bigint>;
  readonly usage: ReadonlyMap<Hotkey, ProvenUsage>;
  readonly registered: ReadonlySet<Hotkey>;
  readonly banned?: ReadonlySet<Hotkey>;
  /** Miners whose attestation the validators reject: they earn nothing this epoch. */
  readonly gated?: ReadonlySet<Hotkey>;
  /** Basis points off this epoch's credit. */
  readonly haircutBps?: ReadonlyMap<Hotkey, number>;
  /** Nano-USD that was provably burnt so far. */
  readonly sinkCum?: bigint;
}

export interface EpochPlan {
  /** The pool, nano-USD. */
  readonly pool: bigint;
  /** Nano-USD planned for each miner; only positive ones. */
  readonly q: ReadonlyMap<Hotkey, bigint>;
  readonly planned: bigint;
  /** Nano-USD that the chain paid at this epoch, per miner. */
  readonly paid: ReadonlyMap<Hotkey, bigint>;
  /** 10000 − ⌈Σq · 10000 ÷ pool⌉: the part of the pool that no usage earned. */
  readonly burnBps: number;
}

const BASIS_POINTS = 10_000n;

/**
 * One epoch, in the fixed order: what was paid, what expired, what was earned, what to pay next.
 *
 * @throws AssertionError if the epoch is not after the state's.
 */
export function stepLedger(
  state: LedgerState,
  inputs: EpochInputs,
  parameters: LedgerParameters,
): { state: LedgerState; plan: EpochPlan } {
  assert(inputs.e > state.e, `epoch ${inputs.e} was already counted`);
  const accounts = new Map(
    [...state.accounts].map(([hotkey, { debt, lots }]) => [hotkey, { debt, lots: [...lots] }]),
  );
  const accountOf = (hotkey: Hotkey): OpenAccount => {
    const account = accounts.get(hotkey) ?? { debt: 0n, lots: [] };
    accounts.set(hotkey, account);
    return account;
  };

  const paid = new Map<Hotkey, bigint>();
  for (const [hotkey, rao] of inputs.paidRao) {
    const amount = (rao * inputs.price) / NANO;
    if (amount === 0n) continue;
    debit(accountOf(hotkey), amount, inputs.e);
    paid.set(hotkey, amount);
  }
  const inflight = state.inflight.filter((plan) => plan.e + parameters.delta > inputs.e);
  const paidCum = state.paidCum + sum(paid.values());

  let { expiredCum, voidCum } = state;
  for (const [hotkey, account] of accounts) {
    expiredCum += drop(account, (lot) => lot.o + parameters.expiry <= inputs.e);
    if (inputs.banned?.has(hotkey) === true) voidCum += drop(account, () => true);
  }

  let { creditCum } = state;
  for (const [hotkey, usage] of inputs.usage) {
    if (inputs.banned?.has(hotkey) === true || inputs.gated?.has(hotkey) === true) continue;
    const haircut = Math.min(inputs.haircutBps?.get(hotkey) ?? 0, parameters.haircutBpsMax);
    for (const usageClass of USAGE_CLASSES) {
      const earned = ((usage[usageClass] ?? 0n) * (BASIS_POINTS - BigInt(haircut))) / BASIS_POINTS;
      if (earned === 0n) continue;
      creditCum += earned;
      credit(accountOf(hotkey), earned, inputs.e, inputs.e + parameters.maturity[usageClass]);
    }
  }

  const plan = planOf(accounts, inflight, paidCum, inputs, parameters);
  return {
    state: {
      e: inputs.e,
      accounts: new Map([...accounts].filter(([, a]) => a.debt > 0n || a.lots.length > 0)),
      inflight: [...inflight, { e: inputs.e, q: plan.q }],
      creditCum,
      paidCum,
      expiredCum,
      voidCum,
    },
    plan: { ...plan, paid },
  };
}

interface OpenAccount {
  debt: bigint;
  lots: Lot[];
}

/** Takes from the matured lots, oldest first; what they do not cover is debt. */
function debit(account: OpenAccount, amount: bigint, epoch: number): void {
  let left = amount;
  account.lots = account.lots
    .map((lot) => {
      if (lot.m > epoch) return lot;
      const taken = lot.v < left ? lot.v : left;
      left -= taken;
      return { ...lot, v: lot.v - taken };
    })
    .filter((lot) => lot.v > 0n);
  account.debt += left;
}

/** Pays off debt first; what remains is a new lot. */
function credit(account: OpenAccount, earned: bigint, o: number, m: number): void {
  const repaid = earned < account.debt ? earned : account.debt;
  account.debt -= repaid;
  if (earned > repaid) account.lots.push({ o, m, v: earned - repaid });
}

/** Removes lots. @returns what they held. */
function drop(account: OpenAccount, isDropped: (lot: Lot) => boolean): bigint {
  const dropped = account.lots.filter(isDropped);
  account.lots = account.lots.filter((lot) => !isDropped(lot));
  return sum(dropped.map(({ v }) => v));
}

function planOf(
  accounts: ReadonlyMap<Hotkey, MinerAccount>,
  inflight: readonly Plan[],
  paidCum: bigint,
  inputs: EpochInputs,
  parameters: LedgerParameters,
): Omit<EpochPlan, "paid"> {
  const pool = (inputs.pooledRao * inputs.price) / NANO;
  let budget = pool;
  if (parameters.sink === "enforce") {
    const proved =
      ((inputs.sinkCum ?? 0n) * BASIS_POINTS) / (BASIS_POINTS + BigInt(parameters.markupBps));
    const underway = sum(inflight.map(({ q }) => sum(q.values())));
    budget = min(pool, max(0n, proved + parameters.grantNusd - paidCum - underway));
  }
  const open = new Map<Hotkey, bigint>();
  for (const [hotkey, account] of accounts) {
    if (!inputs.registered.has(hotkey) || inputs.banned?.has(hotkey) === true) continue;
    const matured = sum(account.lots.filter((lot) => lot.m <= inputs.e).map(({ v }) => v));
    const underway = sum(inflight.map(({ q }) => q.get(hotkey) ?? 0n));
    const due = matured - account.debt - underway;
    if (due > 0n) open.set(hotkey, due);
  }
  const demand = sum(open.values());
  const q = new Map<Hotkey, bigint>();
  for (const [hotkey, due] of open) {
    const share = demand <= budget ? due : (due * budget) / demand;
    if (share > 0n) q.set(hotkey, share);
  }
  const planned = sum(q.values());
  const burnBps = pool === 0n ? 10_000 : 10_000 - Number(ceilDiv(planned * BASIS_POINTS, pool));
  return { pool, q, planned, burnBps };
}

/**
 * The state when an epoch could not be read at all: the chain's state is gone, so what it paid is unknown.
 *
 * Plans that were due count as paid in full. The chain repeats the last weights, so this is the likeliest outcome, and
 * an error costs a miner at most one plan, where the opposite would pay it twice.
 */
export function skipEpoch(
  state: LedgerState,
  e: number,
  parameters: LedgerParameters,
): { state: LedgerState; paid: ReadonlyMap<Hotkey, bigint> } {
  assert(e > state.e, `epoch ${e} was already counted`);
  const accounts = new Map(
    [...state.accounts].map(([hotkey, { debt, lots }]) => [hotkey, { debt, lots: [...lots] }]),
  );
  const paid = new Map<Hotkey, bigint>();
  for (const plan of state.inflight) {
    if (plan.e + parameters.delta > e) continue;
    for (const [hotkey, amount] of plan.q) {
      const account = accounts.get(hotkey) ?? { debt: 0n, lots: [] };
      debit(account, amount, e);
      accounts.set(hotkey, account);
      paid.set(hotkey, (paid.get(hotkey) ?? 0n) + amount);
    }
  }
  let { expiredCum } = state;
  for (const account of accounts.values())
    expiredCum += drop(account, (lot) => lot.o + parameters.expiry <= e);
  return {
    paid,
    state: {
      ...state,
      e,
      accounts: new Map([...accounts].filter(([, a]) => a.debt > 0n || a.lots.length > 0)),
      inflight: state.inflight.filter((plan) => plan.e + parameters.delta > e),
      paidCum: state.paidCum + sum(paid.values()),
      expiredCum,
    },
  };
}

/** Open lots less debt: what a miner is owed; negative when it was paid ahead. */
export function owedOf(account: MinerAccount): bigint {
  return sum(account.lots.map(({ v }) => v)) - account.debt;
}

/** JSON form of a state: keys sorted, money as decimal strings. Its text is what is hashed. */
export function ledgerToJson(state: LedgerState): object {
  return {
    acct: Object.fromEntries(
      sorted(state.accounts).map(([hotkey, { debt, lots }]) => [
        hotkey,
        { debt: debt.toString(), lots: lots.map(({ m, o, v }) => ({ m, o, v: v.toString() })) },
      ]),
    ),
    creditCum: state.creditCum.toString(),
    e: state.e,
    expiredCum: state.expiredCum.toString(),
    inflight: state.inflight.map(({ e, q }) => ({
      e,
      q: Object.fromEntries(sorted(q).map(([hotkey, amount]) => [hotkey, amount.toString()])),
    })),
    paidCum: state.paidCum.toString(),
    voidCum: state.voidCum.toString(),
  };
}

/** Inverse of `ledgerToJson`, for a file that this validator wrote. @throws Error if it is damaged. */
export function ledgerFromJson(json: unknown): LedgerState {
  const { acct, e, inflight, creditCum, paidCum, expiredCum, voidCum } = json as {
    acct: Record<Hotkey, { debt: string; lots: { m: number; o: number; v: string }[] }>;
    e: number;
    inflight: { e: number; q: Record<Hotkey, string> }[];
    creditCum: string;
    paidCum: string;
    expiredCum: string;
    voidCum: string;
  };
  const state: LedgerState = {
    e,
    accounts: new Map(
      entries(acct).map(([hotkey, { debt, lots }]) => [
        hotkey,
        { debt: BigInt(debt), lots: lots.map(({ m, o, v }) => ({ m, o, v: BigInt(v) })) },
      ]),
    ),
    inflight: inflight.map((plan) => ({
      e: plan.e,
      q: new Map(entries(plan.q).map(([hotkey, amount]) => [hotkey, BigInt(amount)])),
    })),
    creditCum: BigInt(creditCum),
    paidCum: BigInt(paidCum),
    expiredCum: BigInt(expiredCum),
    voidCum: BigInt(voidCum),
  };
  assert.deepEqual(ledgerToJson(state), json, "the ledger is not in its own form");
  return state;
}

/** SHA-256 of the state's JSON text, hex: validators that agree publish the same. */
export function stateHashOf(state: LedgerState): string {
  return createHash("sha256")
    .update(JSON.stringify(ledgerToJson(state)))
    .digest("hex");
}

function entries<V>(record: Record<Hotkey, V>): [Hotkey, V][] {
  return Object.entries(record) as [Hotkey, V][];
}

function sorted<V>(map: ReadonlyMap<Hotkey, V>): [Hotkey, V][] {
  return [...map].sort(([a], [b]) => (a < b ? -1 : a > b ? 1 : 0));
}

function sum(amounts: Iterable<bigint>): bigint {
  let total = 0n;
  for (const amount of amounts) total += amount;
  return total;
}

function min(a: bigint, b: bigint): bigint {
  return a < b ? a : b;
}

function max(a: bigint, b: bigint): bigint {
  return a > b ? a : b;
}
