import type { FastifyInstance } from "fastify";
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
}

/** `GET /credits`: OpenRouter's two numbers, and the exact amounts as decimal strings. */
export function creditRoutes(app: FastifyInstance, deps: CreditDeps): void {
  app.get("/credits", async (request) => {
    const key = await deps.auth.keyOf(request.raw.headers);
    const balance = await deps.balanceOf(key.account);
    return {
      data: {
        total_credits: dollarsOf(balance.depositedNusd),
        total_usage: dollarsOf(balance.chargedNusd),
        balance_nusd: balance.postedNusd.toString(),
        held_nusd: balance.heldNusd.toString(),
        available_nusd: (balance.postedNusd - balance.heldNusd).toString(),
      },
    };
  });
}

/** For the fields that a compatible API wants as JSON numbers; exact to 15 digits. */
export function dollarsOf(nanoUsd: bigint): number {
  return Number(nanoUsd) / 1e9;
}
