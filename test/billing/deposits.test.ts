import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { setTimeout as delay } from "node:timers/promises";
import { createAccount } from "../../src/billing/accounts.ts";
import { auditLedger } from "../../src/billing/audit.ts";
import type { Deposit, DepositChain } from "../../src/billing/deposit.ts";
import {
  type DepositScanner,
  type DepositScannerOptions,
  listDeposits,
  openDepositScanner,
} from "../../src/billing/deposits.ts";
import { openLedger } from "../../src/billing/ledger.ts";
import type { AccountId } from "../../src/core/ids.ts";
import { rao } from "../../src/core/money.ts";
import { type Database, openDatabase } from "../../src/runtime/database.ts";
import { silent } from "./stores.ts";

const TAO = 1_000_000_000n;
/** 400 USD per TAO. */
const RATE = 400_000_000_000n;

type Transfers = { from: string; to: string; rao: bigint; eventIndex?: number }[];

/** A chain in memory: blocks are added by the test and finalized at once. */
function openFakeChain(genesisHash: string) {
  const blocks: { hash: string; parentHash: string; transfers: Transfers }[] = [];
  const listeners = new Set<() => void>();
  let fork = "";
  const hashOf = (number: number): string => `${genesisHash}-${number}${fork}`;
  const headOf = (number: number) => {
    const block = blocks[number];
    assert.ok(block !== undefined, `no block ${number}`);
    return { number, hash: block.hash, parentHash: block.parentHash };
  };
  const add = (transfers: Transfers = []): number => {
    const number = blocks.length;
    const parentHash = number === 0 ? "" : headOf(number - 1).hash;
    blocks.push({ hash: hashOf(number), parentHash, transfers });
    for (const listener of listeners) listener();
    return number;
  };
  add();
  let reads = 0;
  const chain: DepositChain = {
    genesisHash,
    finalizedHead: () => Promise.resolve(headOf(blocks.length - 1)),
    onFinalizedHead: (listener) => {
      const call = (): void => listener(headOf(blocks.length - 1));
      listeners.add(call);
      return () => listeners.delete(call);
    },
    // Everything is final here: nothing is to be seen before.
    bestHead: () => Promise.resolve(headOf(0)),
    onBestHead: () => () => undefined,
    blockHash: (number) => Promise.resolve(blocks[number]?.hash),
    blockFacts: (hash) => {
      reads += 1;
      const number = blocks.findIndex((block) => block.hash === hash);
      const transfers = blocks[number]?.transfers ?? [];
      return Promise.resolve({
        head: headOf(number),
        timestampMs: number * 12_000,
        fees: [],
        transfers: transfers.map((transfer, i) => ({
          eventIndex: i * 3,
          memos: [],
          ...transfer,
        })),
      });
    },
  };
  return {
    chain,
    add,
    blocks,
    reads: () => reads,
    listeners: () => listeners.size,
    /** What a node on another fork would say. */
    rewrite: () => {
      fork = "-fork";
      for (const [number, block] of blocks.entries()) {
        block.hash = hashOf(number);
        block.parentHash = number === 0 ? "" : hashOf(number - 1);
      }
    },
  };
}

describe("openDepositScanner()", () => {
  let database: Database;
  let chains = 0;
  const scanners: DepositScanner[] = [];
  before(async () => {
    database = await openDatabase({ log: silent });
    const ledger = await openLedger({ database, gateway: "gw", log: silent });
    await ledger.close();
  });
  after(async () => {
    for (const scanner of scanners) await scanner.close();
    const rows = await auditLedger(database);
    await database.close();
    assert.deepEqual(
      rows.filter((row) => !row.ok),
      [],
    );
  });

  const addressOf = (index: number): string => `deposit-address-${index}`;
  const newAccount = async (): Promise<{ id: AccountId; address: string }> => {
    const { id, index } = await createAccount(database, { name: "customer" });
    return { id, address: addressOf(index) };
  };
  const newChain = () => {
    chains += 1;
    return openFakeChain(`0x${chains.toString(16).padStart(64, "c")}`);
  };
  const open = async (
    chain: DepositChain,
    over: Partial<DepositScannerOptions> = {},
  ): Promise<DepositScanner> => {
    const scanner = await openDepositScanner({
      database,
      chain,
      addressOf,
      rateNanoUsdPerTao: () => RATE,
      minimumRao: rao(1_000_000n),
      log: silent,
      ...over,
    });
    scanners.push(scanner);
    return scanner;
  };
  const until = async (condition: () => boolean | Promise<boolean>): Promise<void> => {
    const deadlineMs = Date.now() + 10_000;
    while (!(await condition())) {
      assert.ok(Date.now() < deadlineMs, "it did not happen in time");
      await delay(2);
    }
  };
  const creditOf = async (account: AccountId): Promise<bigint> => {
    const [row] = await database.query<{ credit: bigint }>(
      "SELECT credits - debits AS credit FROM ledger.acct WHERE owner = $1",
      [account],
    );
    return row?.credit ?? 0n;
  };

  test("credits each of two equal transfers in one block, to accounts made before and after it opened", async () => {
    const early = await newAccount();
    const { chain, add } = newChain();
    const scanner = await open(chain);
    const late = await newAccount();
    const credited: Deposit[] = [];
    scanner.onCredited((deposit) => credited.push(deposit));
    const transfer = { from: "sender", to: early.address, rao: 2n * TAO };
    const number = add([
      transfer,
      transfer,
      { from: "sender", to: late.address, rao: TAO / 2n },
      { from: "sender", to: "nobody of ours", rao: TAO },
    ]);
    await until(() => credited.length === 3);
    assert.equal(scanner.scannedTo(), number);
    assert.equal(await creditOf(early.id), 1_600_000_000_000n);
    assert.equal(await creditOf(late.id), 200_000_000_000n);
    const deposits = await listDeposits(database, early.id);
    assert.deepEqual(
      deposits.map(({ id, state, amountRao, amountNusd, rateNanoUsdPerTao, blockMs }) => ({
        id,
        state,
        amountRao,
        amountNusd,
        rateNanoUsdPerTao,
        blockMs,
      })),
      [3, 0].map((event) => ({
        id: `${chain.genesisHash.slice(2, 10)}:${chain.genesisHash}-1:${event}`,
        state: "credited",
        amountRao: 2n * TAO,
        amountNusd: 800_000_000_000n,
        rateNanoUsdPerTao: RATE,
        blockMs: 12_000,
      })),
    );
    const journals = await database.query<{ cause: string }>(
      "SELECT cause FROM ledger.journal WHERE cause LIKE '%' || $1 ORDER BY cause",
      [deposits[0]?.id],
    );
    assert.deepEqual(
      journals.map(({ cause }) => cause.split(":")[0]),
      ["credit", "dep"],
    );
  });

  test("goes on at its cursor after a restart, and books nothing twice", async () => {
    const { id, address } = await newAccount();
    const { chain, add, reads } = newChain();
    add([{ from: "sender", to: address, rao: 5n * TAO }]);
    const first = await open(chain);
    assert.equal(first.scannedTo(), 1, "a first start begins after the finalized head");
    add([{ from: "sender", to: address, rao: TAO }]);
    await until(() => first.scannedTo() === 2);
    await first.close();
    for (let i = 0; i < 5; i += 1)
      add(i % 2 === 0 ? [{ from: "sender", to: address, rao: TAO }] : []);
    const readsBefore = reads();
    const second = await open(chain);
    await until(() => second.scannedTo() === 7);
    assert.equal(reads() - readsBefore, 5);
    assert.equal(await creditOf(id), 4n * 400_000_000_000n);
  });

  test("starts where it is told", async () => {
    const { id, address } = await newAccount();
    const { chain, add } = newChain();
    add([{ from: "sender", to: address, rao: TAO }]);
    add([{ from: "sender", to: address, rao: TAO }]);
    add();
    const scanner = await open(chain, { startBlock: 2 });
    await until(() => scanner.scannedTo() === 3);
    assert.equal(await creditOf(id), 400_000_000_000n);
  });

  test("two scanners on one database credit once", async () => {
    const { id, address } = await newAccount();
    const { chain, add } = newChain();
    const both = [await open(chain), await open(chain)];
    for (let i = 0; i < 20; i += 1) add([{ from: "sender", to: address, rao: TAO }]);
    await until(() => both.every((scanner) => scanner.scannedTo() === 20));
    assert.equal(await creditOf(id), 20n * 400_000_000_000n);
  });

  test("halts when a block does not follow the one that was booked", async () => {
    const { id, address } = await newAccount();
    const fake = newChain();
    const scanner = await open(fake.chain);
    fake.add();
    await until(() => scanner.scannedTo() === 1);
    fake.rewrite();
    fake.add([{ from: "sender", to: address, rao: TAO }]);
    await until(() => scanner.halted() !== undefined);
    assert.match(
      scanner.halted() ?? "",
      /block 2 \(.*\) does not follow block 1 \(.*\), which was booked/,
    );
    fake.add([{ from: "sender", to: address, rao: TAO }]);
    assert.equal(scanner.scannedTo(), 1);
    assert.equal(await creditOf(id), 0n);
    const again = await open(fake.chain);
    await until(() => again.halted() !== undefined);
  });

  test("halts when the finalized head is another block than the booked one", async () => {
    const fake = newChain();
    fake.add();
    const first = await open(fake.chain);
    await first.close();
    fake.rewrite();
    const second = await open(fake.chain);
    await until(() => second.halted() !== undefined);
    assert.match(second.halted() ?? "", /but .* was booked/);
  });

  test("keeps a deposit until there is a price for its block, then credits it at that price", async () => {
    const { id, address } = await newAccount();
    const { chain, add } = newChain();
    let rate: bigint | undefined;
    const asked: number[] = [];
    const scanner = await open(chain, {
      rateNanoUsdPerTao: (_tx, timestampMs) => {
        asked.push(timestampMs);
        return rate;
      },
    });
    const credited: Deposit[] = [];
    scanner.onCredited((deposit) => credited.push(deposit));
    add([{ from: "sender", to: address, rao: TAO }]);
    await until(() => scanner.scannedTo() === 1);
    assert.equal((await listDeposits(database, id))[0]?.state, "finalized");
    assert.equal(await creditOf(id), 0n);
    assert.ok((await auditLedger(database)).every((row) => row.ok));
    rate = 2n * RATE;
    add();
    await until(() => credited.length === 1);
    assert.equal(await creditOf(id), 800_000_000_000n);
    assert.equal((await listDeposits(database, id))[0]?.rateNanoUsdPerTao, 2n * RATE);
    assert.ok(asked.every((timestampMs) => timestampMs === 12_000));
  });

  test("leaves what is below the minimum, or moves between our own addresses, uncredited", async () => {
    const { id, address } = await newAccount();
    const other = await newAccount();
    const { chain, add } = newChain();
    const scanner = await open(chain);
    add([
      { from: "sender", to: address, rao: 999_999n },
      { from: other.address, to: address, rao: TAO },
    ]);
    add();
    await until(() => scanner.scannedTo() === 2);
    assert.equal(await creditOf(id), 0n);
    assert.deepEqual(
      (await listDeposits(database, id)).map(({ state }) => state),
      ["below_minimum"],
    );
  });

  test("goes on after a read that failed", async () => {
    const { id, address } = await newAccount();
    const { chain, add } = newChain();
    let failures = 0;
    const scanner = await open({
      ...chain,
      blockFacts: async (hash) => {
        failures += 1;
        if (failures === 1) throw new Error("the node hung up");
        return await chain.blockFacts(hash);
      },
    });
    add([{ from: "sender", to: address, rao: TAO }]);
    await until(() => failures === 1);
    add();
    await until(() => scanner.scannedTo() === 2);
    assert.equal(await creditOf(id), 400_000_000_000n);
  });

  test("watches new addresses when the treasury changes, and the old ones too", async () => {
    const { id, address } = await newAccount();
    const fake = newChain();
    const before = await open(fake.chain);
    await before.close();
    const scanner = await open(fake.chain, { addressOf: (index) => `new-${addressOf(index)}` });
    fake.add([
      { from: "sender", to: address, rao: TAO },
      { from: "sender", to: `new-${address}`, rao: TAO },
    ]);
    await until(() => scanner.scannedTo() === 1);
    assert.equal(await creditOf(id), 800_000_000_000n);
    await scanner.close();
    assert.equal(fake.listeners(), 0);
  });
});
