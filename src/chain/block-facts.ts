import type { EventRecord } from "@polkadot/types/interfaces";
import type { Codec } from "@polkadot/types/types";
import type { Netuid } from "../core/ids.ts";
import { type Rao, rao } from "../core/money.ts";
import type { BlockState, Head } from "./block-state.ts";
import { accountOf, bigintOf, listOf, numberOf } from "./codec-values.ts";

const EVENTS = ["system", "events"] as const;
const TIMESTAMP = ["timestamp", "now"] as const;

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
  readonly minerEmissions: readonly MinerEmissions[];
}

/**
 * Reads one block's events. A transfer counts because `Balances.Transfer` says so, never because a call asks for it:
 * a call inside a failed batch or proxy never ran. Events of failed extrinsics are left out.
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
  const transfers: Transfer[] = [];
  const minerEmissions: MinerEmissions[] = [];
  for (const [eventIndex, { phase, event }] of records.entries()) {
    const extrinsicIndex = phase.isApplyExtrinsic ? phase.asApplyExtrinsic.toNumber() : undefined;
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
    } else if (isEvent(event, "subtensorModule", "IncentiveAlphaEmittedToMiners")) {
      const [netuid, emissions] = eventFields(event, "netuid", "emissions");
      minerEmissions.push({
        netuid: numberOf(netuid) as Netuid,
        emissions: listOf(emissions).map(bigintOf),
      });
    }
  }
  return { head: state.head, timestampMs: numberOf(now), transfers, minerEmissions };
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
