import assert from "node:assert/strict";
import { rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import type { EnclaveId } from "../../src/core/ids.ts";
import { MODELS, modelOf } from "../../src/core/models.ts";
import {
  parseQuote,
  quoteChangeRefusalOf,
  quoteHashOf,
  quoteRefusalOf,
} from "../../src/core/quote.ts";
import { openPriceQuotes, type PriceQuotes } from "../../src/miner/price-quotes.ts";
import { HOTKEY, sha256, temporaryFolder } from "./fixture.ts";

const ENCLAVE = sha256("enclave") as EnclaveId;

function open(
  t: TestContext,
  folder: string,
  state: { nowMs: number; enclave?: EnclaveId; discountBps?: number },
): PriceQuotes {
  const quotes = openPriceQuotes({
    hotkey: HOTKEY,
    sign: (message) => Buffer.concat([Buffer.alloc(63), Buffer.of(message.length % 256)]),
    models: MODELS,
    discountBps: state.discountBps ?? 1_500,
    capacity: { rpm: 1, tpm: 2, inflight: 3 },
    directory: folder,
    enclave: () => state.enclave ?? ENCLAVE,
    nowMs: () => state.nowMs,
  });
  t.after(async () => await quotes.close());
  return quotes;
}

function parsed(quotes: PriceQuotes, index = 0) {
  const quote = parseQuote(quotes.current()[index]?.quote ?? "");
  assert(quote !== undefined);
  return quote;
}

test("quotes of every product are well-formed and within the rules, from the highest floor to the lowest", (t) => {
  for (const discountBps of [0, 1_500, 9_989]) {
    const nowMs = 1_795_132_800_000;
    const quotes = open(t, temporaryFolder(t), { nowMs, discountBps });
    assert.equal(quotes.current().length, MODELS.length);
    for (const signed of quotes.current()) {
      const quote = parseQuote(signed.quote);
      const model = modelOf(quote?.prod ?? "");
      assert(quote !== undefined && model !== undefined);
      assert.equal(quoteRefusalOf(quote, model.retail, nowMs / 1_000), undefined);
      assert.equal(quoteRefusalOf(quote, model.retail, nowMs / 1_000 - 30), undefined);
      assert.equal(quote.hk, HOTKEY);
      assert.equal(quote.ek, ENCLAVE);
      assert.match(signed.sig, /^[0-9a-f]{128}$/);
      assert(quotes.isOffered(quoteHashOf(signed.quote), model.id));
      assert(!quotes.isOffered(quoteHashOf(signed.quote), "openai/other"));
    }
  }
});

test("quotes are renewed half way through their life; the old ones are honoured to their end", (t) => {
  const state = { nowMs: 1_795_132_800_000 };
  const quotes = open(t, temporaryFolder(t), state);
  const old = quotes.current()[0]?.quote ?? "";
  const before = parsed(quotes);
  state.nowMs += 1_799_000;
  quotes.renew();
  assert.equal(quotes.current()[0]?.quote, old);
  state.nowMs += 1_000;
  quotes.renew();
  const after = parsed(quotes);
  assert.equal(quoteChangeRefusalOf(after, [before]), undefined);
  assert(quotes.isOffered(quoteHashOf(old), before.prod));
  state.nowMs = before.exp * 1_000 + 1;
  assert(!quotes.isOffered(quoteHashOf(old), before.prod));
});

test("quotes are renewed at once when the enclave has a new statement", (t) => {
  const state = { nowMs: 1_795_132_800_000, enclave: ENCLAVE };
  const quotes = open(t, temporaryFolder(t), state);
  state.enclave = sha256("next") as EnclaveId;
  quotes.renew();
  assert.equal(parsed(quotes).ek, state.enclave);
});

test("the sequence rises across restarts, also with a clock that was set back or a counter that was lost", (t) => {
  const folder = temporaryFolder(t);
  const nowMs = 1_795_132_800_000;
  const first = parsed(open(t, folder, { nowMs })).seq;
  const second = parsed(open(t, folder, { nowMs })).seq;
  const setBack = parsed(open(t, folder, { nowMs: nowMs - 86_400_000 })).seq;
  assert(second > first);
  assert(setBack > second);
  rmSync(join(folder, "quote-seq"));
  const lost = parsed(open(t, folder, { nowMs: nowMs + 10_000 })).seq;
  assert(lost > setBack);
  writeFileSync(join(folder, "quote-seq"), "garbage");
  assert(parsed(open(t, folder, { nowMs: nowMs + 20_000 })).seq > lost);
});
