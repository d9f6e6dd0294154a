import type { Extrinsic } from "./extrinsics.ts";
import { blake2Hex } from "./hashing.ts";
import type { StorageView } from "./metadata/storage-item.ts";
import { SLOT_MS } from "./pallets/aura.ts";
import { withdrawFee } from "./pallets/balances.ts";
import { storePulses } from "./pallets/drand.ts";
import {
  type DecodedCall,
  DispatchFailure,
  type Execution,
  fail,
  failureOf,
  type Origin,
} from "./pallets/pallet.ts";
import { awaitedRounds, revealTimelocked } from "./pallets/subtensor/commit-reveal.ts";
import { runDueEpochs } from "./pallets/subtensor/epoch.ts";
import { decayBurns } from "./pallets/subtensor/registration.ts";
import {
  BLOCK_HASH_COUNT,
  type Digest,
  digest,
  EVENTS_KEY,
  emitOutcome,
  incrementNonce,
  type Phase,
  phase,
  system,
  systemErrors,
} from "./pallets/system.ts";
import { timestamp, timestampInherent } from "./pallets/timestamp.ts";
import { emitFeePaid, feeOf } from "./pallets/transaction-payment.ts";
import { isNestedBatch } from "./pallets/utility.ts";
import { fromHex, type Hex, openWriter, put, putByte, toHex, written } from "./scale/bytes.ts";
import { encode, encodeFields, putCompact } from "./scale/codec.ts";
import { type Changes, openOverlay } from "./state.ts";

/** A sealed block without its state. */
export interface Block {
  readonly number: number;
  readonly hash: Hex;
  readonly parentHash: Hex;
  readonly stateRoot: Hex;
  readonly extrinsicsRoot: Hex;
  readonly logs: readonly Hex[];
  /** With length prefixes, the timestamp first. */
  readonly extrinsics: readonly Uint8Array[];
}

const AURA_ENGINE = Buffer.from("aura");

/** BLAKE2b-256 of parent hash ‖ number Compact ‖ state root ‖ extrinsics root ‖ digest. */
export function blockHashOf(header: Omit<Block, "hash" | "extrinsics">): Hex {
  const out = openWriter();
  put(out, fromHex(header.parentHash));
  putCompact(out, BigInt(header.number));
  put(out, fromHex(header.stateRoot));
  put(out, fromHex(header.extrinsicsRoot));
  putCompact(out, BigInt(header.logs.length));
  for (const log of header.logs) put(out, fromHex(log));
  return blake2Hex(written(out));
}

/**
 * Commits to what a block changes and, by the parent's hash, to all before it.
 *
 * A Merkle trie would allow storage proofs, which no client of ours asks for.
 */
export function stateRootOf(parentHash: Hex, changes: Changes): Hex {
  const out = openWriter();
  put(out, fromHex(parentHash));
  for (const key of [...changes.keys()].toSorted()) {
    const value = changes.get(key);
    put(out, fromHex(key));
    putByte(out, value === undefined ? 0 : 1);
    if (value !== undefined) put(out, value);
  }
  return blake2Hex(written(out));
}

/** An execution of one block: storage in layers, and events. */
export interface BlockExecution extends Execution {
  /** Runs `work`; when it throws, its changes and events are undone first. */
  undoable(work: () => void): void;
  /** Events from now on belong to this phase. */
  enter(phase: Phase): void;
  /** Everything that changed, the events included. */
  finish(): Changes;
}

/** @param onBug told of a call that failed for no reason of its own. */
export function openExecution(
  base: StorageView,
  number: number,
  onBug: (error: unknown) => void,
): BlockExecution {
  const overlay = openOverlay(base);
  let records: Uint8Array[] = [];
  let phaseBytes = encode(phase, { type: "Initialization" });

  const execution: BlockExecution = {
    number,
    get: (key) => overlay.get(key),
    set: (key, value) => overlay.set(key, value),
    enter(next) {
      phaseBytes = encode(phase, next);
    },
    emit(event, values) {
      const out = openWriter();
      put(out, phaseBytes);
      putByte(out, event.pallet);
      putByte(out, event.index);
      encodeFields(event.fields, values, out);
      putCompact(out, 0n); // no topics
      records.push(written(out));
    },
    undoable(work) {
      const kept = records.length;
      try {
        overlay.layered(work);
      } catch (error) {
        records = records.slice(0, kept);
        throw error;
      }
    },
    dispatch(call: DecodedCall, origin: Origin) {
      try {
        execution.undoable(() => {
          if (isNestedBatch(call)) fail(systemErrors.CallFiltered);
          const refused = origin.kind === "signed" ? call.guard(execution, origin.who) : undefined;
          if (refused !== undefined) fail(refused);
          call.run(execution, origin);
        });
      } catch (cause) {
        if (cause instanceof DispatchFailure) throw cause;
        // Such as a sum beyond u64, or storage that the sudo key has filled with nonsense. The chain goes on.
        onBug(cause);
        throw new DispatchFailure({ type: "Corruption" }, "Corruption", { cause });
      }
    },
    finish() {
      const out = openWriter();
      putCompact(out, BigInt(records.length));
      for (const record of records) put(out, record);
      overlay.set(EVENTS_KEY, written(out));
      system.EventCount.put(overlay, [], records.length);
      return overlay.changes();
    },
  };
  return execution;
}

/** What became of the extrinsics that were offered to a block. */
export interface BuiltBlock {
  readonly block: Block;
  readonly changes: Changes;
  readonly included: readonly Extrinsic[];
}

/**
 * Builds a block on top of `parent`.
 *
 * @param prepare changes state before anything else in the block, for settings given at start.
 * @param onBug told of an epoch or a call that failed for no reason of its own.
 * @param offered in the order of inclusion. `isValid` is asked right before each, with the state it would meet.
 */
export function buildBlock(
  parent: { readonly number: number; readonly hash: Hex; readonly state: StorageView },
  nowMs: bigint,
  offered: readonly Extrinsic[],
  isValid: (extrinsic: Extrinsic, execution: Execution) => boolean,
  prepare: (execution: Execution) => void,
  onBug: (error: unknown) => void,
): BuiltBlock {
  const number = parent.number + 1;
  const execution = openExecution(parent.state, number, onBug);
  const logs = [slotLog(nowMs)];
  beginBlock(execution, parent, logs);
  prepare(execution);
  // Before the epoch, which shall count what is revealed.
  runHook(execution, revealTimelocked, onBug);
  runHook(execution, runDueEpochs, onBug);
  runHook(execution, decayBurns, onBug);

  execution.enter({ type: "ApplyExtrinsic", value: [0] });
  timestamp.Now.put(execution, [], nowMs);
  emitOutcome(execution, "Mandatory", true, undefined);

  const included: Extrinsic[] = [];
  for (const extrinsic of offered) {
    if (!isValid(extrinsic, execution)) continue;
    included.push(extrinsic);
    execution.enter({ type: "ApplyExtrinsic", value: [included.length] });
    applyExtrinsic(execution, extrinsic);
  }
  execution.enter({ type: "Finalization" });
  const pulses = () => storePulses(execution, nowMs, awaitedRounds(execution));
  runHook(execution, pulses, onBug);
  system.ExtrinsicCount.remove(execution);
  const changes = execution.finish();
  const extrinsics = [timestampInherent(nowMs), ...included.map(({ bytes }) => bytes)];
  const header = {
    number,
    parentHash: parent.hash,
    stateRoot: stateRootOf(parent.hash, changes),
    extrinsicsRoot: blake2Hex(Buffer.concat(extrinsics)),
    logs: logs.map(toHex),
  };
  return { block: { ...header, hash: blockHashOf(header), extrinsics }, changes, included };
}

/** A hook that fails is skipped, as the real chain skips an epoch whose inputs are inconsistent. */
function runHook(
  execution: BlockExecution,
  hook: (execution: Execution) => void,
  onBug: (error: unknown) => void,
): void {
  try {
    execution.undoable(() => hook(execution));
  } catch (error) {
    onBug(error);
  }
}

/** PreRuntime(aura, slot u64 LE), as an encoded digest item. */
function slotLog(nowMs: bigint): Uint8Array {
  const slot = Buffer.alloc(8);
  slot.writeBigUInt64LE(nowMs / BigInt(SLOT_MS));
  const logs: Digest = { logs: [{ type: "PreRuntime", value: [AURA_ENGINE, slot] }] };
  return encode(digest, logs).slice(1); // without the length of the list
}

function beginBlock(
  execution: Execution,
  parent: { readonly number: number; readonly hash: Hex },
  logs: readonly Uint8Array[],
): void {
  system.Number.put(execution, [], execution.number);
  system.ParentHash.put(execution, [], parent.hash);
  system.BlockHash.put(execution, [parent.number], parent.hash);
  const expired = parent.number - BLOCK_HASH_COUNT;
  // Genesis stays: immortal extrinsics sign its hash.
  if (expired > 0) system.BlockHash.remove(execution, expired);
  const out = openWriter();
  putCompact(out, BigInt(logs.length));
  for (const log of logs) put(out, log);
  execution.set(system.Digest.keyOf(), written(out));
}

function applyExtrinsic(execution: Execution, { signer, call, tip, bytes }: Extrinsic): void {
  const fee = feeOf(bytes.length, call.feeless) + tip;
  // Validity was checked, so the fee can be paid; nonce and fee stay when the call fails.
  if (fee > 0n) withdrawFee(execution, signer, fee);
  incrementNonce(execution, signer);
  const failure = failureOf(execution, call, { kind: "signed", who: signer });
  emitFeePaid(execution, signer, fee, tip);
  emitOutcome(execution, "Normal", call.feeless, failure);
}
