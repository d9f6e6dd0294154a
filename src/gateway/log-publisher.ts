import { setTimeout as delay } from "node:timers/promises";
import type { Ledger, LogEpoch } from "../billing/ledger.ts";
import { encodeLogRoot, type LogRoot } from "../core/commitment.ts";
import { payingEpochOf } from "../core/epoch.ts";
import { type Hotkey, hotkeyOf } from "../core/ids.ts";
import { CATALOGUE_VERSION } from "../core/models.ts";
import { countersignatureFromJson } from "../core/receipt.ts";
import { decodeClaims } from "../core/signed-claims.ts";
import { JobFailure, type JobQueue } from "../runtime/jobs.ts";
import type { Logger } from "../runtime/logger.ts";
import type { Closable } from "../runtime/shutdown.ts";
import { encodeEpochFile, epochFileHashOf } from "../usage-log/epoch-file.ts";
import type { UsageLogWriter } from "../usage-log/writer.ts";
import type { BlockHead } from "./miner-directory.ts";
import { LOG_ROOT_QUEUE, type LogEnd, type LogEnds } from "./shared-log.ts";

/**
 * How often new leaves are moved from the ledger to the files, in milliseconds. The unfinished tiles and the checkpoint
 * are written anew each time, about 40 file operations and 4 ms of CPU for however few leaves.
 */
const DRAIN_INTERVAL_MS = 1_000;
/** Leaves that are read at once. */
const PAGE_LEAVES = 256;
const PUBLISH_RETRY_FIRST_MS = 500;
const PUBLISH_RETRY_MAX_MS = 15_000;

/** Where leaves and closed epochs are kept. */
type LogLedger = Pick<
  Ledger,
  "leaves" | "leafCount" | "logEpochs" | "closeLogEpoch" | "markLogEpochPublished"
>;

/** The chain, as far as the log needs it. */
export interface LogChain {
  finalizedHead(): Promise<BlockHead>;
  onFinalizedHead(listener: (head: BlockHead) => void): () => void;
  /** Epochs that have run after that block. */
  epochIndex(atHash: string): Promise<number>;
  /** The fields of this gateway's commitment; undefined when there is none. */
  commitment(): Promise<readonly Uint8Array[] | undefined>;
  /** Replaces the commitment. @returns the hash of the block that has it. */
  commit(fields: readonly Uint8Array[]): Promise<string>;
}

export interface LogPublisher extends Closable {
  /** The epoch that pays for what is dispatched now. */
  payingEpoch(): number;
  /** Whether the chain shows where this gateway is. Until then relays refuse its grants. */
  announced(): boolean;
  /** Resolves when every leaf that is in the ledger now is in the published log. */
  drained(): Promise<void>;
  /** Brings the root of the last epoch that has ended on the chain. Safe to repeat. @throws JobFailure when it is not there. */
  publishRoot(): Promise<void>;
}

/**
 * The job that every end of an epoch starts: it brings the root on the chain when the gateway that ended the epoch could not.
 * It is tried for ten minutes; after that, the next epoch's root covers what this one did.
 */
export function logRootQueue(publisher: Pick<LogPublisher, "publishRoot">): JobQueue {
  return {
    name: LOG_ROOT_QUEUE,
    attemptsMax: 45,
    timeoutMs: 120_000,
    concurrency: 1,
    retryMs: PUBLISH_RETRY_FIRST_MS,
    retryMsMax: PUBLISH_RETRY_MAX_MS,
    run: async () => await publisher.publishRoot(),
  };
}

/**
 * Moves leaves from the ledger to the log's files and, when the chain has run an epoch, closes the log's epoch: epoch
 * file, checkpoint, and a job that brings the root on the chain.
 *
 * An epoch ends after the leaves that the ledger holds when the first gateway sees its end. Only when that is recorded does a
 * gateway dispatch requests for the next one, so no epoch's log holds a receipt of a later epoch. What is recorded never
 * changes, and every step after it gives the same files wherever and however often it is taken, so each gateway of one key has
 * the whole log, and a restart neither skips nor repeats an epoch.
 */
export async function openLogPublisher(options: {
  readonly ledger: LogLedger;
  readonly writer: UsageLogWriter;
  readonly chain: LogChain;
  /** Field 1 of the commitment. */
  readonly announcement: Uint8Array;
  readonly ends: LogEnds;
  readonly log: Logger;
}): Promise<LogPublisher> {
  const { ledger, writer, chain, log } = options;
  const stopping = new AbortController();
  let epochIndex = 0;
  /** The last epoch that this process has closed. */
  let closedEpoch = -1;
  let last: Promise<unknown> = Promise.resolve();
  let announced = false;

  /** One change of the log at a time. */
  const inTurn = async <T>(work: () => Promise<T>): Promise<T> => {
    const turn = last.then(work);
    last = turn.catch(() => undefined);
    return await turn;
  };

  const appendTo = async (size: bigint): Promise<void> => {
    while (writer.size() < size) {
      const left = size - writer.size();
      const limit = left < BigInt(PAGE_LEAVES) ? Number(left) : PAGE_LEAVES;
      const page = await ledger.leaves(writer.size(), limit);
      if (page.length === 0) throw new Error(`the ledger has no leaf ${writer.size()}`);
      await writer.append(page.map(({ leaf }) => Buffer.from(leaf)));
    }
  };

  /** Leaves, tiles and file of an epoch; whichever gateway does this gets the same ones. */
  const closeEpoch = async ({ epoch, first, size, catalogue }: LogEnd): Promise<void> => {
    await appendTo(size);
    await writer.putPartialTiles();
    const root = Buffer.from(writer.root()).toString("hex");
    const json = encodeEpochFile({
      epoch,
      first,
      size,
      root: writer.root(),
      catalogue: catalogue ?? CATALOGUE_VERSION,
      sums: await sumsOf(ledger, first, size),
      receipts: Number(size - first),
    });
    await writer.putEpoch(epoch, json);
    const sums = epochFileHashOf(json).toString("hex");
    const closed = await ledger.closeLogEpoch({ epoch, size, root, sums });
    if (closed.root !== root || closed.sums !== sums)
      throw new Error(`epoch ${epoch} of the log was closed with another root or other sums`);
    closedEpoch = epoch;
    log.info({ epoch, leaves: Number(size - first) }, "log.epoch_closed");
  };

  const drain = async (): Promise<void> => {
    const size = await ledger.leafCount();
    // Only now, see LogEnds: other gateways end epochs as well, and each end needs tiles of its own.
    for (const end of await options.ends.after(closedEpoch, writer.size())) await closeEpoch(end);
    await appendTo(size);
    await writer.publishCheckpoint();
  };

  /** @returns whether this gateway has ended an epoch, and so is to publish its root. */
  const seeEpoch = async (atHash: string): Promise<boolean> => {
    const index = await chain.epochIndex(atHash);
    if (index <= epochIndex) return false;
    const isOurs = await options.ends.decide(index, CATALOGUE_VERSION);
    await drain();
    // Only now: whatever is dispatched from here on is settled after the epoch's last leaf.
    epochIndex = index;
    return isOurs;
  };

  const wantedFields = async (): Promise<{
    fields: Uint8Array[];
    newest: LogEpoch | undefined;
  }> => {
    const [newest] = await ledger.logEpochs(1);
    const fields = [options.announcement];
    if (newest !== undefined) fields.push(encodeLogRoot(rootOf(newest)));
    return { fields, newest };
  };

  /** Brings the commitment on the chain up to date. @returns whether it is. */
  const publishOnce = async (): Promise<boolean> => {
    try {
      const { fields, newest } = await wantedFields();
      if (!sameFields(await chain.commitment(), fields)) {
        const block = await chain.commit(fields);
        if (newest !== undefined) await ledger.markLogEpochPublished(newest.epoch, block);
        log.info({ epoch: newest?.epoch, block }, "log.root_published");
      }
      announced = true;
      return true;
    } catch (error) {
      log.warn({ err: error }, "log.publish_failed");
      return false;
    }
  };
  const publish = async (): Promise<void> => {
    let waitMs = PUBLISH_RETRY_FIRST_MS;
    while (!stopping.signal.aborted && !(await publishOnce())) {
      await delay(waitMs, undefined, { signal: stopping.signal }).catch(() => undefined);
      waitMs = Math.min(waitMs * 2, PUBLISH_RETRY_MAX_MS);
    }
  };
  const onHead = async (head: BlockHead): Promise<void> => {
    if (await inTurn(() => seeEpoch(head.hash))) publishing = publishing.then(publish);
  };

  let newestHead: BlockHead | undefined;
  let following: Promise<void> | undefined;
  const follow = async (): Promise<void> => {
    while (newestHead !== undefined && !stopping.signal.aborted) {
      const head = newestHead;
      newestHead = undefined;
      try {
        await onHead(head);
      } catch (error) {
        log.warn({ err: error, block: head.number }, "log.epoch_failed");
      }
    }
  };

  await inTurn(async () => await seeEpoch((await chain.finalizedHead()).hash));
  let publishing = (await publishOnce()) ? Promise.resolve() : publish();
  const stop = chain.onFinalizedHead((head) => {
    newestHead = head;
    following ??= follow().finally(() => {
      following = undefined;
    });
  });
  let draining = false;
  const timer = setInterval(() => {
    if (draining) return;
    draining = true;
    inTurn(drain)
      .catch((error: unknown) => log.warn({ err: error }, "log.drain_failed"))
      .finally(() => {
        draining = false;
      });
  }, DRAIN_INTERVAL_MS);

  let closing: Promise<void> | undefined;
  const close = async (): Promise<void> => {
    stop();
    clearInterval(timer);
    stopping.abort();
    await following;
    await publishing;
    await inTurn(drain).catch((error: unknown) => log.warn({ err: error }, "log.drain_failed"));
  };
  return {
    payingEpoch: () => payingEpochOf(epochIndex),
    announced: () => announced,
    drained: () => inTurn(drain),
    publishRoot: async () => {
      await inTurn(drain);
      if (!(await publishOnce())) throw new JobFailure("the chain did not take the root");
    },
    close: () => (closing ??= close()),
  };
}

function rootOf({ epoch, size, root, sums }: LogEpoch): LogRoot {
  return { epoch, size, root: Buffer.from(root, "hex"), sums: Buffer.from(sums, "hex") };
}

function sameFields(a: readonly Uint8Array[] | undefined, b: readonly Uint8Array[]): boolean {
  return (
    a?.length === b.length &&
    b.every((field, index) => Buffer.from(field).equals(a[index] ?? Buffer.alloc(0)))
  );
}

/** What every miner earned by the leaves from `first` to before `size`; miners that earned nothing are left out. */
async function sumsOf(
  ledger: LogLedger,
  first: bigint,
  size: bigint,
): Promise<Map<Hotkey, bigint>> {
  const sums = new Map<Hotkey, bigint>();
  let at = first;
  while (at < size) {
    const left = size - at;
    const limit = left < BigInt(PAGE_LEAVES) ? Number(left) : PAGE_LEAVES;
    const page = await ledger.leaves(at, limit);
    if (page.length === 0) throw new Error(`the ledger has no leaf ${at}`);
    for (const { leaf } of page) {
      const earned = earnedBy(leaf);
      if (earned !== undefined)
        sums.set(earned.hotkey, (sums.get(earned.hotkey) ?? 0n) + earned.amount);
    }
    at += BigInt(page.length);
  }
  return sums;
}

/** The credit in a leaf that this gateway wrote itself. */
function earnedBy(leaf: string): { hotkey: Hotkey; amount: bigint } | undefined {
  const [receipt = "", countersignature = ""] = leaf.split("\n");
  const hotkey = hotkeyOf(decodeClaims(receipt)?.payload["iss"]);
  const countersigned = decodeClaims(countersignature)?.payload;
  const parsed = countersigned === undefined ? undefined : countersignatureFromJson(countersigned);
  if (hotkey === undefined || parsed === undefined || parsed.promo) return undefined;
  const amount = BigInt(parsed.amt);
  return amount === 0n ? undefined : { hotkey, amount };
}
