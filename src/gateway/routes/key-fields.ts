import type { KeyBudget } from "../../billing/accounts.ts";
import { dollarsOf } from "./credits.ts";

/** What a key has spent, nano-USD: ever, and in the current UTC day, week (from Monday) and month. */
export interface KeyUsage {
  readonly total: bigint;
  readonly day: bigint;
  readonly week: bigint;
  readonly month: bigint;
}

/** The limit's three fields of a key, as numbers in USD; null without a limit. */
export function limitFieldsOf(budget: KeyBudget | undefined): object {
  return {
    limit: budget === undefined ? null : dollarsOf(budget.amount),
    limit_remaining: budget === undefined ? null : dollarsOf(remainingOf(budget)),
    limit_reset: budget?.reset ?? null,
  };
}

function remainingOf({ amount, spentNusd, heldNusd }: KeyBudget): bigint {
  const left = amount - spentNusd - heldNusd;
  return left > 0n ? left : 0n;
}

/** What a key has spent, in USD; nobody brings keys of their own. */
export function usageFieldsOf(usage: KeyUsage): object {
  return {
    usage: dollarsOf(usage.total),
    usage_daily: dollarsOf(usage.day),
    usage_weekly: dollarsOf(usage.week),
    usage_monthly: dollarsOf(usage.month),
    byok_usage: 0,
    byok_usage_daily: 0,
    byok_usage_weekly: 0,
    byok_usage_monthly: 0,
  };
}
