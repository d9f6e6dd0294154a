import { setTimeout as delay } from "node:timers/promises";
import type { OpenHold } from "../billing/ledger.ts";
import {
  attemptIdOf,
  type EnclaveId,
  type RequestId,
  type RunTag,
  runOfRequest,
} from "../core/ids.ts";
import type { SigningKey } from "../core/jws.ts";
import { modelOf } from "../core/models.ts";
import { nanoUsd } from "../core/money.ts";
import { parseQuote, quoteHashOf } from "../core/quote.ts";
import { type Receipt, receiptFromJson } from "../core/receipt.ts";
import { decodeClaims } from "../core/signed-claims.ts";
import type { Logger } from "../runtime/logger.ts";
import type { Closable } from "../runtime/shutdown.ts";
import type { LeafWriter } from "./log-leaf.ts";
import type { RelayConnection } from "./relay-connection.ts";
import { ATTEMPTS_PER_REQUEST_MAX } from "./serve-request.ts";
import { amountsOf, type GenerationRow, pullReceipt, type SettleLedger } from "./settle-request.ts";
import type { SideFiles } from "./side-files.ts";

const INTERVAL_MS = 2_000;
/** A hold that is younger may belong to a request whose relay has not written its receipt yet. */
const SETTLE_AGE_MS = 500;
/** No receipt from any relay for this long: nothing is owed. */
const NO_RECEIPT_AGE_MS = 60_000;
/**
 * The same when some relay could not be asked. One that comes back later is not paid for what it served, but no relay that
 * stays away can keep customers' money held.
 */
const UNANSWERED_AGE_MS = 300_000;
/** Holds that are looked at in one round. */
const HOLDS_PER_ROUND_MAX = 256;
/** Relays that are asked at the same time for one hold. */
const RELAYS_AT_ONCE = 16;

interface RecoveryOptions {
  readonly openHolds: () => Promise<readonly OpenHold[]>;
  /** Whether a request of this process is behind it. */
  readonly isLive: (request: RequestId) => boolean;
  /** Runs of other gateways that are there: they end their own requests. */
  readonly othersAlive: () => Promise<ReadonlySet<RunTag>>;
  readonly ledger: SettleLedger;
  /** Relays that can be asked, and whether they are all that announced themselves. */
  readonly relays: () => { readonly known: readonly RelayConnection[]; readonly all: boolean };
  readonly sideFiles: SideFiles;
  readonly gatewayKey: SigningKey;
  readonly leafOf: LeafWriter;
  readonly markupBps: number;
  readonly log: Logger;
  readonly nowMs: () => number;
}

/** Ends holds that a process left open when it died. */
export interface Recovery extends Closable {
  /** One round, now. */
  round(): Promise<void>;
}

/**
 * Looks for open holds that no request of a living gateway is behind, asks the relays for their receipts, and settles by the
 * latest attempt's; a hold without a receipt is released. The ledger ends every hold once, whoever comes first.
 */
export function openRecovery(options: RecoveryOptions): Recovery {
  const { ledger, log, nowMs } = options;
  const stopping = new AbortController();

  const receiptOf = async (hold: OpenHold): Promise<FoundReceipt | "none" | "unknown"> => {
    const { known, all } = options.relays();
    let answered = all;
    for (let n = ATTEMPTS_PER_REQUEST_MAX - 1; n >= 0; n--) {
      const rid = attemptIdOf(hold.request, n);
      for (let from = 0; from < known.length; from += RELAYS_AT_ONCE) {
        const answers = await Promise.all(
          known
            .slice(from, from + RELAYS_AT_ONCE)
            .map((relay) => pullReceipt(relay, rid, options.gatewayKey, nowMs())),
        );
        for (const answer of answers) {
          if (answer === "unanswered") answered = false;
          if (typeof answer === "string") continue;
          const found = await checked(answer.token, answer.salt, rid, n);
          if (found !== undefined) return found;
        }
        if (stopping.signal.aborted) return "unknown";
      }
    }
    return answered ? "none" : "unknown";
  };

  /** The terms of a lost request are gone with its process; what is left to check is who signed what for which id. */
  const checked = async (
    token: string,
    salt: string,
    rid: RequestId,
    n: number,
  ): Promise<FoundReceipt | undefined> => {
    const claims = decodeClaims(token);
    const claimed = claims?.payload["att"];
    if (typeof claimed !== "string" || !/^[\w-]{43}$/.test(claimed)) return undefined;
    const key = await options.sideFiles.receiptKeyOf(claimed as EnclaveId);
    if (claims === undefined || key === undefined || !claims.isSigned("usage-receipt", key))
      return undefined;
    const receipt = receiptFromJson(claims.payload);
    if (receipt?.rid !== rid || receipt.aud !== options.gatewayKey.kid) return undefined;
    const text = await options.sideFiles.quoteTextOf(receipt.quote);
    const quote = text === undefined ? undefined : parseQuote(text);
    if (text === undefined || quote === undefined || quoteHashOf(text) !== receipt.quote)
      return undefined;
    if (quote.ek !== receipt.att || quote.hk !== receipt.iss || quote.prod !== receipt.model)
      return undefined;
    if (modelOf(receipt.model) === undefined) return undefined;
    return { receipt, quote, token, hash: claims.hash, salt, attempts: n + 1 };
  };

  const settle = async (hold: OpenHold, found: FoundReceipt): Promise<void> => {
    const { receipt, token, hash, salt } = found;
    const amounts = amountsOf(receipt, found.quote, nanoUsd(hold.amount), options.markupBps);
    if (amounts === undefined) {
      await ledger.release(hold.request, "receipt_unpriced_usage");
      return;
    }
    const minerAmount = hold.promo ? nanoUsd(0n) : amounts.minerAmount;
    const row: GenerationRow = {
      hotkey: receipt.iss,
      security: receipt.security,
      usage: receipt.use,
      source: receipt.src,
      status: receipt.status,
      upstreamModel: receipt.upm,
      ttftMs: receipt.t.ttft,
      durationMs: receipt.t.dur,
      receiptHash: hash,
      receiptSalt: salt,
      attempts: found.attempts,
    };
    const result = await ledger.settle({
      request: hold.request,
      charge: amounts.charge,
      minerAmount,
      miner: receipt.iss,
      epoch: receipt.e,
      leaf: await options.leafOf({
        receiptToken: token,
        receiptHash: hash,
        amount: minerAmount,
        promo: hold.promo,
        account: hold.account,
        epoch: receipt.e,
      }),
      row,
    });
    log.info({ request: hold.request, miner: receipt.iss, result }, "hold.recovered");
  };

  const recover = async (hold: OpenHold): Promise<void> => {
    const ageMs = nowMs() - hold.createdMs;
    if (ageMs < SETTLE_AGE_MS || options.isLive(hold.request)) return;
    const found = await receiptOf(hold);
    if (options.isLive(hold.request)) return;
    if (typeof found !== "string") return await settle(hold, found);
    const ageMsMax = found === "none" ? NO_RECEIPT_AGE_MS : UNANSWERED_AGE_MS;
    const isOver = nowMs() > hold.expiresMs || ageMs > ageMsMax;
    if (!isOver) return;
    await ledger.release(hold.request, "receipt_missing");
    log.warn({ request: hold.request }, "hold.released_without_receipt");
  };

  const round = async (): Promise<void> => {
    const open = await options.openHolds();
    // In this order: whoever has made one of these holds was there before, and is missing only if it has died.
    const others = await options.othersAlive();
    const holds = open.filter(({ request }) => !others.has(runOfRequest(request)));
    for (const hold of holds.slice(0, HOLDS_PER_ROUND_MAX)) {
      if (stopping.signal.aborted) return;
      try {
        await recover(hold);
      } catch (error) {
        log.warn({ err: error, request: hold.request }, "hold.recovery_failed");
      }
    }
  };
  let turn: Promise<void> | undefined;
  const once = async (): Promise<void> => {
    turn ??= round().finally(() => {
      turn = undefined;
    });
    await turn;
  };
  const loop = (async () => {
    while (!stopping.signal.aborted) {
      await once().catch((error: unknown) => log.warn({ err: error }, "hold.recovery_failed"));
      await delay(INTERVAL_MS, undefined, { signal: stopping.signal }).catch(() => undefined);
    }
  })();
  return {
    round: once,
    close: async () => {
      stopping.abort();
      await loop;
      await turn?.catch(() => undefined);
    },
  };
}

interface FoundReceipt {
  readonly receipt: Receipt;
  readonly quote: NonNullable<ReturnType<typeof parseQuote>>;
  readonly token: string;
  /** `claimsHashOf` the token. */
  readonly hash: string;
  readonly salt: string;
  readonly attempts: number;
}
