import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { test } from "node:test";
import fc from "fast-check";
import { alphaPriceOf, priceSampleBlocks } from "../../src/validator/price.ts";

const blockHash = `0x${"ab".repeat(32)}`;

test("priceSampleBlocks() takes 16 blocks of the last 150 by the documented hash", () => {
  const seed = createHash("sha256")
    .update(Buffer.from("ab".repeat(32), "hex"))
    .digest();
  const third = createHash("sha256")
    .update(Buffer.concat([seed, Buffer.from("price"), Buffer.of(2)]))
    .digest("hex")
    .slice(0, 16);
  const blocks = priceSampleBlocks(10_000, blockHash);
  assert.equal(blocks.length, 16);
  assert.equal(blocks[2], 10_000 - Number(BigInt(`0x${third}`) % 150n));
  assert(blocks.every((block) => block > 9_850 && block <= 10_000));
  assert.notDeepEqual(blocks, priceSampleBlocks(10_000, `0x${"ac".repeat(32)}`));
});

test("priceSampleBlocks() of a young chain stays on the chain", () => {
  for (const block of [1, 2, 40, 149])
    assert(priceSampleBlocks(block, blockHash).every((sample) => sample >= 1 && sample <= block));
  assert.throws(() => priceSampleBlocks(0, blockHash));
});

for (const { name, samples, previous, expected } of [
  {
    name: "multiplies before it divides",
    samples: [50_000_001n],
    previous: 0n,
    expected: 20_000_000_400n,
  },
  {
    name: "follows a rise at once",
    samples: [500n * 10n ** 9n],
    previous: 1n,
    expected: 200_000n * 10n ** 9n,
  },
  { name: "falls by a tenth at most", samples: [1n], previous: 1_001n, expected: 900n },
  {
    name: "leaves out samples from before the subnet",
    samples: [0n, 0n, 0n, 5n * 10n ** 9n],
    previous: 0n,
    expected: 2_000n * 10n ** 9n,
  },
  {
    name: "keeps falling slowly when there is no sample",
    samples: [0n],
    previous: 100n,
    expected: 90n,
  },
]) {
  test(`alphaPriceOf() ${name}`, () =>
    assert.equal(alphaPriceOf(samples, 400n * 10n ** 9n, previous), expected));
}

test("P15: alphaPriceOf() is at least nine tenths of the last price, and the raw one whenever that is higher", () => {
  const reached = new Set<string>();
  const amount = fc.bigInt({ min: 1n, max: 10n ** 12n });
  fc.assert(
    fc.property(
      fc.array(amount, { minLength: 1, maxLength: 16 }),
      amount,
      amount,
      (samples, rate, previous) => {
        const price = alphaPriceOf(samples, rate, previous);
        const sorted = [...samples].sort((a, b) => (a < b ? -1 : 1));
        const raw = ((sorted[Math.ceil(sorted.length / 2) - 1] ?? 0n) * rate) / 10n ** 9n;
        assert(price * 10n >= previous * 9n - 10n);
        if (raw > previous) assert.equal(price, raw);
        reached.add(raw > previous ? "rise" : price > raw ? "floor" : "fall");
      },
    ),
  );
  assert.equal(reached.size >= 2, true);
});
