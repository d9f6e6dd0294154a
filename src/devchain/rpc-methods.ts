/** The JSON-RPC methods that answer at once. Those that go on answering are in `subscriptions.ts`. */
import { decodeAddress } from "@polkadot/util-crypto/address";
import type { Block } from "./block.ts";
import type { Chain, StateAt } from "./chain.ts";
import { isFeeless } from "./extrinsics.ts";
import { blake2Hex } from "./hashing.ts";
import { CALL_WEIGHT } from "./metadata/runtime-types.ts";
import { SS58_PREFIX } from "./pallets/system.ts";
import { feeOf } from "./pallets/transaction-payment.ts";
import { PoolError } from "./pool.ts";
import {
  hexListParam,
  hexParam,
  isAbsent,
  numberParam,
  optionalHexParam,
  type Params,
  RPC_CODES,
  RpcError,
  textParam,
} from "./rpc-params.ts";
import { runtimeFunctionOf } from "./runtime.ts";
import { fromHex, type Hex, ScaleError, toHex } from "./scale/bytes.ts";
import { bytes as byteVec, decode } from "./scale/codec.ts";

/** Keys or hashes that one call may ask for. */
export const KEYS_MAX = 1_000;
/** Substrate's code for "the state cannot answer this". */
const STATE_ERROR = 4003;
const TOKEN = { symbol: "TAO", decimals: 9 } as const;

export type Method = (params: Params) => unknown;

/** A block's header in JSON. */
export function headerJson(block: Block): unknown {
  return {
    parentHash: block.parentHash,
    number: `0x${block.number.toString(16)}`,
    stateRoot: block.stateRoot,
    extrinsicsRoot: block.extrinsicsRoot,
    digest: { logs: block.logs },
  };
}

/** A stored value in JSON. */
export function valueJson(value: Uint8Array | undefined): Hex | null {
  return value === undefined ? null : toHex(value);
}

/** Hands an extrinsic to `submit` and translates its refusal. @throws RpcError */
export function submitted<T>(submit: () => T): T {
  try {
    return submit();
  } catch (error) {
    if (!(error instanceof PoolError)) throw error;
    throw new RpcError(error.code, error.message, error.data);
  }
}

/** @throws RpcError */
export function extrinsicParam(value: unknown): Uint8Array {
  return fromHex(hexParam(value, "extrinsic"));
}

/** @returns the methods by name, without those in `subscriptions.ts`. */
export function rpcMethods(chain: Chain): Map<string, Method> {
  const stateAt = (value: unknown): StateAt => {
    const hash = optionalHexParam(value, "block hash") ?? chain.head().hash;
    const state = chain.stateAt(hash);
    if (state === undefined)
      throw new RpcError(
        STATE_ERROR,
        `Client error: UnknownBlock: State already discarded for ${hash}`,
      );
    return state;
  };
  const blockAt = (value: unknown): Block | undefined =>
    isAbsent(value) ? chain.head() : chain.block(hexParam(value, "block hash"));
  const hashOf = (value: unknown): Hex | null =>
    chain.hashOf(numberParam(value, "block number")) ?? null;
  const keysWith = (prefix: unknown, hash: unknown): Hex[] =>
    stateAt(hash).keys(optionalHexParam(prefix, "prefix") ?? "0x");

  const blockHash: Method = ([number]) => {
    if (isAbsent(number)) return chain.head().hash;
    if (!Array.isArray(number)) return hashOf(number);
    if (number.length > KEYS_MAX) throw new RpcError(RPC_CODES.invalidParams, "Too many blocks");
    return number.map(hashOf);
  };
  const storage: Method = ([key, hash]) =>
    valueJson(stateAt(hash).get(hexParam(key, "storage key")));
  const nextIndex: Method = ([account]) => chain.nextNonce(accountParam(account));
  const runtimeVersion: Method = ([hash]) => chain.versionJson(blockAt(hash)?.number);

  const methods: Record<string, Method> = {
    account_nextIndex: nextIndex,
    author_pendingExtrinsics: () => chain.pending().map(({ bytes }) => toHex(bytes)),
    author_submitExtrinsic: ([extrinsic]) =>
      submitted(() => chain.submit(extrinsicParam(extrinsic))),
    chain_getBlock([hash]) {
      const block = blockAt(hash);
      if (block === undefined) return null;
      const body = { header: headerJson(block), extrinsics: block.extrinsics.map(toHex) };
      return { block: body, justifications: null };
    },
    chain_getBlockHash: blockHash,
    chain_getFinalisedHead: () => chain.finalized().hash,
    chain_getFinalizedHead: () => chain.finalized().hash,
    chain_getHead: blockHash,
    chain_getHeader([hash]) {
      const block = blockAt(hash);
      return block === undefined ? null : headerJson(block);
    },
    chain_getRuntimeVersion: runtimeVersion,
    payment_queryInfo([extrinsic]) {
      const bytes = extrinsicParam(extrinsic);
      const feeless = scaleParam(() => isFeeless(decode(byteVec, bytes), chain.runtime.call));
      return {
        weight: {
          ref_time: Number(CALL_WEIGHT.ref_time),
          proof_size: Number(CALL_WEIGHT.proof_size),
        },
        class: "normal",
        partialFee: feeOf(bytes.length, feeless).toString(),
      };
    },
    state_call: ([name, input, hash]) => stateCall(chain, name, input, stateAt(hash)),
    state_getKeys: ([prefix, hash]) => keysWith(prefix, hash),
    state_getKeysPaged([prefix, count, start, hash]) {
      const max = numberParam(count, "count");
      if (max > KEYS_MAX)
        throw new RpcError(
          RPC_CODES.invalidParams,
          `count exceeds maximum value. value: ${max}, max: ${KEYS_MAX}`,
        );
      const after = optionalHexParam(start, "start key") ?? "";
      return keysWith(prefix, hash)
        .filter((key) => key > after)
        .slice(0, max);
    },
    state_getMetadata: () => toHex(chain.runtime.metadata.v14),
    state_getRuntimeVersion: runtimeVersion,
    state_getStorage: storage,
    state_getStorageAt: storage,
    state_getStorageHash([key, hash]) {
      const value = stateAt(hash).get(hexParam(key, "storage key"));
      return value === undefined ? null : blake2Hex(value);
    },
    state_getStorageSize: ([key, hash]) =>
      stateAt(hash).get(hexParam(key, "storage key"))?.length ?? null,
    state_queryStorageAt([keys, hash]) {
      const state = stateAt(hash);
      const changes = hexListParam(keys, "storage keys", KEYS_MAX).map((key) => [
        key,
        valueJson(state.get(key)),
      ]);
      return [{ block: state.hash, changes }];
    },
    system_accountNextIndex: nextIndex,
    system_chain: () => "Bittensor",
    system_chainType: () => "Development",
    system_health: () => ({ peers: 0, isSyncing: false, shouldHavePeers: false }),
    system_name: () => "daybreak-devchain",
    system_nodeRoles: () => ["Authority"],
    system_properties: () => ({
      ss58Format: SS58_PREFIX,
      tokenDecimals: TOKEN.decimals,
      tokenSymbol: TOKEN.symbol,
    }),
    system_syncState: () => ({
      startingBlock: 0,
      currentBlock: chain.head().number,
      highestBlock: chain.head().number,
    }),
    system_version: () => "0.1.0",
  };
  return new Map(Object.entries(methods));
}

/** An ss58 address or a public key as hex. @throws RpcError */
function accountParam(value: unknown): Hex {
  const text = textParam(value, "account");
  try {
    return toHex(decodeAddress(text));
  } catch (cause) {
    throw new RpcError(RPC_CODES.invalidParams, `Invalid params: ${(cause as Error).message}`);
  }
}

function stateCall(chain: Chain, name: unknown, input: unknown, state: StateAt): Hex {
  const method = textParam(name, "method");
  const run = runtimeFunctionOf(chain.runtime, method);
  if (run === undefined)
    throw new RpcError(
      STATE_ERROR,
      `Client error: Execution failed: Other: Exported method ${method.slice(0, 100)} is not found`,
    );
  return toHex(scaleParam(() => run(state, fromHex(hexParam(input, "arguments")))));
}

/** Reads SCALE that the caller sent. @throws RpcError */
function scaleParam<T>(read: () => T): T {
  try {
    return read();
  } catch (error) {
    if (!(error instanceof ScaleError)) throw error;
    throw new RpcError(STATE_ERROR, `Client error: Execution failed: ${error.message}`);
  }
}
