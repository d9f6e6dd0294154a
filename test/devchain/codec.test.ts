import assert from "node:assert/strict";
import { test } from "node:test";
import { TypeRegistry } from "@polkadot/types";
import { u8aToHex } from "@polkadot/util";
import fc from "fast-check";
import { isFeeless } from "../../src/devchain/extrinsics.ts";
import { SLOT_MS } from "../../src/devchain/pallets/aura.ts";
import { buildRuntime } from "../../src/devchain/runtime.ts";
import { openReader, ScaleError } from "../../src/devchain/scale/bytes.ts";
import {
  bool,
  boundedBytes,
  bytes,
  type Codec,
  compactBig,
  decode,
  encode,
  option,
  putCompact,
  str,
  struct,
  takeCompact,
  tuple,
  u8,
  u16,
  u32,
  u64,
  u128,
  variant,
  vec,
} from "../../src/devchain/scale/codec.ts";

const registry = new TypeRegistry();
/** What polkadot-js makes of the same value. */
const oracle = (type: string, value: unknown) => u8aToHex(registry.createType(type, value).toU8a());

test("integers, compacts, options and sequences are encoded as polkadot-js does", () => {
  const property = fc.property(
    fc.bigInt({ min: 0n, max: (1n << 64n) - 1n }),
    fc.bigInt({ min: 0n, max: (1n << 128n) - 1n }),
    fc.integer({ min: 0, max: 65_535 }),
    fc.array(fc.integer({ min: 0, max: 65_535 }), { maxLength: 100 }),
    fc.uint8Array({ maxLength: 20_000 }),
    fc.integer({ min: 0, max: 127 }),
    (big, huge, small, list, blob, shift) => {
      const compact = huge >> BigInt(shift);
      for (const [codec, type, value] of [
        [u64, "u64", big],
        [u128, "u128", huge],
        [u16, "u16", small],
        [compactBig(u128), "Compact<u128>", compact],
        [vec(u16), "Vec<u16>", list],
        [option(u16), "Option<u16>", small],
        [tuple(u16, u64), "(u16, u64)", [small, big]],
      ] as const) {
        const encoded = encode(codec as Codec<unknown>, value);
        assert.equal(u8aToHex(encoded), oracle(type, value), type);
        assert.deepEqual(decode(codec as Codec<unknown>, encoded), value);
      }
      assert.equal(u8aToHex(encode(bytes, blob)), oracle("Bytes", u8aToHex(blob)));
      assert.deepEqual(decode(bytes, encode(bytes, blob)), blob);
    },
  );
  fc.assert(property, { numRuns: 200 });
});

test("compact integers at the borders of their forms", () => {
  for (const value of [
    0n,
    63n,
    64n,
    16_383n,
    16_384n,
    (1n << 30n) - 1n,
    1n << 30n,
    (1n << 64n) - 1n,
  ]) {
    const out = { buffer: new Uint8Array(32), length: 0 };
    putCompact(out, value);
    const written = out.buffer.slice(0, out.length);
    assert.equal(u8aToHex(written), oracle("Compact<u128>", value));
    assert.equal(takeCompact(openReader(written)), value);
  }
});

test("decode() refuses what is short, long, out of range or unknown, and nothing else happens", () => {
  const color = variant("Color", { Red: [0], Rgb: [7, { r: u8, g: u8 }] });
  for (const [codec, hex] of [
    [u32, "000000"],
    [u32, "0000000000"],
    [bool, "02"],
    [option(u8), "0200"],
    [color, "01"],
    [color, "0701"],
    [str, "10aabb"],
    [boundedBytes(2), "0caabbcc"],
    // A length of 2^30 − 1 with nothing behind it.
    [vec(u64), "feffffff"],
    [compactBig(u64), "17000000000000000001"],
    [compactBig(u64), "ff"],
    [struct("S", { a: u16 }), "00"],
  ] as const)
    assert.throws(() => decode(codec as Codec<unknown>, Buffer.from(hex, "hex")), ScaleError, hex);
  assert.deepEqual(decode(color, Uint8Array.of(7, 1, 2)), { type: "Rgb", value: { r: 1, g: 2 } });
});

test("decoding random bytes as a call gives a call or a ScaleError", () => {
  const { call } = buildRuntime(360, SLOT_MS, isFeeless);
  let calls = 0;
  let refused = 0;
  const property = fc.property(
    fc.constantFrom(0, 2, 5, 7, 11, 12, 18, 99),
    fc.constantFrom(0, 2, 3, 4, 7, 59, 119),
    fc.uint8Array({ maxLength: 120 }),
    (pallet, index, rest) => {
      try {
        decode(call, Uint8Array.of(pallet, index, ...rest));
        calls += 1;
      } catch (error) {
        assert(error instanceof ScaleError);
        refused += 1;
      }
    },
  );
  fc.assert(property, { numRuns: 3_000 });
  assert(calls > 0 && refused > 0, `${calls} calls, ${refused} refused`);
});
