import { setImmediate as nextTurn } from "node:timers/promises";
import { type EnclaveId, type Hotkey, hotkeyOf, type RequestId } from "../core/ids.ts";
import type { VerifyingKey } from "../core/jws.ts";
import { MODELS, type Model } from "../core/models.ts";
import { inputTokensOf, minerAmountOf, outputTokensOf } from "../core/pricing.ts";
import {
  type PriceQuote,
  parseQuote,
  quoteHashOf,
  quoteRefusalOf,
  type SignedQuote,
} from "../core/quote.ts";
import {
  type Countersignature,
  countersignatureFromJson,
  type Receipt,
  receiptFromJson,
} from "../core/receipt.ts";
import { claimsHashOf, decodeClaims, verifyClaims } from "../core/signed-claims.ts";
import type { ProvenUsage, UsageClass } from "./miner-pay-ledger.ts";

/** Every way in which one leaf of the log earns nothing. */
export const LEAF_REFUSALS = [
  "malformed_leaf",
  "bad_countersignature",
  "unknown_enclave",
  "bad_receipt_signature",
  "malformed_receipt",
  "wrong_hotkey",
  "wrong_gateway",
  "enclave_not_valid_then",
  "epoch_out_of_range",
  "duplicate_receipt",
  "equivocation",
  "unknown_model",
  "implausible_usage",
  "unknown_quote",
  "bad_quote_signature",
  "quote_for_another",
  "quote_not_valid_then",
  "unpriced_usage",
  "wrong_amount",
] as const;
export type LeafRefusal = (typeof LEAF_REFUSALS)[number];

/** Epochs for which a receipt can be credited, counted from its own; ids are remembered as long. */
export const RECEIPT_EPOCHS_MAX = 10;
/** Leaves that are checked before others of this process get a turn; at worst two signatures each, 10 ms in all. */
const LEAVES_PER_TURN = 64;
/** A quote may run out between the gateway's choice and the relay's clock: as long as a grant lives. */
const QUOTE_SLACK_SECONDS = 60;
/** Longest request that is believed; its quote is looked up at its start. */
const REQUEST_MS_MAX = 3_600_000;
/** Answers per request that any model gives at most (`n`). */
const CHOICES_MAX = 128;

/** An enclave whose evidence was verified. */
export interface VerifiedEnclave {
  readonly hotkey: Hotkey;
  readonly receiptKey: VerifyingKey;
  /** Unix seconds between which its statement is valid. */
  readonly iat: number;
  readonly exp: number;
}

/** What is remembered of a receipt that was accepted, so that it is paid once. */
export interface SeenReceipt {
  readonly rid: RequestId;
  /** The epoch in the receipt. */
  readonly e: number;
  readonly att: EnclaveId;
  readonly seq: number;
}

export interface AuditInputs {
  readonly epoch: number;
  /** In the order of the log. */
  readonly leaves: readonly Uint8Array[];
  /** The key that the gateway announced on the chain. */
  readonly gatewayKey: VerifyingKey;
  verifiedEnclave(id: EnclaveId): VerifiedEnclave | undefined;
  signedQuote(hash: string): SignedQuote | undefined;
  /** Whether the hotkey signed the quote (sr25519). */
  verifyQuoteSignature(quote: SignedQuote, hotkey: Hotkey): boolean;
  /** Receipts of the last epochs. */
  readonly seen: readonly SeenReceipt[];
}

/** What the gateway signed that a leaf earns, right or wrong. */
interface Claim {
  readonly hotkey: Hotkey;
  /** Nano-USD; 0 for free credit. */
  readonly amount: bigint;
}

/** What the audit says about one leaf. */
export type LeafVerdict =
  | {
      readonly ok: false;
      readonly refusal: LeafRefusal;
      /** Absent when the gateway did not sign the leaf, or for no miner. */
      readonly claim: Claim | undefined;
    }
  | {
      readonly ok: true;
      readonly claim: Claim;
      readonly usageClass: UsageClass;
      readonly promo: boolean;
      /** The gateway credited less than the usage costs: the customer's hold did not cover it. */
      readonly clipped: boolean;
      readonly receipt: SeenReceipt;
    };

/**
 * Checks every leaf by itself and against the others: signatures, attestation, epoch, quote, amount, plausibility,
 * uniqueness. Two receipts of one enclave with the same position are equivocation; the later one is refused.
 *
 * @returns one verdict per leaf, in their order.
 */
export async function auditLeaves(inputs: AuditInputs): Promise<LeafVerdict[]> {
  const signed: SignedLeaf[] = [];
  for (let at = 0; at < inputs.leaves.length; at += LEAVES_PER_TURN) {
    const batch = inputs.leaves.slice(at, at + LEAVES_PER_TURN);
    for (const leaf of batch) signed.push(checkSignatures(leaf, inputs));
    await nextTurn();
  }
  const context: AuditContext = {
    inputs,
    quotes: new Map(),
    rids: new Set(inputs.seen.map(({ rid }) => rid)),
    positions: new Set(inputs.seen.map(positionOf)),
  };
  return signed.map((leaf) => {
    const verdict = leaf.ok ? checkContent(leaf, context) : leaf;
    if (!verdict.ok) return { ...verdict, claim: leaf.claim };
    context.rids.add(verdict.receipt.rid);
    context.positions.add(positionOf(verdict.receipt));
    return verdict;
  });
}

/** Credit per miner and class. */
export function usageOfVerdicts(verdicts: readonly LeafVerdict[]): Map<Hotkey, ProvenUsage> {
  const usage = new Map<Hotkey, Partial<Record<UsageClass, bigint>>>();
  for (const verdict of verdicts) {
    if (!verdict.ok || verdict.claim.amount === 0n) continue;
    const { hotkey, amount } = verdict.claim;
    const classes = usage.get(hotkey) ?? {};
    classes[verdict.usageClass] = (classes[verdict.usageClass] ?? 0n) + amount;
    usage.set(hotkey, classes);
  }
  return usage;
}

/** Credit per miner, of both classes together; miners without credit are left out. */
export function sumsOfUsage(usage: ReadonlyMap<Hotkey, ProvenUsage>): Map<Hotkey, bigint> {
  return new Map(
    [...usage].map(([hotkey, { direct = 0n, resale = 0n }]) => [hotkey, direct + resale]),
  );
}

/** What the gateway claims for each miner, refused leaves included; miners without a claim are left out. */
export function claimsOfVerdicts(verdicts: readonly LeafVerdict[]): Map<Hotkey, bigint> {
  const claims = new Map<Hotkey, bigint>();
  for (const { claim } of verdicts)
    if (claim !== undefined && claim.amount > 0n)
      claims.set(claim.hotkey, (claims.get(claim.hotkey) ?? 0n) + claim.amount);
  return claims;
}

/** Names the enclaves and quotes that leaves refer to, unverified: what to fetch before the audit. */
export function referencesOf(leaves: readonly Uint8Array[]): {
  enclaves: Set<EnclaveId>;
  quotes: Set<string>;
} {
  const enclaves = new Set<EnclaveId>();
  const quotes = new Set<string>();
  for (const leaf of leaves) {
    const payload = decodeClaims(tokensOf(leaf)?.receipt ?? "")?.payload;
    if (isHash(payload?.["att"])) enclaves.add(payload["att"] as EnclaveId);
    if (isHash(payload?.["quote"])) quotes.add(payload["quote"]);
  }
  return { enclaves, quotes };
}

interface AuditContext {
  readonly inputs: AuditInputs;
  readonly quotes: Map<string, PriceQuote | LeafRefusal>;
  readonly rids: Set<RequestId>;
  readonly positions: Set<string>;
}

interface AuthenticLeaf {
  readonly ok: true;
  readonly receipt: Receipt;
  readonly countersignature: Countersignature;
  readonly enclave: VerifiedEnclave;
  readonly claim: Claim;
}

type Refused = Extract<LeafVerdict, { ok: false }>;
type SignedLeaf = AuthenticLeaf | Refused;

const refused = (refusal: LeafRefusal, claim?: Claim): Refused => ({ ok: false, refusal, claim });

function checkSignatures(leaf: Uint8Array, inputs: AuditInputs): SignedLeaf {
  const tokens = tokensOf(leaf);
  const claims = tokens && decodeClaims(tokens.receipt);
  if (tokens === undefined || claims === undefined) return refused("malformed_leaf");
  const countersigned = verifyClaims(tokens.countersignature, "countersign", inputs.gatewayKey);
  const countersignature = countersigned && countersignatureFromJson(countersigned);
  if (countersignature?.receipt !== claimsHashOf(tokens.receipt))
    return refused("bad_countersignature");
  const hotkey = hotkeyOf(claims.payload["iss"]);
  if (hotkey === undefined) return refused("malformed_receipt");
  const claim = { hotkey, amount: countersignature.promo ? 0n : BigInt(countersignature.amt) };
  const { att } = claims.payload;
  const enclave = isHash(att) ? inputs.verifiedEnclave(att as EnclaveId) : undefined;
  if (enclave === undefined) return refused("unknown_enclave", claim);
  if (!claims.isSigned("usage-receipt", enclave.receiptKey))
    return refused("bad_receipt_signature", claim);
  const receipt = receiptFromJson(claims.payload);
  if (receipt === undefined) return refused("malformed_receipt", claim);
  return { ok: true, receipt, countersignature, enclave, claim };
}

function checkContent(leaf: AuthenticLeaf, context: AuditContext): LeafVerdict {
  const { receipt, countersignature, enclave, claim } = leaf;
  const { inputs } = context;
  const startedSeconds = (receipt.ts - Math.min(receipt.t.dur, REQUEST_MS_MAX)) / 1_000;
  if (receipt.iss !== enclave.hotkey) return refused("wrong_hotkey");
  if (receipt.aud !== inputs.gatewayKey.kid) return refused("wrong_gateway");
  if (receipt.ts / 1_000 < enclave.iat || startedSeconds > enclave.exp)
    return refused("enclave_not_valid_then");
  if (receipt.e > inputs.epoch || receipt.e <= inputs.epoch - RECEIPT_EPOCHS_MAX)
    return refused("epoch_out_of_range");
  if (context.rids.has(receipt.rid)) return refused("duplicate_receipt");
  if (context.positions.has(positionOf(receipt))) return refused("equivocation");
  const model = modelById.get(receipt.model);
  if (model === undefined) return refused("unknown_model");
  if (!isPlausible(receipt, model)) return refused("implausible_usage");

  const quote = quoteOf(receipt, context);
  if (typeof quote === "string") return refused(quote);
  if (quote.ek !== receipt.att || quote.prod !== receipt.model) return refused("quote_for_another");
  const atSeconds = Math.min(Math.max(startedSeconds, quote.nbf), quote.exp);
  if (
    Math.abs(atSeconds - startedSeconds) > QUOTE_SLACK_SECONDS ||
    quoteRefusalOf(quote, model.retail, atSeconds) !== undefined
  )
    return refused("quote_not_valid_then");

  const full = minerAmountOf(receipt.use, quote.price);
  if (full === undefined) return refused("unpriced_usage");
  const amount = BigInt(countersignature.amt);
  if (amount > full) return refused("wrong_amount");
  return {
    ok: true,
    claim,
    usageClass: quote.route,
    promo: countersignature.promo,
    clipped: !countersignature.promo && amount < full,
    receipt: { rid: receipt.rid, e: receipt.e, att: receipt.att, seq: receipt.seq },
  };
}

/** The quote that a receipt names, checked once however many receipts name it. */
function quoteOf(receipt: Receipt, { inputs, quotes }: AuditContext): PriceQuote | LeafRefusal {
  const name = `${receipt.quote} ${receipt.iss}`;
  let quote = quotes.get(name);
  if (quote === undefined) {
    quote = checkQuote(inputs.signedQuote(receipt.quote), receipt, inputs);
    quotes.set(name, quote);
  }
  return quote;
}

function checkQuote(
  signed: SignedQuote | undefined,
  receipt: Receipt,
  inputs: AuditInputs,
): PriceQuote | LeafRefusal {
  if (signed === undefined || quoteHashOf(signed.quote) !== receipt.quote) return "unknown_quote";
  const quote = parseQuote(signed.quote);
  if (quote === undefined) return "unknown_quote";
  if (quote.hk !== receipt.iss) return "quote_for_another";
  return inputs.verifyQuoteSignature(signed, quote.hk) ? quote : "bad_quote_signature";
}

const modelById = new Map(MODELS.map((model) => [model.id, model]));

/**
 * Bounds that hold for any honest answer. Reasoning is not visible, and some upstreams count it as plain output, so
 * only OpenAI's own models are held to one byte per visible token.
 */
function isPlausible({ use, bytes }: Receipt, model: Model): boolean {
  if (inputTokensOf(use) > model.contextTokens) return false;
  if (outputTokensOf(use) > model.outputTokensMax * CHOICES_MAX) return false;
  const countsReasoningApart = model.surface === "chat" && model.id.startsWith("openai/");
  return !countsReasoningApart || (use.output ?? 0) <= bytes.out;
}

function tokensOf(leaf: Uint8Array): { receipt: string; countersignature: string } | undefined {
  const [receipt, countersignature, ...rest] = Buffer.from(leaf).toString("latin1").split("\n");
  return receipt === undefined || countersignature === undefined || rest.length > 0
    ? undefined
    : { receipt, countersignature };
}

function positionOf({ att, seq }: { readonly att: EnclaveId; readonly seq: number }): string {
  return `${att} ${seq}`;
}

function isHash(value: unknown): value is string {
  return typeof value === "string" && /^[\w-]{43}$/.test(value);
}
