import type { FastifyInstance } from "fastify";
import { NOTE_CHARS_MAX } from "../../billing/assign-deposit.ts";
import { RouterError } from "../../core/errors.ts";
import { type AccountId, accountIdOf } from "../../core/ids.ts";
import type { Authenticator } from "../auth.ts";
import { jsonObjectOf, textOf } from "../json-body.ts";
import { LISTED_STATES, type ListedState, listedStateOf } from "../ledger-commands.ts";

const ACCOUNT_CHARS_MAX = 64;

export interface LedgerDepositDeps {
  readonly auth: Authenticator;
  /** JSON rows, newest first. */
  readonly depositsIn: (state: ListedState) => Promise<readonly unknown[]>;
  /** @throws RouterError `not_found` or `conflict`. */
  readonly assignDeposit: (deposit: string, account: AccountId, note: string) => Promise<void>;
}

/**
 * For the operator: `GET /ledger/deposits?state=suspense` lists deposits of all accounts in one state,
 * `POST /ledger/deposits/{id}/assign` gives one that nobody owns, or that was too small, to an account.
 */
export function ledgerDepositRoutes(app: FastifyInstance, deps: LedgerDepositDeps): void {
  app.get<{ Querystring: { state?: string } }>("/ledger/deposits", async (request) => {
    deps.auth.requireAdmin(request.raw.headers);
    const { state: wanted = "suspense" } = request.query;
    const state = listedStateOf(wanted);
    if (state === undefined)
      throw new RouterError(
        "invalid_request",
        `state must be one of ${LISTED_STATES.join(", ")}.`,
        {
          details: { param: "state" },
        },
      );
    return { data: await deps.depositsIn(state) };
  });
  app.post<{ Params: { id: string } }>("/ledger/deposits/:id/assign", async (request) => {
    deps.auth.requireAdmin(request.raw.headers);
    const json = jsonObjectOf(request.body);
    const account = accountIdOf(textOf(json, "account_id", ACCOUNT_CHARS_MAX));
    if (account === undefined)
      throw new RouterError("invalid_request", "account_id must be the id of an account.", {
        details: { param: "account_id" },
      });
    const { id } = request.params;
    await deps.assignDeposit(id, account, textOf(json, "note", NOTE_CHARS_MAX));
    return { data: { id, account_id: account, assigned: true } };
  });
}
