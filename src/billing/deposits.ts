import assert from "node:assert/strict";
import type { AccountId } from "../core/ids.ts";
import { nanoUsd, type Rao, rao } from "../core/money.ts";
import type { Database, Queryable } from "../runtime/database.ts";
import type { Logger } from "../runtime/logger.ts";
import { DatabaseError } from "../runtime/queryable.ts";
import type { Closable } from "../runtime/shutdown.ts";
import type {
  Deposit,
  DepositBlock,
  DepositChain,
  DepositState,
  DepositTransfer,
} from "./deposit.ts";
import { type Attribution, type DepositOwner, memoOf, ownersOf } from "./deposit-owner.ts";
import { priceDeposit } from "./deposit-quotes.ts";
import type { RateSource } from "./price.ts";
import { migrateBilling } from "./schema.ts";
import {
  bookTreasury,
  type TreasuryCode,
  type TreasuryWallets,
  treasuryCodes,
} from "./treasury.ts";
import { openUnfinalizedDeposits } from "./unfinalized-deposits.ts";

/** Pause after a failed pass over the chain, doubled up to the second. */
const RETRY_MS_MIN = 1_000;
const RETRY_MS_MAX = 30_000;
/** Deposits priced in one pass. */
const PENDING_MAX = 500;
/** Deposits that one listing returns. */
const LISTED_MAX = 200;
/** Accounts whose address is derived in one statement; a derivation takes about 1.5 ms. */
const DERIVED_MAX = 100;
/** Index of the first account: identity columns count from 1. */
const FIRST_INDEX = 1;
/** Index of the common address, which belongs to no account. */
const COMMON_INDEX = 0;
/** What is kept of the remarks beside a transfer, in characters. */
const MEMO_CHARS_MAX = 300;

export interface DepositScannerOptions {
  readonly database: Database;
  readonly chain: DepositChain;
  /** Deposit address of the account with this index; accounts count from 1, and 0 is the common address. */
  readonly addressOf: (accountIndex: number) => string;
  /** Where the operator keeps what was paid in. Addresses with prefix 42. */
  readonly treasury?: TreasuryWallets;
  readonly rateNanoUsdPerTao: RateSource;
  /** Smaller deposits stay in suspense, rao. */
  readonly minimumRao: Rao;
  /** First block to scan on this chain when the database has no cursor. Default: the one after the finalized head. */
  readonly startBlock?: number | undefined;
  readonly log: Logger;
}

export interface DepositScanner extends Closable {
  /** Called after the commit that credits a deposit. @returns a function that removes the listener. */
  onCredited(listener: (deposit: Deposit) => void): () => void;
  /** Why the scanner has stopped for good: the chain contradicts what was booked. undefined while it runs. */
  halted(): string | undefined;
  /** Last finalized block whose transfers are booked. */
  scannedTo(): number;
  /** The account's deposits in blocks that are not booked yet, newest first; none when the scanner has halted. */
  seen(account: AccountId): readonly Deposit[];
}

/**
 * Credits TAO transfers to accounts' addresses, once each, when their block is finalized.
 *
 * It walks every block number from a cursor in the database; cursor and entries move in one transaction, so a
 * transfer is never missed or booked twice, also with several scanners on one database. TAO goes from the deposit
 * addresses (51) through suspense (70) to clearing (40); USD from clearing to the customer, at the rate recorded with it.
 * What came to the common address without a memo or a linked wallet that tells whose it is stays in suspense.
 *
 * It halts when a block's parent is not the block it booked before: the node is on another chain, or finality was reverted.
 *
 * @throws ConfigError if the database is newer. @throws Error if the chain cannot be read at the start.
 */
export async function openDepositScanner(options: DepositScannerOptions): Promise<DepositScanner> {
  const { database, chain, log } = options;
  await migrateBilling(database);
  const book = openBook(options);
  let cursor = await book.cursor();
  const listeners = new Set<(deposit: Deposit) => void>();
  let haltedBy: string | undefined;
  let isClosed = false;
  let retryMs = RETRY_MS_MIN;
  let retry: NodeJS.Timeout | undefined;

  const announce = (deposits: readonly Deposit[]): void => {
    for (const deposit of deposits) {
      log.info(
        { deposit: deposit.id, account: deposit.account, rao: deposit.amountRao.toString() },
        "deposit.credited",
      );
      for (const listener of listeners) listener(deposit);
    }
  };

  const pass = async (): Promise<void> => {
    const head = await chain.finalizedHead();
    if (head.number === cursor.number && head.hash !== cursor.hash) {
      throw new Halt(`block ${head.number} is ${head.hash}, but ${cursor.hash} was booked`);
    }
    while (cursor.number < head.number && !isClosed) {
      const hash = await chain.blockHash(cursor.number + 1);
      if (hash === undefined) throw new Error(`the node does not know block ${cursor.number + 1}`);
      const facts = await chain.blockFacts(hash);
      if (facts.head.number !== cursor.number + 1 || facts.head.parentHash !== cursor.hash) {
        throw new Halt(
          `block ${facts.head.number} (${hash}) does not follow block ${cursor.number} (${cursor.hash}), which was booked`,
        );
      }
      const booked = await book.block(cursor, facts);
      cursor = booked.cursor;
      announce(booked.credited);
    }
    announce(await book.pending());
  };

  let running: Promise<void> | undefined;
  let isWanted = false;
  const run = async (): Promise<void> => {
    while (isWanted && !isClosed && haltedBy === undefined) {
      isWanted = false;
      try {
        await pass();
        retryMs = RETRY_MS_MIN;
      } catch (error) {
        if (error instanceof Halt) {
          haltedBy = error.message;
          log.fatal({ reason: error.message }, "deposits.halted");
        } else if (!isClosed) {
          log.warn({ err: error, retryMs }, "deposits.pass_failed");
          clearTimeout(retry);
          retry = setTimeout(wake, retryMs);
          retryMs = Math.min(retryMs * 2, RETRY_MS_MAX);
        }
      }
    }
  };
  const wake = (): void => {
    isWanted = true;
    running ??= run().finally(() => {
      running = undefined;
      if (isWanted && !isClosed && haltedBy === undefined) wake();
    });
  };
  const unsubscribe = chain.onFinalizedHead(wake);
  wake();
  const unfinalized = openUnfinalizedDeposits({
    chain,
    bookedTo: () => cursor.number,
    depositsIn: (facts) => book.depositsIn(facts),
    log,
  });

  return {
    onCredited: (listener) => {
      listeners.add(listener);
      return () => listeners.delete(listener);
    },
    halted: () => haltedBy,
    scannedTo: () => cursor.number,
    seen: (account) => (haltedBy === undefined ? unfinalized.of(account) : []),
    close: async () => {
      isClosed = true;
      unsubscribe();
      clearTimeout(retry);
      await unfinalized.close();
      await running;
    },
  };
}

/**
 * Deposits of one account, newest first, at most 200. Those that came from one of its wallets and wait in suspense, since
 * the wallet was not linked then, are among them.
 */
export async function listDeposits(database: Queryable, account: AccountId): Promise<Deposit[]> {
  const rows = await database.query<DepositRow>(
    `SELECT * FROM ledger.deposit WHERE account = $1
     UNION ALL
     SELECT d.* FROM ledger.deposit d JOIN ledger.linked_wallet w ON w.address = d.sender
      WHERE d.account IS NULL AND w.account = $1 AND w.unlinked_ms IS NULL
      ORDER BY block_number DESC, event_index DESC LIMIT $2`,
    [account, LISTED_MAX],
  );
  return rows.map(depositOf);
}

/** Deposits in one state, whosever they are, newest first, at most 200: what the operator looks at. */
export async function listDepositsIn(
  database: Queryable,
  state: Exclude<DepositState, "seen">,
): Promise<Deposit[]> {
  const rows = await database.query<DepositRow>(
    "SELECT * FROM ledger.deposit WHERE state = $1 ORDER BY block_number DESC, event_index DESC LIMIT $2",
    [state, LISTED_MAX],
  );
  return rows.map(depositOf);
}

/** The chain contradicts the books: nothing more may be credited before someone has looked. */
class Halt extends Error {}

interface Cursor {
  readonly number: number;
  readonly hash: string;
}

interface DepositRow {
  readonly id: string;
  readonly account: AccountId | null;
  readonly attribution: Attribution | null;
  readonly state: DepositState;
  readonly block_number: bigint;
  readonly block_hash: string;
  readonly event_index: number;
  readonly block_ms: bigint;
  readonly sender: string;
  readonly address: string;
  readonly amount_rao: bigint;
  readonly memo: string | null;
  readonly rate: bigint | null;
  readonly amount_nusd: bigint | null;
}

function depositOf(row: DepositRow): Deposit {
  return {
    id: row.id,
    account: row.account ?? undefined,
    attribution: row.attribution ?? undefined,
    state: row.state,
    blockNumber: Number(row.block_number),
    blockHash: row.block_hash,
    blockMs: Number(row.block_ms),
    from: row.sender,
    address: row.address,
    amountRao: rao(row.amount_rao),
    memo: row.memo ?? undefined,
    rateNanoUsdPerTao: row.rate ?? undefined,
    amountNusd: row.amount_nusd === null ? undefined : nanoUsd(row.amount_nusd),
  };
}

/** A transfer to an address of ours, and whose it is as far as anybody knows. */
interface Incoming {
  readonly id: string;
  readonly transfer: DepositTransfer;
  readonly owner: DepositOwner | undefined;
}

/** The database side of the scanner. */
function openBook({
  database,
  chain,
  addressOf,
  rateNanoUsdPerTao,
  minimumRao,
  startBlock,
  treasury = {},
  log,
}: DepositScannerOptions) {
  const genesis8 = chain.genesisHash.replace(/^0x/, "").slice(0, 8);
  /** undefined: a common address. */
  const accountByAddress = new Map<string, AccountId | undefined>();

  const walletCodes = treasuryCodes(treasury);
  const codeOf = (address: string): TreasuryCode | undefined =>
    walletCodes.get(address) ?? (accountByAddress.has(address) ? 51 : undefined);

  const readCursor = async (): Promise<Cursor | undefined> => {
    const [row] = await database.query<{ number: bigint; hash: string }>(
      "SELECT number, hash FROM ledger.chain_cursor WHERE genesis = $1",
      [chain.genesisHash],
    );
    return row === undefined ? undefined : { number: Number(row.number), hash: row.hash };
  };

  const firstCursor = async (): Promise<Cursor> => {
    if (startBlock === undefined) return await chain.finalizedHead();
    const number = Math.max(startBlock - 1, 0);
    const hash = await chain.blockHash(number);
    if (hash === undefined) throw new Error(`the node does not know block ${number}`);
    return { number, hash };
  };

  /** Derives the addresses of accounts that have none yet; another process may have created them. */
  const learnAddresses = async (): Promise<void> => {
    for (;;) {
      const accounts = await database.query<{ id: AccountId; index: number }>(
        "SELECT id, index FROM ledger.account WHERE NOT is_watched ORDER BY index LIMIT $1",
        [DERIVED_MAX],
      );
      if (accounts.length === 0) break;
      const addresses = accounts.map(({ index }) => addressOf(index));
      await database.transaction(async (tx) => {
        const ids = accounts.map(({ id }) => id);
        await tx.query(
          `INSERT INTO ledger.deposit_address (address, account)
             SELECT * FROM unnest($1::text[], $2::text[]) ON CONFLICT DO NOTHING`,
          [addresses, ids],
        );
        await tx.query("UPDATE ledger.account SET is_watched = true WHERE id = ANY ($1::text[])", [
          ids,
        ]);
      });
    }
  };

  const learnCommonAddress = async (): Promise<void> => {
    await database.query(
      "INSERT INTO ledger.deposit_address (address, account) VALUES ($1, NULL) ON CONFLICT DO NOTHING",
      [addressOf(COMMON_INDEX)],
    );
  };

  /** Loads addresses that were added since the last call. */
  const loadAddresses = async (): Promise<void> => {
    const [count] = await database.query<{ n: bigint }>(
      "SELECT count(*) AS n FROM ledger.deposit_address",
    );
    if (Number(count?.n) === accountByAddress.size) return;
    const rows = await database.query<{ address: string; account: AccountId | null }>(
      "SELECT address, account FROM ledger.deposit_address",
    );
    for (const { address, account } of rows) accountByAddress.set(address, account ?? undefined);
  };

  /** Transfers of the block that come from elsewhere to an address of ours. */
  const incomingIn = async ({ head, transfers }: DepositBlock): Promise<Incoming[]> => {
    if (transfers.length === 0) return [];
    await learnAddresses();
    await loadAddresses();
    // Our own money between our own addresses is already counted: it was when it came in.
    const ours = transfers.filter(
      ({ to, from, rao: amount }) =>
        amount > 0n && accountByAddress.has(to) && codeOf(from) === undefined,
    );
    const owners = await ownersOf(
      database,
      ours.map(({ from, to, memos }) => ({ from, memos, addressOwner: accountByAddress.get(to) })),
    );
    return ours.map((transfer, i) => ({
      id: `${genesis8}:${head.hash}:${transfer.eventIndex}`,
      transfer,
      owner: owners[i],
    }));
  };

  /** A new treasury key makes new addresses; the old ones stay watched. */
  const noticeNewTreasury = async (): Promise<void> => {
    const [first] = await database.query<{ index: number; address: string | null }>(
      `SELECT a.index, d.address FROM ledger.account a
         LEFT JOIN ledger.deposit_address d ON d.account = a.id AND d.address = $1
        WHERE a.is_watched AND a.index = $2`,
      [addressOf(FIRST_INDEX), FIRST_INDEX],
    );
    if (first === undefined || first.address !== null) return;
    log.warn("deposits.treasury_changed");
    await database.query("UPDATE ledger.account SET is_watched = false");
  };

  return {
    /** Where to go on; sets the starting point on a chain that was not scanned before. */
    cursor: async (): Promise<Cursor> => {
      await noticeNewTreasury();
      await learnCommonAddress();
      await learnAddresses();
      await loadAddresses();
      const known = await readCursor();
      if (known !== undefined) return known;
      const { number, hash } = await firstCursor();
      await database.query(
        "INSERT INTO ledger.chain_cursor (genesis, number, hash) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING",
        [chain.genesisHash, number, hash],
      );
      return (await readCursor()) ?? { number, hash };
    },

    /** Books one block and moves the cursor, or finds that another scanner has. */
    block: async (
      from: Cursor,
      facts: DepositBlock,
    ): Promise<{ cursor: Cursor; credited: Deposit[] }> => {
      const incoming = await incomingIn(facts);
      const { number, hash } = facts.head;
      const credited = await database.transaction(async (tx) => {
        const moved = await tx.query(
          `UPDATE ledger.chain_cursor SET number = $3, hash = $4
            WHERE genesis = $1 AND number = $2 RETURNING number`,
          [chain.genesisHash, from.number, number, hash],
        );
        if (moved.length === 0) return undefined;
        const found: Deposit[] = [];
        for (const each of incoming) {
          const deposit = await record(tx, facts, each);
          if (deposit !== undefined) found.push(deposit);
        }
        await bookTreasury(tx, { genesis8, facts, codeOf, log });
        return await creditAll(tx, found);
      });
      if (credited !== undefined) return { cursor: { number, hash }, credited };
      const other = await readCursor();
      assert(other !== undefined, "the cursor is gone");
      return { cursor: other, credited: [] };
    },

    /** What the block would bring, if it became final, to those whose deposits they are. */
    depositsIn: async (facts: DepositBlock): Promise<Deposit[]> =>
      (await incomingIn(facts)).flatMap(({ id, transfer, owner }) =>
        owner === undefined
          ? []
          : {
              id,
              ...owner,
              state: "seen",
              blockNumber: facts.head.number,
              blockHash: facts.head.hash,
              blockMs: facts.timestampMs,
              from: transfer.from,
              address: transfer.to,
              amountRao: rao(transfer.rao),
              memo: memoText(transfer, owner),
              rateNanoUsdPerTao: undefined,
              amountNusd: undefined,
            },
      ),

    /** Credits what waited for a price. */
    pending: async (): Promise<Deposit[]> => {
      const [waits] = await database.query<{ block_ms: bigint }>(
        "SELECT block_ms FROM ledger.deposit WHERE state = 'finalized' ORDER BY block_number LIMIT 1",
      );
      if (waits === undefined) return [];
      return await database.transaction(async (tx) => {
        const rows = await tx.query<DepositRow>(
          `SELECT * FROM ledger.deposit WHERE state = 'finalized'
            ORDER BY block_number, event_index LIMIT $1 FOR UPDATE`,
          [PENDING_MAX],
        );
        return await creditAll(tx, rows.map(depositOf));
      });
    },
  };

  /** TAO into suspense, and the row. @returns undefined if it was booked before or cannot be credited. */
  async function record(
    tx: Queryable,
    facts: DepositBlock,
    { id, transfer, owner }: Incoming,
  ): Promise<Deposit | undefined> {
    const [posted] = await tx.query<{ is_new: boolean }>(
      `SELECT ledger.post('dep:' || $1, 'deposit', NULL, NULL, ARRAY[2]::smallint[],
         ARRAY[ledger.system_acct(2, 51)], ARRAY[ledger.system_acct(2, 70)], ARRAY[$2::bigint]) AS is_new`,
      [id, transfer.rao],
    );
    if (posted?.is_new !== true) return undefined;
    const state = stateOf(transfer, owner);
    const [row] = await tx.query<DepositRow>(
      `INSERT INTO ledger.deposit (id, account, attribution, state, block_number, block_hash, event_index, block_ms,
                                   sender, address, amount_rao, memo)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12) RETURNING *`,
      [
        id,
        owner?.account,
        owner?.attribution,
        state,
        facts.head.number,
        facts.head.hash,
        transfer.eventIndex,
        facts.timestampMs,
        transfer.from,
        transfer.to,
        transfer.rao,
        memoText(transfer, owner),
      ],
    );
    assert(row !== undefined, "the deposit was not inserted");
    log.info(
      { deposit: id, account: owner?.account, rao: transfer.rao.toString(), state },
      "deposit.finalized",
    );
    return state === "finalized" ? depositOf(row) : undefined;
  }

  /** Dust of unknown senders is not in suspense: it would hide what the operator shall look at. */
  function stateOf(transfer: DepositTransfer, owner: DepositOwner | undefined): DepositState {
    if (transfer.rao < minimumRao) return "below_minimum";
    return owner === undefined ? "suspense" : "finalized";
  }

  /** Credits those whose block's time has a price. */
  async function creditAll(tx: Queryable, deposits: readonly Deposit[]): Promise<Deposit[]> {
    const credited: Deposit[] = [];
    for (const deposit of deposits) {
      const priced = await priceDeposit(tx, deposit, rateNanoUsdPerTao);
      if (priced === undefined) continue;
      const { rate, worth } = priced;
      await tx.query(
        `SELECT ledger.post('credit:' || $1, 'credit', NULL, jsonb_build_object('rate', $4::text), ARRAY[2, 1]::smallint[],
           ARRAY[ledger.system_acct(2, 70), ledger.system_acct(1, 40)],
           ARRAY[ledger.system_acct(2, 40), ledger.acct_of(10, $2)], ARRAY[$3::bigint, $5::bigint])`,
        [deposit.id, deposit.account, deposit.amountRao, rate, worth],
      );
      const [row] = await tx.query<DepositRow>(
        `UPDATE ledger.deposit SET state = 'credited', rate = $2, amount_nusd = $3, credited_at = now()
          WHERE id = $1 AND state = 'finalized' RETURNING *`,
        [deposit.id, rate, worth],
      );
      if (row === undefined)
        throw new DatabaseError(`deposit ${deposit.id} changed meanwhile`, "40001");
      credited.push(depositOf(row));
    }
    return credited;
  }
}

function memoText({ memos }: DepositTransfer, owner: DepositOwner | undefined): string | undefined {
  if (owner?.attribution === "memo") return memoOf(owner.account);
  return memos.length === 0 ? undefined : memos.join(" ").slice(0, MEMO_CHARS_MAX);
}
