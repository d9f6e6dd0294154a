/**
 * Weights that are committed in one epoch and revealed in a later one, so that nobody copies them meanwhile.
 *
 * A timelocked commit is a ciphertext that the chain itself opens, once the beacon has published the round it names. A
 * hashed commit is opened by the validator, who sends what it has hashed.
 *
 * @see subtensor, pallets/subtensor/src/subnets/weights.rs and src/coinbase/reveal_commits.rs
 * @module
 */
import { blake2Hex } from "../../hashing.ts";
import { accountId } from "../../metadata/runtime-types.ts";
import type { StorageView } from "../../metadata/storage-item.ts";
import { type Hex, ScaleError, toHex } from "../../scale/bytes.ts";
import {
  bytes,
  decode,
  encode,
  struct,
  tuple,
  u16,
  u64,
  type ValueOf,
  vec,
} from "../../scale/codec.ts";
import { openTimelocked, TimelockError } from "../../timelock.ts";
import { drand } from "../drand.ts";
import {
  type BlockView,
  DispatchFailure,
  type Execution,
  ensure,
  fail,
  type Origin,
  type PalletError,
  signerOf,
} from "../pallet.ts";
import { currentEpoch } from "./epoch-schedule.ts";
import { subtensorErrors as errors, subtensorEvents as events } from "./events.ts";
import { storageIndexOf, subnetsOf, subtensor } from "./storage.ts";
import {
  applyWeights,
  ensureMechanism,
  hasStake,
  passesRateLimit,
  touchLastUpdate,
  type WeightsCall,
} from "./weights.ts";

/** Commits of one hotkey that wait: in one epoch if they are timelocked, in all if they are hashed. */
const UNREVEALED_MAX = 10;
/** Longest reveal period of a subnet, in epochs. */
const REVEAL_PERIOD_MAX = 100n;

/** What a validator encrypts. */
const timelockedPayload = struct("WeightsTlockPayload", {
  hotkey: bytes,
  uids: vec(u16),
  values: vec(u16),
  version_key: u64,
});

/** What a validator hashes: hotkey, storage index, uids, values, salt, version key. */
const hashedPayload = tuple(accountId, u16, vec(u16), vec(u16), vec(u16), u64);

/** The arguments of `commit_timelocked_mechanism_weights`. */
export interface TimelockedCommit {
  readonly netuid: number;
  readonly mecid: number;
  readonly commit: Uint8Array;
  readonly reveal_round: bigint;
  readonly commit_reveal_version: number;
}

/** The arguments of `reveal_mechanism_weights`. */
export interface Reveal {
  readonly netuid: number;
  readonly mecid: number;
  readonly uids: readonly number[];
  readonly values: readonly number[];
  readonly salt: readonly number[];
  readonly version_key: bigint;
}

type HashedCommits = NonNullable<ReturnType<typeof subtensor.WeightCommits.get>>;

/** What the pool refuses already: too little stake. */
export function guardCommit(view: BlockView, who: Hex, netuid: number): PalletError | undefined {
  return hasStake(view, who, netuid) ? undefined : errors.NotEnoughStakeToSetWeights;
}

/** The same, and a round that is known already. */
export function guardTimelocked(
  view: BlockView,
  who: Hex,
  { netuid, reveal_round: round }: TimelockedCommit,
): PalletError | undefined {
  if (round < drand.LastStoredRound.get(view)) return errors.InvalidRevealRound;
  return guardCommit(view, who, netuid);
}

/** `commit_timelocked_weights` and `commit_timelocked_mechanism_weights`. */
export function commitTimelocked(
  execution: Execution,
  origin: Origin,
  args: TimelockedCommit,
): void {
  const who = signerOf(origin);
  const { netuid, mecid, commit, reveal_round: round, commit_reveal_version: version } = args;
  ensureMechanism(execution, netuid, mecid);
  ensureEnabled(execution, netuid);
  const wanted = subtensor.CommitRevealWeightsVersion.get(execution);
  ensure(version === wanted, errors.IncorrectCommitRevealVersion);
  const uid = ensureMayCommit(execution, who, netuid, mecid);

  const index = storageIndexOf(netuid, mecid);
  const epoch = currentEpoch(execution, netuid);
  const commits = subtensor.TimelockedWeightCommits.get(execution, index, epoch);
  const own = commits.filter(([account]) => account === who).length;
  ensure(own < UNREVEALED_MAX, errors.TooManyUnrevealedCommits);
  const entry = [who, BigInt(execution.number), commit, round] as const;
  subtensor.TimelockedWeightCommits.put(execution, [index, epoch], [...commits, entry]);
  execution.emit(events.TimelockedWeightsCommitted, [who, index, blake2Hex(commit), round]);
  touchLastUpdate(execution, index, uid);
}

/** `commit_weights` and `commit_mechanism_weights`. */
export function commitHash(
  execution: Execution,
  origin: Origin,
  { netuid, mecid, commit_hash: hash }: { netuid: number; mecid: number; commit_hash: Hex },
): void {
  const who = signerOf(origin);
  ensureMechanism(execution, netuid, mecid);
  ensureEnabled(execution, netuid);
  const uid = ensureMayCommit(execution, who, netuid, mecid);
  const index = storageIndexOf(netuid, mecid);
  const { waiting } = commitsOf(execution, netuid, index, who);
  ensure(waiting.length < UNREVEALED_MAX, errors.TooManyUnrevealedCommits);
  const epoch = currentEpoch(execution, netuid);
  const entry = [hash, epoch, BigInt(execution.number), 0n] as const;
  subtensor.WeightCommits.put(execution, [index, who], [...waiting, entry]);
  execution.emit(events.WeightsCommitted, [who, index, hash]);
  touchLastUpdate(execution, index, uid);
}

/** What the pool refuses already: a reveal of something else, or at another time. */
export function guardReveal(view: BlockView, who: Hex, reveal: Reveal): PalletError | undefined {
  const refused = guardCommit(view, who, reveal.netuid);
  if (refused !== undefined) return refused;
  const index = storageIndexOf(reveal.netuid, reveal.mecid);
  const found = revealable(view, who, index, reveal);
  return "position" in found ? undefined : found;
}

/** `reveal_weights` and `reveal_mechanism_weights`. */
export function revealHash(execution: Execution, origin: Origin, reveal: Reveal): void {
  const who = signerOf(origin);
  const { netuid, mecid } = reveal;
  ensure(subtensor.NetworksAdded.get(execution, netuid), errors.SubnetNotExists);
  ensureEnabled(execution, netuid);
  const index = storageIndexOf(netuid, mecid);
  const found = revealable(execution, who, index, reveal);
  if (!("position" in found)) return fail(found);
  // Those before it were overtaken by it.
  const rest = found.waiting.slice(found.position + 1);
  if (rest.length === 0) subtensor.WeightCommits.remove(execution, index, who);
  else subtensor.WeightCommits.put(execution, [index, who], rest);
  applyWeights(execution, who, weightsOf(reveal));
  execution.emit(events.WeightsRevealed, [who, index, found.hash]);
}

/** The arguments of `batch_reveal_weights`. */
export interface BatchReveal {
  readonly netuid: number;
  readonly uids_list: readonly (readonly number[])[];
  readonly values_list: readonly (readonly number[])[];
  readonly salts_list: readonly (readonly number[])[];
  readonly version_keys: readonly bigint[];
}

/** The reveals of a batch, all for the first mechanism; undefined if its lists do not have the same length. */
function revealsOf(batch: BatchReveal): Reveal[] | undefined {
  const { netuid, uids_list, values_list, salts_list, version_keys } = batch;
  const lists = [values_list, salts_list, version_keys];
  if (lists.some((list) => list.length !== uids_list.length)) return undefined;
  return uids_list.map((uids, i) => ({
    netuid,
    mecid: 0,
    uids,
    values: values_list[i] ?? [],
    salt: salts_list[i] ?? [],
    version_key: version_keys[i] ?? 0n,
  }));
}

/** The first objection to one of them. */
export function guardBatchReveal(
  view: BlockView,
  who: Hex,
  batch: BatchReveal,
): PalletError | undefined {
  const reveals = revealsOf(batch);
  if (reveals === undefined) return errors.InputLengthsUnequal;
  for (const reveal of reveals) {
    const refused = guardReveal(view, who, reveal);
    if (refused !== undefined) return refused;
  }
  return undefined;
}

/** `batch_reveal_weights`: all of them or none. Each takes only its own commit out of the queue. */
export function batchRevealHashes(execution: Execution, origin: Origin, batch: BatchReveal): void {
  const who = signerOf(origin);
  const { netuid } = batch;
  ensure(subtensor.NetworksAdded.get(execution, netuid), errors.SubnetNotExists);
  const reveals = revealsOf(batch);
  ensure(reveals !== undefined, errors.InputLengthsUnequal);
  ensureEnabled(execution, netuid);
  const hashes = reveals.map((reveal) => {
    const found = revealable(execution, who, netuid, reveal);
    if (!("position" in found)) return fail(found);
    const rest = found.waiting.filter((_, i) => i !== found.position);
    if (rest.length === 0) subtensor.WeightCommits.remove(execution, netuid, who);
    else subtensor.WeightCommits.put(execution, [netuid, who], rest);
    applyWeights(execution, who, weightsOf(reveal));
    return found.hash;
  });
  execution.emit(events.WeightsBatchRevealed, [who, netuid, hashes]);
}

const weightsOf = (reveal: Omit<Reveal, "salt">): WeightsCall => ({
  netuid: reveal.netuid,
  mechanism: reveal.mecid,
  dests: reveal.uids,
  weights: reveal.values,
  versionKey: reveal.version_key,
});

/** The commit that a reveal belongs to, or why there is none that may be revealed now. */
function revealable(
  view: BlockView,
  who: Hex,
  index: number,
  { netuid, uids, values, salt, version_key: key }: Reveal,
):
  | { readonly position: number; readonly hash: Hex; readonly waiting: HashedCommits }
  | PalletError {
  const hash = blake2Hex(encode(hashedPayload, [who, index, uids, values, salt, key]));
  const { waiting, expired } = commitsOf(view, netuid, index, who);
  const position = waiting.findIndex(([committed]) => committed === hash);
  const committed = waiting[position];
  if (committed === undefined) {
    if (expired.some(([old]) => old === hash)) return errors.ExpiredWeightCommit;
    return waiting.length === 0
      ? errors.NoWeightsCommitFound
      : errors.InvalidRevealCommitHashNotMatch;
  }
  const due = committed[1] + subtensor.RevealPeriodEpochs.get(view, netuid);
  if (currentEpoch(view, netuid) !== due) return errors.RevealTooEarly;
  return { position, hash, waiting };
}

function commitsOf(
  view: BlockView,
  netuid: number,
  index: number,
  who: Hex,
): { readonly waiting: HashedCommits; readonly expired: HashedCommits } {
  const commits = subtensor.WeightCommits.get(view, index, who) ?? [];
  const epoch = currentEpoch(view, netuid);
  const period = subtensor.RevealPeriodEpochs.get(view, netuid);
  const isExpired = ([, committed]: HashedCommits[number]) => epoch > committed + period;
  return {
    waiting: commits.filter((commit) => !isExpired(commit)),
    expired: commits.filter(isExpired),
  };
}

function ensureEnabled(view: StorageView, netuid: number): void {
  const enabled = subtensor.CommitRevealWeightsEnabled.get(view, netuid);
  ensure(enabled, errors.CommitRevealDisabled);
}

/** @returns the uid of `who`. */
function ensureMayCommit(view: BlockView, who: Hex, netuid: number, mecid: number): number {
  const uid = subtensor.Uids.get(view, netuid, who);
  ensure(uid !== undefined, errors.HotKeyNotRegisteredInSubNet);
  const inTime = passesRateLimit(view, netuid, mecid, uid);
  ensure(inTime, errors.CommittingWeightsTooFast);
  return uid;
}

/** Rounds that timelocked commits wait for. */
export function awaitedRounds(view: BlockView): ReadonlySet<bigint> {
  const rounds = new Set<bigint>();
  for (const netuid of subnetsOf(view)) {
    const period = subtensor.RevealPeriodEpochs.get(view, netuid);
    const current = currentEpoch(view, netuid);
    for (const index of indexesOf(view, netuid))
      for (let epoch = current - min(period, current); epoch <= current; epoch++)
        for (const [, , , round] of subtensor.TimelockedWeightCommits.get(view, index, epoch))
          rounds.add(round);
  }
  return rounds;
}

/**
 * Opens the timelocked commits whose epoch has come and sets their weights; drops those whose epoch is over. One whose
 * round has no pulse yet waits for the next block. One that cannot be opened, or whose weights are refused, is gone without
 * a word, as on the real chain.
 */
export function revealTimelocked(execution: Execution): void {
  for (const netuid of subnetsOf(execution)) {
    const period = subtensor.RevealPeriodEpochs.get(execution, netuid);
    const current = currentEpoch(execution, netuid);
    const epochBegins = current !== subtensor.SubnetEpochIndex.get(execution, netuid);
    for (const [mecid, index] of indexesOf(execution, netuid).entries()) {
      if (epochBegins) dropExpired(execution, index, current - period);
      if (current < period) continue;
      revealEpoch(execution, netuid, mecid, index, current - period);
    }
  }
}

function dropExpired(execution: Execution, index: number, before: bigint): void {
  const { TimelockedWeightCommits } = subtensor;
  for (let epoch = before - REVEAL_PERIOD_MAX; epoch < before; epoch++) {
    if (epoch < 0n) continue;
    if (execution.get(TimelockedWeightCommits.keyOf(index, epoch)) !== undefined)
      TimelockedWeightCommits.remove(execution, index, epoch);
  }
}

function revealEpoch(
  execution: Execution,
  netuid: number,
  mecid: number,
  index: number,
  epoch: bigint,
): void {
  const commits = subtensor.TimelockedWeightCommits.get(execution, index, epoch);
  const early = commits.filter(([who, , commit, round]) => {
    const pulse = drand.Pulses.get(execution, round);
    if (pulse === undefined) return true;
    const payload = openedPayload(commit, pulse.signature);
    if (payload === undefined || toHex(payload.hotkey) !== who) return false;
    if (isApplied(execution, who, weightsOf({ ...payload, netuid, mecid })))
      execution.emit(events.TimelockedWeightsRevealed, [index, who]);
    return false;
  });
  if (early.length === commits.length) return;
  if (early.length === 0) subtensor.TimelockedWeightCommits.remove(execution, index, epoch);
  else subtensor.TimelockedWeightCommits.put(execution, [index, epoch], early);
}

function openedPayload(
  commit: Uint8Array,
  signature: Uint8Array,
): ValueOf<typeof timelockedPayload> | undefined {
  try {
    return decode(timelockedPayload, openTimelocked(commit, signature));
  } catch (error) {
    if (error instanceof TimelockError || error instanceof ScaleError) return undefined;
    throw error;
  }
}

/** @returns false, with nothing done, if the chain's rules refuse the weights. */
function isApplied(execution: Execution, who: Hex, call: WeightsCall): boolean {
  try {
    applyWeights(execution, who, call);
    return true;
  } catch (error) {
    if (error instanceof DispatchFailure) return false;
    throw error;
  }
}

function indexesOf(view: StorageView, netuid: number): number[] {
  const mechanisms = subtensor.MechanismCountCurrent.get(view, netuid);
  return Array.from({ length: mechanisms }, (_, mecid) => storageIndexOf(netuid, mecid));
}

const min = (a: bigint, b: bigint): bigint => (a < b ? a : b);
