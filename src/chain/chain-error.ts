/**
 * A failure of the chain, or of the way to it. `name` is what to switch on:
 *
 *   a module error     the pallet's own name, such as "SettingWeightsTooFast"
 *   a dispatch error   "BadOrigin", "FundsUnavailable", "NotExpendable", …
 *   a pool refusal     Subtensor's own name, such as "RateLimitExceeded", or "Custom:<n>" if n has none here; "Stale",
 *                      "Future", "BadProof", "Payment", "PriorityTooLow", "PoolFull", "TemporarilyBanned"
 *   the connection     "Unreachable", "Timeout", "Disconnected", "WrongGenesis", "Overloaded", "Closed"
 *   this client        "Expired" (never included before its mortal era ended), "UnknownBlock", "StateDiscarded",
 *                      "SubnetNotExists", "Unsupported" (the live runtime lacks a call or item), "UnknownSignedExtension"
 *   anything else      "Rpc:<code>"
 */
export class ChainError extends Error {
  override readonly name: string;

  constructor(name: string, message: string, options?: ErrorOptions) {
    super(message, options);
    this.name = name;
  }
}

/** An error object of a JSON-RPC answer. */
export interface RpcFailure {
  readonly code: number;
  readonly message: string;
  readonly data: string;
}

/** `InvalidTransaction::Custom(n)` of Subtensor (`common/src/transaction_error.rs`, spec 425). */
const CUSTOM_NAMES: Readonly<Record<number, string>> = {
  0: "ColdkeySwapAnnounced",
  1: "StakeAmountTooLow",
  2: "BalanceTooLow",
  3: "SubnetNotExists",
  6: "RateLimitExceeded",
  9: "TransferDisallowed",
  10: "HotKeyNotRegisteredInNetwork",
  11: "InvalidIpAddress",
  12: "ServingRateLimitExceeded",
  13: "InvalidPort",
  15: "InvalidRevealRound",
  16: "CommitNotFound",
  17: "CommitBlockNotInRevealRange",
  19: "UidNotFound",
  21: "ColdkeySwapDisputed",
  255: "BadRequest",
};

/** Substrate's transaction pool errors (`sc-rpc-api/src/author/error.rs`). 1010 carries its reason as text. */
const POOL_NAMES: Readonly<Record<number, string>> = {
  1011: "UnknownValidity",
  1012: "TemporarilyBanned",
  1013: "AlreadyImported",
  1014: "PriorityTooLow",
  1015: "CycleDetected",
  1016: "PoolFull",
};

/** The texts of `InvalidTransaction` (`sp-runtime/src/transaction_validity.rs`), which is all that the RPC shows of it. */
const INVALID_REASONS: readonly (readonly [fragment: string, name: string])[] = [
  ["bad signature", "BadProof"],
  ["outdated", "Stale"],
  ["ancient birth block", "AncientBirthBlock"],
  ["valid in the future", "Future"],
  ["pay some fees", "Payment"],
  ["exhaust", "ExhaustsResources"],
  ["call is not expected", "CallNotExpected"],
];

const STATE_DISCARDED = /State already discarded|UnknownBlock|Unknown block|Header was not found/i;

/** Names what a node answered instead of a result. */
export function chainErrorOf(method: string, failure: RpcFailure): ChainError {
  const text = `${failure.message} ${failure.data}`.trim();
  const custom = /Custom error: (\d+)/.exec(text);
  if (custom?.[1] !== undefined) {
    const number = `Custom:${custom[1]}`;
    const name = CUSTOM_NAMES[Number(custom[1])];
    return new ChainError(
      name ?? number,
      `${name === undefined ? number : `${name} (${number})`}: refused by the pool`,
    );
  }
  const pool = POOL_NAMES[failure.code];
  if (pool !== undefined) return new ChainError(pool, `${pool}: ${text}`);
  if (failure.code === 1010) {
    const reason = INVALID_REASONS.find(([fragment]) => text.includes(fragment))?.[1] ?? "Invalid";
    return new ChainError(reason, `${reason}: ${text}`);
  }
  if (STATE_DISCARDED.test(text)) {
    return new ChainError(
      "StateDiscarded",
      `${method}: the node no longer has that block's state; an archive node does`,
    );
  }
  return new ChainError(`Rpc:${failure.code}`, `${method}: ${text}`);
}
