import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { setTimeout as delay } from "node:timers/promises";
import { createAccount } from "../../src/billing/accounts.ts";
import { auditLedger } from "../../src/billing/audit.ts";
import type { DepositChain } from "../../src/billing/deposit.ts";
import {
  createDepositQuote,
  listQuoteUses,
  priceDeposit,
} from "../../src/billing/deposit-quotes.ts";
import {
  type DepositScanner,
  listDeposits,
  openDepositScanner,
} from "../../src/billing/deposits.ts";
import type { RateSource } from "../../src/billing/price.ts";
import { addManualTick, tickRate } from "../../src/billing/price-ticks.ts";
import { migrateBilling } from "../../src/billing/schema.ts";
import type { AccountId } from "../../src/core/ids.ts";
import { rao } from "../../src/core/money.ts";
import { type Database, openDatabase } from "../../src/runtime/database.ts";
import { findPostgres, silent, startPostgres } from "./stores.ts";

const TAO = 1_000_000_000n;
const USD = 1_000_000_000n;
const MINUTE_MS = 60_000;
/** The start of a minute that is past by any clock; tests that write ticks take different hours. */
const START_MS = Date.UTC(2026, 5, 1, 12, 0, 0);
/** 400 USD, and the rate that is quoted for it. */
const PRICE = 400n * USD;
const QUOTED = 396n * USD;

/** A chain whose blocks, all of them final, hold what the test sends. */
function openTimedChain(name: string) {
  type Block = { atMs: number; transfers: { to: string; rao: bigint }[] };
  const blocks: Block[] = [{ atMs: 0, transfers: [] }];
  const listeners = new Set<() => void>();
  const headOf = (number: number) => ({
    number,
    hash: `${name}-${number}`,
    parentHash: `${name}-${number - 1}`,
  });
  const head = () => headOf(blocks.length - 1);
  const chain: DepositChain = {
    genesisHash: `0x${name.padEnd(64, "0")}`,
    finalizedHead: () => Promise.resolve(head()),
    onFinalizedHead: (listener) => {
      const call = (): void => listener(head());
      listeners.add(call);
      return () => listeners.delete(call);
    },
    bestHead: () => Promise.resolve(head()),
    onBestHead: () => () => undefined,
    blockHash: (number) =>
      Promise.resolve(number < blocks.length ? headOf(number).hash : undefined),
    blockFacts: (hash) => {
      const number = Number(hash.split("-")[1]);
      const { atMs, transfers } = blocks[number] as Block;
      return Promise.resolve({
        head: headOf(number),
        timestampMs: atMs,
        fees: [],
        transfers: transfers.map((transfer, i) => ({
          ...transfer,
          from: "sender",
          eventIndex: i,
          memos: [],
        })),
      });
    },
  };
  return {
    chain,
    /** Adds a block. @returns its number. */
    add: (atMs: number, transfers: Block["transfers"] = []): number => {
      const number = blocks.push({ atMs, transfers }) - 1;
      for (const listener of listeners) listener();
      return number;
    },
  };
}

async function until(condition: () => boolean | Promise<boolean>): Promise<void> {
  const deadlineMs = Date.now() + 10_000;
  while (!(await condition())) {
    assert.ok(Date.now() < deadlineMs, "it did not happen in time");
    await delay(2);
  }
}

const addressOf = (index: number): string => `deposit-address-${index}`;

async function newAccount(database: Database): Promise<{ id: AccountId; address: string }> {
  const { id, index } = await createAccount(database, { name: "customer" });
  return { id, address: addressOf(index) };
}

async function assertSound(database: Database): Promise<void> {
  assert.deepEqual(
    (await auditLedger(database)).filter((row) => !row.ok),
    [],
  );
}

describe("the rate of a deposit", () => {
  let database: Database;
  let chains = 0;
  const scanners: DepositScanner[] = [];
  before(async () => {
    database = await openDatabase({ log: silent });
    await migrateBilling(database);
  });
  after(async () => {
    for (const scanner of scanners) await scanner.close();
    await assertSound(database);
    await database.close();
  });
  const open = async (rateNanoUsdPerTao: RateSource = tickRate) => {
    chains += 1;
    const { chain, add } = openTimedChain(chains.toString(16).padStart(8, "a"));
    const scanner = await openDepositScanner({
      database,
      chain,
      addressOf,
      rateNanoUsdPerTao,
      minimumRao: rao(1n),
      log: silent,
    });
    scanners.push(scanner);
    return {
      /** Adds a block and waits until it is booked, and what waited has been looked at. */
      block: async (atMs: number, transfers: { to: string; rao: bigint }[] = []) => {
        const number = add(atMs, transfers);
        await until(() => scanner.scannedTo() === number);
      },
      add,
    };
  };
  const tick = async (atMs: number, nanoUsdPerTao: bigint): Promise<void> => {
    assert.equal(await addManualTick(database, { atMs, nanoUsdPerTao }), true);
  };
  const depositsOf = async (account: AccountId) =>
    (await listDeposits(database, account)).map(({ state, rateNanoUsdPerTao, amountNusd }) => ({
      state,
      rate: rateNanoUsdPerTao,
      nusd: amountNusd,
    }));
  const credited = (rate: bigint, nusd: bigint) => ({ state: "credited", rate, nusd });
  const finalized = { state: "finalized", rate: undefined, nusd: undefined };

  test("is the tick of its block's minute, whatever the price has become", async () => {
    const { id, address } = await newAccount(database);
    const { block } = await open();
    await tick(START_MS, PRICE);
    await tick(START_MS + MINUTE_MS, 2n * PRICE);
    await block(START_MS + MINUTE_MS - 1, [{ to: address, rao: TAO }]);
    assert.deepEqual(await depositsOf(id), [credited(PRICE, 400n * USD)]);
  });

  test("is awaited while the price is frozen, in suspense, and is that of the first tick after", async () => {
    const { id, address } = await newAccount(database);
    const { block, add } = await open();
    const baseMs = START_MS + 3_600_000;
    await tick(baseMs, PRICE);
    await block(baseMs + MINUTE_MS, [{ to: address, rao: TAO }]);
    await block(baseMs + 2 * MINUTE_MS, [{ to: address, rao: 2n * TAO }]);
    assert.deepEqual(await depositsOf(id), [finalized, finalized]);
    await assertSound(database);
    // Later blocks do not change it, and another process sees the same.
    await tick(baseMs + 2 * MINUTE_MS, 300n * USD);
    await tick(baseMs + 3 * MINUTE_MS, 500n * USD);
    add(baseMs + 4 * MINUTE_MS);
    await until(async () =>
      (await depositsOf(id)).every((deposit) => deposit.state === "credited"),
    );
    assert.deepEqual(await depositsOf(id), [
      credited(300n * USD, 600n * USD),
      credited(300n * USD, 300n * USD),
    ]);
  });

  test("is the quoted one, once, when its block is in the quote's time", async () => {
    const { id, address } = await newAccount(database);
    const other = await newAccount(database);
    const { block } = await open(() => 300n * USD);
    const quote = await createDepositQuote(database, id, PRICE, START_MS);
    assert.deepEqual(
      [quote.nanoUsdPerTao, quote.maxRao, quote.createdMs, quote.expiresMs],
      [QUOTED, (500n * USD * TAO) / QUOTED, START_MS, START_MS + 600_000],
    );
    await block(START_MS - 1, [{ to: address, rao: TAO }]);
    await block(START_MS + 600_001, [{ to: address, rao: TAO }]);
    await block(START_MS + 1, [{ to: other.address, rao: TAO }]);
    await block(START_MS + 600_000, [
      { to: address, rao: TAO },
      { to: address, rao: TAO },
    ]);
    const plain = credited(300n * USD, 300n * USD);
    assert.deepEqual(await depositsOf(other.id), [plain]);
    // Newest first: of the last block the first deposit took the quote.
    assert.deepEqual(await depositsOf(id), [plain, credited(QUOTED, 396n * USD), plain, plain]);
    const deposits = await listDeposits(database, id);
    assert.deepEqual(await listQuoteUses(database, id), [
      {
        quote: quote.id,
        deposit: deposits[1]?.id,
        nanoUsdPerTao: QUOTED,
        amountRao: TAO,
        amountNusd: 396n * USD,
      },
    ]);
  });

  test("is the quoted one up to 500 USD, and that of its minute for the rest", async () => {
    const { id, address } = await newAccount(database);
    const { block } = await open(() => 300n * USD);
    const { maxRao } = await createDepositQuote(database, id, PRICE, START_MS);
    await block(START_MS + 1, [{ to: address, rao: 3n * TAO }]);
    const coveredNusd = (maxRao * QUOTED) / TAO;
    const restNusd = ((3n * TAO - maxRao) * 300n * USD) / TAO;
    assert.ok(coveredNusd > 499n * USD && coveredNusd <= 500n * USD);
    assert.deepEqual(await depositsOf(id), [credited(300n * USD, coveredNusd + restNusd)]);
    const [use] = await listQuoteUses(database, id);
    assert.deepEqual([use?.amountRao, use?.amountNusd], [maxRao, coveredNusd]);
  });

  test("needs no tick when the quote covers it; else the quote waits with it", async () => {
    const { id, address } = await newAccount(database);
    const baseMs = START_MS + 7_200_000;
    const { block, add } = await open();
    await createDepositQuote(database, id, PRICE, baseMs);
    await block(baseMs, [{ to: address, rao: 3n * TAO }]);
    assert.deepEqual(await depositsOf(id), [finalized]);
    assert.deepEqual(await listQuoteUses(database, id), []);
    await block(baseMs + 1, [{ to: address, rao: TAO }]);
    assert.deepEqual(await depositsOf(id), [credited(QUOTED, 396n * USD), finalized]);
    await tick(baseMs, 300n * USD);
    add(baseMs + 2);
    await until(async () => (await depositsOf(id))[1]?.state === "credited");
    assert.deepEqual((await depositsOf(id))[1], credited(300n * USD, 900n * USD));
  });

  test("createDepositQuote() gives the open quote again, and a new one after its use or its end", async () => {
    const { id, address } = await newAccount(database);
    const { block } = await open(() => PRICE);
    const first = await createDepositQuote(database, id, PRICE, START_MS);
    assert.deepEqual(await createDepositQuote(database, id, 2n * PRICE, START_MS + 599_999), first);
    const second = await createDepositQuote(database, id, 2n * PRICE, START_MS + 600_000);
    assert.notEqual(second.id, first.id);
    assert.equal(second.nanoUsdPerTao, 2n * QUOTED);
    await block(START_MS + 600_001, [{ to: address, rao: TAO }]);
    const third = await createDepositQuote(database, id, PRICE, START_MS + 600_002);
    assert.equal(third.nanoUsdPerTao, QUOTED);
    const both = await Promise.all(
      [1, 2, 3].map((n) =>
        createDepositQuote(database, id, BigInt(n) * PRICE, START_MS + 7_200_000),
      ),
    );
    assert.equal(new Set(both.map((quote) => quote.id)).size, 1);
  });

  test("of dust that is worth nothing is not known", async () => {
    const { id } = await newAccount(database);
    const dust = { id: "dust", account: id, blockMs: START_MS, amountRao: rao(1n) };
    assert.equal(await priceDeposit(database, dust, () => 999_999_999n), undefined);
    assert.deepEqual(await priceDeposit(database, dust, () => USD), { rate: USD, worth: 1n });
  });
});

const bin = findPostgres();
if (bin === undefined) {
  console.log("skipped: no PostgreSQL under /usr/lib/postgresql, so racing quotes are not tested");
} else {
  test("racing gateways give an account one open quote, and one deposit its rate", async (t) => {
    const server = await startPostgres(bin);
    const databases: Database[] = [];
    const scanners: DepositScanner[] = [];
    t.after(async () => {
      for (const scanner of scanners) await scanner.close();
      for (const database of databases) await database.close();
      await server.close();
    });
    const url = await server.newDatabase();
    for (let i = 0; i < 3; i += 1) databases.push(await openDatabase({ url, log: silent }));
    await Promise.all(databases.map((database) => migrateBilling(database)));
    const [database] = databases;
    assert.ok(database !== undefined);
    const { id, address } = await newAccount(database);
    const { chain, add } = openTimedChain("b");
    for (const each of databases)
      scanners.push(
        await openDepositScanner({
          database: each,
          chain,
          addressOf,
          rateNanoUsdPerTao: () => 300n * USD,
          minimumRao: rao(1n),
          log: silent,
        }),
      );
    const rounds = 8;
    for (let i = 0; i < rounds; i += 1) {
      const atMs = START_MS + i * 3_600_000;
      const quotes = await Promise.all(
        databases.flatMap((each) =>
          [PRICE, 2n * PRICE].map((price) => createDepositQuote(each, id, price, atMs)),
        ),
      );
      assert.equal(new Set(quotes.map((quote) => quote.id)).size, 1);
      const transfers = Array.from({ length: 3 }, () => ({ to: address, rao: TAO / 10n }));
      const number = add(atMs + 1, transfers);
      await until(() => scanners.every((scanner) => scanner.scannedTo() === number));
    }
    const deposits = await listDeposits(database, id);
    assert.equal(deposits.length, 3 * rounds);
    assert.ok(deposits.every(({ state }) => state === "credited"));
    assert.equal((await listQuoteUses(database, id)).length, rounds);
    const atQuote = deposits.filter(({ rateNanoUsdPerTao }) => rateNanoUsdPerTao !== 300n * USD);
    assert.equal(atQuote.length, rounds);
    await assertSound(database);

    // Deposits that are priced at the same time, as by a scanner at a new block and one at those that waited.
    for (let i = 0; i < rounds; i += 1) {
      const atMs = START_MS - (i + 1) * 3_600_000;
      await createDepositQuote(database, id, PRICE, atMs);
      const priced = await Promise.all(
        databases.flatMap((each, j) =>
          [0, 1].map(async (k) => {
            const deposit = `race:${i}:${j}:${k}`;
            await each.query(
              `INSERT INTO ledger.deposit (id, account, attribution, state, block_number, block_hash, event_index, block_ms, sender,
                                           address, amount_rao)
                 VALUES ($1, $2, 'address', 'finalized', 1, $1, 0, $3, 'sender', $4, $5)`,
              [deposit, id, atMs, address, TAO],
            );
            return await each.transaction(
              async (tx) =>
                await priceDeposit(
                  tx,
                  { id: deposit, account: id, blockMs: atMs, amountRao: rao(TAO) },
                  () => 300n * USD,
                ),
            );
          }),
        ),
      );
      const ratedAt = (rate: bigint): number => priced.filter((one) => one?.rate === rate).length;
      assert.deepEqual([ratedAt(QUOTED), ratedAt(300n * USD)], [1, 5]);
    }
  });
}
