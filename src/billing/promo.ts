import assert from "node:assert/strict";
import { RouterError } from "../core/errors.ts";
import type { AccountId } from "../core/ids.ts";
import type { NanoUsd } from "../core/money.ts";
import type { Queryable } from "../runtime/database.ts";

/** Grants that one statement looks at. */
const EXPIRE_BATCH = 1_000;

/** Credit that an operator gives away. */
export interface PromoGrant {
  /** Chosen by the operator: the same id is granted once. */
  readonly id: string;
  readonly account: AccountId;
  readonly amount: NanoUsd;
  /** Unix milliseconds from which the rest of it is taken back. */
  readonly expiresMs: number;
}

/**
 * Gives an account promo credit. Requests that it pays for earn miners nothing.
 *
 * @returns false if this grant was made before.
 * @throws RouterError `not_found` if there is no such account, `request_id_conflict` if the id was used for another grant.
 */
export async function grantPromo(database: Queryable, grant: PromoGrant): Promise<boolean> {
  assert(grant.amount > 0n, "a grant must be more than 0");
  const [row] = await database.query<{
    answer: "applied" | "repeated" | "conflict" | "unknown_account";
  }>("SELECT ledger.grant_promo($1, $2, $3, $4) AS answer", [
    grant.id,
    grant.account,
    grant.amount,
    BigInt(grant.expiresMs),
  ]);
  switch (row?.answer) {
    case "applied":
      return true;
    case "repeated":
      return false;
    case "conflict":
      throw new RouterError(
        "request_id_conflict",
        "This id was used for a grant with other terms. Choose another one.",
      );
    case "unknown_account":
      throw new RouterError("not_found", "There is no such account.");
    case undefined:
      throw new Error("the grant had no answer");
  }
}

/** Takes back what is left of grants that are past their time; what is held stays until a later call. */
export async function expirePromo(database: Queryable, nowMs: number): Promise<void> {
  await database.query("SELECT ledger.expire_promo($1, $2)", [BigInt(nowMs), BigInt(EXPIRE_BATCH)]);
}

/** An account's promo credit, nano-USD. */
export interface PromoBalance {
  readonly postedNusd: bigint;
  readonly heldNusd: bigint;
  /** Without what has expired. */
  readonly grantedNusd: bigint;
  /** Net of refunds. */
  readonly chargedNusd: bigint;
}

/** An account that never had a grant has zeros. */
export async function promoBalanceOf(
  database: Queryable,
  account: AccountId,
): Promise<PromoBalance> {
  const [row] = await database.query<{ posted: bigint; held: bigint; granted: bigint }>(
    `SELECT a.credits - a.debits AS posted, a.held,
            (SELECT sum(amount - expired) FROM ledger.promo_grant WHERE account = $1)::bigint AS granted
       FROM ledger.acct a WHERE a.ledger = 1 AND a.code = 12 AND a.owner = $1`,
    [account],
  );
  const { posted, held, granted } = row ?? { posted: 0n, held: 0n, granted: 0n };
  return {
    postedNusd: posted,
    heldNusd: held,
    grantedNusd: granted,
    chargedNusd: granted - posted,
  };
}
