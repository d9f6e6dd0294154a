import type { FastifyInstance } from "fastify";
import type { AccountId } from "../../core/ids.ts";
import { formatNano } from "../../core/money.ts";
import type { Authenticator } from "../auth.ts";

export interface DepositDeps {
  readonly auth: Authenticator;
  /** The account's own address on the chain, from its position under the treasury key. */
  readonly depositAddressOf: (accountIndex: number) => string;
  /** Nano-USD per TAO at this moment; undefined while there is no price. */
  readonly rateNanoUsdPerTao: () => bigint | undefined;
  readonly depositMinimumRao: bigint;
  /** JSON rows, newest first. */
  readonly depositsOf: (account: AccountId) => Promise<readonly unknown[]>;
}

/** `POST /deposits`: where to send TAO. `GET /deposits`: what came. */
export function depositRoutes(app: FastifyInstance, deps: DepositDeps): void {
  app.post("/deposits", async (request) => {
    const key = await deps.auth.keyOf(request.raw.headers);
    const address = deps.depositAddressOf(key.accountIndex);
    const rate = deps.rateNanoUsdPerTao();
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
        note: "Credited in US dollars once the block is finalized, at the price of its minute.",
      },
    };
  });
  app.get("/deposits", async (request) => {
    const key = await deps.auth.keyOf(request.raw.headers);
    return { data: await deps.depositsOf(key.account) };
  });
}
