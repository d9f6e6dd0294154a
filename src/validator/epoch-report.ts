import type { LeafRefusal } from "./audit-epoch.ts";
import type { LogRefusal } from "./epoch-log.ts";
import type { ProbeReport } from "./probe.ts";

/** Why an epoch's log brought no credit. */
export type EpochRefusal =
  | LogRefusal
  | "missing_announcement"
  | "missing_root"
  | "sums_differ"
  | "log_unreachable";

/** What a validator did about one epoch, as `GET /v1/epochs` shows it. Money is in decimal strings. */
export interface EpochReport {
  readonly epoch: number;
  /** Block that ran the epoch; absent when it could not be found any more. */
  readonly block?: number;
  /** `accepted` and `refused` are about the log; `void` means that the chain's state was gone and nothing was read. */
  readonly verdict: "accepted" | "refused" | "void";
  readonly reason?: EpochRefusal | "state_gone";
  readonly state_hash: string;
  /** Nano-USD per alpha. */
  readonly price_nusd: string;
  readonly pool_nusd: string;
  /** Part of the pool that no usage earned, basis points. */
  readonly burn_bps: number;
  /** Credited in this epoch, nano-USD per hotkey. */
  readonly sums: Readonly<Record<string, string>>;
  /** What the weights are to pay, nano-USD per hotkey. */
  readonly planned: Readonly<Record<string, string>>;
  /** The vector by uid. */
  readonly weights: readonly number[];
  /** Paid by the chain since this validator began, nano-USD per hotkey. */
  readonly paid: Readonly<Record<string, string>>;
  /** Open credit less debt, nano-USD per hotkey; negative when a miner was paid ahead. */
  readonly owed: Readonly<Record<string, string>>;
  readonly leaves: number;
  readonly promo: number;
  /** Leaves credited with less than their usage costs. */
  readonly clipped: number;
  readonly refusals: Readonly<Partial<Record<LeafRefusal, number>>>;
  /** Block in which the weights were set; absent until then, or when the next epoch came first. */
  readonly weights_block?: number;
  /** What this validator bought in the epoch. */
  readonly probe?: ProbeReport;
}
