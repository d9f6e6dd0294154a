import { setTimeout as delay } from "node:timers/promises";
import type { Ledger, LogEpoch } from "../billing/ledger.ts";
import { encodeLogRoot, type LogRoot } from "../core/commitment.ts";
import { payingEpochOf } from "../core/epoch.ts";
import { type Hotkey, hotkeyOf } from "../core/ids.ts";
import { CATALOGUE_VERSION } from "../core/models.ts";
import { countersignatureFromJson } from "../core/receipt.ts";
import { decodeClaims } from "../core/signed-claims.ts";
import type { Logger } from "../runtime/logger.ts";
import type { Closable } from "../runtime/shutdown.ts";
import { encodeEpochFile, epochFileHashOf } from "../usage-log/epoch-file.ts";
import type { UsageLogWriter } from "../usage-log/writer.ts";
import type { BlockHead } from "./miner-directory.ts";

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
}

/**
 * Moves leaves from the ledger to the log's files and, when the chain has run an epoch, closes the log's epoch: epoch
 * file, checkpoint, root on the chain.
 *
 * An epoch ends after the leaves that the ledger holds when its end is seen. Only when that is recorded are requests
 * dispatched for the next one, so no epoch's log holds a receipt of a later epoch. What is recorded never changes, and
 * every step before it can be repeated, so a restart neither skips nor repeats an epoch.
 */
export async function openLogPublisher(options: {
  readonly ledger: LogLedger;
  readonly writer: UsageLogWriter;
  readonly chain: LogChain;
  /** Field 1 of the commitment. */
  readonly announcement: Uint8Array;
  readonly log: Logger;
}): Promise<LogPublisher> {
  const { ledger, writer, chain, log } = options;
  const stopping = new AbortController();
  let epochIndex = 0;
  let last: Promise<unknown> = Promise.resolve();
  let publishing: Promise<void> | undefined;
  let announced = false;

  /** One change of the log at a time. */
  const inTurn = async <T>(work: () => Promise<T>): Promise<T> => {
    const turn = last.then(work);
    last = turn.catch(() => undefined);
    return await turn;
  };

  const drainTo = async (size: bigint): Promise<void> => {
    while (writer.size() < size) {
      const left = size - writer.size();
      const limit = left < BigInt(PAGE_LEAVES) ? Number(left) : PAGE_LEAVES;
      const page = await ledger.leaves(writer.size(), limit);
      if (page.length === 0) throw new Error(`the ledger has no leaf ${writer.size()}`);
      await writer.append(page.map(({ leaf }) => Buffer.from(leaf)));
    }
    await writer.publishCheckpoint();
  };

  const closeEpoch = async (epoch: number, first: bigint): Promise<void> => {
    const size = await ledger.leafCount();
    await drainTo(size);
    const root = writer.root();
    const json = encodeEpochFile({
      epoch,
      first,
      size,
      root,
      catalogue: CATALOGUE_VERSION,
      sums: await sumsOf(ledger, first, size),
      receipts: Number(size - first),
    });
    await writer.putEpoch(epoch, json);
    await ledger.closeLogEpoch({
      epoch,
      size,
      root: Buffer.from(root).toString("hex"),
      sums: epochFileHashOf(json).toString("hex"),
    });
    log.info({ epoch, leaves: Number(size - first) }, "log.epoch_closed");
  };

  const drain = async (): Promise<void> => {
    await drainTo(await ledger.leafCount());
  };

  const seeEpoch = async (atHash: string): Promise<void> => {
    const index = await chain.epochIndex(atHash);
    if (index <= epochIndex) return;
    const [newest] = await ledger.logEpochs(1);
    if (newest === undefined || newest.epoch < index) await closeEpoch(index, newest?.size ?? 0n);
    // Only now: whatever is dispatched from here on is settled after the epoch's last leaf.
    epochIndex = index;
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
  const startPublishing = (): void => {
    publishing = (publishing ?? Promise.resolve()).then(publish);
  };

  const onHead = async (head: BlockHead): Promise<void> => {
    const before = epochIndex;
    await inTurn(() => seeEpoch(head.hash));
    if (epochIndex !== before) startPublishing();
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
  if (!(await publishOnce())) startPublishing();
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
