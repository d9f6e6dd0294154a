import { setTimeout as delay } from "node:timers/promises";
import type { Ledger, SettledRow, SettleOrder } from "../billing/ledger.ts";
import type { AccountId, RequestId } from "../core/ids.ts";
import { type SigningKey, signJws } from "../core/jws.ts";
import type { NanoUsd } from "../core/money.ts";
import { chargeOf, minerAmountOf } from "../core/pricing.ts";
import type { PriceQuote } from "../core/quote.ts";
import { type Receipt, receiptFromJson } from "../core/receipt.ts";
import { decodeClaims } from "../core/signed-claims.ts";
import type { Logger } from "../runtime/logger.ts";
import type { AttemptEnd } from "./attempt.ts";
import { checkReceipt, type GrantedWork, type SeenAnswer } from "./check-receipt.ts";
import type { LeafWriter } from "./log-leaf.ts";
import type { RelayConnection } from "./relay-connection.ts";

/** How long a receipt that did not come with the answer is asked for, in milliseconds. No receipt, no pay. */
const PULL_DEADLINE_MS = 60_000;
/** The same while a customer waits for the end of a stream. */
const PULL_WAITING_MS = 5_000;
const PULL_FIRST_DELAY_MS = 50;
const PULL_DELAY_MAX_MS = 5_000;
const PULL_TIMEOUT_MS = 5_000;
const PULL_BYTES_MAX = 65_536;
const PULL_LIFE_SECONDS = 30;
/**
 * How long a customer waits for a ledger that does not answer, in milliseconds. Longer than a commit ever takes; after it
 * the answer ends unsettled: its hold is durable, its receipt is checked and kept by the relay, and its settlement is in
 * the ledger's queue, so money is lost only if this process and the relay are lost as well before the ledger is back.
 */
const LEDGER_WAITING_MS = 5_000;
/** How long a release is tried before it is left to the hold's expiry, in milliseconds. */
const LEDGER_DEADLINE_MS = 120_000;
const LEDGER_FIRST_DELAY_MS = 50;
const LEDGER_DELAY_MAX_MS = 5_000;

/** What is known about an attempt, for its receipt to be checked against. */
export interface ReceiptExpectation {
  readonly request: RequestId;
  readonly relay: RelayConnection;
  readonly account: AccountId;
  readonly work: GrantedWork;
}

/** A receipt that was settled, or waits in the ledger's queue for its database. */
export interface PaidReceipt {
  readonly receipt: Receipt;
  readonly charge: NanoUsd;
}

export type SettleResult =
  | { readonly ok: true; readonly paid: PaidReceipt }
  | { readonly ok: false; readonly refusal: string };

/** The ledger has the call and will answer it when it can. */
const PENDING = Symbol("pending");
/** The ledger did not take the call. */
const REFUSED = Symbol("refused");

/** What the ledger keeps about a request beside its money; public facts and numbers only. */
export interface GenerationRow extends SettledRow {
  readonly security: string;
  /** Whether the provider reported the usage or the relay counted it. */
  readonly source: string;
  readonly upstreamModel: string;
}

/** The ledger, as far as ending a hold goes. */
export type SettleLedger = Pick<Ledger, "settle" | "release" | "note">;

/** Ends holds: by a receipt, or by releasing them. */
export interface Settler {
  /** From here on the request is this process's to end; `isLive` keeps recovery away from it. */
  begin(request: RequestId): void;
  isLive(request: RequestId): boolean;
  /** The request has no hold, or recovery may have it. */
  forget(request: RequestId): void;
  /**
   * Settles by the receipt that came with a complete answer, or by the one the relay still has. Ok is also a settlement
   * that waits in the ledger's queue, when its database does not answer in time.
   * When it is refused for the receipt's sake the hold is released; when for the ledger's, recovery ends it later.
   */
  settle(expectation: ReceiptExpectation, end: AttemptEnd): Promise<SettleResult>;
  /** Ends the hold of an answer that nobody waits for any more; asks the relay for up to a minute. Never rejects. */
  settleOrPull(expectation: ReceiptExpectation, end: AttemptEnd): Promise<void>;
  /** Logs the receipt of an attempt that gave the customer nothing and earns nothing. */
  noteFailed(expectation: ReceiptExpectation, end: AttemptEnd): void;
  /** Releases the hold, in the background, as soon as the ledger answers. */
  releaseLater(request: RequestId, reason: string): void;
  /** Resolves when nothing is being ended in the background. */
  idle(): Promise<void>;
  /** Background work gives up. */
  abort(): void;
}

interface SettlerDeps {
  readonly ledger: SettleLedger;
  readonly gatewayKey: SigningKey;
  readonly leafOf: LeafWriter;
  readonly log: Logger;
  readonly nowMs: () => number;
}

interface CheckedReceipt {
  readonly token: string;
  /** `claimsHashOf` the token. */
  readonly hash: string;
  readonly salt: string;
  readonly receipt: Receipt;
  readonly charge: NanoUsd;
  readonly minerAmount: NanoUsd;
}

type ReceiptVerdict =
  | { readonly ok: true; readonly checked: CheckedReceipt }
  | { readonly ok: false; readonly refusal: string };

export function settler(deps: SettlerDeps): Settler {
  const { ledger, log, nowMs } = deps;
  const live = new Set<RequestId>();
  const background = new Set<Promise<void>>();
  const stopping = new AbortController();

  const inBackground = (work: Promise<void>): void => {
    const done = work
      .catch((error: unknown) => log.error({ err: error }, "settle.background_failed"))
      .finally(() => background.delete(done));
    background.add(done);
  };

  const check = (
    token: string,
    salt: string,
    expectation: ReceiptExpectation,
    end: AttemptEnd,
  ): ReceiptVerdict => {
    const { receiptKey } = expectation.relay.peer;
    const claims = decodeClaims(token);
    if (claims?.isSigned("usage-receipt", receiptKey) !== true)
      return { ok: false, refusal: "receipt_bad_signature" };
    const receipt = receiptFromJson(claims.payload);
    if (receipt === undefined) return { ok: false, refusal: "receipt_malformed" };
    const verdict = checkReceipt(receipt, expectation.work, seenOf(end));
    if (!verdict.ok) return { ok: false, refusal: verdict.refusal };
    const { charge, minerAmount, clipped } = verdict;
    if (clipped) log.info({ request: expectation.request }, "settle.clipped_to_hold");
    return { ok: true, checked: { token, hash: claims.hash, salt, receipt, charge, minerAmount } };
  };

  const pull = async (
    expectation: ReceiptExpectation,
    end: AttemptEnd,
    deadlineMs: number,
  ): Promise<ReceiptVerdict> => {
    let waitMs = PULL_FIRST_DELAY_MS;
    for (;;) {
      const found = await pullReceipt(
        expectation.relay,
        expectation.work.rid,
        deps.gatewayKey,
        nowMs(),
      );
      if (typeof found !== "string") return check(found.token, found.salt, expectation, end);
      if (nowMs() + waitMs > deadlineMs || stopping.signal.aborted)
        return { ok: false, refusal: "receipt_missing" };
      await pause(waitMs, stopping.signal);
      waitMs = Math.min(waitMs * 2, PULL_DELAY_MAX_MS);
    }
  };

  const receiptOf = async (
    expectation: ReceiptExpectation,
    end: AttemptEnd,
    waitMs: number,
  ): Promise<ReceiptVerdict> =>
    end.receipt === undefined
      ? await pull(expectation, end, nowMs() + waitMs)
      : check(end.receipt, end.receiptSalt ?? "", expectation, end);

  const leafOf = async (
    { token, hash, receipt }: CheckedReceipt,
    amount: bigint,
    { account }: ReceiptExpectation,
  ): Promise<string> =>
    await deps.leafOf({
      receiptToken: token,
      receiptHash: hash,
      amount,
      account,
      epoch: receipt.e,
    });

  /** @returns false if the ledger did not take the settlement, which leaves it to recovery. */
  const pay = async (
    checked: CheckedReceipt,
    expectation: ReceiptExpectation,
    end: AttemptEnd,
    waitMs: number,
  ): Promise<boolean> => {
    const { request } = expectation;
    const order: SettleOrder = {
      request,
      charge: checked.charge,
      minerAmount: checked.minerAmount,
      miner: checked.receipt.iss,
      epoch: checked.receipt.e,
      leaf: await leafOf(checked, checked.minerAmount, expectation),
      row: settledRowOf(checked, expectation, end),
    };
    let call: Promise<unknown> | undefined;
    const done = await untilAnswered(() => (call = ledger.settle(order)), nowMs() + waitMs);
    if (done === PENDING) {
      log.warn({ request }, "settle.pending");
      void call?.catch(() => undefined).then(() => live.delete(request));
      return true;
    }
    live.delete(request);
    if (done === "already_ended") log.warn({ request }, "settle.already_ended");
    return done !== REFUSED;
  };

  /**
   * Calls the ledger until it answers. It repeats by itself while its database is away, so a call may also just take long.
   *
   * @returns `PENDING` or `REFUSED` when there is no answer by the deadline.
   */
  const untilAnswered = async <T>(
    call: () => Promise<T>,
    deadlineMs: number,
  ): Promise<T | typeof PENDING | typeof REFUSED> => {
    let waitMs = LEDGER_FIRST_DELAY_MS;
    for (;;) {
      try {
        return await orTooLate(call(), deadlineMs - nowMs());
      } catch (error) {
        log.warn({ err: error }, "ledger.call_failed");
        if (nowMs() + waitMs > deadlineMs || stopping.signal.aborted) return REFUSED;
        await pause(waitMs, stopping.signal);
        waitMs = Math.min(waitMs * 2, LEDGER_DELAY_MAX_MS);
      }
    }
  };

  /** Calls that somebody waits for; `abort` lets all of them go on. */
  const waiters = new Set<() => void>();
  stopping.signal.addEventListener("abort", () => {
    for (const give of waiters) give();
  });
  const orTooLate = async <T>(
    call: Promise<T>,
    milliseconds: number,
  ): Promise<T | typeof PENDING> => {
    const tooLate = Promise.withResolvers<typeof PENDING>();
    const giveUp = (): void => tooLate.resolve(PENDING);
    const timer = setTimeout(giveUp, milliseconds);
    waiters.add(giveUp);
    if (stopping.signal.aborted) giveUp();
    try {
      return await Promise.race([call, tooLate.promise]);
    } finally {
      clearTimeout(timer);
      waiters.delete(giveUp);
    }
  };

  const release = async (request: RequestId, reason: string): Promise<void> => {
    try {
      await untilAnswered(() => ledger.release(request, reason), nowMs() + LEDGER_DEADLINE_MS);
    } finally {
      live.delete(request);
    }
  };

  const releaseLater = (request: RequestId, reason: string): void => {
    live.add(request);
    inBackground(release(request, reason));
  };

  const settleWithin = async (
    expectation: ReceiptExpectation,
    end: AttemptEnd,
    pullMs: number,
    ledgerMs: number,
  ): Promise<SettleResult> => {
    const { request } = expectation;
    const verdict = await receiptOf(expectation, end, pullMs);
    if (!verdict.ok) {
      log.warn(
        { request, miner: expectation.work.miner, refusal: verdict.refusal },
        "settle.receipt_refused",
      );
      releaseLater(request, verdict.refusal);
      return verdict;
    }
    const { checked } = verdict;
    const isPaid = await pay(checked, expectation, end, ledgerMs);
    return isPaid
      ? { ok: true, paid: { receipt: checked.receipt, charge: checked.charge } }
      : { ok: false, refusal: "ledger_unavailable" };
  };

  return {
    begin: (request) => {
      live.add(request);
    },
    isLive: (request) => live.has(request),
    forget: (request) => {
      live.delete(request);
    },
    settle: (expectation, end) =>
      settleWithin(expectation, end, PULL_WAITING_MS, LEDGER_WAITING_MS),
    settleOrPull: async (expectation, end) => {
      const work = settleWithin(expectation, end, PULL_DEADLINE_MS, LEDGER_DEADLINE_MS).then(
        () => undefined,
      );
      inBackground(work);
      await work.catch(() => undefined);
    },
    noteFailed: (expectation, end) => {
      const { receipt } = end;
      if (receipt === undefined) return;
      const note = async (): Promise<void> => {
        const verdict = check(receipt, end.receiptSalt ?? "", expectation, end);
        if (!verdict.ok) return;
        const leaf = await leafOf(verdict.checked, 0n, expectation);
        await untilAnswered(
          () => ledger.note(leaf, verdict.checked.receipt.e),
          nowMs() + LEDGER_DEADLINE_MS,
        );
      };
      inBackground(note());
    },
    releaseLater,
    idle: async () => {
      while (background.size > 0) await Promise.all(background);
    },
    abort: () => stopping.abort(),
  };
}

/** Asks a relay for the receipt of an attempt. `none`: it has none, at least not yet. */
export async function pullReceipt(
  relay: RelayConnection,
  rid: RequestId,
  gatewayKey: SigningKey,
  nowMs: number,
): Promise<{ token: string; salt: string } | "none" | "unanswered"> {
  const iat = Math.floor(nowMs / 1_000);
  const grant = signJws(
    "receipts-pull+jwt",
    { v: 1, aud: relay.peer.enclave, iat, exp: iat + PULL_LIFE_SECONDS },
    gatewayKey,
  );
  try {
    const { status, body } = await relay.ask(
      { method: "GET", path: `/v1/receipts/${rid}`, headers: { "daybreak-grant": grant } },
      { timeoutMs: PULL_TIMEOUT_MS, bytesMax: PULL_BYTES_MAX },
    );
    if (status !== 200) return "unanswered";
    const json = JSON.parse(body.toString("utf8")) as { readonly receipts?: unknown };
    if (!Array.isArray(json.receipts)) return "unanswered";
    const [first] = json.receipts as readonly unknown[];
    if (first === undefined) return "none";
    const { token, salt } = first as { token?: unknown; salt?: unknown };
    return typeof token === "string" && typeof salt === "string" && /^[0-9a-f]{0,64}$/.test(salt)
      ? { token, salt }
      : "unanswered";
  } catch {
    return "unanswered";
  }
}

/** What a receipt costs the customer and earns the miner, neither more than was held; undefined when unpriced. */
export function amountsOf(
  receipt: Receipt,
  quote: PriceQuote,
  hold: NanoUsd,
  markupBps: number,
): { charge: NanoUsd; minerAmount: NanoUsd } | undefined {
  const charge = chargeOf(receipt.use, quote.price, markupBps);
  const minerAmount = minerAmountOf(receipt.use, quote.price);
  if (charge === undefined || minerAmount === undefined) return undefined;
  return {
    charge: charge > hold ? hold : charge,
    minerAmount: minerAmount > hold ? hold : minerAmount,
  };
}

function settledRowOf(
  { hash, salt, receipt }: CheckedReceipt,
  expectation: ReceiptExpectation,
  end: AttemptEnd,
): GenerationRow {
  return {
    hotkey: receipt.iss,
    security: receipt.security,
    usage: receipt.use,
    source: receipt.src,
    status: receipt.status,
    finishReason: end.meter.finishReason,
    upstreamId: end.meter.upstreamId,
    upstreamModel: receipt.upm,
    ttftMs: end.firstContentMs ?? receipt.t.ttft,
    durationMs: end.durationMs ?? receipt.t.dur,
    receiptHash: hash,
    receiptSalt: salt,
    attempts: Number.parseInt(expectation.work.rid.slice(-2), 16) + 1,
  };
}

function seenOf(end: AttemptEnd): SeenAnswer {
  const { usage, complete, contentEvents, visibleBytes } = end.meter;
  return {
    ...(usage === undefined ? {} : { usage }),
    complete,
    contentEvents,
    visibleBytes,
    bytesOut: end.bytesOut,
    ended: end.failure === undefined,
  };
}

async function pause(milliseconds: number, signal: AbortSignal): Promise<void> {
  await delay(milliseconds, undefined, { signal }).catch(() => undefined);
}
