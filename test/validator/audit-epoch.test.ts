import assert from "node:assert/strict";
import { test } from "node:test";
import { signingKey } from "../../src/core/jws.ts";
import { modelOf } from "../../src/core/models.ts";
import { discounted } from "../../src/core/pricing.ts";
import { quoteHashOf } from "../../src/core/quote.ts";
import {
  type AuditInputs,
  auditLeaves,
  claimsOfVerdicts,
  LEAF_REFUSALS,
  type LeafRefusal,
  referencesOf,
  sumsOfUsage,
  usageOfVerdicts,
} from "../../src/validator/audit-epoch.ts";
import {
  type Enclave,
  hash,
  isQuoteSigned,
  type LeafChange,
  leafOf,
  MINER_1,
  MINER_2,
  MODEL,
  newEnclave,
  nowSeconds,
  signedQuote,
  TOKENS_PER_USD,
  USD,
  verifiedOf,
} from "./world.ts";

const gatewayKey = signingKey();
const EPOCH = 20;

const inputsOf = (enclaves: readonly Enclave[], leaves: readonly Uint8Array[]): AuditInputs => ({
  epoch: EPOCH,
  leaves,
  gatewayKey,
  verifiedEnclave: (id) => {
    const enclave = enclaves.find((candidate) => candidate.id === id);
    return enclave && verifiedOf(enclave);
  },
  signedQuote: (name) => enclaves.find(({ quote }) => quoteHashOf(quote.quote) === name)?.quote,
  verifyQuoteSignature: isQuoteSigned,
  seen: [],
});

async function verdictOf(enclave: Enclave, change: LeafChange = {}, epoch = EPOCH) {
  const [verdict] = await auditLeaves(
    inputsOf([enclave], [leafOf(enclave, epoch, gatewayKey, change)]),
  );
  return verdict ?? assert.fail("one verdict per leaf");
}

test("auditLeaves() credits an honest leaf with tokens times price", async () => {
  const verdict = await verdictOf(newEnclave(MINER_1));
  assert.deepEqual(verdict.claim, { hotkey: MINER_1, amount: USD });
  assert(verdict.ok && !verdict.promo && !verdict.clipped && verdict.usageClass === "direct");
});

const quoted = (change: Parameters<typeof newEnclave>[1]) => () => newEnclave(MINER_1, change);
const honest = () => newEnclave(MINER_1);
const atMs = (seconds: number) => (nowSeconds + seconds) * 1_000;
const other = hash("other").toString("base64url");
const withQuoteOf = (change: (quote: Record<string, unknown>) => Record<string, unknown>) => () => {
  const enclave = newEnclave(MINER_1);
  const json = JSON.parse(enclave.quote.quote) as Record<string, unknown>;
  return { ...enclave, quote: signedQuote(JSON.stringify(change(json)), MINER_1) };
};

const REFUSED: readonly {
  refusal: LeafRefusal;
  why: string;
  enclave?: () => Enclave;
  change?: LeafChange;
  epoch?: number;
}[] = [
  {
    refusal: "bad_countersignature",
    why: "another gateway key",
    change: { gatewayKey: signingKey() },
  },
  {
    refusal: "bad_countersignature",
    why: "another receipt",
    change: { countersignature: { receipt: other } },
  },
  {
    refusal: "bad_receipt_signature",
    why: "another enclave's key",
    change: { receiptKey: signingKey() },
  },
  {
    refusal: "unknown_enclave",
    why: "no evidence",
    change: { receipt: { att: other as Enclave["id"] } },
  },
  {
    refusal: "malformed_receipt",
    why: "no miner",
    change: { receipt: { iss: "nobody" as never } },
  },
  { refusal: "malformed_receipt", why: "a negative count", change: { receipt: { seq: -1 } } },
  { refusal: "wrong_hotkey", why: "another miner's hotkey", change: { receipt: { iss: MINER_2 } } },
  {
    refusal: "wrong_gateway",
    why: "a grant of another gateway",
    change: { receipt: { aud: other } },
  },
  {
    refusal: "enclave_not_valid_then",
    why: "before the statement",
    change: { receipt: { ts: atMs(-3_601) } },
  },
  {
    refusal: "enclave_not_valid_then",
    why: "after the statement",
    change: { receipt: { ts: atMs(3_700) } },
  },
  { refusal: "epoch_out_of_range", why: "an epoch that is not yet paid", epoch: EPOCH + 1 },
  { refusal: "epoch_out_of_range", why: "an epoch too long ago", epoch: EPOCH - 10 },
  {
    refusal: "unknown_model",
    why: "a model that is not listed",
    change: { receipt: { model: "x/y" } },
  },
  {
    refusal: "unknown_model",
    why: "a bare slug",
    change: { receipt: { model: MODEL.id.split("/")[1] ?? "" } },
  },
  {
    refusal: "implausible_usage",
    why: "more input than the context holds",
    change: { use: { input: MODEL.contextTokens + 1 } },
  },
  {
    refusal: "implausible_usage",
    why: "more output than 128 answers can have",
    change: { use: { output: MODEL.outputTokensMax * 128 + 1 } },
  },
  { refusal: "unknown_quote", why: "no such quote", change: { receipt: { quote: other } } },
  {
    refusal: "unknown_quote",
    why: "a quote that does not parse",
    enclave: withQuoteOf((quote) => ({ ...quote, v: 2 })),
  },
  {
    refusal: "bad_quote_signature",
    why: "a quote that nobody signed",
    enclave: () => {
      const enclave = newEnclave(MINER_1);
      return { ...enclave, quote: { ...enclave.quote, sig: "00" } };
    },
  },
  { refusal: "quote_for_another", why: "another miner's quote", enclave: quoted({ hk: MINER_2 }) },
  {
    refusal: "quote_for_another",
    why: "another enclave's quote",
    enclave: quoted({ ek: other as Enclave["id"] }),
  },
  {
    refusal: "quote_for_another",
    why: "another model's quote",
    enclave: quoted({ prod: "openai/gpt-5" }),
  },
  {
    refusal: "quote_not_valid_then",
    why: "an expired quote",
    enclave: quoted({ exp: nowSeconds - 62 }),
  },
  {
    refusal: "quote_not_valid_then",
    why: "a quote of later",
    enclave: quoted({ nbf: nowSeconds + 60 }),
  },
  {
    refusal: "quote_not_valid_then",
    why: "a quote for two hours",
    enclave: quoted({ exp: nowSeconds + 6_601 }),
  },
  {
    refusal: "quote_not_valid_then",
    why: "a price above retail",
    enclave: quoted({ price: { ...MODEL.retail, output: (MODEL.retail.output ?? 0n) + 1n } }),
  },
  {
    refusal: "quote_not_valid_then",
    why: "a price below a thousandth of retail",
    enclave: quoted({ price: discounted(MODEL.retail, 9_999) }),
  },
  {
    refusal: "unpriced_usage",
    why: "audio from a text model",
    change: { use: { audio_output: 5 }, countersignature: { amt: "0" } },
  },
  {
    refusal: "wrong_amount",
    why: "one nano-USD too much",
    change: { countersignature: { amt: (USD + 1n).toString() } },
  },
  {
    refusal: "wrong_amount",
    why: "retail for a discount",
    enclave: quoted({ price: discounted(MODEL.retail, 2_000) }),
  },
];

for (const { refusal, why, enclave = honest, change, epoch } of REFUSED) {
  test(`auditLeaves() refuses ${why}: ${refusal}`, async () => {
    const verdict = await verdictOf(enclave(), change, epoch);
    assert.equal(verdict.ok ? "accepted" : verdict.refusal, refusal);
  });
}

test("auditLeaves() refuses what is not two tokens: malformed_leaf", async () => {
  const leaf = leafOf(newEnclave(MINER_1), EPOCH, gatewayKey).toString();
  const [receipt = ""] = leaf.split("\n");
  const broken = ["", receipt, `${leaf}\n`, `\n${leaf}`, `{}\n{}`, "x".repeat(9_000)];
  const verdicts = await auditLeaves(
    inputsOf(
      [],
      broken.map((text) => Buffer.from(text)),
    ),
  );
  assert.deepEqual(
    verdicts.map((verdict) => !verdict.ok && verdict.refusal),
    broken.map(() => "malformed_leaf"),
  );
});

for (const { name, enclave = honest, change = {} } of [
  {
    name: "a quote that ran out less than a minute before",
    enclave: quoted({ exp: nowSeconds - 60 }),
  },
  {
    name: "a quote that was valid when a long request began",
    change: { receipt: { ts: atMs(900), t: { ttft: 1, dur: 600_000 } } },
  },
  { name: "a receipt of nine epochs ago", change: { receipt: { e: EPOCH - 9 } } },
  {
    name: "an upstream error without usage",
    change: { use: {}, receipt: { status: "upstream_error" } },
  },
] as { name: string; enclave?: () => Enclave; change?: LeafChange }[]) {
  test(`auditLeaves() accepts ${name}`, async () => {
    const verdict = await verdictOf(enclave(), change);
    assert(verdict.ok, verdict.ok ? "" : verdict.refusal);
  });
}

test("auditLeaves() takes the gateway's amount when it is less than the usage costs", async () => {
  const verdict = await verdictOf(newEnclave(MINER_1), { countersignature: { amt: "5" } });
  assert(verdict.ok && verdict.clipped);
  assert.equal(verdict.claim.amount, 5n);
});

test("free credit is accepted and earns nothing, whatever amount is beside it", async () => {
  for (const countersignature of [{ promo: true }, { promo: true, amt: "0" }]) {
    const verdict = await verdictOf(newEnclave(MINER_1), { countersignature });
    assert(verdict.ok && verdict.promo && !verdict.clipped);
    assert.equal(usageOfVerdicts([verdict]).size, 0);
    assert.equal(claimsOfVerdicts([verdict]).size, 0);
  }
});

test("visible output of OpenAI's models is at most one token per byte", async () => {
  const openai = modelOf("openai/gpt-5-mini");
  assert(openai);
  const enclave = () => newEnclave(MINER_1, { prod: openai.id, price: openai.retail });
  const receipt = { model: openai.id, bytes: { in: 1, out: 99 } };
  const countersignature = { amt: "1" };
  const use = { output: 100, reasoning: 50_000 };
  const refused = await verdictOf(enclave(), { use, receipt, countersignature });
  assert.equal(refused.ok ? "" : refused.refusal, "implausible_usage");
  const accepted = await verdictOf(enclave(), {
    use: { ...use, output: 99 },
    receipt,
    countersignature,
  });
  assert(accepted.ok);
});

test("a receipt id or a position counts once; the first keeps it", async () => {
  const [a, b] = [newEnclave(MINER_1), newEnclave(MINER_2, { route: "resale" })];
  const first = leafOf(a, EPOCH, gatewayKey);
  const second = leafOf(b, EPOCH, gatewayKey, { use: { output: 3 * TOKENS_PER_USD } });
  const rid = "01890000-0000-7000-8000-000000000001" as never;
  const third = leafOf(a, EPOCH, gatewayKey, { receipt: { rid } });
  const sameId = leafOf(b, EPOCH, gatewayKey, { receipt: { rid } });
  const samePosition = leafOf(a, EPOCH, gatewayKey, { receipt: { seq: 0 } });
  const leaves = [first, second, third, sameId, samePosition, first];
  const verdicts = await auditLeaves(inputsOf([a, b], leaves));
  assert.deepEqual(
    verdicts.map((verdict) => (verdict.ok ? "ok" : verdict.refusal)),
    ["ok", "ok", "ok", "duplicate_receipt", "equivocation", "duplicate_receipt"],
  );
  assert.deepEqual(
    usageOfVerdicts(verdicts),
    new Map([
      [MINER_1, { direct: 2n * USD }],
      [MINER_2, { resale: 3n * USD }],
    ]),
  );
  assert.deepEqual(sumsOfUsage(usageOfVerdicts(verdicts)).get(MINER_1), 2n * USD);
  assert.deepEqual(claimsOfVerdicts(verdicts).get(MINER_1), 4n * USD);
  const again = verdicts.flatMap((verdict) => (verdict.ok ? [verdict.receipt] : []));
  const later = await auditLeaves({ ...inputsOf([a, b], [first]), seen: again });
  assert.equal(later[0]?.ok, false);
});

test("referencesOf() names every enclave and quote once, also of leaves that are wrong", () => {
  const [a, b] = [newEnclave(MINER_1), newEnclave(MINER_2)];
  const leaves = [a, a, b].map((enclave) => leafOf(enclave, EPOCH, gatewayKey));
  const { enclaves, quotes } = referencesOf([...leaves, Buffer.from("junk")]);
  assert.deepEqual([...enclaves], [a.id, b.id]);
  assert.equal(quotes.size, 2);
});

test("every refusal of a leaf is reached by some test", () => {
  const reached = new Set<LeafRefusal>(REFUSED.map(({ refusal }) => refusal));
  for (const refusal of ["malformed_leaf", "duplicate_receipt", "equivocation"] as const)
    reached.add(refusal);
  assert.deepEqual(new Set(LEAF_REFUSALS), reached);
});
