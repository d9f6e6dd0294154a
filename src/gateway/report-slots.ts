import { RouterError } from "../core/errors.ts";
import type { AccountId } from "../core/ids.ts";

/** Reports that are made at the same time: each reads the ledger page by page, beside the requests that pay. */
const REPORTS_MAX = 4;

/** Makes room for a report of the account. @returns how to leave; a second call does nothing. @throws RouterError when there is none. */
export type EnterReport = (account: AccountId) => () => void;

/** At most four reports at once, and one of an account. */
export function reportSlots(): EnterReport {
  const busy = new Set<AccountId>();
  return (account) => {
    if (busy.has(account))
      throw new RouterError("rate_limited", "Another report of this account is being made.", {
        retryAfterSeconds: 1,
      });
    if (busy.size >= REPORTS_MAX)
      throw new RouterError("overloaded", "Too many reports are being made at once.", {
        retryAfterSeconds: 5,
      });
    busy.add(account);
    let isIn = true;
    return () => {
      if (isIn) busy.delete(account);
      isIn = false;
    };
  };
}
