import type { EnclaveId, Hotkey, RequestId } from "../core/ids.ts";
import { type NanoUsd, nanoUsd } from "../core/money.ts";
import {
  chargeOf,
  inputTokensOf,
  minerAmountOf,
  outputTokensOf,
  type Price,
  type Usage,
} from "../core/pricing.ts";
import type { Receipt } from "../core/receipt.ts";
import { asSold } from "../dialects/usage.ts";

/** What the gateway granted, and within what bounds it pays. */
export interface GrantedWork {
  readonly miner: Hotkey;
  readonly enclave: EnclaveId;
  /** Key id with which the gateway signed the grant. */
  readonly gatewayKeyId: string;
  readonly rid: RequestId;
  readonly epoch: number;
  readonly model: string;
  readonly grantHash: string;
  readonly quoteHash: string;
  readonly price: Price;
  readonly markupBps: number;
  readonly maxOutputTokens: number;
  /** From price-ceiling.ts. */
  readonly inputTokensMax: number;
  /** Alternative answers asked for. */
  readonly choices: number;
  /** Whether output may be billed that no byte shows and that is not reported as reasoning. */
  readonly hiddenOutput: boolean;
  readonly requestBytes: number;
  readonly hold: NanoUsd;
}

/** What the gateway saw of the answer with its own meter. */
export interface SeenAnswer {
  readonly usage?: Usage;
  readonly complete: boolean;
  readonly contentEvents: number;
  readonly visibleBytes: number;
  /** Bytes of the relay's answer. */
  readonly bytesOut: number;
  /** Whether the relay's answer was read to its end; otherwise more was sent than was seen. */
  readonly ended: boolean;
}

export const RECEIPT_REFUSALS = [
  "wrong_miner",
  "wrong_enclave",
  "wrong_gateway",
  "wrong_request",
  "wrong_epoch",
  "wrong_grant",
  "wrong_model",
  "wrong_quote",
  "wrong_bytes",
  "wrong_status",
  "charged_failure",
  "usage_mismatch",
  "over_max_out",
  "over_byte_bound",
  "unpriced_usage",
] as const;
export type ReceiptRefusal = (typeof RECEIPT_REFUSALS)[number];

export type ReceiptVerdict =
  | {
      readonly ok: true;
      /** What the customer pays and the miner earns, neither more than was held. */
      readonly charge: NanoUsd;
      readonly minerAmount: NanoUsd;
      /** Whether the hold was smaller than the cost. */
      readonly clipped: boolean;
    }
  | { readonly ok: false; readonly refusal: ReceiptRefusal };

/** Tokens per choice that an answer may have without a byte to show for them: turn markers and the like. */
const MARKER_TOKENS_PER_CHOICE = 64;
/** Text has at most one token per byte; tool calls are written with markup that the client never sees. */
const TOKENS_PER_VISIBLE_BYTE_MAX = 2;

/**
 * Whether a receipt, whose signature was verified, tells the truth as far as the gateway can see, and what it comes to.
 *
 * The names in it must be those of the grant. Its usage must be what the provider's own bytes said when they passed
 * through the gateway; and where they said nothing, or the provider itself may lie, it must fit into what was granted and
 * into the bytes that were sent both ways.
 *
 * @param seen undefined when this process did not see the answer: a receipt pulled after a restart.
 */
export function checkReceipt(
  receipt: Receipt,
  work: GrantedWork,
  seen: SeenAnswer | undefined,
): ReceiptVerdict {
  const refusal =
    nameRefusalOf(receipt, work) ??
    bytesRefusalOf(receipt, work, seen) ??
    (receipt.status === "upstream_error"
      ? failureRefusalOf(receipt)
      : (boundRefusalOf(receipt, work, seen) ?? usageRefusalOf(receipt, work, seen)));
  if (refusal !== undefined) return { ok: false, refusal };
  const charge = chargeOf(receipt.use, work.price, work.markupBps);
  const minerAmount = minerAmountOf(receipt.use, work.price);
  if (charge === undefined || minerAmount === undefined)
    return { ok: false, refusal: "unpriced_usage" };
  return {
    ok: true,
    charge: least(charge, work.hold),
    minerAmount: least(minerAmount, work.hold),
    clipped: charge > work.hold,
  };
}

function least(a: NanoUsd, b: NanoUsd): NanoUsd {
  return nanoUsd(a < b ? a : b);
}

function nameRefusalOf(receipt: Receipt, work: GrantedWork): ReceiptRefusal | undefined {
  if (receipt.iss !== work.miner) return "wrong_miner";
  if (receipt.att !== work.enclave) return "wrong_enclave";
  if (receipt.aud !== work.gatewayKeyId) return "wrong_gateway";
  if (receipt.rid !== work.rid) return "wrong_request";
  if (receipt.e !== work.epoch) return "wrong_epoch";
  if (receipt.grant !== work.grantHash) return "wrong_grant";
  if (receipt.model !== work.model) return "wrong_model";
  if (receipt.quote !== work.quoteHash) return "wrong_quote";
  return undefined;
}

function bytesRefusalOf(
  receipt: Receipt,
  work: GrantedWork,
  seen: SeenAnswer | undefined,
): ReceiptRefusal | undefined {
  if (receipt.bytes.in !== work.requestBytes) return "wrong_bytes";
  if (seen === undefined) return undefined;
  // What was on its way when the gateway stopped reading was sent and not seen.
  const fits = seen.ended
    ? receipt.bytes.out === seen.bytesOut
    : receipt.bytes.out >= seen.bytesOut;
  if (!fits) return "wrong_bytes";
  if (receipt.status === "complete" && seen.ended && !seen.complete) return "wrong_status";
  return undefined;
}

function failureRefusalOf({ use }: Receipt): ReceiptRefusal | undefined {
  return inputTokensOf(use) + outputTokensOf(use) > 0 ? "charged_failure" : undefined;
}

/** Limits that hold whatever anybody says about usage. */
function boundRefusalOf(
  { use, bytes, src }: Receipt,
  work: GrantedWork,
  seen: SeenAnswer | undefined,
): ReceiptRefusal | undefined {
  if (outputTokensOf(use) > work.maxOutputTokens) return "over_max_out";
  if (inputTokensOf(use) > work.inputTokensMax) return "over_byte_bound";
  // Reasoning is reported apart and need not show; other output does.
  const shown = outputTokensOf(use) - (use.reasoning ?? 0);
  const markers = MARKER_TOKENS_PER_CHOICE * work.choices;
  const visibleMax = seen?.ended === true ? seen.visibleBytes : bytes.out;
  if (!work.hiddenOutput && shown > TOKENS_PER_VISIBLE_BYTE_MAX * visibleMax + markers)
    return "over_byte_bound";
  // What a relay counts itself can only be what it sent.
  if (src === "counted" && outputTokensOf(use) > bytes.out + markers) return "over_byte_bound";
  return undefined;
}

/** Whether the usage is what the provider's own words, seen by the gateway, come to. */
function usageRefusalOf(
  { use, src, status }: Receipt,
  work: GrantedWork,
  seen: SeenAnswer | undefined,
): ReceiptRefusal | undefined {
  if (seen === undefined || !seen.ended) return undefined;
  if (seen.usage === undefined || !seen.complete)
    return src === "provider" && status === "complete" ? "usage_mismatch" : undefined;
  const said = asSold(seen.usage, work.price);
  if (outputTokensOf(said) <= work.maxOutputTokens)
    return sameUsage(use, said) ? undefined : "usage_mismatch";
  // A provider that went beyond the bound is paid up to it.
  const inputSame = inputTokensOf(use) === inputTokensOf(said) && sameInput(use, said);
  return inputSame && outputTokensOf(use) === work.maxOutputTokens ? undefined : "usage_mismatch";
}

const INPUTS = [
  "input",
  "cache_read",
  "cache_write_5m",
  "cache_write_1h",
  "audio_input",
  "image_input",
] as const;
const OUTPUTS = ["output", "reasoning", "audio_output", "image_output"] as const;

function sameInput(a: Usage, b: Usage): boolean {
  return INPUTS.every((dimension) => (a[dimension] ?? 0) === (b[dimension] ?? 0));
}

function sameUsage(a: Usage, b: Usage): boolean {
  return (
    sameInput(a, b) && OUTPUTS.every((dimension) => (a[dimension] ?? 0) === (b[dimension] ?? 0))
  );
}
