import assert from "node:assert/strict";
import { createHmac } from "node:crypto";
import { test } from "node:test";
import type { EnclaveId, Hotkey } from "../../src/core/ids.ts";
import { type PriceQuote, quoteSigningBytes, type SignedQuote } from "../../src/core/quote.ts";
import {
  QUOTES_IN_HISTORY_MAX,
  type QuoteBook,
  type QuoteVerdict,
  quoteBook,
} from "../../src/gateway/quote-book.ts";

const HOTKEY = `5${"F".repeat(47)}` as Hotkey;
const OTHER = `5${"G".repeat(47)}` as Hotkey;
const ENCLAVE = "e".repeat(43) as EnclaveId;
const PRODUCT = "openai/gpt-5-mini";
const RETAIL = { input: 1_000_000n, output: 4_000_000n };
const FROM = { hotkey: HOTKEY, enclave: ENCLAVE };
const T = 1_000_000;

/** Stands for sr25519: 64 bytes that only the named key makes of the message. */
function signatureOf(message: Uint8Array, hotkey: Hotkey): Buffer {
  return createHmac("sha512", hotkey).update(message).digest();
}

let verifications = 0;
function open(): QuoteBook {
  return quoteBook({
    verifySignature: (message, signature, hotkey) => {
      verifications++;
      return signatureOf(message, hotkey).equals(signature);
    },
    retailOf: (product) => (product === PRODUCT ? RETAIL : undefined),
  });
}

function quote(change: Partial<Record<keyof PriceQuote, unknown>> = {}): string {
  return JSON.stringify({
    v: 1,
    hk: HOTKEY,
    ek: ENCLAVE,
    prod: PRODUCT,
    route: "direct",
    price: { input: "800000", output: "3200000" },
    cap: { rpm: 60, tpm: 100_000, inflight: 8 },
    nbf: T,
    exp: T + 3_600,
    seq: 1,
    min_payout_bps: 0,
    ...change,
  });
}

function signed(text: string, by: Hotkey = HOTKEY): SignedQuote {
  return { quote: text, sig: signatureOf(quoteSigningBytes(text), by).toString("hex") };
}

function outcome(verdict: QuoteVerdict): string {
  return verdict.ok ? "accepted" : verdict.refusal;
}

test("quoteBook() accepts a quote once and gives it while it is valid", () => {
  const book = open();
  const first = book.accept(signed(quote()), FROM, T);
  assert(first.ok && first.isNew);
  assert.equal(first.accepted.quote.price.input, 800_000n);
  verifications = 0;
  const again = book.accept(signed(quote()), FROM, T + 10);
  assert(again.ok && !again.isNew);
  assert.equal(verifications, 0, "a known quote is not verified again");
  assert.equal(book.current(FROM, PRODUCT, T + 3_600)?.hash, first.accepted.hash);
  assert.equal(book.current(FROM, PRODUCT, T + 3_601), undefined);
  assert.equal(book.current(FROM, "openai/other", T), undefined);
  assert.equal(
    book.current({ ...FROM, enclave: "x".repeat(43) as EnclaveId }, PRODUCT, T),
    undefined,
  );
});

for (const { name, given, from = FROM, at = T, expected } of [
  { name: "text that is no JSON", given: signed("{"), expected: "malformed" },
  {
    name: "a float as price",
    given: signed(quote({ price: { input: 1.5 } })),
    expected: "malformed",
  },
  {
    name: "another miner's quote",
    given: signed(quote(), OTHER),
    from: { ...FROM, hotkey: OTHER },
    expected: "wrong_miner",
  },
  {
    name: "another boot's quote",
    given: signed(quote({ ek: "x".repeat(43) })),
    expected: "wrong_enclave",
  },
  {
    name: "an unknown product",
    given: signed(quote({ prod: "a/b" })),
    expected: "unknown_product",
  },
  { name: "a signature by another key", given: signed(quote(), OTHER), expected: "bad_signature" },
  {
    name: "a signature that is too short",
    given: { quote: quote(), sig: "00" },
    expected: "bad_signature",
  },
  {
    name: "a signature over other text",
    given: { quote: `${quote()} `, sig: signed(quote()).sig },
    expected: "bad_signature",
  },
  { name: "a quote for later", given: signed(quote({ nbf: T + 1 })), expected: "not_yet_valid" },
  { name: "an expired quote", given: signed(quote()), at: T + 3_601, expected: "expired" },
  {
    name: "a quote for a week",
    given: signed(quote({ exp: T + 604_800 })),
    expected: "lives_too_long",
  },
  {
    name: "a missing dimension",
    given: signed(quote({ price: { input: "800000" } })),
    expected: "missing_dimension",
  },
  {
    name: "a price above retail",
    given: signed(quote({ price: { input: "1000001", output: "1" } })),
    expected: "above_retail",
  },
  {
    name: "a price of nothing",
    given: signed(quote({ price: { input: "0", output: "4000000" } })),
    expected: "below_minimum",
  },
] as const) {
  test(`quoteBook() refuses ${name}`, () => {
    const book = open();
    assert.equal(outcome(book.accept(given, from, at)), expected);
    assert.equal(book.current(FROM, PRODUCT, T), undefined);
  });
}

test("quoteBook() keeps to the limits on changes, and the old price until a new one is accepted", () => {
  const book = open();
  const at = (seconds: number, seq: number, input: bigint): string =>
    outcome(
      book.accept(
        signed(
          quote({
            nbf: T + seconds,
            exp: T + seconds + 3_600,
            seq,
            price: { input: input.toString(), output: "3200000" },
          }),
        ),
        FROM,
        T + seconds,
      ),
    );
  assert.equal(at(0, 5, 800_000n), "accepted");
  assert.equal(at(30, 5, 800_000n), "sequence_not_rising");
  assert.equal(at(30, 6, 700_000n), "changed_too_soon");
  assert.equal(at(60, 6, 300_000n), "changed_too_much");
  assert.equal(book.refusalsOf(HOTKEY).get(PRODUCT), "changed_too_much");
  assert.equal(book.current(FROM, PRODUCT, T + 60)?.quote.seq, 5);
  assert.equal(at(61, 7, 450_000n), "accepted");
  assert.equal(book.refusalsOf(HOTKEY).size, 0);
  assert.equal(at(130, 8, 300_000n), "changed_too_much", "against the first");
  assert.equal(at(701, 9, 300_000n), "accepted");
  assert.equal(book.current(FROM, PRODUCT, T + 701)?.quote.price.input, 300_000n);
});

test("quoteBook() remembers the sequence after everything has expired", () => {
  const book = open();
  book.accept(signed(quote({ seq: 9 })), FROM, T);
  const later = T + 1_000_000;
  const next = quote({ seq: 9, nbf: later, exp: later + 60 });
  assert.equal(outcome(book.accept(signed(next), FROM, later)), "sequence_not_rising");
});

test("quoteBook() bounds what it keeps", () => {
  const book = open();
  const at = (n: number, nbf: number): string =>
    outcome(book.accept(signed(quote({ seq: n, nbf, exp: nbf + 3_600 })), FROM, nbf));
  for (let n = 1; n <= QUOTES_IN_HISTORY_MAX; n++) assert.equal(at(n, T + n), "accepted");
  assert.equal(at(1_000, T + 200), "too_many_quotes");
  assert.equal(at(1_000, T + 1_000), "accepted", "after ten minutes there is room again");
});

test("forget() drops a miner", () => {
  const book = open();
  book.accept(signed(quote({ seq: 9 })), FROM, T);
  book.forget(HOTKEY);
  assert.equal(book.current(FROM, PRODUCT, T), undefined);
  assert.equal(outcome(book.accept(signed(quote()), FROM, T)), "accepted");
});
