/**
 * The randomness beacon. The real chain stores what drand's quicknet publishes; a local chain is its own beacon, with a key
 * of its own, so that timelocked weights are revealed without the network.
 *
 * @module
 */
import { createHash } from "node:crypto";
import { storageOf } from "../metadata/storage-item.ts";
import { boundedBytes, fixedBytes, struct, u32, u64, vec } from "../scale/codec.ts";
import {
  newBeaconSecret,
  PUBLIC_KEY_BYTES,
  publicKeyOf,
  SECRET_BYTES,
  signRound,
} from "../timelock.ts";
import { type Execution, entriesOf, type Pallet, palletEvents } from "./pallet.ts";

const INDEX = 26;
const HASH_BYTES = 32;
const SIGNATURE_BYTES_MAX = 144;
/** Seconds between two rounds, as quicknet's. */
const PERIOD_S = 3;
const MS_PER_S = 1_000n;
/** Rounds whose pulses stay: two hours. The real chain keeps a week. */
const PULSES_KEPT = 2_400n;
/** After a pause only this many of the missed rounds are signed, and those that someone waits for: each takes some 15 ms. */
const CATCH_UP_ROUNDS = 40n;
/** Old pulses that one block removes. */
const PRUNED_PER_BLOCK = 1_000n;

const hash = boundedBytes(HASH_BYTES);
const beaconConfig = struct("pallet_drand::types::BeaconConfiguration", {
  public_key: boundedBytes(PUBLIC_KEY_BYTES),
  period: u32,
  genesis_time: u32,
  hash,
  group_hash: hash,
  scheme_id: hash,
  metadata: struct("pallet_drand::types::Metadata", { beacon_id: hash }),
});

const pulse = struct("pallet_drand::types::Pulse", {
  round: u64,
  randomness: boundedBytes(HASH_BYTES),
  signature: boundedBytes(SIGNATURE_BYTES_MAX),
});

const NOTHING = new Uint8Array();
const NO_BEACON = {
  public_key: NOTHING,
  period: PERIOD_S,
  genesis_time: 0,
  hash: NOTHING,
  group_hash: NOTHING,
  scheme_id: NOTHING,
  metadata: { beacon_id: NOTHING },
};

const storage = storageOf("Drand");
const items = {
  BeaconConfig: storage.value("BeaconConfig", beaconConfig, NO_BEACON),
  Pulses: storage.optionalMap("Pulses", [["Blake2_128Concat", u64]], pulse),
  LastStoredRound: storage.value("LastStoredRound", u64, 0n),
  OldestStoredRound: storage.value("OldestStoredRound", u64, 0n),
};

/** Storage of the Drand pallet. */
export const drand = items;

/** The beacon's own key. Not in the metadata: no real chain has it. */
const secretItem = storageOf("DevchainBeacon").optional("Secret", fixedBytes(SECRET_BYTES));

const events = palletEvents(INDEX, { NewPulse: [1, { rounds: vec(u64) }] });

/** Gives a chain its beacon, whose first round is now. @returns its secret key. */
export function beginBeacon(execution: Execution, nowMs: bigint): Uint8Array {
  const secret = newBeaconSecret();
  const publicKey = publicKeyOf(secret);
  secretItem.put(execution, [], secret);
  items.BeaconConfig.put(execution, [], {
    public_key: publicKey,
    period: PERIOD_S,
    genesis_time: Number(nowMs / MS_PER_S),
    hash: createHash("sha256").update(publicKey).digest(),
    group_hash: createHash("sha256").update("daybreak-devchain").digest(),
    scheme_id: Buffer.from("bls-unchained-g1-rfc9380"),
    metadata: { beacon_id: Buffer.from("devchain") },
  });
  return secret;
}

/**
 * Stores the pulses of the rounds that have come.
 *
 * @param awaited rounds that someone waits for: they are stored even if a pause has skipped them.
 */
export function storePulses(
  execution: Execution,
  nowMs: bigint,
  awaited: ReadonlySet<bigint>,
): void {
  const secret = secretItem.get(execution) ?? beginBeacon(execution, nowMs);
  const { genesis_time: genesis, period } = items.BeaconConfig.get(execution);
  const current = (nowMs / MS_PER_S - BigInt(genesis)) / BigInt(period) + 1n;
  const last = items.LastStoredRound.get(execution);
  if (current <= last) return;
  prunePulses(execution, current - PULSES_KEPT, awaited);
  const first = last + CATCH_UP_ROUNDS < current ? current - CATCH_UP_ROUNDS + 1n : last + 1n;
  const skipped = [...awaited].filter((round) => round > last && round < first);
  const rounds = skipped.toSorted((a, b) => Number(a - b));
  for (let round = first; round <= current; round++) rounds.push(round);
  for (const round of rounds) {
    const signature = signRound(secret, round);
    const randomness = createHash("sha256").update(signature).digest();
    items.Pulses.put(execution, [round], { round, randomness, signature });
  }
  items.LastStoredRound.put(execution, [], current);
  execution.emit(events.NewPulse, { rounds });
}

function prunePulses(execution: Execution, before: bigint, awaited: ReadonlySet<bigint>): void {
  const oldest = items.OldestStoredRound.get(execution);
  const end = before < oldest + PRUNED_PER_BLOCK ? before : oldest + PRUNED_PER_BLOCK;
  if (end <= oldest) return;
  for (let round = oldest; round < end; round++) {
    const isStored = execution.get(items.Pulses.keyOf(round)) !== undefined;
    if (isStored && !awaited.has(round)) items.Pulses.remove(execution, round);
  }
  items.OldestStoredRound.put(execution, [], end);
}

export const drandPallet: Pallet = {
  name: "Drand",
  index: INDEX,
  path: "pallet_drand",
  storage: entriesOf(items),
  events,
};
