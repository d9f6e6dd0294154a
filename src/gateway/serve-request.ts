import { hash } from "node:crypto";
import type { HoldVerdict, Ledger } from "../billing/ledger.ts";
import { RouterError } from "../core/errors.ts";
import { GRANT_LIFE_SECONDS_MAX, type Grant } from "../core/grant.ts";
import {
  type AccountId,
  attemptIdOf,
  generationIdOf,
  type Hotkey,
  type RequestId,
} from "../core/ids.ts";
import { type Model, modelOf } from "../core/models.ts";
import { inputTokensOf, outputTokensOf } from "../core/pricing.ts";
import type { PriceQuote } from "../core/quote.ts";
import { SURFACES, type Surface } from "../core/surface.ts";
import { insufficientCredit, keyLimitExceeded, streamErrorEvents } from "../dialects/error-body.ts";
import { type RequestFacts, readRequest } from "../dialects/read-request.ts";
import { forUpstream, withoutGatewayFields } from "../dialects/splice-request.ts";
import type { Logger } from "../runtime/logger.ts";
import { type Attempt, type AttemptEnd, startAttempt } from "./attempt.ts";
import type { ApiKey } from "./auth.ts";
import type { ClaimsSigner, SignedClaims } from "./claims-signer.ts";
import type { GatewayMetrics } from "./gateway-metrics.ts";
import type { MemoryBudget } from "./memory-budget.ts";
import type { Ceiling, Unaffordable } from "./price-ceiling.ts";
import type { RelayConnection } from "./relay-connection.ts";
import type { PaidReceipt, ReceiptExpectation, Settler } from "./settle-request.ts";

/** Miners that are tried for one request: the chosen one and two others. */
export const MINERS_PER_REQUEST_MAX = 3;
/** One more: the first may start again when less than planned could be held. */
export const ATTEMPTS_PER_REQUEST_MAX = MINERS_PER_REQUEST_MAX + 1;
/** No other miner is tried after this long, in milliseconds. */
const FAILOVER_DEADLINE_MS = 180_000;
/** How long a hold stands before it may be released without a receipt; longer than the longest answer. */
const HOLD_LIFE_MS = 30 * 60_000;
/** A customer that reads nothing for this long is gone. */
const CLIENT_STALL_MS = 120_000;
/** An account whose last hold was accepted this recently is trusted with an upstream call before the next one commits. */
const GOOD_STANDING_MS = 60_000;
const GOOD_STANDING_MAX = 10_000;
/** Longest part of an upstream's message that is passed on, in characters. */
const UPSTREAM_MESSAGE_CHARS_MAX = 500;

/** One inference request that was admitted. */
export interface InferenceRequest {
  readonly id: RequestId;
  readonly key: ApiKey;
  readonly surface: Surface;
  readonly body: Buffer;
  /** Headers that the upstream gets to see; the relay passes on no others. */
  readonly upstreamHeaders: Readonly<Record<string, string>>;
  readonly receivedMs: number;
}

/** The customer's side of one answer. */
export interface ClientAnswer {
  begin(status: number, headers: Readonly<Record<string, string | number>>): void;
  /** @returns false when the customer has more than enough to read. */
  write(chunk: Buffer): boolean;
  end(chunk?: Buffer): void;
  /** Tells once that the customer closed the connection before the answer was complete. */
  onGone(listener: () => void): void;
  onDrain(listener: () => void): void;
  destroy(): void;
}

/** A miner that may serve the request, and at what price. */
export interface Candidate {
  readonly hotkey: Hotkey;
  readonly relay: RelayConnection;
  readonly quote: PriceQuote;
  /** Base64url SHA-256 of the text that the hotkey signed. */
  readonly quoteHash: string;
}

/** Who may serve a request, best first, and the most it can cost. */
export interface Plan {
  readonly candidates: readonly Candidate[];
  /** @param available what the account can spend, nano-USD; undefined when that is not known yet. */
  ceilingOf(available: bigint | undefined): Ceiling | Unaffordable;
}

/** How an attempt went, for the router's view of a miner. */
export type Outcome =
  | {
      readonly kind: "served";
      readonly firstContentMs: number;
      readonly durationMs: number;
      readonly outputTokens: number;
    }
  /** The miner's doing: it counts against it. */
  | { readonly kind: "fault"; readonly code: string }
  /** Its receipt was wrong: it is ejected at once. */
  | { readonly kind: "bad_receipt"; readonly code: string }
  | { readonly kind: "busy" }
  /** Nobody's fault: the customer left, or asked for something impossible. */
  | { readonly kind: "neutral" };

export interface ServeDeps {
  /** @throws RouterError when nobody may serve it. */
  readonly plan: (facts: RequestFacts, model: Model, bodyBytes: number) => Plan;
  readonly hold: Ledger["hold"];
  readonly settler: Settler;
  /** Tells the router that an attempt starts. @returns how to tell it how the attempt went; call once. */
  readonly started: (candidate: Candidate, model: Model) => (outcome: Outcome) => void;
  /** Index of the epoch that will pay for what is dispatched now. */
  readonly payingEpoch: () => number;
  readonly issuer: Hotkey;
  readonly signGrant: ClaimsSigner<Grant>;
  /** Key id with which grants are signed. */
  readonly gatewayKeyId: string;
  readonly markupBps: number;
  readonly memory: MemoryBudget;
  readonly metrics: GatewayMetrics;
  readonly log: Logger;
  readonly nowMs: () => number;
  /** Facts that help a customer who cannot pay, such as where to send TAO. */
  readonly topUpOf: (key: ApiKey) => Readonly<Record<string, string>>;
}

/** A request while it is served. */
interface Work {
  readonly request: InferenceRequest;
  readonly facts: RequestFacts;
  readonly model: Model;
  readonly plan: Plan;
  /** What is held and granted; smaller than planned when the account cannot pay for more. */
  ceiling: Ceiling;
  /** The body as the relay gets it, and its base64url SHA-256. */
  readonly body: Buffer;
  readonly bodyHash: string;
  readonly epoch: number;
  readonly client: ClientAnswer;
  /** Bytes taken from the memory budget. */
  reserved: number;
  current: Attempt | undefined;
  gone: boolean;
  /** The hold was refused, or is smaller than planned. */
  holdChanged: boolean;
  /** How it ended, once the answer has begun. */
  result: string;
}

/** One attempt at one miner. */
interface Try {
  readonly candidate: Candidate;
  readonly attempt: Attempt;
  readonly expectation: ReceiptExpectation;
  readonly tell: (outcome: Outcome) => void;
}

/**
 * Makes the function that serves one request, from the bytes of its body to its settlement.
 *
 * No byte leaves before the hold is committed, and the end of an answer, which carries usage and terminator, not before
 * its settlement is: what a customer has seen is always paid for, and once. Until the first byte of content another
 * miner may take over within the same hold; after it, the customer gets an error in band and pays for what came.
 */
export function requestServer(
  deps: ServeDeps,
): (request: InferenceRequest, client: ClientAnswer) => Promise<void> {
  /** Accounts whose last hold was accepted, and when. It only decides whether to wait, never whether to serve. */
  const goodStanding = new Map<AccountId, number>();

  const standsWell = (account: AccountId): boolean =>
    (goodStanding.get(account) ?? Number.NEGATIVE_INFINITY) > deps.nowMs() - GOOD_STANDING_MS;

  const noteStanding = (account: AccountId, ok: boolean): void => {
    goodStanding.delete(account);
    if (!ok) return;
    if (goodStanding.size >= GOOD_STANDING_MAX) goodStanding.clear();
    goodStanding.set(account, deps.nowMs());
  };

  const tryHold = async (work: Work, ceiling: Ceiling): Promise<HoldVerdict> => {
    const { request, facts, model } = work;
    try {
      return await deps.hold({
        request: request.id,
        account: request.key.account,
        amount: ceiling.hold,
        fingerprint: work.bodyHash,
        expiresMs: request.receivedMs + HOLD_LIFE_MS,
        row: {
          apiKeyId: request.key.id,
          model: model.id,
          surface: request.surface,
          streamed: facts.stream,
          createdMs: request.receivedMs,
        },
      });
    } catch (cause) {
      noteStanding(request.key.account, false);
      // It may have been committed all the same.
      deps.settler.releaseLater(request.id, "hold_unknown");
      if (cause instanceof RouterError) throw cause;
      throw new RouterError("ledger_unavailable", "The request cannot be paid for right now.", {
        cause,
        retryAfterSeconds: 1,
      });
    }
  };

  /** Holds what the request can cost at most, or less when the account has less and that is enough to serve it. */
  const openHold = async (work: Work): Promise<Ceiling> => {
    const { request, plan, ceiling } = work;
    const verdict = await tryHold(work, ceiling);
    noteStanding(request.key.account, verdict.ok);
    if (verdict.ok) return ceiling;
    deps.settler.forget(request.id);
    if (verdict.refusal === "conflict") throw conflict();
    const smaller = plan.ceilingOf(verdict.availableNusd);
    if (!smaller.ok) throw refusalOf(request, verdict.refusal, smaller);
    deps.settler.begin(request.id);
    const second = await tryHold(work, smaller);
    if (second.ok) return smaller;
    deps.settler.forget(request.id);
    if (second.refusal === "conflict") throw conflict();
    throw refusalOf(request, second.refusal, {
      ok: false,
      neededNusd: smaller.hold,
      availableNusd: second.availableNusd,
      affordableMaxTokens: 0,
    });
  };

  const refusalOf = (
    request: InferenceRequest,
    refusal: "insufficient_credit" | "key_limit",
    refused: Unaffordable,
  ): RouterError =>
    refusal === "key_limit"
      ? keyLimitExceeded(refused.neededNusd, refused.availableNusd, refused.affordableMaxTokens)
      : unaffordable(request, refused);

  const unaffordable = (request: InferenceRequest, refused: Unaffordable): RouterError => {
    const { neededNusd, availableNusd, affordableMaxTokens } = refused;
    const refusal = insufficientCredit(neededNusd, availableNusd, affordableMaxTokens);
    return new RouterError(refusal.code, refusal.message, {
      details: { ...refusal.details, ...deps.topUpOf(request.key) },
    });
  };

  const grantFor = async (
    work: Work,
    candidate: Candidate,
    rid: RequestId,
  ): Promise<SignedClaims> => {
    const nowSeconds = Math.floor(deps.nowMs() / 1_000);
    return await deps.signGrant({
      v: 1,
      iss: deps.issuer,
      aud: candidate.relay.peer.enclave,
      rid,
      iat: nowSeconds,
      exp: nowSeconds + GRANT_LIFE_SECONDS_MAX,
      e: work.epoch,
      surface: work.request.surface,
      model: work.model.id,
      max_out: work.ceiling.maxOutputTokens,
      quote: candidate.quoteHash,
      req: work.bodyHash,
      sealed_by: "gateway",
    });
  };

  const startTry = (work: Work, candidate: Candidate, rid: RequestId, grant: SignedClaims): Try => {
    const { request, facts, ceiling } = work;
    const tell = deps.started(candidate, work.model);
    const attempt = startAttempt(
      candidate.relay,
      {
        method: "POST",
        path: `/v1${SURFACES[request.surface].path}`,
        headers: {
          ...request.upstreamHeaders,
          "content-type": "application/json",
          accept: facts.stream ? "text/event-stream" : "application/json",
          "daybreak-grant": grant.token,
        },
        body: work.body,
      },
      {
        surface: request.surface,
        stream: facts.stream,
        choices: facts.choices,
        nowMs: deps.nowMs,
        reserve: (bytes) => {
          if (!deps.memory.take(bytes)) return false;
          work.reserved += bytes;
          return true;
        },
      },
    );
    work.current = attempt;
    return {
      candidate,
      attempt,
      tell,
      expectation: {
        request: request.id,
        relay: candidate.relay,
        account: request.key.account,
        work: {
          miner: candidate.hotkey,
          enclave: candidate.relay.peer.enclave,
          gatewayKeyId: deps.gatewayKeyId,
          rid,
          epoch: work.epoch,
          model: work.model.id,
          grantHash: grant.hash,
          quoteHash: candidate.quoteHash,
          price: candidate.quote.price,
          markupBps: deps.markupBps,
          maxOutputTokens: ceiling.maxOutputTokens,
          inputTokensMax: ceiling.inputTokensMax,
          choices: facts.choices,
          hiddenOutput: facts.hiddenOutput,
          requestBytes: work.body.length,
          hold: ceiling.hold,
        },
      },
    };
  };

  /**
   * Tries miners until one has content for the customer.
   *
   * @returns undefined if the customer left while nobody was being asked.
   * @throws RouterError when none has.
   */
  const openAnswer = async (work: Work, held: Promise<Ceiling>): Promise<Try | undefined> => {
    const { candidates } = work.plan;
    const deadlineMs = work.request.receivedMs + FAILOVER_DEADLINE_MS;
    let last: RouterError | undefined;
    let next = 0;
    for (let n = 0; n < ATTEMPTS_PER_REQUEST_MAX; n++) {
      const candidate = candidates[next];
      if (candidate === undefined) break;
      const rid = attemptIdOf(work.request.id, n);
      const grant = await grantFor(work, candidate, rid);
      // An attempt that starts now would have nobody to abort it: whoever would have has come and found none.
      if (work.gone) return undefined;
      if (work.holdChanged) {
        const ceiling = await held;
        if (ceiling !== work.ceiling) {
          work.ceiling = ceiling;
          continue;
        }
      }
      const current = startTry(work, candidate, rid, grant);
      const opening = await current.attempt.opened;
      const ceiling = await heldOrAborted(held, current);
      if (ceiling !== work.ceiling) {
        // What was granted is not what could be held: this miner starts again with less.
        current.attempt.abort();
        current.tell({ kind: "neutral" });
        work.ceiling = ceiling;
        continue;
      }
      if (work.gone) return current;
      if (opening.kind === "content" || opening.kind === "whole") return current;
      const verdict = failureOf(opening);
      current.tell(verdict.outcome);
      deps.metrics.attempts.inc({ result: verdict.code });
      deps.log.warn(
        { request: work.request.id, miner: candidate.hotkey, code: verdict.code, attempt: n },
        "attempt.failed",
      );
      current.attempt.abort();
      deps.settler.noteFailed(current.expectation, await current.attempt.ended);
      last = verdict.error;
      if (!verdict.tryAnother || deps.nowMs() > deadlineMs) break;
      next += 1;
    }
    throw (
      last ??
      new RouterError("no_miner_available", "No miner is available for this model.", {
        retryAfterSeconds: 1,
      })
    );
  };

  const heldOrAborted = async (held: Promise<Ceiling>, current: Try): Promise<Ceiling> => {
    try {
      return await held;
    } catch (error) {
      current.attempt.abort();
      current.tell({ kind: "neutral" });
      throw error;
    }
  };

  const serveStream = async (work: Work, { attempt, ...current }: Try): Promise<void> => {
    const { client, request } = work;
    const write = openingHeaders(work, current.candidate, attempt);
    client.begin(200, write);
    let stall: NodeJS.Timeout | undefined;
    client.onDrain(() => {
      clearTimeout(stall);
      stall = undefined;
      attempt.resume();
    });
    attempt.flowTo({
      write: (chunk) => {
        const ready = client.write(chunk);
        if (!ready) stall ??= setTimeout(() => client.destroy(), CLIENT_STALL_MS);
        return ready;
      },
    });
    const end = await attempt.ended;
    clearTimeout(stall);
    if (work.gone) return await settleAbandoned({ attempt, ...current }, end);
    const failed = (error: RouterError, held?: Buffer): void => {
      const ids = {
        id: end.meter.upstreamId ?? generationIdOf(request.id),
        model: end.meter.upstreamModel ?? work.facts.model,
        createdSeconds: Math.floor(deps.nowMs() / 1_000),
      };
      const events = streamErrorEvents(request.surface, error, ids);
      client.end(held === undefined ? events : Buffer.concat([held, events]));
    };
    if (end.failure !== undefined || !end.meter.complete) {
      current.tell({ kind: "fault", code: end.failure ?? "incomplete" });
      deps.metrics.attempts.inc({ result: "broken" });
      work.result = "upstream_failed";
      // What follows the last complete event may be half an event: end it, so that the error stands alone.
      failed(
        new RouterError("upstream_failed", "The answer broke off. What came so far is charged."),
        Buffer.from("\n\n"),
      );
      return await deps.settler.settleOrPull(current.expectation, end);
    }
    const settled = await deps.settler.settle(current.expectation, end);
    if (settled.ok) {
      served(work, current, end, settled.paid);
      client.end(end.held);
      return;
    }
    tellUnpaid(current, settled.refusal);
    const error = unpaidError(settled.refusal);
    work.result = error.code;
    failed(error);
  };

  const serveWhole = async (work: Work, current: Try): Promise<void> => {
    const { client } = work;
    const end = await current.attempt.ended;
    if (work.gone) return await settleAbandoned(current, end);
    const settled = await deps.settler.settle(current.expectation, end);
    if (!settled.ok) {
      tellUnpaid(current, settled.refusal);
      // Nothing was delivered, so nothing is owed: whoever catches this releases the hold.
      throw unpaidError(settled.refusal);
    }
    served(work, current, end, settled.paid);
    client.begin(200, {
      ...openingHeaders(work, current.candidate, current.attempt),
      ...(work.facts.stream ? {} : { "content-length": end.held.length }),
      "x-daybreak-cost-nusd": settled.paid.charge.toString(),
    });
    client.end(end.held);
  };

  const served = (
    work: Work,
    current: Omit<Try, "attempt">,
    end: AttemptEnd,
    { receipt, charge }: PaidReceipt,
  ): void => {
    const model = work.model.id;
    const firstContentMs = end.firstContentMs ?? end.durationMs;
    const outputTokens = outputTokensOf(receipt.use);
    current.tell({ kind: "served", firstContentMs, durationMs: end.durationMs, outputTokens });
    deps.metrics.attempts.inc({ result: "served" });
    deps.metrics.firstContentSeconds.observe({ model }, firstContentMs / 1_000);
    deps.metrics.chargedNusd.inc({ model }, Number(charge));
    deps.metrics.tokens.inc({ model, kind: "input" }, inputTokensOf(receipt.use));
    deps.metrics.tokens.inc({ model, kind: "output" }, outputTokens);
  };

  const settleAbandoned = async (current: Try, end: AttemptEnd): Promise<void> => {
    current.tell({ kind: "neutral" });
    deps.metrics.attempts.inc({ result: "client_gone" });
    await deps.settler.settleOrPull(current.expectation, end);
  };

  const tellUnpaid = (current: Omit<Try, "attempt">, refusal: string): void => {
    deps.metrics.attempts.inc({ result: refusal });
    if (refusal === "ledger_unavailable") current.tell({ kind: "neutral" });
    else current.tell({ kind: "bad_receipt", code: refusal });
  };

  const prepare = (request: InferenceRequest, client: ClientAnswer): Work => {
    const read = readRequest(request.surface, request.body);
    if (!read.ok)
      throw new RouterError(read.code, `${read.message}.`, {
        details: read.param === undefined ? {} : { param: read.param },
      });
    const facts = read.request;
    const model = modelFor(request.surface, facts.model);
    const body =
      facts.maxOutputTokens !== undefined && facts.maxOutputTokens > model.outputTokensMax
        ? forUpstream(request.surface, request.body, facts, {
            maxOutputTokens: model.outputTokensMax,
          })
        : withoutGatewayFields(request.body, facts);
    const plan = deps.plan(facts, model, body.length);
    const ceiling = plan.ceilingOf(undefined);
    if (!ceiling.ok) throw unaffordable(request, ceiling);
    return {
      request,
      facts,
      model,
      plan,
      ceiling,
      body,
      bodyHash: hash("sha256", body, "base64url"),
      epoch: deps.payingEpoch(),
      client,
      reserved: 0,
      current: undefined,
      gone: false,
      holdChanged: false,
      result: "ok",
    };
  };

  const serve = async (work: Work): Promise<void> => {
    const { request, client } = work;
    deps.settler.begin(request.id);
    client.onGone(() => {
      work.gone = true;
      work.current?.abort();
    });
    // An upstream call costs somebody money: for an account that could not pay lately the hold comes first.
    const trusted = standsWell(request.key.account);
    const held = openHold(work);
    const planned = work.ceiling;
    const onHoldChanged = (): void => {
      work.holdChanged = true;
      work.current?.abort();
    };
    held.then((ceiling) => {
      if (ceiling !== planned) onHoldChanged();
    }, onHoldChanged);
    try {
      if (!trusted) work.ceiling = await held;
      const current = await openAnswer(work, held);
      if (current === undefined) {
        await held;
        deps.settler.releaseLater(request.id, "client_gone");
        return;
      }
      if (work.gone) return await settleAbandoned(current, await current.attempt.ended);
      if (work.facts.stream && (await current.attempt.opened).kind === "content")
        await serveStream(work, current);
      else await serveWhole(work, current);
    } catch (error) {
      // The hold's own refusal is the truth; attempts that were aborted because of it are not.
      await held;
      deps.settler.releaseLater(request.id, error instanceof RouterError ? error.code : "internal");
      throw error;
    } finally {
      deps.memory.give(work.reserved);
    }
  };

  return async (request, client) => {
    let work: Work | undefined;
    let code = "ok";
    try {
      work = prepare(request, client);
      await serve(work);
      code = work.gone ? "client_gone" : work.result;
    } catch (error) {
      code = error instanceof RouterError ? error.code : "internal";
      throw error;
    } finally {
      // A name that a customer made up is no label.
      const model = work?.model.id ?? "unknown";
      const durationMs = deps.nowMs() - request.receivedMs;
      deps.metrics.requests.inc({ model, code });
      deps.metrics.requestSeconds.observe({ model }, durationMs / 1_000);
      deps.log.info({ request: request.id, model, code, durationMs }, "request.ended");
    }
  };
}

/** @throws RouterError when there is no such model, or it is served on the other surface. */
function modelFor(surface: Surface, name: string): Model {
  const model = modelOf(name);
  if (model === undefined)
    throw new RouterError("unknown_model", `There is no model named ${JSON.stringify(name)}.`, {
      details: { param: "model" },
    });
  if (model.surface !== surface) {
    const right = SURFACES[model.surface];
    throw new RouterError(
      "wrong_surface",
      `${model.id} is served as ${right.name}: send the request to POST /v1${right.path}.`,
      { details: { param: "model", surface: model.surface, path: `/v1${right.path}` } },
    );
  }
  return model;
}

function openingHeaders(
  work: Work,
  candidate: Candidate,
  attempt: Attempt,
): Record<string, string | number> {
  return {
    "content-type":
      attempt.contentType() ??
      (work.facts.stream ? "text/event-stream; charset=utf-8" : "application/json"),
    "cache-control": "no-cache",
    // nginx would otherwise collect a stream before passing it on.
    ...(work.facts.stream ? { "x-accel-buffering": "no" } : {}),
    "x-generation-id": generationIdOf(work.request.id),
    "x-daybreak-miner": candidate.hotkey,
    "x-daybreak-security": candidate.relay.peer.security,
    "x-daybreak-mode": "attested",
  };
}

function unpaidError(refusal: string): RouterError {
  return refusal === "ledger_unavailable"
    ? new RouterError("ledger_unavailable", "The request could not be settled.", {
        retryAfterSeconds: 1,
      })
    : new RouterError("upstream_failed", "The miner's receipt was not valid. Nothing was charged.");
}

interface FailureVerdict {
  readonly code: string;
  readonly outcome: Outcome;
  readonly error: RouterError;
  readonly tryAnother: boolean;
}

/** Upstream statuses that are about the request itself: another miner would get the same. */
const CLIENT_FAULTS: ReadonlySet<number> = new Set([400, 413, 415, 422]);
const BUSY: ReadonlySet<number> = new Set([429, 503, 529]);

/** What follows from an attempt that gave the customer nothing. */
function failureOf(
  opening: Exclude<Awaited<Attempt["opened"]>, { kind: "content" | "whole" }>,
): FailureVerdict {
  if (opening.kind === "failed") {
    const timeout = opening.cause === "timeout";
    return {
      code: opening.cause,
      outcome: { kind: "fault", code: opening.cause },
      error: timeout
        ? new RouterError("upstream_timeout", "The miner did not answer in time.", {
            retryAfterSeconds: 1,
          })
        : new RouterError("upstream_failed", "The miner failed before it answered.", {
            retryAfterSeconds: 1,
          }),
      tryAnother: opening.cause !== "too_long",
    };
  }
  const { status, byUpstream } = opening;
  if (byUpstream && CLIENT_FAULTS.has(status))
    return {
      code: "upstream_refused_request",
      outcome: { kind: "neutral" },
      error: new RouterError(
        "upstream_refused_request",
        upstreamMessageOf(opening.body) ?? `The upstream provider refused the request (${status}).`,
        { details: { upstream_status: status } },
      ),
      tryAnother: false,
    };
  if (BUSY.has(status))
    return {
      code: "busy",
      outcome: { kind: "busy" },
      error: new RouterError("no_miner_available", "Every miner for this model is busy.", {
        retryAfterSeconds: 2,
        details: byUpstream ? { upstream_status: status } : {},
      }),
      tryAnother: true,
    };
  return {
    code: byUpstream ? "upstream_status" : "relay_status",
    outcome: { kind: "fault", code: `status_${status}` },
    error: new RouterError("upstream_failed", "The miner's upstream failed.", {
      retryAfterSeconds: 1,
      details: byUpstream ? { upstream_status: status } : {},
    }),
    tryAnother: true,
  };
}

/** The message in an upstream's error body. It is the upstream's answer to the customer's own request. */
function upstreamMessageOf(body: Buffer): string | undefined {
  try {
    const json: unknown = JSON.parse(body.toString("utf8"));
    const error = (json as { error?: unknown }).error;
    const message = typeof error === "string" ? error : (error as { message?: unknown }).message;
    return typeof message === "string" ? message.slice(0, UPSTREAM_MESSAGE_CHARS_MAX) : undefined;
  } catch {
    return undefined;
  }
}

function conflict(): RouterError {
  return new RouterError("request_id_conflict", "This request id was used for another request.");
}
