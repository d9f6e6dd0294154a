import { type AccountId, accountIdOf } from "../core/ids.ts";
import type { Queryable } from "../runtime/database.ts";

/** What every memo of ours begins with; the account's id follows. The audit view knows it too. */
const MEMO_PREFIX = "daybreak:";

/** How a deposit found its account. */
export type Attribution = "address" | "memo" | "wallet" | "operator";

export interface DepositOwner {
  readonly account: AccountId;
  readonly attribution: Attribution;
}

/** A transfer to an address of ours. */
export interface IncomingTransfer {
  /** Sender, ss58 with prefix 42. */
  readonly from: string;
  /** Account whose own address received it; undefined for the common address. */
  readonly addressOwner: AccountId | undefined;
  /** Remarks of the sender that ran in the same extrinsic. */
  readonly memos: readonly string[];
}

/** The memo that names an account: what the sender of a transfer to the common address leaves beside it. */
export function memoOf(account: AccountId): string {
  return MEMO_PREFIX + account;
}

/**
 * Whose each transfer is, in their order; undefined where nobody knows.
 *
 * An account's own address comes first, then a memo, then the wallet. Memos of one extrinsic that name two accounts name
 * none: which of them is meant is for the sender to say, not for us to guess, and not even the wallet decides then.
 */
export async function ownersOf(
  database: Queryable,
  transfers: readonly IncomingTransfer[],
): Promise<(DepositOwner | undefined)[]> {
  const toCommon = transfers.filter(({ addressOwner }) => addressOwner === undefined);
  const named = new Set(toCommon.flatMap(({ memos }) => namedBy(memos)));
  const senders = new Set(toCommon.map(({ from }) => from));
  const known = named.size === 0 ? new Set<AccountId>() : await existing(database, [...named]);
  const wallets =
    senders.size === 0 ? new Map<string, AccountId>() : await linked(database, [...senders]);
  return transfers.map(({ from, addressOwner, memos }) => {
    if (addressOwner !== undefined) return { account: addressOwner, attribution: "address" };
    const [first, second] = namedBy(memos).filter((account) => known.has(account));
    if (second !== undefined) return undefined;
    if (first !== undefined) return { account: first, attribution: "memo" };
    const account = wallets.get(from);
    return account === undefined ? undefined : { account, attribution: "wallet" };
  });
}

function namedBy(memos: readonly string[]): AccountId[] {
  return memos.flatMap((memo) =>
    memo.startsWith(MEMO_PREFIX) ? (accountIdOf(memo.slice(MEMO_PREFIX.length)) ?? []) : [],
  );
}

async function existing(
  database: Queryable,
  accounts: readonly AccountId[],
): Promise<Set<AccountId>> {
  const rows = await database.query<{ id: AccountId }>(
    "SELECT id FROM ledger.account WHERE id = ANY ($1::text[])",
    [accounts],
  );
  return new Set(rows.map(({ id }) => id));
}

async function linked(
  database: Queryable,
  addresses: readonly string[],
): Promise<Map<string, AccountId>> {
  const rows = await database.query<{ address: string; account: AccountId }>(
    `SELECT address, account FROM ledger.linked_wallet
      WHERE address = ANY ($1::text[]) AND unlinked_ms IS NULL`,
    [addresses],
  );
  return new Map(rows.map(({ address, account }) => [address, account]));
}
