/**
 * Plain values of polkadot-js codecs. An absent value (an optional item, a field of another name) is a bug or a runtime
 * that changed, and throws; nothing turns into 0 by accident.
 *
 * @module
 */
import assert from "node:assert/strict";
import type { Codec } from "@polkadot/types/types";
import { encodeAddress } from "@polkadot/util-crypto";
import type { Coldkey, Hotkey } from "../core/ids.ts";

type Maybe = Codec | undefined;

function present(codec: Maybe): Codec {
  assert(codec !== undefined, "the chain has no such value");
  return codec;
}

/** Any unsigned integer, compact or not. */
export function bigintOf(codec: Maybe): bigint {
  return BigInt(present(codec).toString());
}

/** @throws AssertionError if the value is not exact as a number. */
export function numberOf(codec: Maybe): number {
  const value = Number(bigintOf(codec));
  assert(Number.isSafeInteger(value), "an integer above 2^53 needs bigintOf");
  return value;
}

export function booleanOf(codec: Maybe): boolean {
  const value = present(codec).toPrimitive();
  assert(typeof value === "boolean");
  return value;
}

/** The elements of a Vec or a tuple. */
export function listOf(codec: Maybe): readonly Codec[] {
  return [...(present(codec) as unknown as Iterable<Codec>)];
}

/** An account as its ss58 address (prefix 42). */
export function accountOf(codec: Maybe): Hotkey & Coldkey {
  return encodeAddress(present(codec).toU8a(true), 42) as Hotkey & Coldkey;
}

/** A field of a struct. `codec.name` would find a Map's own method for names such as `values` or `size`. */
export function fieldOf(codec: Maybe, name: string): Codec {
  const struct = present(codec) as unknown as { get?(name: string): Codec | undefined };
  const field = struct.get?.(name);
  assert(field !== undefined, `the runtime's struct has no field ${name}`);
  return field;
}
