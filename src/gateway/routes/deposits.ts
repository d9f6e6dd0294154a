import type { FastifyInstance } from "fastify";
import type { AccountId } from "../../core/ids.ts";
import { formatNano } from "../../core/money.ts";
import { addressQrs } from "../address-qr.ts";
import type { ApiKey, Authenticator } from "../auth.ts";

export interface DepositDeps {
  readonly auth: Authenticator;
  /** The account's own address on the chain, from its position under the treasury key; 0 is the common address. */
  readonly depositAddressOf: (accountIndex: number) => string;
  /** What the sender of a transfer to the common address leaves beside it. */
  readonly memoOf: (account: AccountId) => string;
  /** Nano-USD per TAO at this moment; undefined while there is no price. */
  readonly rateNanoUsdPerTao: () => bigint | undefined;
  readonly depositMinimumRao: bigint;
  /** JSON rows, newest first. */
  readonly depositsOf: (account: AccountId) => Promise<readonly unknown[]>;
}

/** `POST /deposits` and `GET /deposits/address`: where to send TAO. `GET /deposits`: what came. */
export function depositRoutes(app: FastifyInstance, deps: DepositDeps): void {
  const qrOf = addressQrs();
  const instructionsFor = (key: ApiKey) => {
    const address = deps.depositAddressOf(key.accountIndex);
    const rate = deps.rateNanoUsdPerTao();
    return {
      data: {
        address,
        qr: address,
        qr_svg: qrOf(address),
        asset: "TAO",
        minimum_rao: deps.depositMinimumRao.toString(),
        minimum_tao: formatNano(deps.depositMinimumRao),
        rate_nusd_per_tao: rate?.toString() ?? null,
        rate_usd_per_tao: rate === undefined ? null : formatNano(rate),
        note: "Credited in US dollars once the block is finalized, at the price of its minute.",
        common: {
          address: deps.depositAddressOf(0),
          memo: deps.memoOf(key.account),
          note: "For wallets linked with POST /v1/wallets, or with the memo: utility.batchAll([balances.transferKeepAlive(address, amount), system.remarkWithEvent(memo)]). Without either, the operator has to find out whose it is.",
        },
      },
    };
  };
  app.post("/deposits", async (request) =>
    instructionsFor(await deps.auth.keyOf(request.raw.headers)),
  );
  app.get("/deposits/address", async (request) =>
    instructionsFor(await deps.auth.keyOf(request.raw.headers)),
  );
  app.get("/deposits", async (request) => {
    const key = await deps.auth.keyOf(request.raw.headers);
    return { data: await deps.depositsOf(key.account) };
  });
}
