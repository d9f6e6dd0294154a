import { RouterError } from "../core/errors.ts";
import type { AccountId } from "../core/ids.ts";
import type { Queryable } from "../runtime/database.ts";

/** Longest note, in characters. */
export const NOTE_CHARS_MAX = 200;

type Verdict = "assigned" | "repeated" | "unknown_deposit" | "unknown_account" | "conflict";

/**
 * Gives a deposit in suspense, or one below the minimum, to an account; the operator's decision, kept for good in the
 * journal. The scanner's next pass credits it at the rate of its block. The same decision again changes nothing.
 *
 * @param note why, in at most 200 characters; the caller checks it.
 * @throws RouterError `not_found`, or `conflict` if the deposit is credited or another account's.
 */
export async function assignDeposit(
  database: Queryable,
  {
    deposit,
    account,
    note,
  }: { readonly deposit: string; readonly account: AccountId; readonly note: string },
): Promise<void> {
  const [row] = await database.query<{ verdict: Verdict }>(
    "SELECT ledger.assign_deposit($1, $2, $3) AS verdict",
    [deposit, account, note],
  );
  switch (row?.verdict) {
    case "assigned":
    case "repeated":
      return;
    case "unknown_deposit":
      throw new RouterError("not_found", `There is no deposit ${deposit}.`);
    case "unknown_account":
      throw new RouterError("not_found", `There is no account ${account}.`);
    case "conflict":
    case undefined:
      throw new RouterError(
        "conflict",
        "This deposit is credited or another account's: only one in suspense, or below the minimum, can be assigned.",
      );
  }
}
