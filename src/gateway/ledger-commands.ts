import { assignDeposit, NOTE_CHARS_MAX } from "../billing/assign-deposit.ts";
import type { DepositState } from "../billing/deposit.ts";
import { listDepositsIn } from "../billing/deposits.ts";
import { type LedgerLocation, openExistingLedger } from "../billing/schema.ts";
import { listRequestedWithdrawals, rejectWithdrawal } from "../billing/withdrawals.ts";
import { accountIdOf } from "../core/ids.ts";
import { formatNano } from "../core/money.ts";
import type { Database } from "../runtime/database.ts";
import { ConfigError } from "../runtime/settings.ts";
import { jsonRow } from "./json-row.ts";
import { askRunningGateway, runningIn } from "./running-gateway.ts";

/** Where the ledger is: data folders of which a gateway may run on one, and the database if none does. */
export interface OperatedLedger extends LedgerLocation {
  readonly gatewayFolders: readonly string[];
}

/** States that the operator can list. */
export const LISTED_STATES = ["suspense", "below_minimum", "finalized", "credited"] as const;
export type ListedState = Exclude<DepositState, "seen">;

/** @returns undefined if `text` is no state that can be listed. */
export function listedStateOf(text: string): ListedState | undefined {
  return LISTED_STATES.find((state) => state === text);
}

/** A deposit as `GET /ledger/deposits` sends it. */
interface DepositJson {
  readonly id: string;
  readonly state: string;
  readonly block_ms: number;
  readonly amount_rao: string;
  readonly from: string;
  readonly address: string;
  readonly account: string | null;
  readonly memo: string | null;
}

/** A withdrawal as `GET /ledger/withdrawals` sends it. */
interface WithdrawalJson {
  readonly memo: string;
  readonly address: string;
  readonly amount_rao: string;
  readonly account: string;
  readonly requested_ms: number;
}

/** One line per deposit in a state, newest first; what `daybreak deposits list` prints. @throws ConfigError */
export async function depositLines(ledger: OperatedLedger, stateText: string): Promise<string[]> {
  const state = listedStateOf(stateText);
  if (state === undefined)
    throw new ConfigError(`--state must be one of ${LISTED_STATES.join(", ")}`);
  const path = `/ledger/deposits?state=${state}`;
  const rows =
    (await askRunning<object[]>(ledger, path)) ??
    (await withDatabase(ledger, async (database) =>
      (await listDepositsIn(database, state)).map(jsonRow),
    ));
  if (rows.length === 0) return [`no deposits are in the state ${state}`];
  return rows.map(lineOf);
}

/**
 * Assigns a deposit; what `daybreak deposits assign` does.
 *
 * @throws ConfigError for what is wrong with the arguments. @throws Error if the ledger refuses.
 */
export async function assignDepositTo(
  ledger: OperatedLedger,
  deposit: string,
  accountText: string,
  note: string,
): Promise<string> {
  const account = accountIdOf(accountText);
  if (account === undefined)
    throw new ConfigError(`${JSON.stringify(accountText)} is not the id of an account`);
  requireNote(note);
  const path = `/ledger/deposits/${encodeURIComponent(deposit)}/assign`;
  const answer = await askRunning<object>(ledger, path, { account_id: account, note });
  if (answer === undefined)
    await withDatabase(ledger, (database) => assignDeposit(database, { deposit, account, note }));
  return `assigned ${deposit} to ${account}; it is credited with the gateway's next block`;
}

/** One line per withdrawal that waits, oldest first; what `daybreak withdrawals list` prints. */
export async function withdrawalLines(ledger: OperatedLedger): Promise<string[]> {
  const rows =
    (await askRunning<object[]>(ledger, "/ledger/withdrawals")) ??
    (await withDatabase(ledger, async (database) =>
      (await listRequestedWithdrawals(database)).map(jsonRow),
    ));
  if (rows.length === 0) return ["no withdrawals wait"];
  return rows.map((row) => {
    const { memo, address, amount_rao, account, requested_ms } = row as WithdrawalJson;
    const when = new Date(requested_ms).toISOString();
    return `pay ${formatNano(BigInt(amount_rao))} TAO to ${address} with the memo ${memo}  (${account}, ${when})`;
  });
}

/** Rejects a withdrawal; what `daybreak withdrawals reject` does. @throws ConfigError or, if the ledger refuses, Error. */
export async function rejectWithdrawalOf(
  ledger: OperatedLedger,
  id: string,
  note: string,
): Promise<string> {
  requireNote(note);
  const path = `/ledger/withdrawals/${encodeURIComponent(id)}/reject`;
  const answer = await askRunning<object>(ledger, path, { note });
  if (answer === undefined)
    await withDatabase(ledger, (database) =>
      rejectWithdrawal(database, { id, note, nowMs: Date.now() }),
    );
  return `rejected ${id}; the credit is back on the account`;
}

function requireNote(note: string): void {
  if (note === "" || note.length > NOTE_CHARS_MAX)
    throw new ConfigError(`--note must have 1 to ${NOTE_CHARS_MAX} characters`);
}

async function askRunning<T>(
  { gatewayFolders }: OperatedLedger,
  path: string,
  body?: object,
): Promise<T | undefined> {
  for (const folder of gatewayFolders) {
    const running = runningIn(folder);
    if (running === undefined) continue;
    const options = body === undefined ? {} : { method: "POST", body };
    return (await askRunningGateway<{ data: T }>(running, path, options)).data;
  }
  return undefined;
}

async function withDatabase<T>(
  location: LedgerLocation,
  work: (database: Database) => Promise<T>,
): Promise<T> {
  const database = await openExistingLedger(location);
  try {
    return await work(database);
  } finally {
    await database.close();
  }
}

function lineOf(row: object): string {
  const { id, state, block_ms, amount_rao, from, address, account, memo } = row as DepositJson;
  const fields = [
    new Date(block_ms).toISOString(),
    state,
    `${formatNano(BigInt(amount_rao))} TAO`,
    `from ${from}`,
    `to ${address}`,
    account === null ? "of nobody" : `of ${account}`,
    ...(memo === null ? [] : [`memo ${JSON.stringify(memo)}`]),
  ];
  return `${id}  ${fields.join("  ")}`;
}
