import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { after, before, describe, test } from "node:test";
import { encodeAddress } from "@polkadot/util-crypto/address";
import {
  ALICE,
  call,
  type LocalClient,
  openLocalClient,
  pairOf,
  post,
  query,
} from "./local-client.ts";

const NETUID = 1;
const NEURONS = 256;
/** What the chain shall reach on two cores, and how much worse a busy machine may be before a test fails. */
const REGISTER_GOAL_MS = 3_000;
const READ_GOAL_MS = 150;
const BUSY_FACTOR = 8;

describe("a subnet with 256 neurons", () => {
  let local: LocalClient;
  before(async () => {
    local = await openLocalClient({ tempo: 360 });
    const owner = pairOf("//Full/owner").address;
    const { error } = await local.send(
      call(local.api, "subtensorModule", "registerNetwork", owner),
      ALICE,
    );
    assert.equal(error, undefined);
  });
  after(() => local.close());

  test("fills up in a few seconds, one signed registration per neuron", async (t) => {
    const { api, chain } = local;
    const first = (await api.rpc.system.accountNextIndex(ALICE.address)).toNumber();
    // Hotkeys do not sign their registration, so random public keys will do.
    const signed = await Promise.all(
      Array.from({ length: NEURONS - 1 }, async (_, i) => {
        const hotkey = encodeAddress(randomBytes(32), 42);
        const register = call(api, "subtensorModule", "burnedRegister", NETUID, hotkey);
        return (await register.signAsync(ALICE, { nonce: first + i })).toHex();
      }),
    );
    const start = performance.now();
    const batch = signed.map((extrinsic, id) => ({
      jsonrpc: "2.0",
      id,
      method: "author_submitExtrinsic",
      params: [extrinsic],
    }));
    const answers = (await post(chain.url, batch)) as { error?: unknown }[];
    assert.deepEqual(
      answers.filter(({ error }) => error !== undefined),
      [],
    );
    chain.produceBlock();
    const ms = performance.now() - start;
    assert.equal(await query(api, "subtensorModule", "subnetworkN", NETUID), NEURONS);
    t.diagnostic(`${NEURONS - 1} registrations: ${Math.round(ms)} ms, goal ${REGISTER_GOAL_MS}`);
    assert(ms < REGISTER_GOAL_MS * BUSY_FACTOR, `${ms} ms`);
  });

  test("is read whole in one fast call", async (t) => {
    const read = local.api.call["neuronInfoRuntimeApi"]?.["getNeuronsLite"];
    assert(read !== undefined);
    const times: number[] = [];
    for (let round = 0; round < 3; round++) {
      const start = performance.now();
      const neurons = (await read(NETUID)) as unknown as { length: number };
      times.push(performance.now() - start);
      assert.equal(neurons.length, NEURONS);
    }
    const [first = Infinity] = times;
    const best = Math.min(...times);
    t.diagnostic(
      `getNeuronsLite(256): first ${Math.round(first)} ms, best ${Math.round(best)} ms, goal ${READ_GOAL_MS}`,
    );
    assert(best < READ_GOAL_MS * BUSY_FACTOR, `${best} ms`);
  });
});
