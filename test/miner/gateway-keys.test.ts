import assert from "node:assert/strict";
import { test } from "node:test";
import { encodeAnnouncement } from "../../src/core/commitment.ts";
import type { Hotkey } from "../../src/core/ids.ts";
import { signingKey } from "../../src/core/jws.ts";
import { gatewayKeys } from "../../src/miner/gateway-keys.ts";
import { HOTKEY, log } from "./fixture.ts";

const OTHER = "5FHneW46xGXgs5mUiveU4sbTyGBzmstUspZC92UhjJM694ty" as Hotkey;

function announcement(key: ReturnType<typeof signingKey>): Uint8Array[] {
  const url = "http://127.0.0.1:8080";
  return [encodeAnnouncement({ kind: "gateway", url, log: `${url}/log`, key: key.jwk })];
}

function openKeys() {
  const state = {
    nowMs: 1_000_000,
    owner: HOTKEY as Hotkey | undefined,
    fields: new Map<Hotkey, Uint8Array[]>(),
    reads: 0,
    fails: false,
  };
  const keys = gatewayKeys(
    {
      ownerHotkey: async () => state.owner,
      commitmentOf: async (hotkey) => {
        state.reads += 1;
        if (state.fails) throw new Error("the node is away");
        return state.fields.get(hotkey);
      },
    },
    { nowMs: () => state.nowMs, log },
  );
  const refresh = async (): Promise<void> => {
    state.nowMs += 1_000;
    await keys.refresh();
  };
  return { state, keys, refresh };
}

test("gatewayKeys() believes the announcement of the subnet's owner, and nobody else's", async () => {
  const { state, keys, refresh } = openKeys();
  const [owner, stranger] = [signingKey(), signingKey()];
  state.fields.set(OTHER, announcement(stranger));
  await refresh();
  assert.equal(keys.keyOf(stranger.kid), undefined);
  state.fields.set(HOTKEY, announcement(owner));
  await refresh();
  assert.equal(keys.keyOf(owner.kid)?.kid, owner.kid);
  assert.equal(keys.keyOf(stranger.kid), undefined);
});

test("gatewayKeys() lets a replaced key run out", async () => {
  const { state, keys, refresh } = openKeys();
  const [old, next] = [signingKey(), signingKey()];
  state.fields.set(HOTKEY, announcement(old));
  await refresh();
  state.fields.set(HOTKEY, announcement(next));
  await refresh();
  assert.notEqual(keys.keyOf(next.kid), undefined);
  assert.notEqual(keys.keyOf(old.kid), undefined);
  state.nowMs += 120_000;
  assert.equal(keys.keyOf(old.kid), undefined);
  assert.notEqual(keys.keyOf(next.kid), undefined);
});

test("gatewayKeys() follows a subnet to its new owner", async () => {
  const { state, keys, refresh } = openKeys();
  const next = signingKey();
  state.fields.set(HOTKEY, announcement(signingKey()));
  state.fields.set(OTHER, announcement(next));
  await refresh();
  state.owner = OTHER;
  await refresh();
  assert.equal(keys.keyOf(next.kid), undefined);
  state.nowMs += 60_000;
  await refresh();
  assert.notEqual(keys.keyOf(next.kid), undefined);
});

test("gatewayKeys() keeps its keys when the chain fails, and when the announcement is not one", async () => {
  const { state, keys, refresh } = openKeys();
  const key = signingKey();
  state.fields.set(HOTKEY, announcement(key));
  await refresh();
  state.fails = true;
  await refresh();
  assert.notEqual(keys.keyOf(key.kid), undefined);
  state.fails = false;
  state.fields.set(HOTKEY, [Buffer.from("garbage")]);
  await refresh();
  state.fields.delete(HOTKEY);
  await refresh();
  assert.notEqual(keys.keyOf(key.kid), undefined);
});

test("gatewayKeys() reads the chain twice a second at most, whoever asks", async () => {
  const { state, keys, refresh } = openKeys();
  state.fields.set(HOTKEY, announcement(signingKey()));
  await refresh();
  await Promise.all(Array.from({ length: 100 }, async () => await keys.refresh()));
  assert.equal(state.reads, 1);
  state.nowMs += 500;
  await Promise.all(Array.from({ length: 100 }, async () => await keys.refresh()));
  assert.equal(state.reads, 2);
});
