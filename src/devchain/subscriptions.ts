/** The JSON-RPC methods that go on answering: heads, storage, transactions. */
import type { Block } from "./block.ts";
import type { Chain } from "./chain.ts";
import { extrinsicParam, headerJson, KEYS_MAX, submitted, valueJson } from "./rpc-methods.ts";
import {
  hexListParam,
  isAbsent,
  type Params,
  RPC_CODES,
  RpcError,
  textParam,
} from "./rpc-params.ts";
import type { Hex } from "./scale/bytes.ts";
import type { Changes } from "./state.ts";

/**
 * Time between the two reports of one extrinsic, in milliseconds. polkadot-js fetches the block for each and drops the first
 * fetch when the second report comes, so a client that waits for "in block" would wait in vain if they came together.
 */
const FINALIZED_DELAY_MS = 150;

/** Open subscriptions of one connection; Substrate nodes allow as many. */
const SUBSCRIPTIONS_MAX = 1_024;
/** Storage keys that one connection watches, over all its subscriptions. */
const WATCHED_KEYS_MAX = 16_384;

/** A connection that can be sent notifications. */
export interface Subscriber {
  /** Sends a notification, after the answer in hand if there is one. */
  notify(message: unknown): void;
  /** Ends each open subscription, by id. */
  readonly open: Map<string, () => void>;
  watchedKeys: number;
}

type Push = (result: unknown) => void;

interface Kind {
  /** Name of its notifications. */
  readonly notification: string;
  readonly unsubscribe: readonly string[];
  /** Begins to push. @returns ends it. @throws RpcError */
  start(push: Push, params: Params, subscriber: Subscriber, end: () => void): () => void;
}

/** Everything that is subscribed to on one chain. */
export interface Subscriptions {
  readonly methods: readonly string[];
  /** Answers a method of this file; undefined if it is none. @throws RpcError */
  answer(method: string, params: Params, subscriber: Subscriber | undefined): unknown;
  /** Ends all of a connection that is gone. */
  endAll(subscriber: Subscriber): void;
}

export function openSubscriptions(chain: Chain): Subscriptions {
  const onBlock = new Set<(block: Block, changes: Changes) => void>();
  const onFinal = new Set<(block: Block) => void>();
  chain.onBlock((block, changes) => {
    for (const listener of onBlock) listener(block, changes);
  });
  chain.onFinalized((block) => {
    for (const listener of onFinal) listener(block);
  });
  let lastId = 0;

  const newHeads = (notification: string, unsubscribe: readonly string[]): Kind => ({
    notification,
    unsubscribe,
    start(push) {
      push(headerJson(chain.head()));
      const listener = (block: Block) => push(headerJson(block));
      onBlock.add(listener);
      return () => onBlock.delete(listener);
    },
  });
  const finalizedHeads: Kind = {
    notification: "chain_finalizedHead",
    unsubscribe: ["chain_unsubscribeFinalizedHeads", "chain_unsubscribeFinalisedHeads"],
    start(push) {
      push(headerJson(chain.finalized()));
      const listener = (block: Block) => push(headerJson(block));
      onFinal.add(listener);
      return () => onFinal.delete(listener);
    },
  };
  const runtimeVersion: Kind = {
    notification: "state_runtimeVersion",
    unsubscribe: ["state_unsubscribeRuntimeVersion", "chain_unsubscribeRuntimeVersion"],
    start(push) {
      let last = chain.versionJson();
      push(last);
      const listener = () => {
        const next = chain.versionJson();
        if (next["specVersion"] !== last["specVersion"]) push(next);
        last = next;
      };
      onBlock.add(listener);
      return () => onBlock.delete(listener);
    },
  };
  const storage: Kind = {
    notification: "state_storage",
    unsubscribe: ["state_unsubscribeStorage"],
    start(push, [list], subscriber) {
      const keys = isAbsent(list) ? [] : hexListParam(list, "storage keys", KEYS_MAX);
      if (subscriber.watchedKeys + keys.length > WATCHED_KEYS_MAX)
        throw new RpcError(RPC_CODES.limitExceeded, "Too many storage keys on the connection");
      subscriber.watchedKeys += keys.length;
      const { hash } = chain.head();
      const state = chain.stateAt(hash);
      push({ block: hash, changes: keys.map((key) => [key, valueJson(state?.get(key))]) });
      const listener = (block: Block, changes: Changes) => {
        const changed = keys.filter((key: Hex) => changes.has(key));
        if (changed.length === 0) return;
        push({
          block: block.hash,
          changes: changed.map((key) => [key, valueJson(changes.get(key))]),
        });
      };
      onBlock.add(listener);
      return () => {
        subscriber.watchedKeys -= keys.length;
        onBlock.delete(listener);
      };
    },
  };
  const extrinsic: Kind = {
    notification: "author_extrinsicUpdate",
    unsubscribe: ["author_unwatchExtrinsic"],
    start(push, [bytes], _subscriber, end) {
      let ended = false;
      submitted(() =>
        chain.submit(extrinsicParam(bytes), (status) => {
          if (ended) return;
          if (typeof status === "object" && "finalized" in status) {
            setTimeout(() => {
              if (ended) return;
              push(status);
              end();
            }, FINALIZED_DELAY_MS).unref();
            return;
          }
          push(status);
          if (status === "invalid" || status === "dropped") end();
        }),
      );
      return () => {
        ended = true;
      };
    },
  };

  const kinds: Readonly<Record<string, Kind>> = {
    author_submitAndWatchExtrinsic: extrinsic,
    chain_subscribeAllHeads: newHeads("chain_allHead", ["chain_unsubscribeAllHeads"]),
    chain_subscribeFinalisedHeads: finalizedHeads,
    chain_subscribeFinalizedHeads: finalizedHeads,
    chain_subscribeNewHead: newHeads("chain_newHead", ["chain_unsubscribeNewHead"]),
    chain_subscribeNewHeads: newHeads("chain_newHead", ["chain_unsubscribeNewHeads"]),
    chain_subscribeRuntimeVersion: runtimeVersion,
    state_subscribeRuntimeVersion: runtimeVersion,
    state_subscribeStorage: storage,
  };
  const byMethod = new Map(Object.entries(kinds));
  const unsubscribes = new Set([...byMethod.values()].flatMap(({ unsubscribe }) => unsubscribe));

  function subscribe(kind: Kind, params: Params, subscriber: Subscriber): string {
    if (subscriber.open.size >= SUBSCRIPTIONS_MAX)
      throw new RpcError(RPC_CODES.limitExceeded, "Too many subscriptions on the connection");
    lastId += 1;
    const subscription = `dc${lastId}`;
    const push = (result: unknown) =>
      subscriber.notify({
        jsonrpc: "2.0",
        method: kind.notification,
        params: { subscription, result },
      });
    const stop = kind.start(push, params, subscriber, () => unsubscribe(subscription, subscriber));
    subscriber.open.set(subscription, stop);
    return subscription;
  }

  function unsubscribe(subscription: string, subscriber: Subscriber): boolean {
    subscriber.open.get(subscription)?.();
    return subscriber.open.delete(subscription);
  }

  return {
    methods: [...byMethod.keys(), ...unsubscribes],
    answer(method, params, subscriber) {
      const kind = byMethod.get(method);
      if (kind === undefined && !unsubscribes.has(method)) return undefined;
      if (subscriber === undefined)
        throw new RpcError(RPC_CODES.methodNotFound, "Subscriptions need a WebSocket");
      if (kind !== undefined) return subscribe(kind, params, subscriber);
      return unsubscribe(textParam(params[0], "subscription id"), subscriber);
    },
    endAll(subscriber) {
      for (const id of subscriber.open.keys()) unsubscribe(id, subscriber);
    },
  };
}
