import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { nanoUsd } from "../../src/core/money.ts";
import { chargeOf, type Price } from "../../src/core/pricing.ts";
import {
  IMPLICIT_OUTPUT_TOKENS_MAX,
  inputTokensHeldOf,
  inputTokensMaxOf,
  OUTPUT_TOKENS_FLOOR,
  priceCeilingOf,
  type RequestSize,
} from "../../src/gateway/price-ceiling.ts";

const LIMITS = { contextTokens: 128_000, outputTokensMax: 32_000 };
const PRICE: Price = { input: 1_000_000_000n, output: 4_000_000_000n, reasoning: 4_000_000_000n };
const SIZE: RequestSize = {
  bodyBytes: 140,
  messages: 1,
  tools: 0,
  attachments: 0,
  cacheWrites: false,
  choices: 1,
};
const RICH = 10n ** 15n;

test("priceCeilingOf() holds an explicit bound in full at the dearest miner's price with the markup", () => {
  const dear: Price = { input: 2_000_000_000n, output: 3_000_000_000n, reasoning: 5_000_000_000n };
  const ceiling = priceCeilingOf(
    { ...SIZE, maxOutputTokens: 1_000 },
    LIMITS,
    [PRICE, dear],
    500,
    RICH,
  );
  assert(ceiling.ok);
  // (116 input × 2 000 + 1 000 output × 5 000) nano-USD × 1.05
  assert.equal(ceiling.hold, ((116n * 2_000n + 1_000n * 5_000n) * 105n) / 100n);
  assert.equal(ceiling.maxOutputTokens, 1_000);
});

test("priceCeilingOf() bounds an explicit bound by the model", () => {
  const ceiling = priceCeilingOf({ ...SIZE, maxOutputTokens: 1_000_000 }, LIMITS, [PRICE], 0, RICH);
  assert(ceiling.ok);
  assert.equal(ceiling.maxOutputTokens, LIMITS.outputTokensMax);
});

test("priceCeilingOf() multiplies by the choices", () => {
  const one = priceCeilingOf({ ...SIZE, maxOutputTokens: 10 }, LIMITS, [PRICE], 0, RICH);
  const three = priceCeilingOf(
    { ...SIZE, maxOutputTokens: 10, choices: 3 },
    LIMITS,
    [PRICE],
    0,
    RICH,
  );
  assert(one.ok && three.ok);
  assert.equal(three.maxOutputTokens, 30);
  assert.equal(three.maxOutputTokensPerChoice, 10);
  assert.equal(three.hold - one.hold, 20n * 4_000n);
});

test("priceCeilingOf() chooses a bound when the client gives none", () => {
  const rich = priceCeilingOf(SIZE, LIMITS, [PRICE], 0, RICH);
  assert(rich.ok);
  assert.equal(rich.maxOutputTokens, IMPLICIT_OUTPUT_TOKENS_MAX);
  const small = priceCeilingOf(SIZE, { ...LIMITS, outputTokensMax: 4_096 }, [PRICE], 0, RICH);
  assert(small.ok);
  assert.equal(small.maxOutputTokens, 4_096);
  const unknown = priceCeilingOf(SIZE, LIMITS, [PRICE], 0, undefined);
  assert(unknown.ok);
  assert.equal(unknown.maxOutputTokens, IMPLICIT_OUTPUT_TOKENS_MAX);
});

test("priceCeilingOf() serves an account with cents as much as it can pay, down to a floor", () => {
  const input = 116n * 1_000n;
  const poor = priceCeilingOf(SIZE, LIMITS, [PRICE], 0, input + 300n * 4_000n + 3_999n);
  assert(poor.ok);
  assert.equal(poor.maxOutputTokens, 300);
  const atFloor = priceCeilingOf(
    SIZE,
    LIMITS,
    [PRICE],
    0,
    input + BigInt(OUTPUT_TOKENS_FLOOR) * 4_000n,
  );
  assert(atFloor.ok);
  assert.equal(atFloor.maxOutputTokens, OUTPUT_TOKENS_FLOOR);
  const available = input + BigInt(OUTPUT_TOKENS_FLOOR) * 4_000n - 1n;
  const refused = priceCeilingOf(SIZE, LIMITS, [PRICE], 0, available);
  assert.deepEqual(refused, {
    ok: false,
    neededNusd: available + 1n,
    availableNusd: available,
    affordableMaxTokens: OUTPUT_TOKENS_FLOOR - 1,
  });
});

test("priceCeilingOf() says what would be affordable", () => {
  const size = { ...SIZE, maxOutputTokens: 20_000, choices: 2 };
  const refused = priceCeilingOf(size, LIMITS, [PRICE], 500, 50_000_000n);
  assert(!refused.ok);
  const { affordableMaxTokens } = refused;
  assert(affordableMaxTokens > 0);
  assert(
    priceCeilingOf(
      { ...size, maxOutputTokens: affordableMaxTokens },
      LIMITS,
      [PRICE],
      500,
      50_000_000n,
    ).ok,
  );
  assert(
    !priceCeilingOf(
      { ...size, maxOutputTokens: affordableMaxTokens + 1 },
      LIMITS,
      [PRICE],
      500,
      50_000_000n,
    ).ok,
  );
  const broke = priceCeilingOf(size, LIMITS, [PRICE], 500, 0n);
  assert(!broke.ok && broke.affordableMaxTokens === 0);
});

test("priceCeilingOf() holds for cache writes only when there may be some", () => {
  const price: Price = { ...PRICE, cache_write_1h: 2_000_000_000n };
  const plain = priceCeilingOf({ ...SIZE, maxOutputTokens: 1 }, LIMITS, [price], 0, RICH);
  const cached = priceCeilingOf(
    { ...SIZE, maxOutputTokens: 1, cacheWrites: true },
    LIMITS,
    [price],
    0,
    RICH,
  );
  assert(plain.ok && cached.ok);
  assert.equal(cached.hold - plain.hold, 116n * 1_000n);
});

test("the hold covers every usage within its own bounds, and affordability is exact", () => {
  const rate = fc.bigInt(1n, 50_000_000_000n);
  const property = fc.property(
    fc.record({
      bodyBytes: fc.integer({ min: 2, max: 10_000_000 }),
      choices: fc.integer({ min: 1, max: 8 }),
      prices: fc.array(fc.record({ input: rate, output: rate, reasoning: rate }), {
        minLength: 1,
        maxLength: 4,
      }),
      markupBps: fc.integer({ min: 0, max: 2_000 }),
      available: fc.bigInt(0n, 10n ** 13n),
      max: fc.option(fc.integer({ min: 1, max: 50_000 }), { nil: undefined }),
      used: fc.double({ min: 0, max: 1, noNaN: true }),
      which: fc.nat(),
    }),
    ({ bodyBytes, choices, prices, markupBps, available, max, used, which }) => {
      const size = {
        ...SIZE,
        bodyBytes,
        choices,
        ...(max === undefined ? {} : { maxOutputTokens: max }),
      };
      const ceiling = priceCeilingOf(size, LIMITS, prices, markupBps, available);
      reached.add(`${ceiling.ok}`);
      const price = prices[which % prices.length] ?? PRICE;
      if (ceiling.ok) {
        assert(ceiling.hold <= available);
        const output = Math.floor(used * ceiling.maxOutputTokens);
        const usage = {
          input: inputTokensHeldOf(size, LIMITS),
          output,
          reasoning: ceiling.maxOutputTokens - output,
        };
        const charge = chargeOf(usage, price, markupBps) ?? nanoUsd(0n);
        assert(charge <= ceiling.hold);
        assert(inputTokensHeldOf(size, LIMITS) <= ceiling.inputTokensMax);
      } else {
        assert(ceiling.neededNusd > available);
      }
      const costs = (tokens: number): bigint =>
        prices.reduce((most, { input, output, reasoning }) => {
          const dear = output > reasoning ? output : reasoning;
          const cost =
            chargeOf(
              { input: inputTokensHeldOf(size, LIMITS), output: tokens * choices },
              { input, output: dear },
              markupBps,
            ) ?? 0n;
          return cost > most ? cost : most;
        }, 0n);
      if (ceiling.ok) return;
      const affordable = ceiling.affordableMaxTokens;
      if (affordable > 0) assert(costs(affordable) <= available);
      if (affordable < LIMITS.outputTokensMax) assert(costs(affordable + 1) > available);
    },
  );
  const reached = new Set<string>();
  fc.assert(property, { numRuns: 1_000 });
  assert.deepEqual(reached, new Set(["true", "false"]));
});

test("inputTokensMaxOf() allows a token per byte, the template, and the whole context for attachments", () => {
  assert.equal(inputTokensMaxOf(SIZE, LIMITS), 140 + 1_024 + 16);
  assert.equal(inputTokensMaxOf({ ...SIZE, tools: 2 }, LIMITS), 140 + 1_024 + 16 + 2_048);
  assert.equal(inputTokensMaxOf({ ...SIZE, attachments: 1 }, LIMITS), LIMITS.contextTokens);
});

test("inputTokensHeldOf() never exceeds the context", () => {
  assert.equal(inputTokensHeldOf({ ...SIZE, bodyBytes: 9_000_000 }, LIMITS), LIMITS.contextTokens);
});
