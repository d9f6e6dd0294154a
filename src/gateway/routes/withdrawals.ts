import type { FastifyInstance } from "fastify";
import { NOTE_CHARS_MAX } from "../../billing/assign-deposit.ts";
import { RouterError } from "../../core/errors.ts";
import type { AccountId } from "../../core/ids.ts";
import { type NanoUsd, nanoUsd } from "../../core/money.ts";
import type { Authenticator } from "../auth.ts";
import { jsonObjectOf, textOf } from "../json-body.ts";

const ADDRESS_CHARS_MAX = 64;
/** Decimal digits of an amount; every int8 fits. */
const AMOUNT = /^[1-9]\d{0,17}$/;
const AMOUNT_CHARS_MAX = 18;

export interface WithdrawalDeps {
  readonly auth: Authenticator;
  /** The address with prefix 42 of the same public key. @throws Error if it is no address. */
  readonly walletAddressOf: (address: string) => string;
  /** A JSON row. @throws RouterError */
  readonly requestWithdrawal: (
    account: AccountId,
    address: string,
    amount: NanoUsd,
  ) => Promise<unknown>;
  /** JSON rows, newest first. */
  readonly withdrawalsOf: (account: AccountId) => Promise<readonly unknown[]>;
  /** JSON rows of all accounts that wait to be paid, oldest first. */
  readonly requestedWithdrawals: () => Promise<readonly unknown[]>;
  /** @throws RouterError `not_found` or `conflict`. */
  readonly rejectWithdrawal: (id: string, note: string) => Promise<void>;
}

/**
 * `POST /withdrawals` sets unused credit aside to go back to a linked wallet, `GET /withdrawals` tells what became of it.
 * For the operator: `GET /ledger/withdrawals` lists what is to be paid, `POST /ledger/withdrawals/{id}/reject` gives
 * the credit back.
 */
export function withdrawalRoutes(app: FastifyInstance, deps: WithdrawalDeps): void {
  app.post("/withdrawals", async (request, reply) => {
    const { account } = await deps.auth.keyOf(request.raw.headers);
    const json = jsonObjectOf(request.body);
    const amount = textOf(json, "amount_nusd", AMOUNT_CHARS_MAX);
    if (!AMOUNT.test(amount))
      throw new RouterError(
        "invalid_request",
        "amount_nusd must be a whole number of nano-USD, as a text of digits.",
        { details: { param: "amount_nusd" } },
      );
    let address: string;
    try {
      address = deps.walletAddressOf(textOf(json, "address", ADDRESS_CHARS_MAX));
    } catch (cause) {
      throw new RouterError("invalid_request", "address must be the ss58 address of a wallet.", {
        cause,
        details: { param: "address" },
      });
    }
    const withdrawal = await deps.requestWithdrawal(account, address, nanoUsd(BigInt(amount)));
    reply.code(201);
    return { data: withdrawal };
  });
  app.get("/withdrawals", async (request) => {
    const { account } = await deps.auth.keyOf(request.raw.headers);
    return { data: await deps.withdrawalsOf(account) };
  });
  app.get("/ledger/withdrawals", async (request) => {
    deps.auth.requireAdmin(request.raw.headers);
    return { data: await deps.requestedWithdrawals() };
  });
  app.post<{ Params: { id: string } }>("/ledger/withdrawals/:id/reject", async (request) => {
    deps.auth.requireAdmin(request.raw.headers);
    const { id } = request.params;
    await deps.rejectWithdrawal(id, textOf(jsonObjectOf(request.body), "note", NOTE_CHARS_MAX));
    return { data: { id, rejected: true } };
  });
}
