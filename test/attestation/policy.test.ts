import assert from "node:assert/strict";
import { test } from "node:test";
import {
  localPolicy,
  type ProductionManifest,
  productionPolicy,
} from "../../src/attestation/policy.ts";
import { SIMULATED_IMAGE } from "../../src/attestation/simulated/image.ts";
import { simRoot } from "./fixture.ts";

const MANIFEST: ProductionManifest = {
  v: 1,
  kinds: ["tdx-dstack"],
  images: [SIMULATED_IMAGE],
  max_age_blocks: 50,
};

test("productionPolicy() accepts a manifest of hardware kinds", () => {
  const policy = productionPolicy(MANIFEST);
  assert.equal(policy.network, "public");
  assert.deepEqual([...policy.kinds], ["tdx-dstack"]);
  assert.equal(policy.maxAgeBlocks, 50);
});

test("productionPolicy() cannot express the simulated kind: not as a type, not at run time", () => {
  // @ts-expect-error "sim" is no member of HardwareKind; if this line compiles, the type has been widened.
  const withSim: ProductionManifest = { ...MANIFEST, kinds: ["tdx", "sim"] };
  assert.throws(() => productionPolicy(withSim), /hardware only .*, not "sim"/);
  const fromFile = JSON.parse(
    JSON.stringify({ ...MANIFEST, kinds: ["sim"] }),
  ) as ProductionManifest;
  assert.throws(() => productionPolicy(fromFile), /hardware only/);
  // @ts-expect-error a production policy has no root for a simulated TEE.
  assert.equal(productionPolicy(MANIFEST).simRoot, undefined);
});

for (const { name, changes } of [
  { name: "another version", changes: { v: 2 } },
  { name: "no kinds", changes: { kinds: [] } },
  { name: "kinds that are no list", changes: { kinds: "tdx" } },
  { name: "no images", changes: { images: [] } },
  { name: "an image by name", changes: { images: ["daybreak:latest"] } },
  { name: "no age", changes: { max_age_blocks: undefined } },
  { name: "an age of zero", changes: { max_age_blocks: 0 } },
  { name: "an age of 51", changes: { max_age_blocks: 51 } },
]) {
  test(`productionPolicy() refuses ${name}`, () => {
    assert.throws(() => productionPolicy({ ...MANIFEST, ...changes } as ProductionManifest));
  });
}

test("localPolicy() refuses a root that is no key, and images that are no digests", () => {
  assert.throws(() =>
    localPolicy({ simRoot: { ...simRoot.jwk, x: "" }, images: [SIMULATED_IMAGE] }),
  );
  assert.throws(() => localPolicy({ simRoot: simRoot.jwk, images: ["sha256:00"] }));
  assert.throws(() => localPolicy({ simRoot: simRoot.jwk, images: [] }));
  assert.throws(() =>
    localPolicy({ simRoot: simRoot.jwk, images: [SIMULATED_IMAGE], maxAgeBlocks: 51 }),
  );
});

test("a policy cannot be changed after it was made", () => {
  const policy = localPolicy({ simRoot: simRoot.jwk, images: [SIMULATED_IMAGE] });
  assert.throws(() => Object.assign(policy, { maxAgeBlocks: 1_000 }), TypeError);
});
