import { migrateBilling } from "../billing/schema.ts";
import { formatNano } from "../core/money.ts";
import { openDatabase } from "../runtime/database.ts";
import type { Logger } from "../runtime/logger.ts";
import { ConfigError } from "../runtime/settings.ts";
import { type AccountAdmin, type AccountJson, accountAdmin } from "./account-admin.ts";
import { askRunningGateway, type RunningGateway } from "./running-gateway.ts";

/** Where the accounts are: at a running gateway, or else in a database. */
export interface AccountsPlace {
  readonly running: RunningGateway | undefined;
  readonly directory: string | undefined;
  readonly url: string | undefined;
  readonly log: Logger;
}

/**
 * Runs `work` on the accounts of a running gateway, or of a stopped one's database.
 *
 * @throws ConfigError if there is no ledger, or it is in use. @throws Error in the gateway's words for what it refuses.
 */
export async function withAccounts<Result>(
  { running, directory, url, log }: AccountsPlace,
  work: (accounts: AccountAdmin) => Promise<Result>,
): Promise<Result> {
  if (running !== undefined) return await work(remoteAccounts(running));
  const database = await openDatabase({ url, directory, create: false, log });
  try {
    const [found] = await database.query<{ table: string | null }>(
      "SELECT to_regclass('ledger.account')::text AS table",
    );
    if (found?.table == null)
      throw new ConfigError(`There is no ledger in ${database.description}.`);
    await migrateBilling(database);
    return await work(accountAdmin(database, Date.now));
  } finally {
    await database.close();
  }
}

function remoteAccounts(running: RunningGateway): AccountAdmin {
  const ask = async <Answer>(path: string, method?: string, body?: object): Promise<Answer> =>
    await askRunningGateway<Answer>(running, path, {
      ...(method === undefined ? {} : { method }),
      ...(body === undefined ? {} : { body }),
    });
  const askForData = async <Data>(path: string, method?: string, body?: object): Promise<Data> =>
    (await ask<{ data: Data }>(path, method, body)).data;
  const pathOf = (account: string): string => `/accounts/${encodeURIComponent(account)}`;
  return {
    list: (offset) => ask(`/accounts?offset=${encodeURIComponent(String(offset))}`),
    show: (account) => askForData(pathOf(account)),
    create: (name) => ask("/accounts", "POST", { name }),
    setDisabled: (account, disabled) => askForData(pathOf(account), "PATCH", { disabled }),
    credit: (account, fields) => askForData(`${pathOf(account)}/credits`, "POST", fields),
  };
}

/** One account on a line, for a terminal. */
export function accountLine(account: AccountJson): string {
  const usd = (amount: string): string => `${formatNano(BigInt(amount))} USD`;
  return [
    account.account_id,
    account.disabled ? "disabled" : "enabled ",
    // Quoted, so that nothing in a name is taken for an instruction by the terminal.
    JSON.stringify(account.name),
    `credit ${usd(account.balance_nusd)}`,
    `of it promo ${usd(account.promo_nusd)}`,
    `held ${usd(account.held_nusd)}`,
    `keys ${account.keys}`,
  ].join("  ");
}
