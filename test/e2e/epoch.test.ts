import assert from "node:assert/strict";
import { test } from "node:test";
import OpenAI from "openai";
import { openSubtensor } from "../../src/chain/subtensor.ts";
import { parseAnnouncement } from "../../src/core/commitment.ts";
import type { Hotkey, Netuid } from "../../src/core/ids.ts";
import { openLogger } from "../../src/runtime/logger.ts";
import type { EpochReport } from "../../src/validator/epoch-report.ts";
import { getJson, startLocal, waitFor } from "./local-network.ts";

interface EpochFile {
  epoch: number;
  sums: Record<string, string>;
  receipts: number;
}

interface NetworkBody {
  data: {
    epoch: number;
    burn_bps: number;
    pool_nusd: string;
    paid_nusd: string;
    owed_nusd: string;
    epochs: { epoch: number }[];
  };
}

/** The rule of docs/PROTOCOL.md, written a second time and in another shape: largest entry 65535, the owner gets the rest. */
function vectorOf(
  pool: bigint,
  plan: ReadonlyMap<number, bigint>,
  burnUid: number,
  n: number,
): number[] {
  const entries = [...plan].filter(([, q]) => q > 0n);
  const vector = Array.from({ length: n }, () => 0n);
  if (pool === 0n || entries.length === 0) {
    vector[burnUid] = 65_535n;
    return vector.map(Number);
  }
  const planned = entries.reduce((sum, [, q]) => sum + q, 0n);
  const largest = [pool - planned, ...entries.map(([, q]) => q)].reduce((a, b) => (a > b ? a : b));
  let total = ((65_535n - BigInt(entries.length)) * pool) / largest - 1n;
  if (total < 1n) total = 1n;
  for (;;) {
    vector.fill(0n);
    for (const [uid, q] of entries) vector[uid] = (q * total) / pool;
    vector[burnUid] = (vector[burnUid] ?? 0n) + total - vector.reduce((a, b) => a + b);
    const top = vector.reduce((a, b) => (a > b ? a : b));
    if (top === 65_535n) return vector.map(Number);
    total += 65_535n - top;
  }
}

test("an epoch turns receipts into the expected weight vector on the chain, the same from both validators", async () => {
  const network = await startLocal({ args: ["--tempo", "16", "--block-ms", "250"] });
  const { ready } = network;
  const netuid = ready.netuid as Netuid;
  const chain = await openSubtensor({
    endpoints: [ready.chain_ws],
    connectTimeoutMs: 10_000,
    log: openLogger("test", "silent"),
  });
  try {
    const openai = new OpenAI({ baseURL: ready.base_url, apiKey: ready.api_key, maxRetries: 0 });
    for (let i = 0; i < 20; i += 1) {
      await openai.chat.completions.create({
        model: "openai/gpt-5.4",
        messages: [{ role: "user", content: `request ${i}` }],
      });
    }
    const metagraph = await chain.metagraph(netuid);
    const validators = metagraph.neurons.filter(
      ({ validatorPermit, hotkey }) => validatorPermit && hotkey !== metagraph.ownerHotkey,
    );
    assert.equal(validators.length, 2);
    const reportsOf = async (hotkey: Hotkey): Promise<EpochReport[]> => {
      const fields = (await chain.commitmentOf(netuid, hotkey))?.fields ?? [];
      const announcement = fields[0] === undefined ? undefined : parseAnnouncement(fields[0]);
      assert(announcement?.kind === "validator");
      return (await getJson<{ epochs: EpochReport[] }>(`${announcement.url}/v1/epochs`)).epochs;
    };
    let seen: EpochReport[][] = [];
    await waitFor(
      "both validators to have set weights for an epoch with usage, and the chain to have paid it",
      async () => {
        seen = await Promise.all(validators.map(async ({ hotkey }) => await reportsOf(hotkey)));
        return seen.every((reports) =>
          reports.some(
            (r) =>
              r.weights_block !== undefined &&
              Object.keys(r.sums).length > 0 &&
              Object.values(r.paid).some((v) => v !== "0"),
          ),
        );
      },
      60_000,
    );

    const owner = metagraph.neurons.find(({ hotkey }) => hotkey === metagraph.ownerHotkey);
    assert(owner !== undefined);
    const uidOf = new Map<string, number>(
      metagraph.neurons.map(({ hotkey, uid }) => [hotkey, uid]),
    );
    let compared = 0;
    let paying = 0;
    for (const [index, reports] of seen.entries()) {
      for (const report of reports) {
        if (report.verdict !== "accepted") {
          // An epoch that ended while the network was being set up, before the gateway was on the chain.
          assert.equal(report.reason, "missing_announcement", JSON.stringify(report));
          continue;
        }
        const file = await getJson<EpochFile>(`${ready.log_url}/epoch/${report.epoch}.json`);
        assert.deepEqual(report.sums, file.sums, `epoch ${report.epoch}`);
        const plan = new Map(
          Object.entries(report.planned).map(([hotkey, q]) => [uidOf.get(hotkey) ?? -1, BigInt(q)]),
        );
        assert.deepEqual(
          report.weights,
          vectorOf(BigInt(report.pool_nusd), plan, owner.uid, metagraph.neurons.length),
        );
        if (plan.size > 0) paying += 1;
        const other = seen[1 - index]?.find(({ epoch }) => epoch === report.epoch);
        if (other !== undefined) {
          assert.equal(other.state_hash, report.state_hash, `state of epoch ${report.epoch}`);
          assert.deepEqual(other.weights, report.weights);
        }
        if (report.weights_block === undefined) continue;
        const hash = await chain.blockHash(report.weights_block);
        if (hash === undefined) continue;
        const rows = await chain.weights(netuid, hash);
        const row = rows.get(validators[index]?.uid ?? -1) ?? [];
        const onChain = Array.from(
          { length: metagraph.neurons.length },
          (_, uid) => row.find(([to]) => to === uid)?.[1] ?? 0,
        );
        assert.deepEqual(onChain, report.weights, `on the chain at block ${report.weights_block}`);
        compared += 1;
      }
    }
    assert(compared >= 2 && paying >= 2, `compared ${compared}, paying ${paying}`);

    const shown = async () => (await getJson<NetworkBody>(`${ready.base_url}/network`)).data;
    await waitFor(
      "the gateway to show what was paid",
      async () => BigInt((await shown()).paid_nusd ?? 0) > 0n,
    );
    const data = await shown();
    assert(data.epoch > 0 && data.epochs.length > 0);
    assert(data.burn_bps > 0 && data.burn_bps <= 10_000);
    assert(BigInt(data.pool_nusd) > 0n && BigInt(data.owed_nusd) !== 0n);
  } finally {
    await chain.close();
    await network.stop();
  }
});
