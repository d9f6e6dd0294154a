import assert from "node:assert/strict";
import { test } from "node:test";
import { Metadata, TypeRegistry } from "@polkadot/types";
import { u8aToHex } from "@polkadot/util";
import { isFeeless } from "../../src/devchain/extrinsics.ts";
import { SLOT_MS } from "../../src/devchain/pallets/aura.ts";
import { buildRuntime } from "../../src/devchain/runtime.ts";

const RUNTIME = buildRuntime(360, SLOT_MS, isFeeless);

/** Storage keys and calls of Subtensor at spec version 425, written down from its own metadata and source. */
const CALLS: Record<string, readonly [number, number]> = {
  "system.remarkWithEvent": [0, 7],
  "balances.transferAllowDeath": [5, 0],
  "balances.transferKeepAlive": [5, 3],
  "balances.transferAll": [5, 4],
  "subtensorModule.setWeights": [7, 0],
  "subtensorModule.addStake": [7, 2],
  "subtensorModule.removeStake": [7, 3],
  "subtensorModule.serveAxon": [7, 4],
  "subtensorModule.burnedRegister": [7, 7],
  "subtensorModule.serveAxonTls": [7, 40],
  "subtensorModule.registerNetwork": [7, 59],
  "subtensorModule.batchSetWeights": [7, 80],
  "subtensorModule.transferStake": [7, 86],
  "subtensorModule.addStakeLimit": [7, 88],
  "subtensorModule.removeStakeLimit": [7, 89],
  "subtensorModule.startCall": [7, 92],
  "subtensorModule.commitWeights": [7, 96],
  "subtensorModule.revealWeights": [7, 97],
  "subtensorModule.batchRevealWeights": [7, 98],
  "subtensorModule.commitTimelockedWeights": [7, 113],
  "subtensorModule.commitMechanismWeights": [7, 115],
  "subtensorModule.revealMechanismWeights": [7, 116],
  "subtensorModule.commitTimelockedMechanismWeights": [7, 118],
  "subtensorModule.setMechanismWeights": [7, 119],
  "subtensorModule.registerLimit": [7, 134],
  "utility.batch": [11, 0],
  "utility.batchAll": [11, 2],
  "utility.forceBatch": [11, 4],
  "sudo.sudo": [12, 0],
  "commitments.setCommitment": [18, 0],
};

/** Version 15 as a client has it after connecting. */
function decodedV15(): { registry: TypeRegistry; metadata: Metadata } {
  const registry = new TypeRegistry();
  const metadata = new Metadata(registry, u8aToHex(RUNTIME.metadata.v15));
  registry.setMetadata(metadata, undefined, {
    SudoTransactionExtension: { extrinsic: {}, payload: {} },
    CheckShieldedTxValidity: { extrinsic: {}, payload: {} },
    SubtensorTransactionExtension: { extrinsic: {}, payload: {} },
    DrandPriority: { extrinsic: {}, payload: {} },
  });
  return { registry, metadata };
}

for (const version of ["v14", "v15"] as const) {
  test(`metadata ${version} is read by polkadot-js, whole`, () => {
    const registry = new TypeRegistry();
    const metadata = new Metadata(registry, u8aToHex(RUNTIME.metadata[version]));
    assert.equal(metadata.version, Number(version.slice(1)));
    assert.equal(u8aToHex(metadata.toU8a()), u8aToHex(RUNTIME.metadata[version]));
  });
}

test("calls have the numbers of the real chain", () => {
  const { registry } = decodedV15();
  for (const [name, [pallet, index]] of Object.entries(CALLS)) {
    const [section = "", method = ""] = name.split(".");
    const found = registry.findMetaCall(Uint8Array.of(pallet, index));
    assert.equal(`${found.section}.${found.method}`, `${section}.${method}`);
  }
});

test("version 15 describes every runtime API with its inputs and its output", () => {
  const { registry, metadata } = decodedV15();
  const described = Object.fromEntries(
    metadata.asV15.apis.map(({ name, methods }) => [
      name.toString(),
      methods.map((method) => ({
        name: method.name.toString(),
        inputs: method.inputs.map((input) => input.name.toString()),
        output: registry.lookup.getTypeDef(method.output).type,
      })),
    ]),
  );
  for (const [name, functions] of Object.entries(RUNTIME.apis)) {
    assert.deepEqual(
      described[name]?.map(({ name: method, inputs }) => [method, inputs]),
      Object.entries(functions).map(([method, { inputs }]) => [method, Object.keys(inputs)]),
    );
    for (const { output } of described[name] ?? []) assert.notEqual(output, "");
  }
});

test("the metadata is small and built in no time", () => {
  const start = performance.now();
  const { metadata } = buildRuntime(360, SLOT_MS, isFeeless);
  assert(performance.now() - start < 250);
  assert(metadata.v15.length < 64_000);
});
