import type { FastifyInstance } from "fastify";
import type { PromoBalance } from "../../billing/promo.ts";
import type { AccountId } from "../../core/ids.ts";
import type { Authenticator } from "../auth.ts";

/** An account's money, nano-USD. */
export interface Balance {
  readonly postedNusd: bigint;
  readonly heldNusd: bigint;
  readonly depositedNusd: bigint;
  readonly chargedNusd: bigint;
}

export interface CreditDeps {
  readonly auth: Authenticator;
  readonly balanceOf: (account: AccountId) => Promise<Balance>;
  readonly promoBalanceOf: (account: AccountId) => Promise<PromoBalance>;
}

/** `GET /credits`: OpenRouter's two numbers, and the exact amounts as decimal strings, all with promo credit. */
export function creditRoutes(app: FastifyInstance, deps: CreditDeps): void {
  app.get("/credits", async (request) => {
    const key = await deps.auth.keyOf(request.raw.headers);
    const [paid, promo] = await Promise.all([
      deps.balanceOf(key.account),
      deps.promoBalanceOf(key.account),
    ]);
    const postedNusd = paid.postedNusd + promo.postedNusd;
    const heldNusd = paid.heldNusd + promo.heldNusd;
    return {
      data: {
        total_credits: dollarsOf(paid.depositedNusd + promo.grantedNusd),
        total_usage: dollarsOf(paid.chargedNusd + promo.chargedNusd),
        balance_nusd: postedNusd.toString(),
        held_nusd: heldNusd.toString(),
        available_nusd: (postedNusd - heldNusd).toString(),
        promo_nusd: promo.postedNusd.toString(),
      },
    };
  });
}

/** For the fields that a compatible API wants as JSON numbers; exact to 15 digits. */
export function dollarsOf(nanoUsd: bigint): number {
  return Number(nanoUsd) / 1e9;
}
