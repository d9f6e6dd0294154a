import assert from "node:assert/strict";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { openSubtensor } from "../../src/chain/subtensor.ts";
import { signingKey } from "../../src/core/jws.ts";
import { gatewaySettings } from "../../src/gateway/config.ts";
import { openGateway } from "../../src/gateway/main.ts";
import { openLogger } from "../../src/runtime/logger.ts";
import { ConfigError, loadSettings } from "../../src/runtime/settings.ts";
import { validatorSettings } from "../../src/validator/config.ts";
import { openValidator } from "../../src/validator/main.ts";
import { openLocalChain } from "../chain/local-chain.ts";
import { openNodeProxy } from "../chain/node-proxy.ts";

const FINNEY = "0x2f0555cc76fc2840a25a6ea3b9637146806f1f44b090c175ffde2a7e5ab36c03";

test("a gateway and a validator with a made-up TAO price refuse a chain with the main network's genesis", async (t) => {
  const folder = mkdtempSync(join(tmpdir(), "daybreak-finney-"));
  const log = openLogger("test", "silent");
  const node = await openLocalChain();
  const chain = await openSubtensor({ endpoints: [node.url], connectTimeoutMs: 10_000, log });
  const genesis = chain.genesisHash;
  await chain.close();
  const proxy = await openNodeProxy(node.url, {
    onAnswer: (answer) => answer.replaceAll(genesis, FINNEY),
  });
  t.after(async () => {
    await proxy.close();
    await node.close();
    rmSync(folder, { recursive: true, force: true });
  });
  const hotkeyFile = join(folder, "hotkey");
  writeFileSync(hotkeyFile, "//Owner");
  const common = {
    chain: proxy.url,
    netuid: "2",
    data: join(folder, "data"),
    hotkeyFile,
    port: "0",
    simTeeRoot: JSON.stringify(signingKey().jwk),
    taoUsd: "fixed:400.00",
  };
  const treasury = "11".repeat(32);
  await assert.rejects(
    openGateway(loadSettings(gatewaySettings, {}, { ...common, treasury }), log),
    (error) =>
      error instanceof ConfigError && /fixed price.* set it to exchanges/.test(error.message),
  );
  await assert.rejects(
    openValidator(loadSettings(validatorSettings, {}, common), log),
    (error) =>
      error instanceof ConfigError && /VALIDATOR_TAO_USD is a fixed price/.test(error.message),
  );
});

for (const { name, settings, values, expected } of [
  {
    name: "a gateway",
    settings: gatewaySettings,
    values: { chain: "ws://127.0.0.1:1", netuid: "1", hotkeyFile: "f", treasury: "11".repeat(32) },
    expected: /must be exchanges, or like fixed:400\.00/,
  },
  {
    name: "a validator",
    settings: validatorSettings,
    values: { chain: "ws://127.0.0.1:1", netuid: "1", hotkeyFile: "f" },
    expected: /must be like fixed:400\.00/,
  },
]) {
  test(`${name} says what a TAO price looks like`, () => {
    for (const taoUsd of ["400", "fixed:", "fixed:0", "fixed:1e3", "kraken"])
      assert.throws(() => loadSettings(settings, {}, { ...values, taoUsd }), expected);
  });
}
