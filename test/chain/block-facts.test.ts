import assert from "node:assert/strict";
import { test } from "node:test";
import type { EventRecord } from "@polkadot/types/interfaces";
import type { Codec } from "@polkadot/types/types";
import { readBlockFacts } from "../../src/chain/block-facts.ts";
import { type BlockState, openBlockStates } from "../../src/chain/block-state.ts";
import { openConnection } from "../../src/chain/connection.ts";
import {
  ALICE,
  CONNECT_TIMEOUT_MS,
  freshKeypair,
  LOG,
  openChainAndClient,
  TAO,
} from "./local-chain.ts";

/** The state with its events changed: the local chain has no failed extrinsic that kept a transfer, nor one in a hook. */
function withEvents(
  state: BlockState,
  change: (records: readonly EventRecord[]) => readonly unknown[],
): BlockState {
  return {
    ...state,
    async read(reads) {
      const values = await state.read(reads);
      return values.map((value, i) =>
        reads[i]?.item[1] === "events"
          ? (change([...(value as unknown as Iterable<EventRecord>)]) as unknown as Codec)
          : value,
      );
    },
  };
}

test("readBlockFacts() credits successful extrinsics and hooks, never failed extrinsics", async (t) => {
  const { url, chain } = await openChainAndClient(t);
  const to = freshKeypair().address;
  const { blockHash } = await chain.submit({ kind: "transfer", to, rao: TAO }, ALICE);
  const connection = await openConnection({
    endpoints: [url],
    connectTimeoutMs: CONNECT_TIMEOUT_MS,
    log: LOG,
  });
  try {
    const state = await openBlockStates(connection).at(blockHash);
    const { transfers } = await readBlockFacts(state);
    assert.deepEqual(
      transfers.map((each) => ({ to: each.to, index: each.extrinsicIndex })),
      [{ to, index: 1 }],
    );

    const failed = withEvents(state, (records) =>
      records.filter(({ event }) => event.method !== "ExtrinsicSuccess"),
    );
    assert.deepEqual((await readBlockFacts(failed)).transfers, []);

    const otherSucceeded = withEvents(state, (records) =>
      records.filter(
        ({ event, phase }) => event.method !== "ExtrinsicSuccess" || !phase.asApplyExtrinsic.eq(1),
      ),
    );
    assert.deepEqual((await readBlockFacts(otherSucceeded)).transfers, []);

    const inHook = withEvents(state, (records) =>
      records
        .filter(({ event }) => event.method === "Transfer")
        .map(({ event }) => ({ event, phase: { isApplyExtrinsic: false, isFinalization: true } })),
    );
    assert.deepEqual(
      (await readBlockFacts(inHook)).transfers.map((each) => [each.to, each.extrinsicIndex]),
      [[to, undefined]],
    );
  } finally {
    await connection.close();
  }
});
