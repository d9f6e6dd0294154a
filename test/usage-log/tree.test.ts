import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { test } from "node:test";
import fc from "fast-check";
import {
  consistencyProof,
  EMPTY_EDGE,
  grown,
  inclusionProof,
  leafHashOf,
  nodeHashOf,
  rootOf,
  sameEdge,
  verifyConsistency,
  verifyInclusion,
} from "../../src/usage-log/tree.ts";

/** The leaves of the reference tree of the Certificate Transparency code base, and its root at every size. */
const LEAVES = [
  "",
  "00",
  "10",
  "2021",
  "3031",
  "40414243",
  "5051525354555657",
  "606162636465666768696a6b6c6d6e6f",
].map((hex) => Buffer.from(hex, "hex"));
const ROOTS = [
  "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
  "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
  "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
  "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
  "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
  "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
  "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
  "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
  "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
];

/** RFC 6962 §2.1, word for word, as slow as it reads. */
function naiveRoot(leaves: readonly Uint8Array[]): Buffer {
  const sha256 = (...parts: Uint8Array[]) =>
    createHash("sha256").update(Buffer.concat(parts)).digest();
  const [only] = leaves;
  if (only === undefined) return sha256();
  if (leaves.length === 1) return sha256(Buffer.of(0), only);
  let k = 1;
  while (k < leaves.length - k) k *= 2;
  return sha256(Buffer.of(1), naiveRoot(leaves.slice(0, k)), naiveRoot(leaves.slice(k)));
}

for (const [size, root] of ROOTS.entries()) {
  test(`rootOf() gives the published root of ${size} leaves`, () => {
    const edge = grown(EMPTY_EDGE, LEAVES.slice(0, size).map(leafHashOf));
    assert.equal(rootOf(edge).toString("hex"), root);
    assert.equal(edge.size, BigInt(size));
  });
}

test("leafHashOf() and nodeHashOf() are in separate domains", () => {
  const two = LEAVES.slice(0, 2).map(leafHashOf);
  const asLeaf = leafHashOf(Buffer.concat(two));
  assert.notDeepEqual(asLeaf, nodeHashOf(two[0] ?? asLeaf, two[1] ?? asLeaf));
});

const leavesOf = (size: number) => Array.from({ length: size }, (_, i) => Buffer.from(`leaf ${i}`));

test("rootOf() equals the recursive definition, however the leaves arrive", () => {
  const sizes = new Set<number>();
  fc.assert(
    fc.property(fc.array(fc.integer({ min: 0, max: 90 }), { maxLength: 6 }), (batches) => {
      const leaves = leavesOf(batches.reduce((sum, n) => sum + n, 0));
      let edge = EMPTY_EDGE;
      let at = 0;
      for (const n of batches) {
        const before = { ...edge, hashes: [...edge.hashes] };
        const next = grown(edge, leaves.slice(at, at + n).map(leafHashOf));
        assert(sameEdge(edge, before), "the old edge is left as it was");
        edge = next;
        at += n;
      }
      sizes.add(leaves.length);
      assert.deepEqual(rootOf(edge), naiveRoot(leaves));
    }),
    { numRuns: 200 },
  );
  assert(sizes.size > 40, "many different sizes were tried");
});

test("inclusion proofs hold for their leaf, index and size and for nothing else", () => {
  for (let size = 1; size <= 40; size += 1) {
    const hashes = leavesOf(size).map(leafHashOf);
    const root = naiveRoot(leavesOf(size));
    for (let index = 0; index < size; index += 1) {
      const proof = inclusionProof(index, hashes);
      const leafHash = hashes[index] ?? root;
      const claim = { index: BigInt(index), size: BigInt(size), leafHash, proof, root };
      assert(verifyInclusion(claim), `${index} of ${size}`);
      assert(!verifyInclusion({ ...claim, leafHash: leafHashOf(Buffer.from("other")) }));
      assert(!verifyInclusion({ ...claim, index: BigInt(size) }));
      assert(!verifyInclusion({ ...claim, proof: [...proof, root] }));
      if (proof.length > 0) {
        assert(!verifyInclusion({ ...claim, proof: proof.slice(1) }));
        for (const bytes of [31, 33]) {
          const misshapen = proof.map((hash) => Buffer.concat([hash, hash]).subarray(0, bytes));
          assert(!verifyInclusion({ ...claim, proof: misshapen }));
        }
        assert(!verifyInclusion({ ...claim, index: BigInt((index + 1) % size) }));
      }
    }
  }
});

test("consistency proofs hold for a prefix and for nothing else", () => {
  for (let size = 1; size <= 40; size += 1) {
    const hashes = leavesOf(size).map(leafHashOf);
    const root = naiveRoot(leavesOf(size));
    for (let oldSize = 1; oldSize <= size; oldSize += 1) {
      const oldRoot = naiveRoot(leavesOf(oldSize));
      const proof = consistencyProof(oldSize, hashes);
      const claim = { oldSize: BigInt(oldSize), oldRoot, size: BigInt(size), root, proof };
      assert(verifyConsistency(claim), `${oldSize} in ${size}`);
      const other = leafHashOf(Buffer.from("other"));
      assert(!verifyConsistency({ ...claim, oldRoot: other }));
      assert(!verifyConsistency({ ...claim, root: other }));
      assert(!verifyConsistency({ ...claim, proof: [...proof, other] }));
      if (proof.length > 0) assert(!verifyConsistency({ ...claim, proof: proof.slice(0, -1) }));
    }
  }
  const empty = naiveRoot([]);
  assert(
    !verifyConsistency({ oldSize: 0n, oldRoot: empty, size: 1n, root: empty, proof: [] }),
    "nothing is proved about the empty tree",
  );
});
