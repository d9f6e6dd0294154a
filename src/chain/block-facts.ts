import type { EventRecord } from "@polkadot/types/interfaces";
import type { Codec } from "@polkadot/types/types";
import type { Netuid } from "../core/ids.ts";
import { type Rao, rao } from "../core/money.ts";
import type { BlockState, Head } from "./block-state.ts";
import { ChainError } from "./chain-error.ts";
import { accountOf, bigintOf, listOf, numberOf } from "./codec-values.ts";
import { remarkCallIndex, remarksIn } from "./remarks.ts";

const EVENTS = ["system", "events"] as const;
const TIMESTAMP = ["timestamp", "now"] as const;
/** Remarks of one sender in one extrinsic that are read; a batch may have thousands. */
const MEMOS_MAX = 32;

/** TAO that moved. */
export interface Transfer {
  /** Position among the block's events: with the block's hash, the transfer's name. */
  readonly eventIndex: number;
  /** Position of the extrinsic; undefined if the runtime itself moved it, before or after all extrinsics. */
  readonly extrinsicIndex: number | undefined;
  /** ss58, prefix 42. */
  readonly from: string;
  readonly to: string;
  readonly rao: Rao;
  /**
   * Remarks that the sender made in the same extrinsic and that did run, each text once, at most 32: printable ASCII of at
   * most 128 bytes. Empty for a transfer by the runtime itself.
   */
  readonly memos: readonly string[];
}

/** What an extrinsic cost its sender, whether it failed or not. */
export interface Fee {
  /** Position among the block's events. */
  readonly eventIndex: number;
  /** ss58, prefix 42. */
  readonly who: string;
  /** Tip included. */
  readonly rao: Rao;
}

/** What miners earned when a subnet's epoch ran in this block. */
export interface MinerEmissions {
  readonly netuid: Netuid;
  /** Rao of alpha, by uid. */
  readonly emissions: readonly bigint[];
}

export interface BlockFacts {
  readonly head: Head;
  /** The block's own time. */
  readonly timestampMs: number;
  readonly transfers: readonly Transfer[];
  readonly fees: readonly Fee[];
  readonly minerEmissions: readonly MinerEmissions[];
}

/**
 * Reads one block's events. A transfer counts because `Balances.Transfer` says so, never because a call asks for it:
 * a call inside a failed batch or proxy never ran. Events of failed extrinsics are left out, but for the fee.
 */
export async function readBlockFacts(state: BlockState): Promise<BlockFacts> {
  const [now, events] = await state.read([{ item: TIMESTAMP }, { item: EVENTS }]);
  const records = recordsOf(events);
  const succeeded = new Set<number>();
  for (const { phase, event } of records) {
    if (phase.isApplyExtrinsic && isEvent(event, "system", "ExtrinsicSuccess")) {
      succeeded.add(phase.asApplyExtrinsic.toNumber());
    }
  }
  const transfers: Omit<Transfer, "memos">[] = [];
  const remarks: Remark[] = [];
  const fees: Fee[] = [];
  const minerEmissions: MinerEmissions[] = [];
  for (const [eventIndex, { phase, event }] of records.entries()) {
    const extrinsicIndex = phase.isApplyExtrinsic ? phase.asApplyExtrinsic.toNumber() : undefined;
    if (isEvent(event, "transactionPayment", "TransactionFeePaid")) {
      const [who, fee] = eventFields(event, "who", "actualFee");
      fees.push({ eventIndex, who: accountOf(who), rao: rao(bigintOf(fee)) });
    }
    if (extrinsicIndex !== undefined && !succeeded.has(extrinsicIndex)) continue;
    if (isEvent(event, "balances", "Transfer")) {
      const [from, to, amount] = eventFields(event, "from", "to", "amount");
      transfers.push({
        eventIndex,
        extrinsicIndex,
        from: accountOf(from),
        to: accountOf(to),
        rao: rao(bigintOf(amount)),
      });
    } else if (extrinsicIndex !== undefined && isEvent(event, "system", "Remarked")) {
      // polkadot-js (16.5.6) renames fields that its codecs have methods for.
      const [sender, hash] = eventFields(event, "sender", "hash_");
      if (hash !== undefined)
        remarks.push({ extrinsicIndex, sender: accountOf(sender), hash: hash.toHex() });
    } else if (isEvent(event, "subtensorModule", "IncentiveAlphaEmittedToMiners")) {
      const [netuid, emissions] = eventFields(event, "netuid", "emissions");
      minerEmissions.push({
        netuid: numberOf(netuid) as Netuid,
        emissions: listOf(emissions).map(bigintOf),
      });
    }
  }
  return {
    head: state.head,
    timestampMs: numberOf(now),
    transfers: await withMemos(state, transfers, remarks),
    fees,
    minerEmissions,
  };
}

/** A remark's event. It has the hash of the text only. */
interface Remark {
  readonly extrinsicIndex: number;
  readonly sender: string;
  /** Blake2-256, 0x-hex. */
  readonly hash: string;
}

/** Finds the texts of the remarks beside transfers. The block's body is fetched only if there are any. */
async function withMemos(
  state: BlockState,
  transfers: readonly Omit<Transfer, "memos">[],
  remarks: readonly Remark[],
): Promise<Transfer[]> {
  const remarked = new Map<number, Set<string>>();
  const paying = new Set(transfers.map(({ extrinsicIndex }) => extrinsicIndex));
  for (const { extrinsicIndex, hash } of remarks) {
    if (!paying.has(extrinsicIndex)) continue;
    const hashes = remarked.get(extrinsicIndex) ?? new Set();
    remarked.set(extrinsicIndex, hashes.add(hash));
  }
  if (remarked.size === 0) return transfers.map((transfer) => ({ ...transfer, memos: [] }));
  const texts = await textsOf(state, remarked);
  /** One list for all transfers of a sender in an extrinsic: a batch can have thousands of both. */
  const memosBy = new Map<string, string[]>();
  for (const { extrinsicIndex, sender, hash } of remarks) {
    const text = texts.get(extrinsicIndex)?.get(hash);
    if (text === undefined) continue;
    const memos = memosBy.get(`${extrinsicIndex} ${sender}`) ?? [];
    if (memos.length < MEMOS_MAX && !memos.includes(text)) memos.push(text);
    memosBy.set(`${extrinsicIndex} ${sender}`, memos);
  }
  return transfers.map((transfer) => ({
    ...transfer,
    memos: memosBy.get(`${transfer.extrinsicIndex} ${transfer.from}`) ?? [],
  }));
}

async function textsOf(
  state: BlockState,
  remarked: ReadonlyMap<number, ReadonlySet<string>>,
): Promise<ReadonlyMap<number, ReadonlyMap<string, string>>> {
  let callIndex: Uint8Array;
  try {
    callIndex = remarkCallIndex(state.runtime);
  } catch (error) {
    // A runtime that renamed the call costs the memos, not the deposits of all.
    if (error instanceof ChainError && error.name === "Unsupported") return new Map();
    throw error;
  }
  const extrinsics = await state.extrinsics();
  return new Map(
    [...remarked].map(([index, hashes]) => [
      index,
      remarksIn(extrinsics[index] ?? new Uint8Array(), callIndex, hashes),
    ]),
  );
}

/** All events of a block, in order. */
export async function readEvents(state: BlockState): Promise<readonly EventRecord[]> {
  const [events] = await state.read([{ item: EVENTS }]);
  return recordsOf(events);
}

function recordsOf(events: Codec | undefined): readonly EventRecord[] {
  return listOf(events) as readonly EventRecord[];
}

type ChainEvent = EventRecord["event"];

export function isEvent(event: ChainEvent, section: string, method: string): boolean {
  return event.section === section && event.method === method;
}

/** Fields by name; older runtimes leave events' fields unnamed, then by position. */
function eventFields(event: ChainEvent, ...names: readonly string[]): (Codec | undefined)[] {
  const known = event.data.names;
  return names.map((name, position) => event.data[known?.indexOf(name) ?? position]);
}
