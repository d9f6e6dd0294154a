import type { FastifyInstance } from "fastify";
import type { DepositQuote } from "../../billing/deposit-quotes.ts";
import { RouterError } from "../../core/errors.ts";
import type { AccountId } from "../../core/ids.ts";
import { formatNano } from "../../core/money.ts";
import type { Authenticator } from "../auth.ts";

/** When to ask for a quote again while there is no price, in seconds: about one round of the price feed. */
const PRICE_RETRY_SECONDS = 30;

export interface DepositQuoteDeps {
  readonly auth: Authenticator;
  /** The account's own address on the chain, from its position under the treasury key. */
  readonly depositAddressOf: (accountIndex: number) => string;
  /** Nano-USD per TAO at this moment; undefined while there is no price. */
  readonly rateNanoUsdPerTao: () => bigint | undefined;
  /** Promises the account a rate, given the present one. */
  readonly quoteDeposit: (account: AccountId, nanoUsdPerTao: bigint) => Promise<DepositQuote>;
}

/** `POST /deposits/quote`: a rate that is promised for one deposit. */
export function depositQuoteRoutes(app: FastifyInstance, deps: DepositQuoteDeps): void {
  app.post("/deposits/quote", async (request, reply) => {
    const key = await deps.auth.keyOf(request.raw.headers);
    const rate = deps.rateNanoUsdPerTao();
    if (rate === undefined)
      throw new RouterError(
        "price_unavailable",
        "There is no reliable TAO price right now, so no rate can be promised. Deposits are received, and credited once there is one.",
        { retryAfterSeconds: PRICE_RETRY_SECONDS },
      );
    const quote = await deps.quoteDeposit(key.account, rate);
    reply.code(201);
    return {
      data: {
        quote_id: quote.id,
        address: deps.depositAddressOf(key.accountIndex),
        rate_nusd_per_tao: quote.nanoUsdPerTao.toString(),
        rate_usd_per_tao: formatNano(quote.nanoUsdPerTao),
        maximum_rao: quote.maxRao.toString(),
        maximum_tao: formatNano(quote.maxRao),
        created_at: new Date(quote.createdMs).toISOString(),
        expires_at: new Date(quote.expiresMs).toISOString(),
        note: "For one deposit, whose block must be dated before the quote expires. What exceeds the maximum gets the price of the block's minute.",
      },
    };
  });
}
