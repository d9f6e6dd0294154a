import type { Codec } from "@polkadot/types/types";
import type { Hotkey, Netuid } from "../core/ids.ts";
import type { BlockState } from "./block-state.ts";
import { fieldOf, listOf, numberOf } from "./codec-values.ts";
import { readHotkeys } from "./metagraph.ts";

const COMMITMENT_OF = ["commitments", "commitmentOf"] as const;
const RAW_BYTES_MAX = 128;
/** Longest field that the chain stores. */
const FIELD_BYTES_MAX = 512;
/** Most fields of one commitment. */
export const COMMITMENT_FIELDS_MAX = 3;

/** What a hotkey published with `Commitments.set_commitment`. */
export interface Commitment {
  /** Block in which it was set. */
  readonly block: number;
  /** Its `Raw0…Raw128` and `BigRaw` fields, in order. Hashes, timelocked and unknown kinds are left out. */
  readonly fields: readonly Uint8Array[];
}

/** Commitments of the hotkeys that are registered at that block. Those of former neurons are not read. */
export async function readCommitments(
  state: BlockState,
  netuid: Netuid,
): Promise<ReadonlyMap<Hotkey, Commitment>> {
  const hotkeys = await readHotkeys(state, netuid);
  const values = await state.read(
    hotkeys.map((hotkey) => ({ item: COMMITMENT_OF, keys: [netuid, hotkey] })),
  );
  const commitments = new Map<Hotkey, Commitment>();
  for (const [uid, hotkey] of hotkeys.entries()) {
    const value = values[uid];
    if (value !== undefined) commitments.set(hotkey, commitmentOf(value));
  }
  return commitments;
}

/** @returns undefined if the hotkey has published nothing. */
export async function readCommitment(
  state: BlockState,
  netuid: Netuid,
  hotkey: Hotkey,
): Promise<Commitment | undefined> {
  const [value] = await state.read([{ item: COMMITMENT_OF, keys: [netuid, hotkey] }]);
  return value === undefined ? undefined : commitmentOf(value);
}

function commitmentOf(registration: Codec): Commitment {
  const fields: Uint8Array[] = [];
  for (const field of listOf(fieldOf(fieldOf(registration, "info"), "fields"))) {
    const { type, inner } = field as unknown as { type: string; inner: Codec };
    if (/^(?:Raw\d+|BigRaw)$/.test(type)) fields.push(Uint8Array.from(inner.toU8a(true)));
  }
  return { block: numberOf(fieldOf(registration, "block")), fields };
}

/**
 * `CommitmentInfo` as polkadot-js encodes it: `Raw<n>` up to 128 bytes, else `BigRaw`.
 *
 * @throws Error if there are more than three fields or one is longer than 512 bytes: a bug of the caller.
 */
export function commitmentInfoOf(fields: readonly Uint8Array[]) {
  if (fields.length > COMMITMENT_FIELDS_MAX) throw new Error("a commitment has at most 3 fields");
  return {
    fields: fields.map((field) => {
      if (field.length > FIELD_BYTES_MAX) throw new Error("a field has at most 512 bytes");
      const kind = field.length <= RAW_BYTES_MAX ? `Raw${field.length}` : "BigRaw";
      // Hex, because polkadot-js takes a Uint8Array for already encoded, length first.
      return { [kind]: `0x${Buffer.from(field).toString("hex")}` };
    }),
  };
}
