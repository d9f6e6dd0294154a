import type { Queryable } from "../runtime/database.ts";
import type { Logger } from "../runtime/logger.ts";
import type { DepositBlock, DepositTransfer } from "./deposit.ts";
import { withdrawalsNamedBy } from "./withdrawals.ts";

/** Accounts of the TAO ledger that are addresses on the chain: hot wallet, deposit addresses, cold wallet. */
export type TreasuryCode = 50 | 51 | 52;

/** Chain fees, and TAO of the operator's own that comes and goes. */
const FEES = 53;
const OPERATOR = 80;

/** Where the operator keeps TAO. Addresses with prefix 42. */
export interface TreasuryWallets {
  /** What pays withdrawals. */
  readonly hot?: string | undefined;
  /** What deposits are swept to. */
  readonly cold?: string | undefined;
}

/** The accounts of the wallets that are known. */
export function treasuryCodes({ hot, cold }: TreasuryWallets): ReadonlyMap<string, TreasuryCode> {
  const codes = new Map<string, TreasuryCode>();
  if (hot !== undefined) codes.set(hot, 50);
  if (cold !== undefined) codes.set(cold, 52);
  return codes;
}

/**
 * Books what a finalized block did to the treasury's addresses, apart from deposits: withdrawals they paid, sweeps between
 * them, fees, and what the operator brought or took. Each is a journal named after its event, so it is booked once.
 */
export async function bookTreasury(
  tx: Queryable,
  {
    genesis8,
    facts,
    codeOf,
    log,
  }: {
    readonly genesis8: string;
    readonly facts: DepositBlock;
    /** undefined: the address is not the treasury's. */
    readonly codeOf: (address: string) => TreasuryCode | undefined;
    readonly log: Logger;
  },
): Promise<void> {
  const idOf = (eventIndex: number): string => `${genesis8}:${facts.head.hash}:${eventIndex}`;
  for (const transfer of facts.transfers) {
    const source = codeOf(transfer.from);
    const target = codeOf(transfer.to);
    if (source === target || transfer.rao <= 0n) continue;
    // A deposit, which has a journal of its own.
    if (source === undefined && target === 51) continue;
    if (source !== undefined && target === undefined) {
      const paid = await payWithdrawal(tx, source, facts, transfer);
      if (paid !== undefined) {
        log.info({ withdrawal: paid, rao: transfer.rao.toString() }, "withdrawal.paid");
        continue;
      }
    }
    const cause = `${source !== undefined && target !== undefined ? "sweep" : "own"}:${idOf(transfer.eventIndex)}`;
    await move(tx, cause, target ?? OPERATOR, source ?? OPERATOR, transfer.rao, transfer);
    if (source === 51 && target === undefined)
      log.error({ cause, to: transfer.to, rao: transfer.rao.toString() }, "treasury.deposits_left");
  }
  for (const { eventIndex, who, rao } of facts.fees) {
    const source = codeOf(who);
    if (source !== undefined && rao > 0n)
      await move(tx, `fee:${idOf(eventIndex)}`, FEES, source, rao);
  }
}

/** @returns the withdrawal that the transfer pays; undefined if it names none that waits for just this. */
async function payWithdrawal(
  tx: Queryable,
  source: TreasuryCode,
  { head, timestampMs }: DepositBlock,
  { memos, to, rao, eventIndex }: DepositTransfer,
): Promise<string | undefined> {
  const ids = withdrawalsNamedBy(memos);
  if (ids.length === 0) return undefined;
  const [row] = await tx.query<{ id: string | null }>(
    "SELECT ledger.pay_withdrawal($1::text[], $2, $3, $4, $5, $6, $7, $8) AS id",
    [ids, to, rao, source, head.number, head.hash, eventIndex, timestampMs],
  );
  return row?.id ?? undefined;
}

/** TAO from one account of the treasury to another: what the addresses have is negative, so the target is debited. */
async function move(
  tx: Queryable,
  cause: string,
  target: number,
  source: number,
  rao: bigint,
  { from, to }: Partial<DepositTransfer> = {},
): Promise<void> {
  await tx.query(
    `SELECT ledger.post($1, 'treasury', NULL, jsonb_strip_nulls(jsonb_build_object('from', $5::text, 'to', $6::text)),
       ARRAY[2]::smallint[], ARRAY[ledger.system_acct(2, $2)], ARRAY[ledger.system_acct(2, $3)], ARRAY[$4::bigint])`,
    [cause, target, source, rao, from, to],
  );
}
