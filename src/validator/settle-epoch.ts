import type { Coldkey, Hotkey, Uid } from "../core/ids.ts";
import type { VerifyingKey } from "../core/jws.ts";
import type { Edge } from "../usage-log/tree.ts";
import {
  claimsOfVerdicts,
  type LeafRefusal,
  type LeafVerdict,
  RECEIPT_EPOCHS_MAX,
  sumsOfUsage,
  usageOfVerdicts,
} from "./audit-epoch.ts";
import type { EpochLog } from "./epoch-log.ts";
import type { EpochRefusal, EpochReport } from "./epoch-report.ts";
import {
  type LedgerParameters,
  owedOf,
  skipEpoch,
  stateHashOf,
  stepLedger,
} from "./miner-pay-ledger.ts";
import { planToWeights } from "./plan-to-weights.ts";
import { alphaPriceOf } from "./price.ts";
import { probeReportOf } from "./probe.ts";
import { REPORTS_MAX, type ValidatorState } from "./validator-state.ts";

/** A neuron as far as pay is concerned. */
export interface PaidNeuron {
  readonly uid: Uid;
  readonly hotkey: Hotkey;
  readonly coldkey: Coldkey;
}

/** What the chain says about an epoch. */
export interface EpochFacts {
  readonly epoch: number;
  /** Block that ran it. */
  readonly block: number;
  readonly ownerHotkey: Hotkey;
  readonly ownerColdkey: Coldkey;
  /** Neurons after that block, by uid. */
  readonly neurons: readonly PaidNeuron[];
  /** Neurons before that block: whom the emissions went to, even if a slot changed hands in the same block. */
  readonly neuronsBefore: readonly PaidNeuron[];
  /** Rao of alpha by uid. */
  readonly emissions: readonly bigint[];
  readonly priceSamplesRao: readonly bigint[];
}

/** What the log says about an epoch. */
export type LogFindings =
  | {
      readonly ok: true;
      readonly key: VerifyingKey;
      readonly log: EpochLog;
      readonly verdicts: readonly LeafVerdict[];
    }
  | {
      readonly ok: false;
      readonly refusal: EpochRefusal;
    };

/** Rules that the operators of a subnet's validators agree on. */
export interface SettleRules {
  readonly parameters: LedgerParameters;
  readonly nanoUsdPerTao: bigint;
}

/** The subnet is set up so that nothing can be burned; the message says what to change. */
export class BurnUidError extends Error {
  override readonly name = "BurnUidError";
}

/**
 * The slot that takes what no miner earned: the owner's hotkey. The chain burns it only if its coldkey owns the subnet.
 *
 * @throws BurnUidError
 */
export function burnUidOf(
  facts: Pick<EpochFacts, "neurons" | "ownerHotkey" | "ownerColdkey">,
): Uid {
  const neuron = facts.neurons.find(({ hotkey }) => hotkey === facts.ownerHotkey);
  if (neuron === undefined)
    throw new BurnUidError(`the owner's hotkey ${facts.ownerHotkey} has no slot in the subnet`);
  if (neuron.coldkey !== facts.ownerColdkey)
    throw new BurnUidError(`uid ${neuron.uid} does not belong to the subnet owner's coldkey`);
  return neuron.uid;
}

/**
 * One epoch: the ledger's step, the weights and the report. A pure function of public data and of the state before.
 *
 * @throws BurnUidError
 */
export function settleEpoch(
  state: ValidatorState,
  facts: EpochFacts,
  findings: LogFindings,
  rules: SettleRules,
): ValidatorState {
  const audit = auditOf(findings);
  const price = alphaPriceOf(facts.priceSamplesRao, rules.nanoUsdPerTao, state.price);
  // What goes to the owner's slots is burned, so it pays nobody.
  const earns = ({ coldkey }: PaidNeuron) => coldkey !== facts.ownerColdkey;
  const { state: ledger, plan } = stepLedger(
    state.ledger,
    {
      e: facts.epoch,
      price,
      pooledRao: facts.emissions.reduce((sum, rao) => sum + rao, 0n),
      paidRao: new Map(
        facts.neuronsBefore
          .filter(earns)
          .map(({ uid, hotkey }) => [hotkey, facts.emissions[uid] ?? 0n]),
      ),
      usage: audit.usage,
      registered: new Set(facts.neurons.filter(earns).map(({ hotkey }) => hotkey)),
    },
    rules.parameters,
  );
  const uidOf = new Map(facts.neurons.map(({ uid, hotkey }) => [hotkey, uid]));
  const shares = new Map<Uid, bigint>();
  for (const [hotkey, share] of plan.q) {
    const uid = uidOf.get(hotkey);
    if (uid !== undefined) shares.set(uid, share);
  }
  const { weights } = planToWeights({
    n: facts.neurons.length,
    burnUid: burnUidOf(facts),
    pool: plan.pool,
    shares,
  });
  const paid = added(state.paid, plan.paid);
  const probe = state.probes.find(({ epoch }) => epoch === facts.epoch);
  const report: EpochReport = {
    epoch: facts.epoch,
    block: facts.block,
    verdict: audit.refusal === undefined ? "accepted" : "refused",
    ...(audit.refusal === undefined ? {} : { reason: audit.refusal }),
    state_hash: stateHashOf(ledger),
    price_nusd: price.toString(),
    pool_nusd: plan.pool.toString(),
    burn_bps: plan.burnBps,
    sums: decimals(sumsOfUsage(audit.usage)),
    planned: decimals(plan.q),
    weights,
    paid: decimals(paid),
    owed: decimals(new Map([...ledger.accounts].map(([hotkey, a]) => [hotkey, owedOf(a)]))),
    leaves: audit.verdicts.length,
    promo: audit.verdicts.filter((verdict) => verdict.ok && verdict.promo).length,
    clipped: audit.verdicts.filter((verdict) => verdict.ok && verdict.clipped).length,
    refusals: countsOf(audit.verdicts),
    ...(probe === undefined ? {} : { probe: probeReportOf(probe) }),
  };
  return {
    ...state,
    epoch: facts.epoch,
    price,
    ledger,
    log: audit.log ?? state.log,
    seen: [...state.seen, ...audit.seen].filter(({ e }) => e > facts.epoch - RECEIPT_EPOCHS_MAX),
    paid,
    reports: [...state.reports, report].slice(-REPORTS_MAX),
    pending: {
      epoch: facts.epoch,
      weights,
      hotkeys: facts.neurons.map(({ hotkey }) => hotkey),
    },
  };
}

/** An epoch of which nothing can be read any more. It plans nothing and sets no weights. */
export function voidEpoch(
  state: ValidatorState,
  epoch: number,
  parameters: LedgerParameters,
): ValidatorState {
  const skipped = skipEpoch(state.ledger, epoch, parameters);
  const paid = added(state.paid, skipped.paid);
  const owed = [...skipped.state.accounts].map(([hotkey, a]) => [hotkey, owedOf(a)] as const);
  const report: EpochReport = {
    epoch,
    verdict: "void",
    reason: "state_gone",
    state_hash: stateHashOf(skipped.state),
    price_nusd: state.price.toString(),
    pool_nusd: "0",
    burn_bps: 10_000,
    sums: {},
    planned: {},
    weights: [],
    paid: decimals(paid),
    owed: decimals(new Map(owed)),
    leaves: 0,
    promo: 0,
    clipped: 0,
    refusals: {},
  };
  return {
    ...state,
    epoch,
    ledger: skipped.state,
    paid,
    seen: state.seen.filter(({ e }) => e > epoch - RECEIPT_EPOCHS_MAX),
    reports: [...state.reports, report].slice(-REPORTS_MAX),
    pending: undefined,
  };
}

interface Audit {
  readonly refusal: EpochRefusal | undefined;
  readonly usage: ReturnType<typeof usageOfVerdicts>;
  readonly verdicts: readonly LeafVerdict[];
  readonly seen: ValidatorState["seen"];
  readonly log: { kid: string; edge: Edge } | undefined;
}

/**
 * Credit only if the gateway's sums are right: either of all that it signed in the epoch, or of the leaves that passed.
 * A leaf that is refused earns nothing in both cases, and takes nothing from the others.
 */
function auditOf(findings: LogFindings): Audit {
  const nothing = { usage: new Map(), verdicts: [], seen: [], log: undefined };
  if (!findings.ok) return { ...nothing, refusal: findings.refusal };
  const { log, verdicts, key } = findings;
  const proven = { kid: key.kid, edge: log.edge };
  const ofEpoch = verdicts.slice(log.lateCount);
  const sums = new Map([...log.file.sums].filter(([, amount]) => amount > 0n));
  const agree =
    sameAmounts(sums, claimsOfVerdicts(ofEpoch)) ||
    sameAmounts(sums, sumsOfUsage(usageOfVerdicts(ofEpoch)));
  // The root was right, so the log goes on from here even though nothing in it is credited.
  if (!agree) return { ...nothing, verdicts, refusal: "sums_differ", log: proven };
  return {
    refusal: undefined,
    usage: usageOfVerdicts(verdicts),
    verdicts,
    seen: verdicts.flatMap((verdict) => (verdict.ok ? [verdict.receipt] : [])),
    log: proven,
  };
}

function sameAmounts(a: ReadonlyMap<Hotkey, bigint>, b: ReadonlyMap<Hotkey, bigint>): boolean {
  return a.size === b.size && [...a].every(([hotkey, amount]) => b.get(hotkey) === amount);
}

function countsOf(verdicts: readonly LeafVerdict[]): Partial<Record<LeafRefusal, number>> {
  const counts: Partial<Record<LeafRefusal, number>> = {};
  for (const verdict of verdicts)
    if (!verdict.ok) counts[verdict.refusal] = (counts[verdict.refusal] ?? 0) + 1;
  return counts;
}

function added(
  total: ReadonlyMap<Hotkey, bigint>,
  more: ReadonlyMap<Hotkey, bigint>,
): Map<Hotkey, bigint> {
  const sums = new Map(total);
  for (const [hotkey, amount] of more) sums.set(hotkey, (sums.get(hotkey) ?? 0n) + amount);
  return sums;
}

function decimals(amounts: ReadonlyMap<Hotkey, bigint>): Record<string, string> {
  return Object.fromEntries(
    [...amounts]
      .sort(([a], [b]) => (a < b ? -1 : 1))
      .map(([hotkey, amount]) => [hotkey, amount.toString()]),
  );
}
