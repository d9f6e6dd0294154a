import { createHmac } from "node:crypto";
import type { AccountId } from "../core/ids.ts";
import type { Countersignature } from "../core/receipt.ts";
import type { ClaimsSigner } from "./claims-signer.ts";

/** How leaves name a payer: equal for one account within one epoch, unlinkable across epochs without the secret. */
export type PayerTagOf = (account: AccountId, epoch: number) => string;

/** Accounts whose tags are remembered: an HMAC costs more than 100 µs with OpenSSL 3. */
const PAYER_TAGS_MAX = 10_000;

export function payerTags(secret: Buffer): PayerTagOf {
  const tags = new Map<string, string>();
  return (account, epoch) => {
    const name = `${epoch}/${account}`;
    let tag = tags.get(name);
    if (tag === undefined) {
      tag = createHmac("sha256", secret).update(`epoch/${name}`).digest("base64url").slice(0, 22);
      if (tags.size >= PAYER_TAGS_MAX) tags.clear();
      tags.set(name, tag);
    }
    return tag;
  };
}

/** What a leaf says beside the receipt itself. */
export interface LeafFacts {
  readonly receiptToken: string;
  /** `claimsHashOf` the receipt. */
  readonly receiptHash: string;
  /** The miner's amount, nano-USD; 0 when it is paid from promo credit. */
  readonly amount: bigint;
  /** The payer paid with promo credit, which earns nobody anything. */
  readonly promo: boolean;
  readonly account: AccountId;
  readonly epoch: number;
}

/** Makes a leaf of the usage log: the receipt and the gateway's signature beside it. */
export type LeafWriter = (facts: LeafFacts) => Promise<string>;

export function leafWriter(
  countersign: ClaimsSigner<Countersignature>,
  payerTagOf: PayerTagOf,
): LeafWriter {
  return async ({ receiptToken, receiptHash, amount, promo, account, epoch }) => {
    const { token } = await countersign({
      v: 1,
      receipt: receiptHash,
      amt: amount.toString(),
      payer_tag: payerTagOf(account, epoch),
      promo,
    });
    return `${receiptToken}\n${token}`;
  };
}

/** The receipt token in a leaf. */
export function receiptOfLeaf(leaf: string): string {
  return leaf.slice(0, leaf.indexOf("\n"));
}
