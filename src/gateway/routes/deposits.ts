import type { FastifyInstance } from "fastify";
import type { DepositQuote } from "../../billing/deposit-quotes.ts";
import type { PresentPrice } from "../../billing/price.ts";
import { RouterError } from "../../core/errors.ts";
import type { AccountId } from "../../core/ids.ts";
import { formatNano } from "../../core/money.ts";
import type { Authenticator } from "../auth.ts";

/** When to ask for a quote again while there is no price, in seconds: about one round of the price feed. */
const PRICE_RETRY_SECONDS = 30;

export interface DepositDeps {
  readonly auth: Authenticator;
  /** The account's own address on the chain, from its position under the treasury key. */
  readonly depositAddressOf: (accountIndex: number) => string;
  readonly presentPrice: () => PresentPrice;
  readonly depositMinimumRao: bigint;
  /** JSON rows, newest first. */
  readonly depositsOf: (account: AccountId) => Promise<readonly unknown[]>;
  /** Promises the account a rate, given the present price in nano-USD per TAO. */
  readonly quoteDeposit: (account: AccountId, nanoUsdPerTao: bigint) => Promise<DepositQuote>;
}

/** `POST /deposits`: where to send TAO. `POST /deposits/quote`: the same at a promised rate. `GET /deposits`: what came. */
export function depositRoutes(app: FastifyInstance, deps: DepositDeps): void {
  app.post("/deposits", async (request) => {
    const key = await deps.auth.keyOf(request.raw.headers);
    const address = deps.depositAddressOf(key.accountIndex);
    const price = deps.presentPrice();
    const rate = price.state === "frozen" ? undefined : price.nanoUsdPerTao;
    return {
      data: {
        address,
        // No amount URI is understood by all TAO wallets; the plain address is.
        qr: address,
        asset: "TAO",
        minimum_rao: deps.depositMinimumRao.toString(),
        minimum_tao: formatNano(deps.depositMinimumRao),
        rate_nusd_per_tao: rate?.toString() ?? null,
        rate_usd_per_tao: rate === undefined ? null : formatNano(rate),
        note: "Credited in US dollars once the block is finalized, at the price of the block's minute.",
      },
    };
  });
  app.post("/deposits/quote", async (request, reply) => {
    const key = await deps.auth.keyOf(request.raw.headers);
    const price = deps.presentPrice();
    if (price.state === "frozen")
      throw new RouterError(
        "price_unavailable",
        "There is no reliable TAO price right now, so no rate can be promised. Deposits are received, and credited once there is one.",
        { retryAfterSeconds: PRICE_RETRY_SECONDS },
      );
    const quote = await deps.quoteDeposit(key.account, price.nanoUsdPerTao);
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
  app.get("/deposits", async (request) => {
    const key = await deps.auth.keyOf(request.raw.headers);
    return { data: await deps.depositsOf(key.account) };
  });
}
