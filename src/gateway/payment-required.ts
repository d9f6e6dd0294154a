import { RouterError } from "../core/errors.ts";
import { ceilDiv, formatNano, NANO } from "../core/money.ts";

/** How long a client may take to send what is asked for, in seconds; nothing is lost when it comes later. */
const PAYMENT_SECONDS_MAX = 600;
/** Hex digits of a genesis hash that name a chain (CAIP-13). */
const CHAIN_REFERENCE_CHARS = 32;

/** How an account can get credit. */
export interface TopUp {
  /** Base URL of the gateway, without a path. */
  readonly gatewayUrl: string;
  /** 0x and 64 hex digits. */
  readonly genesisHash: string;
  /** The account's own address on the chain. */
  readonly address: string;
  readonly minimumRao: bigint;
  /** Nano-USD per TAO, of the open quote if there is one; undefined while there is no price. */
  readonly nanoUsdPerTao: bigint | undefined;
  /** A rate that is promised to the account at this moment. */
  readonly quote: { readonly id: string; readonly expiresMs: number } | undefined;
}

/** `insufficient_credit`, with what is needed to pay. */
export class PaymentRequiredError extends RouterError {
  readonly topUp: TopUp;
  /** Rao that cover what is missing at the rate of this moment, at least the minimum deposit. */
  readonly amountRao: bigint;

  constructor(refusal: RouterError, missingNusd: bigint, topUp: TopUp) {
    const amountRao = raoFor(missingNusd, topUp);
    const { nanoUsdPerTao, quote } = topUp;
    super(refusal.code, refusal.message, {
      cause: refusal,
      details: {
        ...refusal.details,
        top_up: {
          url: `${topUp.gatewayUrl}/v1/deposits`,
          asset: "TAO",
          address: topUp.address,
          amount_rao: amountRao.toString(),
          minimum_rao: topUp.minimumRao.toString(),
          minimum_tao: formatNano(topUp.minimumRao),
          rate_nusd_per_tao: nanoUsdPerTao?.toString() ?? null,
          quote_id: quote?.id ?? null,
          quote_expires_at: quote === undefined ? null : new Date(quote.expiresMs).toISOString(),
        },
      },
    });
    this.topUp = topUp;
    this.amountRao = amountRao;
  }
}

function raoFor(missingNusd: bigint, { nanoUsdPerTao, minimumRao }: TopUp): bigint {
  if (nanoUsdPerTao === undefined || missingNusd <= 0n) return minimumRao;
  const amount = ceilDiv(missingNusd * NANO, nanoUsdPerTao);
  return amount > minimumRao ? amount : minimumRao;
}

/**
 * Value of the `PAYMENT-REQUIRED` header: base64 of JSON in the shape of x402's `PaymentRequired`, version 2 (x402
 * specification v2, 5.1).
 *
 * Only the shape is x402's. It has no binding for TAO: a client pays with a plain transfer to `payTo` and sends its request
 * again without a payment header.
 *
 * @param path of the request that was refused, without its query.
 */
export function paymentRequiredHeader(error: PaymentRequiredError, path: string): string {
  const { topUp, amountRao, details } = error;
  const json = {
    x402Version: 2,
    error: error.message,
    resource: {
      url: `${topUp.gatewayUrl}${path}`,
      description: "Prepaid inference credit",
      mimeType: "application/json",
    },
    accepts: [
      {
        scheme: "batch-settlement",
        network: `polkadot:${topUp.genesisHash.replace(/^0x/, "").slice(0, CHAIN_REFERENCE_CHARS)}`,
        amount: amountRao.toString(),
        asset: "TAO",
        payTo: topUp.address,
        maxTimeoutSeconds: PAYMENT_SECONDS_MAX,
        extra: {
          binding: "daybreak-deposit",
          unit: "rao",
          minimum: topUp.minimumRao.toString(),
          neededNusd: details["needed_nusd"],
          availableNusd: details["available_nusd"],
          rateNusdPerTao: topUp.nanoUsdPerTao?.toString() ?? null,
          quoteId: topUp.quote?.id ?? null,
        },
      },
    ],
    extensions: {},
  };
  return Buffer.from(JSON.stringify(json)).toString("base64");
}
