import { setTimeout as delay } from "node:timers/promises";
import { type Announcement, parseAnnouncement, parseLogRoot } from "../core/commitment.ts";
import { rootDeadlineBlocks } from "../core/epoch.ts";
import type { EnclaveId, Hotkey } from "../core/ids.ts";
import { type VerifyingKey, verifyingKey } from "../core/jws.ts";
import type { SignedQuote } from "../core/quote.ts";
import type { Logger } from "../runtime/logger.ts";
import type { Closable } from "../runtime/shutdown.ts";
import { type FetchBytes, openLogReader } from "../usage-log/reader.ts";
import { auditLeaves, type VerifiedEnclave } from "./audit-epoch.ts";
import { readEpochLog, readSideFiles } from "./epoch-log.ts";
import type { EpochRefusal, EpochReport } from "./epoch-report.ts";
import { PRICE_WINDOW_BLOCKS, priceSampleBlocks } from "./price.ts";
import type { ProbeSummary } from "./probe.ts";
import {
  type EpochFacts,
  type LogFindings,
  type PaidNeuron,
  type SettleRules,
  settleEpoch,
  voidEpoch,
} from "./settle-epoch.ts";
import { newState, PROBES_KEPT, type StateFile, type ValidatorState } from "./validator-state.ts";

/** Blocks of which a full node still has the state. */
const STATE_BLOCKS = 256;
/** Epochs that a new validator replays at most: older credit has expired. */
const REPLAYED_EPOCHS_MAX = 140;
/** After this part of the next epoch has passed, a log that cannot be reached counts as empty. */
const DATA_DEADLINE_PERCENT = 66;
/** Refusals that only say that a file is not there; a gateway that restarts may have it in a moment. */
const MAY_STILL_COME: ReadonlySet<EpochRefusal> = new Set([
  "bad_checkpoint",
  "checkpoint_behind_root",
  "missing_epoch_file",
  "missing_tile",
]);
/** Blocks until weights that the chain refused are tried again. */
const WEIGHTS_RETRY_BLOCKS = 3;
/** Wait after a failure, in case no new head arrives to try again at, in milliseconds. */
const RETRY_MS = 5_000;

export interface ChainHead {
  readonly number: number;
  readonly hash: string;
}

/** The subnet after one block, as far as validators need it. */
export interface SubnetView {
  readonly ownerHotkey: Hotkey;
  readonly ownerColdkey: EpochFacts["ownerColdkey"];
  /** By uid. */
  readonly neurons: readonly (PaidNeuron & { readonly lastUpdate: number })[];
  readonly weightsVersionKey: bigint;
  readonly weightsRateLimitBlocks: number;
  readonly commitRevealEnabled: boolean;
}

/** What the loop needs from the chain, for one subnet and one hotkey. State is read after the block of that hash. */
export interface ValidatorChain {
  finalizedHead(): Promise<ChainHead>;
  /** Tells every newest finalized head. @returns a function that stops it. */
  onFinalizedHead(listener: (head: ChainHead) => void): () => void;
  blockHash(number: number): Promise<string | undefined>;
  epochOf(atHash: string): Promise<{ index: number; lastEpochBlock: number; tempo: number }>;
  subnet(atHash: string): Promise<SubnetView>;
  /** Rao of alpha by uid that the subnet's epoch in this block paid, summed over mechanisms; empty if none ran. */
  minerEmissions(hash: string): Promise<readonly bigint[]>;
  /** Rao of TAO per alpha; 0 while there was no subnet. */
  alphaPriceRao(atHash: string): Promise<bigint>;
  commitmentFields(hotkey: Hotkey, atHash: string): Promise<readonly Uint8Array[]>;
  /**
   * Sets the weights of an epoch at most once, also over restarts: what is under way for it is waited for.
   *
   * @returns the block, or the chain's own name for why it refused.
   */
  setWeights(
    epoch: number,
    weights: readonly number[],
    versionKey: bigint,
  ): Promise<{ ok: true; block: number } | { ok: false; refusal: string }>;
}

interface EpochLoopOptions {
  readonly chain: ValidatorChain;
  readonly hotkey: Hotkey;
  readonly state: StateFile;
  readonly rules: SettleRules;
  /** Reaches the log at an announced URL. */
  readonly fetchFrom: (logUrl: string) => FetchBytes;
  /** Verifies evidence of the past; undefined when it does not pass. */
  readonly verifyEnclave: (id: EnclaveId, evidence: string) => Promise<VerifiedEnclave | undefined>;
  readonly verifyQuoteSignature: (quote: SignedQuote, hotkey: Hotkey) => boolean;
  /** Buys probes for an epoch. It never throws; absent when there is no API key. */
  readonly probe?: (
    epoch: number,
    gatewayUrl: string,
    signal: AbortSignal,
  ) => Promise<ProbeSummary | undefined>;
  /** Called after each report that was decided or completed. */
  readonly onReport?: (report: EpochReport) => void;
  /** Called with the outcome of each set_weights. */
  readonly onWeights?: (result: "set" | "refused") => void;
  readonly log: Logger;
}

export interface EpochLoop extends Closable {
  /** Newest last. */
  reports(): readonly EpochReport[];
  /** The last probes that ended. */
  probe(): ProbeSummary | undefined;
  /** The last finalized block that was handled without a failure. */
  handledBlock(): number;
}

/**
 * Processes every epoch of a subnet once, in order, and sets the weights of the newest.
 *
 * Per epoch e, run by the chain at block Bₑ: wait until Bₑ + deadline is final, read the chain at Bₑ and the log root at
 * Bₑ + deadline, audit the log, step the ledger, save, and only then set weights. Two validators that read the same data
 * reach the same state.
 *
 * @throws ConfigError if the saved state cannot be used.
 */
export async function openEpochLoop(options: EpochLoopOptions): Promise<EpochLoop> {
  const { chain, log } = options;
  const closing = new AbortController();
  let state = await options.state.load();
  let handledBlock = -1;
  let notBeforeBlock = 0;
  /** A probe that has ended and is not saved yet. */
  let probed: ProbeSummary | undefined;
  let probing: Promise<void> | undefined;
  let probingEpoch = state?.probes.at(-1)?.epoch ?? -1;

  const save = async (next: ValidatorState): Promise<ValidatorState> => {
    await options.state.save(next);
    state = next;
    return next;
  };

  const handle = async (head: ChainHead): Promise<void> => {
    const position = await chain.epochOf(head.hash);
    let current = state ?? (await save(newState(await firstEpochOf(chain, head, position))));
    if (probed !== undefined) {
      current = await save({ ...current, probes: [...current.probes, probed].slice(-PROBES_KEPT) });
      probed = undefined;
    }
    startProbe(position.index + 1, head);
    while (current.epoch < position.index && !closing.signal.aborted) {
      const next = await nextState(current, head, position);
      if (next === "wait") break;
      current = await save(next);
      notBeforeBlock = 0;
      const report = current.reports.at(-1);
      if (report !== undefined) options.onReport?.(report);
      log.info(summaryOf(report), "epoch.processed");
    }
    // Weights of an epoch that is over would be paid by the next one, which plans for itself.
    if (current.pending?.epoch === position.index) await submit(current, head);
  };

  const nextState = async (
    current: ValidatorState,
    head: ChainHead,
    position: EpochPosition,
  ): Promise<ValidatorState | "wait"> => {
    const epoch = current.epoch + 1;
    const block = await blockOfEpoch(chain, epoch, head, position);
    if (block === undefined) return voidEpoch(current, epoch, options.rules.parameters);
    const deadline = block + rootDeadlineBlocks(position.tempo);
    if (head.number < deadline) return "wait";
    try {
      const facts = await readFacts(chain, epoch, block);
      const findings = await findingsOf(current, facts, deadline, head, position.tempo);
      return findings === "wait" ? "wait" : settleEpoch(current, facts, findings, options.rules);
    } catch (error) {
      // Below the oldest price sample a full node has forgotten: trying again cannot help.
      if (head.number - (block - PRICE_WINDOW_BLOCKS) <= STATE_BLOCKS) throw error;
      log.error({ err: error, epoch, block }, "epoch.state_gone");
      return voidEpoch(current, epoch, options.rules.parameters);
    }
  };

  const findingsOf = async (
    current: ValidatorState,
    facts: EpochFacts,
    deadline: number,
    head: ChainHead,
    tempo: number,
  ): Promise<LogFindings | "wait"> => {
    const hash = await hashOf(chain, deadline);
    const [first, second] = await chain.commitmentFields(facts.ownerHotkey, hash);
    const gateway = gatewayOf(first);
    if (gateway === undefined) return { ok: false, refusal: "missing_announcement" };
    const root = second && parseLogRoot(second);
    if (root?.epoch !== facts.epoch) return { ok: false, refusal: "missing_root" };
    const { key } = gateway;
    const reader = openLogReader(options.fetchFrom(gateway.log), key);
    const waitsUntil = facts.block + Math.floor((tempo * DATA_DEADLINE_PERCENT) / 100);
    try {
      // Another key is another log: what was seen of the old one says nothing about it.
      const previous = current.log?.kid === key.kid ? current.log.edge : undefined;
      const epochLog = await readEpochLog(reader, root, previous);
      if (!epochLog.ok)
        return MAY_STILL_COME.has(epochLog.refusal) && head.number <= waitsUntil
          ? "wait"
          : epochLog;
      const { enclaves, quotes } = await readSideFiles(
        reader,
        epochLog.leaves,
        options.verifyEnclave,
      );
      const verdicts = await auditLeaves({
        epoch: facts.epoch,
        leaves: epochLog.leaves,
        gatewayKey: key,
        verifiedEnclave: (id) => enclaves.get(id),
        signedQuote: (name) => quotes.get(name),
        verifyQuoteSignature: options.verifyQuoteSignature,
        seen: current.seen,
      });
      return { ok: true, key, log: epochLog, verdicts };
    } catch (error) {
      log.warn({ err: error, epoch: facts.epoch, waitsUntil }, "epoch.log_unreachable");
      return head.number <= waitsUntil ? "wait" : { ok: false, refusal: "log_unreachable" };
    }
  };

  const submit = async (current: ValidatorState, head: ChainHead): Promise<void> => {
    const { pending } = current;
    if (pending === undefined || head.number < notBeforeBlock) return;
    const subnet = await chain.subnet(head.hash);
    notBeforeBlock = head.number + WEIGHTS_RETRY_BLOCKS;
    if (subnet.commitRevealEnabled) {
      log.error(
        { epoch: pending.epoch },
        "weights.commit_reveal_enabled: this version sets plain weights only; the subnet owner has to switch commit-reveal off",
      );
      return;
    }
    const own = subnet.neurons.find(({ hotkey }) => hotkey === options.hotkey);
    if (own === undefined) {
      log.error({ hotkey: options.hotkey }, "weights.not_registered");
      return;
    }
    const last = Math.max(own.lastUpdate, current.weightsBlock);
    const allowedBlock = last === 0 ? 0 : last + subnet.weightsRateLimitBlocks;
    if (head.number < allowedBlock) {
      notBeforeBlock = allowedBlock;
      return;
    }
    // A slot that changed hands since must not be paid for who had it.
    const weights = pending.weights.map((weight, uid) =>
      subnet.neurons[uid]?.hotkey === pending.hotkeys[uid] ? weight : 0,
    );
    if (weights.every((weight) => weight === 0)) {
      log.warn({ epoch: pending.epoch }, "weights.nobody_left");
      return;
    }
    const outcome = await chain.setWeights(pending.epoch, weights, subnet.weightsVersionKey);
    options.onWeights?.(outcome.ok ? "set" : "refused");
    if (!outcome.ok) {
      log.warn({ epoch: pending.epoch, refusal: outcome.refusal }, "weights.refused");
      return;
    }
    log.info({ epoch: pending.epoch, block: outcome.block }, "weights.set");
    const reports = current.reports.map((report) =>
      report.epoch === pending.epoch ? { ...report, weights_block: outcome.block } : report,
    );
    await save({ ...current, reports, pending: undefined, weightsBlock: outcome.block });
  };

  const startProbe = (epoch: number, head: ChainHead): void => {
    const { probe } = options;
    if (probe === undefined || probing !== undefined || epoch <= probingEpoch) return;
    probingEpoch = epoch;
    probing = (async () => {
      const { ownerHotkey } = await chain.subnet(head.hash);
      const gateway = gatewayOf((await chain.commitmentFields(ownerHotkey, head.hash))[0]);
      probed = gateway && (await probe(epoch, gateway.url, closing.signal));
      // A gateway that is not there yet is looked for again at the next head.
      if (probed === undefined) probingEpoch = epoch - 1;
    })()
      .catch((error: unknown) => log.warn({ err: error, epoch }, "probe.failed"))
      .finally(() => {
        probing = undefined;
      });
  };

  const wake = openSerialTask(async () => {
    const head = await chain.finalizedHead();
    await handle(head);
    handledBlock = head.number;
  }, log);
  const stop = chain.onFinalizedHead(() => wake.run());
  wake.run();

  let closed: Promise<void> | undefined;
  return {
    reports: () => state?.reports ?? [],
    probe: () => probed ?? state?.probes.at(-1),
    handledBlock: () => handledBlock,
    close: () =>
      (closed ??= (async () => {
        stop();
        closing.abort();
        await wake.close();
        await probing;
      })()),
  };
}

interface EpochPosition {
  readonly index: number;
  readonly lastEpochBlock: number;
  readonly tempo: number;
}

/** Runs a piece of work once at a time; calls during a run cause one more. After a failure it tries again by itself. */
function openSerialTask(work: () => Promise<void>, log: Logger): Closable & { run(): void } {
  const closing = new AbortController();
  let wanted = false;
  let running: Promise<void> | undefined;
  const loop = async (): Promise<void> => {
    while (wanted && !closing.signal.aborted) {
      wanted = false;
      try {
        await work();
      } catch (error) {
        if (closing.signal.aborted) return;
        log.warn({ err: error }, "epoch.failed");
        await delay(RETRY_MS, undefined, { signal: closing.signal }).catch(() => undefined);
        wanted = true;
      }
    }
  };
  return {
    run: () => {
      wanted = true;
      running ??= loop().finally(() => {
        running = undefined;
      });
    },
    close: async () => {
      closing.abort();
      await running;
    },
  };
}

/** The oldest epoch whose block can still be found: a new validator replays from there. */
async function firstEpochOf(
  chain: ValidatorChain,
  head: ChainHead,
  position: EpochPosition,
): Promise<number> {
  let { index, lastEpochBlock } = position;
  const oldest = Math.max(1, position.index - REPLAYED_EPOCHS_MAX);
  while (index > oldest) {
    const before = await positionBefore(chain, lastEpochBlock, head);
    if (before === undefined) break;
    ({ index, lastEpochBlock } = before);
  }
  return Math.max(index, 1);
}

/** The block that ran an epoch. @returns undefined if the chain's state of that time is gone. */
async function blockOfEpoch(
  chain: ValidatorChain,
  epoch: number,
  head: ChainHead,
  position: EpochPosition,
): Promise<number | undefined> {
  let { index, lastEpochBlock } = position;
  while (index > epoch) {
    const before = await positionBefore(chain, lastEpochBlock, head);
    if (before === undefined) return undefined;
    ({ index, lastEpochBlock } = before);
  }
  return index === epoch ? lastEpochBlock : undefined;
}

async function positionBefore(
  chain: ValidatorChain,
  block: number,
  head: ChainHead,
): Promise<EpochPosition | undefined> {
  try {
    return await chain.epochOf(await hashOf(chain, block - 1));
  } catch (error) {
    if (head.number - (block - 1) <= STATE_BLOCKS) throw error;
    return undefined;
  }
}

async function readFacts(chain: ValidatorChain, epoch: number, block: number): Promise<EpochFacts> {
  const [hash, hashBefore] = await Promise.all([hashOf(chain, block), hashOf(chain, block - 1)]);
  const [subnet, before, emissions, priceSamplesRao] = await Promise.all([
    chain.subnet(hash),
    chain.subnet(hashBefore),
    chain.minerEmissions(hash),
    Promise.all(
      priceSampleBlocks(block, hash).map(
        async (sample) => await chain.alphaPriceRao(await hashOf(chain, sample)),
      ),
    ),
  ]);
  return {
    epoch,
    block,
    ownerHotkey: subnet.ownerHotkey,
    ownerColdkey: subnet.ownerColdkey,
    neurons: subnet.neurons,
    neuronsBefore: before.neurons,
    emissions,
    priceSamplesRao,
  };
}

async function hashOf(chain: ValidatorChain, number: number): Promise<string> {
  const hash = await chain.blockHash(number);
  if (hash === undefined) throw new Error(`the chain has no block ${number}`);
  return hash;
}

type GatewayAnnouncement = Omit<Extract<Announcement, { kind: "gateway" }>, "key"> & {
  readonly key: VerifyingKey;
};

function gatewayOf(field: Uint8Array | undefined): GatewayAnnouncement | undefined {
  const announcement = field && parseAnnouncement(field);
  if (announcement?.kind !== "gateway") return undefined;
  const key = verifyingKey(announcement.key);
  return key && { ...announcement, key };
}

function summaryOf(report: EpochReport | undefined): object {
  if (report === undefined) return {};
  const { epoch, block, verdict, reason, state_hash, burn_bps, leaves, refusals } = report;
  return { epoch, block, verdict, reason, state_hash, burn_bps, leaves, refusals };
}
