import { randomBytes } from "node:crypto";
import { RouterError } from "../core/errors.ts";
import type { AccountId } from "../core/ids.ts";
import { NANO, type NanoUsd, nanoUsd, type Rao, rao } from "../core/money.ts";
import type { Queryable } from "../runtime/database.ts";

const ID_PREFIX = "wd_";
const ID_BYTES = 10;
const MEMO = /^daybreak:(wd_[0-9a-f]{20})$/;
/** Withdrawals of one account that may wait at once. */
const OPEN_MAX = 5;
/** Withdrawals that one listing returns. */
const LISTED_MAX = 200;

/** requested: the credit is set aside. paid: the chain has the transfer. rejected: the credit is back. */
export type WithdrawalState = "requested" | "paid" | "rejected";

/** Unused credit that goes back as TAO to the wallet it came from. */
export interface Withdrawal {
  /** `wd_` and 20 hex digits. */
  readonly id: string;
  readonly account: AccountId;
  readonly state: WithdrawalState;
  /** ss58, prefix 42. */
  readonly address: string;
  readonly amountNusd: NanoUsd;
  /** Nano-USD per TAO, when it was requested. */
  readonly rateNanoUsdPerTao: bigint;
  readonly amountRao: Rao;
  /** What the payment's extrinsic must remark. */
  readonly memo: string;
  readonly requestedMs: number;
  readonly endedMs: number | undefined;
  /** Why it was rejected. */
  readonly note: string | undefined;
  /** The proof: where on the chain the transfer is. */
  readonly blockNumber: number | undefined;
  readonly blockHash: string | undefined;
  readonly eventIndex: number | undefined;
}

type RequestVerdict =
  | "requested"
  | "unknown_wallet"
  | "too_many"
  | "exceeds_deposits"
  | "insufficient_credit";

const REFUSALS = {
  unknown_wallet: [
    "invalid_request",
    "The address must be a wallet that is linked to this account.",
  ],
  too_many: [
    "rate_limited",
    `${OPEN_MAX} withdrawals of this account wait. Wait until one of them is paid.`,
  ],
  exceeds_deposits: [
    "invalid_request",
    "A wallet can get back at most what it paid in, less what went back already.",
  ],
  insufficient_credit: ["insufficient_credit", "There is less unused credit than that."],
} as const;

/**
 * Takes credit off the account and sets it aside for a payment to one of its linked wallets.
 *
 * @param minimumRao less than this is not worth the payment's fee.
 * @throws RouterError `invalid_request`, `insufficient_credit` or `rate_limited`.
 */
export async function requestWithdrawal(
  database: Queryable,
  {
    account,
    address,
    amount,
    rateNanoUsdPerTao,
    minimumRao,
    nowMs,
  }: {
    readonly account: AccountId;
    readonly address: string;
    readonly amount: NanoUsd;
    readonly rateNanoUsdPerTao: bigint;
    readonly minimumRao: Rao;
    readonly nowMs: number;
  },
): Promise<Withdrawal> {
  const amountRao = rao((amount * NANO) / rateNanoUsdPerTao);
  if (amountRao < minimumRao || amountRao === 0n)
    throw new RouterError("invalid_request", "This is less than the smallest withdrawal.", {
      details: { param: "amount_nusd", minimum_rao: minimumRao.toString() },
    });
  const id = ID_PREFIX + randomBytes(ID_BYTES).toString("hex");
  const [row] = await database.query<{ verdict: RequestVerdict }>(
    "SELECT ledger.request_withdrawal($1, $2, $3, $4, $5, $6, $7, $8) AS verdict",
    [id, account, address, amount, rateNanoUsdPerTao, amountRao, nowMs, OPEN_MAX],
  );
  const verdict = row?.verdict ?? "unknown_wallet";
  if (verdict !== "requested") {
    const [code, message] = REFUSALS[verdict];
    throw new RouterError(code, message);
  }
  return {
    id,
    account,
    state: "requested",
    address,
    amountNusd: amount,
    rateNanoUsdPerTao,
    amountRao,
    memo: memoOfWithdrawal(id),
    requestedMs: nowMs,
    endedMs: undefined,
    note: undefined,
    blockNumber: undefined,
    blockHash: undefined,
    eventIndex: undefined,
  };
}

/** Withdrawals of one account, newest first, at most 200. */
export async function listWithdrawals(
  database: Queryable,
  account: AccountId,
): Promise<Withdrawal[]> {
  const rows = await database.query<WithdrawalRow>(
    "SELECT * FROM ledger.withdrawal WHERE account = $1 ORDER BY requested_ms DESC, id LIMIT $2",
    [account, LISTED_MAX],
  );
  return rows.map(withdrawalOf);
}

/** Withdrawals that wait for the operator, oldest first, at most 200. */
export async function listRequestedWithdrawals(database: Queryable): Promise<Withdrawal[]> {
  const rows = await database.query<WithdrawalRow>(
    "SELECT * FROM ledger.withdrawal WHERE state = 'requested' ORDER BY requested_ms, id LIMIT $1",
    [LISTED_MAX],
  );
  return rows.map(withdrawalOf);
}

/**
 * Gives the credit of a withdrawal back that will not be paid. Again, it changes nothing.
 *
 * @param note why; the caller limits its length.
 * @throws RouterError `not_found`, or `conflict` if it is paid.
 */
export async function rejectWithdrawal(
  database: Queryable,
  { id, note, nowMs }: { readonly id: string; readonly note: string; readonly nowMs: number },
): Promise<void> {
  const [row] = await database.query<{ verdict: "rejected" | "repeated" | "unknown" | "paid" }>(
    "SELECT ledger.reject_withdrawal($1, $2, $3) AS verdict",
    [id, note, nowMs],
  );
  if (row?.verdict === "paid") throw new RouterError("conflict", "This withdrawal is paid.");
  if (row?.verdict === "unknown")
    throw new RouterError("not_found", `There is no withdrawal ${id}.`);
}

/** Withdrawals that memos name. */
export function withdrawalsNamedBy(memos: readonly string[]): string[] {
  return memos.flatMap((memo) => MEMO.exec(memo)?.[1] ?? []);
}

function memoOfWithdrawal(id: string): string {
  return `daybreak:${id}`;
}

interface WithdrawalRow {
  readonly id: string;
  readonly account: AccountId;
  readonly state: WithdrawalState;
  readonly address: string;
  readonly amount_nusd: bigint;
  readonly rate: bigint;
  readonly amount_rao: bigint;
  readonly requested_ms: bigint;
  readonly ended_ms: bigint | null;
  readonly note: string | null;
  readonly block_number: bigint | null;
  readonly block_hash: string | null;
  readonly event_index: number | null;
}

function withdrawalOf(row: WithdrawalRow): Withdrawal {
  return {
    id: row.id,
    account: row.account,
    state: row.state,
    address: row.address,
    amountNusd: nanoUsd(row.amount_nusd),
    rateNanoUsdPerTao: row.rate,
    amountRao: rao(row.amount_rao),
    memo: memoOfWithdrawal(row.id),
    requestedMs: Number(row.requested_ms),
    endedMs: row.ended_ms === null ? undefined : Number(row.ended_ms),
    note: row.note ?? undefined,
    blockNumber: row.block_number === null ? undefined : Number(row.block_number),
    blockHash: row.block_hash ?? undefined,
    eventIndex: row.event_index ?? undefined,
  };
}
