/**
 * Money as integers that carry their unit in the type.
 *
 * Arithmetic on two amounts yields a plain bigint, so every result is wrapped
 * again on purpose, and its sign is checked again at that point.
 *
 * @module
 */
import assert from "node:assert/strict";
import type { Brand } from "./brand.ts";

/** Chain money: 1 TAO (or 1 alpha) = 1_000_000_000 rao. Never negative. */
export type Rao = Brand<bigint, "Rao">;
/** Ledger money: 1 USD = 1_000_000_000 nano-USD. Never negative. */
export type NanoUsd = Brand<bigint, "NanoUsd">;

const NANO_DIGITS = 9;
export const NANO = 10n ** BigInt(NANO_DIGITS);

/** @throws AssertionError if `n` is negative: a bug of the caller, not a mistake of the user. */
export function rao(n: bigint): Rao {
  assert(n >= 0n, `rao must not be negative: ${n}`);
  return n as Rao;
}

/** @throws AssertionError if `n` is negative: a bug of the caller, not a mistake of the user. */
export function nanoUsd(n: bigint): NanoUsd {
  assert(n >= 0n, `nano-USD must not be negative: ${n}`);
  return n as NanoUsd;
}

/** Integer division that rounds up. Requires `n >= 0n` and `d > 0n`. */
export function ceilDiv(n: bigint, d: bigint): bigint {
  assert(n >= 0n, `numerator must not be negative: ${n}`);
  assert(d > 0n, `denominator must be positive: ${d}`);
  return (n + d - 1n) / d;
}

/** What a deposit is worth: floor(rao × rate / 10⁹), `rate` in nano-USD per TAO. */
export function nanoUsdOfRao(amount: Rao, nanoUsdPerTao: bigint): NanoUsd {
  assert(nanoUsdPerTao > 0n, "the rate must be positive");
  return nanoUsd((amount * nanoUsdPerTao) / NANO);
}

/**
 * Parses a decimal such as "400", "400.5" or "0.000000001" into billionths, exactly.
 *
 * @returns undefined for anything else: signs, exponents, more than 9 decimals, more than 18 digits before the point.
 */
export function parseNano(text: string): bigint | undefined {
  const match = /^(\d{1,18})(?:\.(\d{1,9}))?$/.exec(text);
  if (match?.[1] === undefined) return undefined;
  return BigInt(match[1]) * NANO + BigInt((match[2] ?? "").padEnd(NANO_DIGITS, "0"));
}

/** Billionths as a decimal with no trailing zeros: 1_500_000_000n → "1.5", -1n → "-0.000000001". */
export function formatNano(n: bigint): string {
  const magnitude = n < 0n ? -n : n;
  const fraction = (magnitude % NANO).toString().padStart(NANO_DIGITS, "0").replace(/0+$/, "");
  const text = `${magnitude / NANO}${fraction === "" ? "" : `.${fraction}`}`;
  return n < 0n ? `-${text}` : text;
}
