import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import path from "node:path";
import fc from "fast-check";
import { budgetOf, createApiKey, limitKey } from "../../src/billing/accounts.ts";
import { auditLedger } from "../../src/billing/audit.ts";
import { type HoldVerdict, type Ledger, openLedger } from "../../src/billing/ledger.ts";
import { RouterError } from "../../src/core/errors.ts";
import { type AccountId, type Hotkey, newRequestId, type RequestId } from "../../src/core/ids.ts";
import { nanoUsd } from "../../src/core/money.ts";
import type { Database } from "../../src/runtime/database.ts";
import { openLogger } from "../../src/runtime/logger.ts";
import {
  fund,
  fundedAccount,
  holdOrder,
  MINERS,
  newCause,
  settleOrder,
  temporaryFolder,
} from "./stores.ts";

const ACCOUNTS = 2;
/** Deposits are about as large as one or two holds, so that holds compete. */
const DEPOSIT_MAX = 1_500n;
const HOLD_MAX = 1_000n;
/** Each account has a key with a limit, which a few requests reach. */
const KEY_LIMIT = 800n;

const who = fc.nat(ACCOUNTS - 1);
const position = fc.nat(40);
const step = fc.oneof(
  {
    weight: 2,
    arbitrary: fc.record({
      kind: fc.constant("deposit" as const),
      who,
      amount: fc.bigInt(1n, DEPOSIT_MAX),
      repeat: fc.option(position, { freq: 4 }),
    }),
  },
  {
    weight: 5,
    arbitrary: fc.record({
      kind: fc.constant("holds" as const),
      orders: fc.array(
        fc.record({
          who,
          amount: fc.bigInt(1n, HOLD_MAX),
          isLimited: fc.boolean(),
          repeat: fc.option(position, { freq: 4 }),
        }),
        { minLength: 1, maxLength: 6 },
      ),
    }),
  },
  // Each fits the account, and not all together.
  {
    weight: 2,
    arbitrary: fc.record({
      kind: fc.constant("burst" as const),
      who,
      isLimited: fc.boolean(),
      share: fc.bigInt(2n, 4n),
      count: fc.integer({ min: 5, max: 7 }),
    }),
  },
  {
    weight: 4,
    arbitrary: fc.record({
      kind: fc.constant("ends" as const),
      orders: fc.array(
        fc.record({
          position,
          isRelease: fc.boolean(),
          charge: fc.bigInt(0n, HOLD_MAX + 300n),
          minerAmount: fc.bigInt(0n, HOLD_MAX + 300n),
          miner: fc.nat(MINERS.length - 1),
        }),
        { minLength: 1, maxLength: 5 },
      ),
    }),
  },
  {
    weight: 2,
    arbitrary: fc.record({
      kind: fc.constant("refunds" as const),
      position,
      orders: fc.array(fc.record({ n: fc.nat(2), amount: fc.bigInt(1n, HOLD_MAX / 3n) }), {
        minLength: 1,
        maxLength: 4,
      }),
    }),
  },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant("expire" as const) }) },
);
type Step = typeof step extends fc.Arbitrary<infer T> ? T : never;

/** The same rules in the plainest form: one event after the other on maps. */
interface Model {
  readonly posted: bigint[];
  readonly held: bigint[];
  /** Of the limited keys: what is held and charged. */
  readonly keyHeld: bigint[];
  readonly keySpent: bigint[];
  readonly miners: bigint[];
  protocol: bigint;
  receipts: bigint;
  refunded: bigint;
  readonly holds: ModelHold[];
  /** Causes of the deposits so far. */
  readonly causes: string[];
}

interface ModelHold {
  readonly request: RequestId;
  readonly who: number;
  readonly amount: bigint;
  readonly isLimited: boolean;
  state: "open" | "settled" | "ended";
  charged: bigint;
  /** What is left of the charge at the protocol and at the miner. */
  protocolPart: bigint;
  minerPart: bigint;
  miner: number;
  readonly refunds: Map<number, bigint>;
}

/** Everything that can happen to an order. */
const OUTCOMES = [
  "deposit:applied",
  "deposit:repeated",
  "expire",
  "hold:conflict:amount",
  "hold:conflict:ended",
  "hold:conflict:fingerprint",
  "hold:insufficient_credit",
  "hold:key_limit",
  "hold:ok",
  "hold:repeated",
  "refund:applied",
  "refund:refused",
  "refund:repeated",
  "release:already_ended",
  "release:released",
  "settle:already_ended",
  "settle:clipped",
  "settle:settled",
];
const BATCHES_MAX = 10;
/** What a repeated hold differs in. */
const REPEATS = ["nothing", "nothing", "amount", "fingerprint"] as const;

/**
 * Runs random histories against the model, compares balances and audits the books after every step, and proves that the
 * histories reached every outcome.
 */
export async function checkLedgerProperty(database: Database, runs: number): Promise<void> {
  const { directory, remove } = temporaryFolder();
  const errors = path.join(directory, "errors.log");
  const log = openLogger("test", "error", errors);
  const ledger = await openLedger({ database, gateway: "property", log });
  try {
    await playHistories(database, ledger, runs, () => {
      // The tables refuse what the functions get wrong, and the orders are tried again one by one: right in the end, and a bug.
      assert.equal(readFileSync(errors, "utf8"), "");
    });
  } finally {
    await ledger.close();
    remove();
  }
}

async function playHistories(
  database: Database,
  ledger: Ledger,
  runs: number,
  assertNoErrors: () => void,
): Promise<void> {
  const reached = new Map<string, number>();
  const reach = (what: string): void => {
    reached.set(what, (reached.get(what) ?? 0) + 1);
  };
  // A rare outcome may be missing from one batch of random histories, so more are played until all were reached.
  for (let batch = 0; batch < BATCHES_MAX; batch += 1) {
    await fc.assert(
      fc.asyncProperty(fc.array(step, { minLength: 8, maxLength: 25 }), async (steps) => {
        await play(database, ledger, steps, reach, assertNoErrors);
      }),
      // Shrinking would replay whole histories for minutes.
      { numRuns: runs, endOnFailure: true },
    );
    const isRich = (reached.get("hold:ok") ?? 0) >= runs;
    if (isRich && OUTCOMES.every((outcome) => reached.has(outcome))) break;
  }
  assert.deepEqual([...reached.keys()].sort(), OUTCOMES);
  const refused = reached.get("hold:insufficient_credit") ?? 0;
  const held = reached.get("hold:ok") ?? 0;
  assert.ok(
    refused * 2 >= held,
    `${refused} holds refused, ${held} granted: too little competition`,
  );
  assert.ok(held >= runs, `only ${held} holds granted`);
}

async function play(
  database: Database,
  ledger: Ledger,
  steps: readonly Step[],
  reach: (what: string) => void,
  assertNoErrors: () => void,
): Promise<void> {
  const accounts: AccountId[] = [];
  const keys: string[] = [];
  for (let i = 0; i < ACCOUNTS; i += 1) {
    const account = await fundedAccount(database, 0n);
    const { id } = await createApiKey(database, account, { label: "limited", management: false });
    await limitKey(database, id, { amount: nanoUsd(KEY_LIMIT), reset: undefined });
    accounts.push(account);
    keys.push(id);
  }
  const before = await totalsOf(database);
  const model: Model = {
    posted: accounts.map(() => 0n),
    held: accounts.map(() => 0n),
    keyHeld: accounts.map(() => 0n),
    keySpent: accounts.map(() => 0n),
    miners: MINERS.map(() => 0n),
    protocol: 0n,
    receipts: 0n,
    refunded: 0n,
    holds: [],
    causes: [],
  };
  // Holds of one run expire together and earlier than those of any other test.
  const expiresMs = 10;
  const compare = async (): Promise<void> => {
    for (const [i, account] of accounts.entries()) {
      const { postedNusd, heldNusd } = await ledger.balance(account);
      assert.deepEqual([postedNusd, heldNusd], [model.posted[i], model.held[i]]);
      assert.ok(postedNusd >= heldNusd);
    }
    for (const [i, key] of keys.entries()) {
      const budget = await budgetOf(database, key);
      assert.deepEqual(
        [budget?.heldNusd, budget?.spentNusd],
        [model.keyHeld[i], model.keySpent[i]],
      );
    }
    const now = await totalsOf(database);
    assert.deepEqual(
      now.miners.map((balance, i) => balance - (before.miners[i] ?? 0n)),
      model.miners,
    );
    assert.equal(now.protocol - before.protocol, model.protocol);
    // What customers paid is what the receipts say, less refunds.
    const earned = model.protocol + model.miners.reduce((sum, amount) => sum + amount, 0n);
    assert.equal(earned, model.receipts - model.refunded);
    assert.deepEqual(
      (await auditLedger(database)).filter((row) => !row.ok),
      [],
    );
  };
  for (const event of steps) {
    if (event.kind === "deposit") {
      const known = event.repeat === null ? undefined : pick(model.causes, event.repeat);
      const cause = known ?? newCause();
      const isNew = await fund(database, accounts[event.who] as AccountId, event.amount, cause);
      assert.equal(isNew, known === undefined);
      reach(isNew ? "deposit:applied" : "deposit:repeated");
      if (isNew) {
        model.causes.push(cause);
        add(model.posted, event.who, event.amount);
      }
    } else if (event.kind === "holds") {
      await playHolds(ledger, model, { accounts, keys }, event.orders, expiresMs, reach);
    } else if (event.kind === "burst") {
      const amount = availableOf(model, event.who) / event.share;
      if (amount === 0n) continue;
      const orders = Array.from({ length: event.count }, () => ({
        who: event.who,
        amount,
        isLimited: event.isLimited,
        repeat: null,
      }));
      await playHolds(ledger, model, { accounts, keys }, orders, expiresMs, reach);
    } else if (event.kind === "ends") {
      await playEnds(ledger, model, event.orders, reach);
    } else if (event.kind === "refunds") {
      await playRefunds(ledger, model, event, reach);
    } else {
      const open = model.holds.filter(({ state }) => state === "open");
      assert.equal(await ledger.expire(expiresMs + 1), open.length);
      for (const hold of open) end(model, hold, "ended");
      reach("expire");
    }
    assertNoErrors();
    await compare();
  }
  await ledger.expire(expiresMs + 1);
}

async function playHolds(
  ledger: Ledger,
  model: Model,
  { accounts, keys }: { readonly accounts: readonly AccountId[]; readonly keys: readonly string[] },
  orders: Extract<Step, { kind: "holds" }>["orders"],
  expiresMs: number,
  reach: (what: string) => void,
): Promise<void> {
  const sent = orders.map((order) => {
    const known = order.repeat === null ? undefined : pick(model.holds, order.repeat);
    // A repeat of an old id: exactly as before, or for another request, or with another amount.
    const way = known === undefined ? undefined : REPEATS[Number(order.amount % 4n)];
    return {
      request: known?.request ?? newRequestId(Date.now()),
      who: known?.who ?? order.who,
      isLimited: known?.isLimited ?? order.isLimited,
      amount: known === undefined || way === "amount" ? order.amount : known.amount,
      fingerprint: way === "fingerprint" ? "of another request" : "of the request",
    };
  });
  const verdicts = await Promise.all(
    sent.map(({ request, who: index, amount, isLimited, fingerprint }) => {
      const order = holdOrder(accounts[index] as AccountId, amount, {
        request,
        fingerprint,
        expiresMs,
      });
      const apiKeyId = isLimited ? (keys[index] as string) : order.row.apiKeyId;
      return ledger.hold({ ...order, row: { ...order.row, apiKeyId } });
    }),
  );
  for (const [i, order] of sent.entries()) {
    const known = model.holds.find(({ request }) => request === order.request);
    const expected = holdInModel(model, known, order);
    assert.deepEqual(verdicts[i], expected);
    if (expected.ok) reach(known === undefined ? "hold:ok" : "hold:repeated");
    else if (known === undefined) reach(`hold:${expected.refusal}`);
    else if (known.state !== "open") reach("hold:conflict:ended");
    else reach(`hold:conflict:${known.amount === order.amount ? "fingerprint" : "amount"}`);
  }
}

function holdInModel(
  model: Model,
  known: ModelHold | undefined,
  {
    fingerprint,
    ...order
  }: { request: RequestId; who: number; amount: bigint; isLimited: boolean; fingerprint: string },
): HoldVerdict {
  if (known !== undefined) {
    const isSame = known.amount === order.amount && fingerprint === "of the request";
    const isOk = known.state === "open" && isSame;
    return isOk ? { ok: true } : { ok: false, refusal: "conflict" };
  }
  const availableNusd = availableOf(model, order.who);
  if (availableNusd < order.amount) {
    return { ok: false, refusal: "insufficient_credit", availableNusd };
  }
  const left = KEY_LIMIT - (model.keyHeld[order.who] ?? 0n) - (model.keySpent[order.who] ?? 0n);
  if (order.isLimited && left < order.amount)
    return { ok: false, refusal: "key_limit", availableNusd: left };
  add(model.held, order.who, order.amount);
  if (order.isLimited) add(model.keyHeld, order.who, order.amount);
  model.holds.push({
    ...order,
    state: "open",
    charged: 0n,
    protocolPart: 0n,
    minerPart: 0n,
    miner: 0,
    refunds: new Map(),
  });
  return { ok: true };
}

function availableOf(model: Model, who: number): bigint {
  return (model.posted[who] ?? 0n) - (model.held[who] ?? 0n);
}

async function playEnds(
  ledger: Ledger,
  model: Model,
  orders: Extract<Step, { kind: "ends" }>["orders"],
  reach: (what: string) => void,
): Promise<void> {
  const sent = orders.flatMap((order) => {
    const hold = pick(model.holds, order.position);
    return hold === undefined ? [] : [{ ...order, hold }];
  });
  const results = await Promise.all(
    sent.map(({ hold, isRelease, charge, minerAmount, miner }) =>
      isRelease
        ? ledger.release(hold.request, "test")
        : ledger.settle(
            settleOrder(hold.request, charge, minerAmount, { miner: MINERS[miner] as Hotkey }),
          ),
    ),
  );
  for (const [i, { hold, isRelease, charge, minerAmount, miner }] of sent.entries()) {
    const name = isRelease ? "release" : "settle";
    reach(`${name}:${results[i]}`);
    if (hold.state !== "open") {
      assert.equal(results[i], "already_ended");
    } else if (isRelease) {
      assert.equal(results[i], "released");
      end(model, hold, "ended");
    } else {
      assert.equal(results[i], "settled");
      if (charge > hold.amount) reach("settle:clipped");
      end(model, hold, "settled");
      hold.charged = min(charge, hold.amount);
      hold.minerPart = min(minerAmount, hold.charged);
      hold.protocolPart = hold.charged - hold.minerPart;
      hold.miner = miner;
      model.receipts += hold.charged;
      model.protocol += hold.protocolPart;
      add(model.miners, miner, hold.minerPart);
      add(model.posted, hold.who, -hold.charged);
      if (hold.isLimited) add(model.keySpent, hold.who, hold.charged);
    }
  }
}

async function playRefunds(
  ledger: Ledger,
  model: Model,
  { position: at, orders }: Extract<Step, { kind: "refunds" }>,
  reach: (what: string) => void,
): Promise<void> {
  const hold = pick(
    model.holds.filter(({ state }) => state === "settled"),
    at,
  );
  if (hold === undefined) return;
  for (const { n, amount } of orders) {
    const made = hold.refunds.get(n);
    if (made !== undefined) {
      assert.equal(await ledger.refund(hold.request, n, nanoUsd(made)), false);
      reach("refund:repeated");
    } else if (amount > hold.protocolPart + hold.minerPart) {
      await assert.rejects(
        ledger.refund(hold.request, n, nanoUsd(amount)),
        (error) => error instanceof RouterError && error.code === "invalid_request",
      );
      reach("refund:refused");
    } else {
      assert.equal(await ledger.refund(hold.request, n, nanoUsd(amount)), true);
      reach("refund:applied");
      hold.refunds.set(n, amount);
      const fromProtocol = min(amount, hold.protocolPart);
      hold.protocolPart -= fromProtocol;
      hold.minerPart -= amount - fromProtocol;
      model.protocol -= fromProtocol;
      model.refunded += amount;
      add(model.miners, hold.miner, fromProtocol - amount);
      add(model.posted, hold.who, amount);
      if (hold.isLimited) add(model.keySpent, hold.who, -amount);
    }
  }
}

function end(model: Model, hold: ModelHold, state: "settled" | "ended"): void {
  hold.state = state;
  add(model.held, hold.who, -hold.amount);
  if (hold.isLimited) add(model.keyHeld, hold.who, -hold.amount);
}

function add(balances: bigint[], index: number, amount: bigint): void {
  balances[index] = (balances[index] ?? 0n) + amount;
}

function pick<T>(items: readonly T[], at: number): T | undefined {
  return items.length === 0 ? undefined : items[at % items.length];
}

function min(a: bigint, b: bigint): bigint {
  return a < b ? a : b;
}

async function totalsOf(database: Database): Promise<{ miners: bigint[]; protocol: bigint }> {
  const rows = await database.query<{ code: number; owner: string; balance: bigint }>(
    "SELECT code, owner, credits - debits AS balance FROM ledger.acct WHERE ledger = 1 AND code IN (20, 30)",
  );
  const of = (code: number, owner: string): bigint =>
    rows.find((row) => row.code === code && row.owner === owner)?.balance ?? 0n;
  return { miners: MINERS.map((miner) => of(20, miner)), protocol: of(30, "") };
}
