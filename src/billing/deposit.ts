import type { AccountId } from "../core/ids.ts";
import type { NanoUsd, Rao } from "../core/money.ts";
import type { Attribution } from "./deposit-owner.ts";

/** A block, and the one that it follows. */
export interface ChainHead {
  readonly number: number;
  readonly hash: string;
  readonly parentHash: string;
}

/** What happened in a block, as far as deposits are concerned. */
export interface DepositBlock {
  readonly head: ChainHead;
  readonly timestampMs: number;
  readonly transfers: readonly DepositTransfer[];
  readonly fees: readonly {
    readonly eventIndex: number;
    readonly who: string;
    readonly rao: bigint;
  }[];
}

export interface DepositTransfer {
  readonly eventIndex: number;
  readonly from: string;
  readonly to: string;
  readonly rao: bigint;
  /** Remarks of the sender that ran in the same extrinsic. */
  readonly memos: readonly string[];
}

/** What the scanner reads from a chain; `Subtensor` has all of it. */
export interface DepositChain {
  readonly genesisHash: string;
  finalizedHead(): Promise<ChainHead>;
  /** Numbers may be skipped; the scanner walks every one. */
  onFinalizedHead(listener: (head: ChainHead) => void): () => void;
  /** The newest block, which another fork may still replace. */
  bestHead(): Promise<ChainHead>;
  onBestHead(listener: (head: ChainHead) => void): () => void;
  blockHash(number: number): Promise<string | undefined>;
  /** Transfers that happened: none of a call that failed or never ran. @throws if the block is unknown or was retracted. */
  blockFacts(hash: string): Promise<DepositBlock>;
}

/**
 * seen: in a block that is not final, and gone if the block goes. finalized: in a finalized block, waits for a price.
 * credited: it is on the account's balance. below_minimum: too small to credit; it stays in suspense. suspense: nobody
 * knows whose it is; the operator assigns it.
 */
export type DepositState = "seen" | "finalized" | "credited" | "below_minimum" | "suspense";

/** A TAO transfer to an address of ours. */
export interface Deposit {
  /** `<genesis8>:<block hash>:<event index>`. */
  readonly id: string;
  /** undefined while nobody knows whose it is. */
  readonly account: AccountId | undefined;
  readonly attribution: Attribution | undefined;
  readonly state: DepositState;
  readonly blockNumber: number;
  readonly blockHash: string;
  readonly blockMs: number;
  readonly from: string;
  readonly address: string;
  readonly amountRao: Rao;
  /** What the sender wrote beside the transfer; at most 300 characters. */
  readonly memo: string | undefined;
  /** Nano-USD per TAO, and what was credited; undefined until then. */
  readonly rateNanoUsdPerTao: bigint | undefined;
  readonly amountNusd: NanoUsd | undefined;
}
