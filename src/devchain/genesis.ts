import { randomBytes } from "node:crypto";
import { blockHashOf, openExecution, stateRootOf } from "./block.ts";
import type { Snapshot } from "./chain-file.ts";
import { mint } from "./pallets/balances.ts";
import { beginBeacon } from "./pallets/drand.ts";
import { ROOT_NETUID, subtensor } from "./pallets/subtensor/storage.ts";
import { sudo } from "./pallets/sudo.ts";
import { EVENTS_KEY, system } from "./pallets/system.ts";
import { type Hex, toHex } from "./scale/bytes.ts";

/** Who owns how many rao in block 0. */
export interface Endowment {
  readonly account: Hex;
  readonly rao: bigint;
}

const NO_HASH: Hex = `0x${"00".repeat(32)}`;

/** Block 0: balances, the root subnet, the randomness beacon, and the sudo key, which the first account gets. */
export function beginChain(endowed: readonly Endowment[]): Snapshot {
  const execution = openExecution({ get: () => undefined }, 0, raise);
  for (const { account, rao } of endowed) mint(execution, account, rao);
  const [first] = endowed;
  if (first !== undefined) sudo.Key.put(execution, [], first.account);
  subtensor.NetworksAdded.put(execution, [ROOT_NETUID], true);
  subtensor.TotalNetworks.put(execution, [], 1);
  subtensor.CommitRevealWeightsEnabled.put(execution, [ROOT_NETUID], false);
  beginBeacon(execution, BigInt(Date.now()));
  const changes = new Map(execution.finish());
  changes.delete(EVENTS_KEY);
  changes.delete(system.EventCount.keyOf());
  const header = {
    number: 0,
    parentHash: NO_HASH,
    stateRoot: stateRootOf(NO_HASH, changes),
    // Random, so that every new chain has its own genesis hash: clients notice that it is another one, and no
    // transaction is valid on both.
    extrinsicsRoot: toHex(randomBytes(32)),
    logs: [],
  };
  const genesis = { ...header, hash: blockHashOf(header), extrinsics: [] };
  const entries = [...changes].flatMap(([key, value]) =>
    value === undefined ? [] : [[key, value] as const],
  );
  return { genesis, base: genesis, entries };
}

/** Nothing that genesis does can fail. */
function raise(error: unknown): never {
  throw error;
}
