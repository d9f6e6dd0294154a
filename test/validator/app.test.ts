import assert from "node:assert/strict";
import { test } from "node:test";
import { buildValidatorApp } from "../../src/validator/app.ts";
import { validatorMetrics } from "../../src/validator/validator-metrics.ts";
import { blockOf, DEADLINE, MINER_1, openWorld, reportOf } from "./world.ts";

test("the validator's API shows what it decided, newest first, with hashes and no secrets", async () => {
  const world = await openWorld();
  const metrics = validatorMetrics();
  try {
    const loop = await world.openValidator("v");
    const app = buildValidatorApp({
      hotkey: "5F",
      netuid: 1,
      metrics: metrics.registry,
      reports: () => loop.reports(),
      probe: () => loop.probe(),
      handledBlock: () => loop.handledBlock(),
    });
    const get = async (url: string) => await app.inject({ method: "GET", url });
    const enclave = world.enclaveOf(MINER_1);
    for (const epoch of [1, 2]) {
      await world.honestEpoch(epoch, new Map([[enclave, epoch]]));
      world.advanceTo(blockOf(epoch) + DEADLINE);
      metrics.epoch(await reportOf(loop, epoch));
    }
    const body = (await get("/v1/epochs")).json<{
      hotkey: string;
      epochs: { epoch: number; state_hash: string; sums: Record<string, string> }[];
    }>();
    assert.equal(body.hotkey, "5F");
    assert.deepEqual(
      body.epochs.map(({ epoch }) => epoch),
      [2, 1],
    );
    assert.match(body.epochs[0]?.state_hash ?? "", /^[0-9a-f]{64}$/);
    assert.deepEqual(body.epochs[0]?.sums, { [MINER_1]: "2000000000" });
    const health = (await get("/healthz")).json<{ status: string; epoch: number }>();
    assert.deepEqual([health.status, health.epoch], ["ok", 2]);
    const text = (await get("/metrics")).body;
    assert.match(text, /daybreak_validator_epochs_total\{verdict="accepted",reason="none"\} 2/);
    assert.match(text, /daybreak_validator_leaves_total 2/);
    assert.equal((await get("/v1/probes")).statusCode, 200);
    assert.equal((await get("/v1/state")).statusCode, 404);
    await app.close();
  } finally {
    await world.close();
  }
});
