import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { type ErrorCode, RouterError } from "../core/errors.ts";
import type { AccountId, Hotkey, RequestId } from "../core/ids.ts";
import { requestIdOf } from "../core/ids.ts";
import type { NanoUsd } from "../core/money.ts";
import type { Usage } from "../core/pricing.ts";
import type { ReceiptStatus } from "../core/receipt.ts";
import type { Database } from "../runtime/database.ts";
import type { Logger } from "../runtime/logger.ts";
import {
  Counter,
  DURATION_BUCKETS_SECONDS,
  Gauge,
  Histogram,
  type Registry,
} from "../runtime/metrics.ts";
import { isRetryable } from "../runtime/queryable.ts";
import type { Closable } from "../runtime/shutdown.ts";
import { arrayParams } from "./array-params.ts";
import { HOLD_WAIT_MS_MAX, type Order, openGroupCommit } from "./group-commit.ts";
import { migrateBilling } from "./schema.ts";

/** Largest amount of one hold or refund: 1,000,000 USD. Sums of int8 stay far from their end. */
const ORDER_NANO_USD_MAX = 1_000_000_000_000_000n;
/** A leaf is two tokens of about 1.5 KB. */
const LEAF_CHARS_MAX = 65_536;
/** Expired holds that one statement frees. */
const EXPIRE_BATCH = 1_000;
/** Most leaves that one call reads. */
const LEAVES_MAX = 10_000;
/** Most open holds that one call returns. */
const OPEN_HOLDS_MAX = 100_000;
/** Largest int4 of PostgreSQL. */
const INT4_MAX = 2_147_483_647;

/** Sets a ceiling aside before a request is dispatched. */
export interface HoldOrder {
  readonly request: RequestId;
  readonly account: AccountId;
  /** More than 0, at most 1,000,000 USD. */
  readonly amount: NanoUsd;
  /** Names what is asked for. The same request id with another amount, account or fingerprint is a conflict. */
  readonly fingerprint: string;
  /** Unix milliseconds after which `expire` frees it. */
  readonly expiresMs: number;
  readonly row: {
    readonly apiKeyId: string;
    readonly model: string;
    readonly surface: string;
    readonly streamed: boolean;
    readonly createdMs: number;
  };
}

export type HoldVerdict =
  | {
      readonly ok: true;
      /** It is paid from promo credit: its miner earns nothing, and its leaf says so. */
      readonly promo?: true;
    }
  | {
      readonly ok: false;
      readonly refusal: "insufficient_credit" | "key_limit";
      /** Most that one hold can be, nano-USD: of the account's credit or promo credit, or within the key's limit. */
      readonly availableNusd: bigint;
    }
  | { readonly ok: false; readonly refusal: "conflict" };

/** What is known about a request when it has ended. Never prompts or completions. */
export interface SettledRow {
  readonly hotkey: Hotkey;
  readonly usage: Usage;
  readonly status: ReceiptStatus;
  readonly finishReason?: string | undefined;
  /** The upstream's own id of the answer; finds the request as well. */
  readonly upstreamId?: string | undefined;
  readonly ttftMs?: number | undefined;
  readonly durationMs?: number | undefined;
  readonly receiptHash: string;
  readonly receiptSalt: string;
  /** Dispatches to relays, at least 1. */
  readonly attempts: number;
}

/** What is known about a request that ended without a charge. */
export type ReleasedRow = Partial<SettledRow>;

/** Ends a hold with a charge. */
export interface SettleOrder {
  readonly request: RequestId;
  /** Clipped to the hold. */
  readonly charge: NanoUsd;
  /** Clipped to the charge; the protocol keeps the rest. Nothing when the hold is of promo credit, whatever this says. */
  readonly minerAmount: NanoUsd;
  readonly miner: Hotkey;
  readonly epoch: number;
  /** Appended to the usage log in the same transaction. */
  readonly leaf: string;
  readonly row: SettledRow;
}

/** A request as `GET /generation` tells it. */
export interface RequestRecord {
  readonly request: RequestId;
  readonly account: AccountId;
  readonly state: "open" | "settled" | "released" | "expired";
  readonly heldNusd: bigint;
  /** 0 until it is settled. */
  readonly chargedNusd: bigint;
  readonly minerNusd: bigint;
  readonly refundedNusd: bigint;
  readonly apiKeyId: string;
  readonly model: string;
  readonly surface: string;
  readonly streamed: boolean;
  /** Paid from promo credit. */
  readonly promo: boolean;
  readonly createdMs: number;
  readonly endedMs: number | undefined;
  /** Why it was released. */
  readonly reason: string | undefined;
  readonly row: ReleasedRow | undefined;
  /** Its leaf of the usage log, when it is settled. */
  readonly leaf: string | undefined;
}

/** A hold that has not ended. */
export interface OpenHold {
  readonly request: RequestId;
  readonly account: AccountId;
  readonly amount: bigint;
  readonly createdMs: number;
  readonly expiresMs: number;
  /** It is of promo credit. */
  readonly promo: boolean;
}

/** A closed epoch of the usage log. */
export interface LogEpoch {
  readonly epoch: number;
  /** Leaves up to and including this epoch. */
  readonly size: bigint;
  readonly root: string;
  readonly sums: string;
  /** Hash of the block that carries the root; undefined until it is published. */
  readonly published: string | undefined;
}

/**
 * Customers' money, in double entry. Hold, settle, release and note are committed in groups: one statement and one
 * fsync for everything that waits. Each is safe to repeat, and resolves when it is durable.
 *
 * Any method @throws RouterError `ledger_unavailable` while the database cannot be reached; hold, settle, release and
 * note also `overloaded` when their queue is full, and `shutting_down`.
 */
export interface Ledger extends Closable {
  /** Repeating an open hold is ok; a request that has ended cannot be held again (conflict). */
  hold(order: HoldOrder): Promise<HoldVerdict>;
  /** Exactly once per request. Retried until the database has it. */
  settle(order: SettleOrder): Promise<"settled" | "already_ended">;
  /** Ends a hold without a charge. An unknown request counts as ended. */
  release(
    request: RequestId,
    reason: string,
    row?: ReleasedRow,
  ): Promise<"released" | "already_ended">;
  /** Appends a leaf that moves no money, such as the receipt of a failed attempt. The same leaf is appended once. */
  note(leaf: string, epoch: number): Promise<void>;
  /**
   * Gives back part of a charge; `n` numbers the refunds of a request.
   *
   * @returns false if this refund was made before.
   * @throws RouterError `invalid_request` if the request is not settled or the refunds exceed its charge,
   * `request_id_conflict` if refund `n` was another amount.
   */
  refund(request: RequestId, n: number, amount: NanoUsd): Promise<boolean>;
  /** Open holds of all gateways of this name, oldest first. @param olderThanMs only those made before this Unix time. */
  openHolds(olderThanMs?: number): Promise<OpenHold[]>;
  /** Frees holds that expire before `nowMs`, of any gateway. @returns how many. */
  expire(nowMs: number): Promise<number>;
  /**
   * Without promo credit. An unknown account has zeros. `chargedNusd` is net of refunds, `depositedNusd` of withdrawals.
   * Available is posted − held.
   */
  balance(account: AccountId): Promise<{
    readonly postedNusd: bigint;
    readonly heldNusd: bigint;
    readonly depositedNusd: bigint;
    readonly chargedNusd: bigint;
  }>;
  /** @param id a request id or the upstream's id. @returns undefined if this account has no such request. */
  requestOf(id: string, account: AccountId): Promise<RequestRecord | undefined>;
  /** Leaves of the gateways' log from index `from`, in order. @param limit at most 10,000. */
  leaves(
    from: bigint,
    limit: number,
  ): Promise<{ readonly index: bigint; readonly epoch: number; readonly leaf: string }[]>;
  leafCount(): Promise<bigint>;
  /**
   * Remembers how an epoch of the log was closed; the first call decides.
   *
   * @returns what is recorded, which is what must be published.
   */
  closeLogEpoch(epoch: Omit<LogEpoch, "published">): Promise<LogEpoch>;
  /** @param block hash of the block that carries the root. */
  markLogEpochPublished(epoch: number, block: string): Promise<void>;
  /** Closed epochs, newest first. */
  logEpochs(limit: number): Promise<LogEpoch[]>;
}

/** A call that waits for its commit. */
type LedgerOrder =
  | (Order & {
      readonly kind: "hold";
      readonly order: HoldOrder;
      readonly done: (verdict: HoldVerdict) => void;
    })
  | (Order & {
      readonly kind: "settle";
      readonly order: SettleOrder;
      /** Tells a call that is repeated because its acknowledgement was lost from another one for the same request. */
      readonly call: string;
      readonly done: (result: "settled" | "already_ended") => void;
    })
  | (Order & {
      readonly kind: "release";
      readonly order: { request: RequestId; reason: string; row: ReleasedRow | undefined };
      readonly call: string;
      readonly done: (result: "released" | "already_ended") => void;
    })
  | (Order & {
      readonly kind: "note";
      readonly order: { leaf: string; epoch: number };
      readonly done: () => void;
    });

/**
 * Opens the ledger on a database, making or updating its tables.
 *
 * @param gateway name of the log and the holds of all gateways with one signing key; any number of them use it at a time.
 * @throws ConfigError if the database is newer.
 */
export async function openLedger({
  database,
  gateway,
  log,
  metrics,
  holdWaitMs = HOLD_WAIT_MS_MAX,
}: {
  readonly database: Database;
  readonly gateway: string;
  readonly log: Logger;
  readonly metrics?: Registry | undefined;
  /** How long a hold waits for a database that does not answer. */
  readonly holdWaitMs?: number;
}): Promise<Ledger> {
  await migrateBilling(database);
  await database.query("INSERT INTO ledger.log_head (gateway) VALUES ($1) ON CONFLICT DO NOTHING", [
    gateway,
  ]);
  const measured = metrics === undefined ? undefined : measuresOf(metrics, () => commits.waiting());
  const commits = openGroupCommit<LedgerOrder>(
    async (batch) => await commitBatch(database, gateway, batch),
    {
      committed: (orders, seconds) => {
        measured?.orders.observe(orders);
        measured?.seconds.observe(seconds);
      },
      retrying: (error, orders) => {
        measured?.retries.inc();
        log.error({ err: error, orders }, "ledger.retrying");
      },
      refused: (error, orders) => {
        log.error({ err: error, orders }, "ledger.batch_refused");
      },
      poisoned: (error) => {
        log.error({ err: error }, "ledger.order_refused");
      },
    },
    holdWaitMs,
  );

  const releaseLater = (request: RequestId, reason: string, row?: ReleasedRow) =>
    new Promise<"released" | "already_ended">((resolve, reject) => {
      commits.push({
        kind: "release",
        request,
        isHold: false,
        queuedMs: Date.now(),
        order: { request, reason, row },
        call: randomUUID(),
        done: resolve,
        fail: reject,
      });
    });

  const hold = (order: HoldOrder): Promise<HoldVerdict> => {
    assertAmount(order.amount);
    assert(order.amount > 0n, "a hold must be more than 0");
    return new Promise((resolve, reject) => {
      commits.push({
        kind: "hold",
        request: order.request,
        isHold: true,
        queuedMs: Date.now(),
        order,
        done: resolve,
        fail: (error, wasSent) => {
          reject(error);
          // It may have been committed after all; nobody would end it before it expires.
          if (wasSent) releaseLater(order.request, "hold not acknowledged").catch(() => {});
        },
      });
    });
  };

  const settle = (order: SettleOrder): Promise<"settled" | "already_ended"> => {
    assertAmount(order.charge);
    assertAmount(order.minerAmount);
    assertLeaf(order.leaf, order.epoch);
    return new Promise((resolve, reject) => {
      commits.push({
        kind: "settle",
        request: order.request,
        isHold: false,
        queuedMs: Date.now(),
        order,
        call: randomUUID(),
        done: resolve,
        fail: reject,
      });
    });
  };

  const note = (leaf: string, epoch: number): Promise<void> => {
    assertLeaf(leaf, epoch);
    return new Promise((resolve, reject) => {
      commits.push({
        kind: "note",
        request: undefined,
        isHold: false,
        queuedMs: Date.now(),
        order: { leaf, epoch },
        done: resolve,
        fail: reject,
      });
    });
  };

  const reads = readsOf(database, gateway);
  return {
    hold: async (order) => await hold(order),
    settle: async (order) => await settle(order),
    release: async (request, reason, row) => await releaseLater(request, reason, row),
    note: async (leaf, epoch) => {
      await note(leaf, epoch);
    },
    refund: async (request, n, amount) => await refund(database, request, n, amount),
    expire: async (nowMs) => await expire(database, nowMs),
    ...reads,
    ...logEpochsOf(database, gateway),
    close: async () => {
      await commits.close();
    },
  };
}

function assertAmount(amount: bigint): void {
  assert(amount >= 0n && amount <= ORDER_NANO_USD_MAX, `not an amount of one request: ${amount}`);
}

function assertLeaf(leaf: string, epoch: number): void {
  assert(leaf.length > 0 && leaf.length <= LEAF_CHARS_MAX, `a leaf of ${leaf.length} characters`);
  assert(Number.isInteger(epoch) && epoch >= 0 && epoch <= INT4_MAX, `not an epoch: ${epoch}`);
}

const APPLY_BATCH = `SELECT * FROM ledger.apply_batch(${Array.from({ length: 28 }, (_, i) => `$${i + 1}`).join(", ")})`;

/** One statement, one commit. @returns what gives every caller its verdict. */
async function commitBatch(
  database: Database,
  gateway: string,
  batch: readonly LedgerOrder[],
): Promise<() => void> {
  const settles = batch.filter((entry) => entry.kind === "settle");
  const releases = batch.filter((entry) => entry.kind === "release");
  const notes = batch.filter((entry) => entry.kind === "note");
  const holds = batch.filter((entry) => entry.kind === "hold");
  const accounts = positions(holds.map(({ order }) => order.account));
  const miners = positions(settles.map(({ order }) => order.miner));
  const [row] = await database.query<{
    settled: string;
    released: string;
    held: string;
    available: (bigint | null)[];
  }>(APPLY_BATCH, [
    gateway,
    ...arrayParams([
      { type: "text", values: accounts.names },
      { type: "text", values: miners.names },
      { type: "uuid", values: settles.map(({ order }) => order.request) },
      { type: "uuid", values: settles.map(({ call }) => call) },
      { type: "int8", values: settles.map(({ order }) => order.charge) },
      { type: "int8", values: settles.map(({ order }) => order.minerAmount) },
      { type: "int4", values: miners.at },
      { type: "int4", values: settles.map(({ order }) => order.epoch) },
      { type: "text", values: settles.map(({ order }) => storable(order.leaf)) },
      { type: "text", values: settles.map(({ order }) => storable(order.row.upstreamId ?? "")) },
      { type: "text", values: settles.map(({ order }) => JSON.stringify(order.row)) },
      { type: "uuid", values: releases.map(({ order }) => order.request) },
      { type: "uuid", values: releases.map(({ call }) => call) },
      { type: "text", values: releases.map(({ order }) => storable(order.reason)) },
      {
        type: "text",
        values: releases.map(({ order: { row: known } }) =>
          known === undefined ? null : JSON.stringify(known),
        ),
      },
      { type: "text", values: notes.map(({ order }) => storable(order.leaf)) },
      { type: "int4", values: notes.map(({ order }) => order.epoch) },
      { type: "uuid", values: holds.map(({ order }) => order.request) },
      { type: "int4", values: accounts.at },
      { type: "int8", values: holds.map(({ order }) => order.amount) },
      { type: "text", values: holds.map(({ order }) => storable(order.fingerprint)) },
      { type: "int8", values: holds.map(({ order }) => BigInt(order.expiresMs)) },
      { type: "text", values: holds.map(({ order }) => storable(order.row.apiKeyId)) },
      { type: "text", values: holds.map(({ order }) => storable(order.row.model)) },
      { type: "text", values: holds.map(({ order }) => order.row.surface) },
      { type: "bool", values: holds.map(({ order }) => order.row.streamed) },
      { type: "int8", values: holds.map(({ order }) => BigInt(order.row.createdMs)) },
    ]),
  ]);
  assert(row !== undefined, "the batch had no answer");
  assert(
    row.settled.length === settles.length &&
      row.released.length === releases.length &&
      row.held.length === holds.length,
    "the batch had another number of verdicts than orders",
  );
  return () => {
    settles.forEach(({ done }, i) => {
      done(row.settled[i] === "s" ? "settled" : "already_ended");
    });
    releases.forEach(({ done }, i) => {
      done(row.released[i] === "s" ? "released" : "already_ended");
    });
    for (const { done } of notes) done();
    holds.forEach((entry, i) => {
      answerHold(entry, row.held[i], row.available[i]);
    });
  };
}

function answerHold(
  entry: Extract<LedgerOrder, { kind: "hold" }>,
  verdict: string | undefined,
  available: bigint | null | undefined,
): void {
  if (verdict === "o") {
    entry.done({ ok: true });
  } else if (verdict === "p") {
    entry.done({ ok: true, promo: true });
  } else if (verdict === "i" || verdict === "l") {
    const refusal = verdict === "i" ? "insufficient_credit" : "key_limit";
    entry.done({ ok: false, refusal, availableNusd: available ?? 0n });
  } else if (verdict === "c") {
    entry.done({ ok: false, refusal: "conflict" });
  } else {
    // API keys belong to accounts, so a request of an unknown one is a bug.
    entry.fail(new Error(`no such account: ${entry.order.account}`), false);
  }
}

/** PostgreSQL stores neither NUL nor half a surrogate pair; names that upstreams choose may contain both. */
function storable(text: string): string {
  return text.toWellFormed().replaceAll("\0", "");
}

/** Each name once, and where the names are among them, counted from 1 as PostgreSQL does. */
function positions(names: readonly string[]): { names: string[]; at: number[] } {
  const seen = new Map<string, number>();
  const at = names.map((name) => {
    const known = seen.get(name) ?? seen.size + 1;
    seen.set(name, known);
    return known;
  });
  return { names: [...seen.keys()], at };
}

/** Runs a statement of its own and words its failure for a customer. */
async function ask<Row extends object>(
  database: Database,
  sql: string,
  params: readonly unknown[],
): Promise<Row[]> {
  try {
    return await database.query<Row>(sql, params);
  } catch (cause) {
    if (!isRetryable(cause)) throw cause;
    throw new RouterError("ledger_unavailable", "the ledger cannot be reached", {
      cause,
      retryAfterSeconds: 1,
    });
  }
}

type RefundAnswer = "applied" | "repeated" | "conflict" | "not_settled" | "exceeds_charge";

const REFUND_REFUSALS = {
  conflict: ["request_id_conflict", "this refund was made before with another amount"],
  not_settled: ["invalid_request", "the request is not settled"],
  exceeds_charge: ["invalid_request", "the refunds would exceed the charge"],
} as const satisfies Record<
  Exclude<RefundAnswer, "applied" | "repeated">,
  readonly [ErrorCode, string]
>;

async function refund(
  database: Database,
  request: RequestId,
  n: number,
  amount: NanoUsd,
): Promise<boolean> {
  assertAmount(amount);
  assert(amount > 0n, "a refund must be more than 0");
  assert(Number.isInteger(n) && n >= 0 && n <= INT4_MAX, `not a refund number: ${n}`);
  const [row] = await ask<{ answer: RefundAnswer }>(
    database,
    "SELECT ledger.refund($1, $2, $3) AS answer",
    [request, n, amount],
  );
  assert(row !== undefined, "the refund had no answer");
  if (row.answer === "applied" || row.answer === "repeated") return row.answer === "applied";
  const [code, message] = REFUND_REFUSALS[row.answer];
  throw new RouterError(code, message);
}

async function expire(database: Database, nowMs: number): Promise<number> {
  let total = 0;
  for (;;) {
    const [row] = await ask<{ n: number }>(database, "SELECT ledger.expire($1, $2) AS n", [
      nowMs,
      EXPIRE_BATCH,
    ]);
    total += row?.n ?? 0;
    if ((row?.n ?? 0) < EXPIRE_BATCH) return total;
  }
}

const STATES = ["open", "settled", "released", "expired"] as const;

interface RequestRow {
  readonly id: RequestId;
  readonly account: AccountId;
  readonly state: number;
  readonly amount: bigint;
  readonly charged: bigint | null;
  readonly miner_amount: bigint | null;
  readonly refunded: bigint;
  readonly api_key: string;
  readonly model: string;
  readonly surface: string;
  readonly streamed: boolean;
  readonly promo: boolean;
  readonly created_ms: bigint;
  readonly ended_ms: bigint | null;
  readonly reason: string | null;
  readonly outcome: string | null;
  readonly leaf_text: string | null;
}

type OpenHoldRow = Pick<RequestRow, "id" | "account" | "amount" | "created_ms" | "promo"> & {
  readonly expires_ms: bigint;
};

function recordOf(row: RequestRow): RequestRecord {
  const state = STATES[row.state];
  assert(state !== undefined, `not a state of a hold: ${row.state}`);
  return {
    request: row.id,
    account: row.account,
    state,
    heldNusd: row.amount,
    chargedNusd: row.charged ?? 0n,
    minerNusd: row.miner_amount ?? 0n,
    refundedNusd: row.refunded,
    apiKeyId: row.api_key,
    model: row.model,
    surface: row.surface,
    streamed: row.streamed,
    promo: row.promo,
    createdMs: Number(row.created_ms),
    endedMs: row.ended_ms === null ? undefined : Number(row.ended_ms),
    reason: row.reason ?? undefined,
    row: row.outcome === null ? undefined : (JSON.parse(row.outcome) as ReleasedRow),
    leaf: row.leaf_text ?? undefined,
  };
}

function readsOf(
  database: Database,
  gateway: string,
): Pick<Ledger, "openHolds" | "balance" | "requestOf" | "leaves" | "leafCount"> {
  return {
    openHolds: async (olderThanMs = Number.MAX_SAFE_INTEGER) => {
      const rows = await ask<OpenHoldRow>(
        database,
        `SELECT id, account, amount, created_ms, expires_ms, promo FROM ledger.hold
          WHERE gateway = $1 AND created_ms < $2 ORDER BY created_ms LIMIT $3`,
        [gateway, olderThanMs, OPEN_HOLDS_MAX],
      );
      return rows.map((row) => ({
        request: row.id,
        account: row.account,
        amount: row.amount,
        createdMs: Number(row.created_ms),
        expiresMs: Number(row.expires_ms),
        promo: row.promo,
      }));
    },
    balance: async (account) => {
      const [row] = await ask<{
        credits: bigint;
        debits: bigint;
        refunded: bigint;
        withdrawn: bigint;
        held: bigint;
      }>(
        database,
        // What was rejected is in credits as well as in debits: leaving it out of both is right for it too.
        `SELECT credits, debits, refunded, held,
                (SELECT COALESCE(sum(amount_nusd), 0)::bigint FROM ledger.withdrawal WHERE account = $1) AS withdrawn
           FROM ledger.acct WHERE ledger = 1 AND code = 10 AND owner = $1`,
        [account],
      );
      const { credits, debits, refunded, withdrawn, held } = row ?? {
        credits: 0n,
        debits: 0n,
        refunded: 0n,
        withdrawn: 0n,
        held: 0n,
      };
      return {
        postedNusd: credits - debits,
        heldNusd: held,
        depositedNusd: credits - refunded - withdrawn,
        chargedNusd: debits - refunded - withdrawn,
      };
    },
    requestOf: async (id, account) => {
      const request = requestIdOf(id);
      const [row] = await ask<RequestRow>(
        database,
        `SELECT r.*, l.leaf AS leaf_text
           FROM (SELECT * FROM ledger.request
                  WHERE ${request === undefined ? "upstream_id" : "id"} = $1 AND account = $2
                  ORDER BY created_ms DESC LIMIT 1) r
           LEFT JOIN ledger.log_leaf l ON l.gateway = r.gateway AND l.index = r.leaf`,
        [storable(id), account],
      );
      return row === undefined ? undefined : recordOf(row);
    },
    leaves: async (from, limit) =>
      await ask(
        database,
        `SELECT index, epoch, leaf FROM ledger.log_leaf
          WHERE gateway = $1 AND index >= $2 ORDER BY index LIMIT $3`,
        [gateway, from, Math.min(limit, LEAVES_MAX)],
      ),
    leafCount: async () => {
      const [row] = await ask<{ size: bigint }>(
        database,
        "SELECT size FROM ledger.log_head WHERE gateway = $1",
        [gateway],
      );
      return row?.size ?? 0n;
    },
  };
}

interface LogEpochRow extends Omit<LogEpoch, "published"> {
  readonly published: string | null;
}

function logEpochsOf(
  database: Database,
  gateway: string,
): Pick<Ledger, "closeLogEpoch" | "markLogEpochPublished" | "logEpochs"> {
  const epochOf = ({ published, ...row }: LogEpochRow): LogEpoch => ({
    ...row,
    published: published ?? undefined,
  });
  return {
    closeLogEpoch: async ({ epoch, size, root, sums }) => {
      await ask(
        database,
        `INSERT INTO ledger.log_epoch (gateway, epoch, size, root, sums) VALUES ($1, $2, $3, $4, $5)
           ON CONFLICT DO NOTHING`,
        [gateway, epoch, size, root, sums],
      );
      const [row] = await ask<LogEpochRow>(
        database,
        "SELECT epoch, size, root, sums, published FROM ledger.log_epoch WHERE gateway = $1 AND epoch = $2",
        [gateway, epoch],
      );
      assert(row !== undefined, "the epoch was not recorded");
      return epochOf(row);
    },
    markLogEpochPublished: async (epoch, block) => {
      await ask(
        database,
        "UPDATE ledger.log_epoch SET published = $3 WHERE gateway = $1 AND epoch = $2",
        [gateway, epoch, block],
      );
    },
    logEpochs: async (limit) => {
      const rows = await ask<LogEpochRow>(
        database,
        `SELECT epoch, size, root, sums, published FROM ledger.log_epoch
          WHERE gateway = $1 ORDER BY epoch DESC LIMIT $2`,
        [gateway, limit],
      );
      return rows.map(epochOf);
    },
  };
}

function measuresOf(registry: Registry, waiting: () => number) {
  new Gauge({
    name: "daybreak_ledger_waiting_orders",
    help: "Orders that wait for the next group commit",
    registers: [registry],
    collect() {
      this.set(waiting());
    },
  });
  return {
    orders: new Histogram({
      name: "daybreak_ledger_batch_orders",
      help: "Orders per group commit",
      buckets: [1, 2, 5, 10, 20, 50, 100, 200, 500],
      registers: [registry],
    }),
    seconds: new Histogram({
      name: "daybreak_ledger_commit_seconds",
      help: "Duration of a group commit",
      buckets: DURATION_BUCKETS_SECONDS,
      registers: [registry],
    }),
    retries: new Counter({
      name: "daybreak_ledger_retries_total",
      help: "Group commits that were repeated because the database did not answer",
      registers: [registry],
    }),
  };
}
