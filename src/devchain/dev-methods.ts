/**
 * Methods that no real node has: blocks, storage and time at will, snapshots. Tests use them. They let anyone who reaches the
 * port change everything, so a chain that listens on more than this machine refuses them.
 */
import { isIPv4 } from "node:net";
import type { Chain } from "./chain.ts";
import type { Method } from "./rpc-methods.ts";
import { hexParam, isAbsent, numberParam, RPC_CODES, RpcError } from "./rpc-params.ts";
import { fromHex } from "./scale/bytes.ts";
import { readSnapshotJson, snapshotJson } from "./snapshot-json.ts";

/** Blocks that one call may make. */
const BLOCKS_MAX = 10_000;
/** Keys that one call may set. */
const SET_KEYS_MAX = 10_000;

/** Whether only programs on this machine reach `host`. */
export function isLoopback(host: string): boolean {
  return host === "localhost" || host === "::1" || (isIPv4(host) && host.startsWith("127."));
}

/** @param host that the chain listens on. */
export function devMethods(chain: Chain, host: string): Map<string, Method> {
  const methods: Readonly<Record<string, Method>> = {
    /** `{ count?: 1, stepMs? }`: makes blocks, each `stepMs` of chain time after the one before. @returns the last one's hash. */
    dev_newBlock([options]) {
      const { count, stepMs } = recordParam(options);
      const blocks = isAbsent(count) ? 1 : numberParam(count, "count");
      if (blocks < 1 || blocks > BLOCKS_MAX) throw invalid(`count must be 1 to ${BLOCKS_MAX}`);
      const step = isAbsent(stepMs) ? undefined : BigInt(numberParam(stepMs, "stepMs"));
      for (let made = 0; made < blocks; made++) {
        if (step !== undefined) chain.travelTo(chain.now() + step);
        chain.produce();
      }
      return chain.head().hash;
    },
    /** `[[key, value or null], …]`: sets raw storage in a block of its own. @returns its hash. */
    dev_setStorage([pairs]) {
      if (!Array.isArray(pairs) || pairs.length > SET_KEYS_MAX)
        throw invalid(`a list of at most ${SET_KEYS_MAX} pairs of key and value is expected`);
      const changes = new Map(
        pairs.map((pair: unknown) => {
          if (!Array.isArray(pair) || pair.length !== 2) throw invalid("a pair has key and value");
          const [key, value] = pair as [unknown, unknown];
          const bytes = isAbsent(value) ? undefined : fromHex(hexParam(value, "value"));
          return [hexParam(key, "storage key"), bytes] as const;
        }),
      );
      return chain.produce(changes).hash;
    },
    /** Milliseconds since 1970: the time of the next block, from which time goes on. @returns the same. */
    dev_timeTravel([time]) {
      const ms = numberParam(time, "time in milliseconds");
      if (BigInt(ms) <= chain.now())
        throw invalid(`time must be after that of the newest block, ${chain.now()}`);
      chain.travelTo(BigInt(ms));
      return ms;
    },
    /** The chain after its newest block, to be kept in a file. */
    dev_snapshot: () => snapshotJson(chain.snapshot()),
    /** Takes this chain back to a snapshot of it. What waits in the pool is dropped. @returns the hash of its block. */
    dev_restore([json]) {
      const snapshot = read(() => readSnapshotJson(json));
      if (snapshot.genesis.hash !== chain.genesis.hash)
        throw invalid("the snapshot is of another chain: begin a new one with --snapshot");
      chain.restore(snapshot);
      return chain.head().hash;
    },
  };
  if (isLoopback(host)) return new Map(Object.entries(methods));
  const refuse: Method = () => {
    throw new RpcError(
      RPC_CODES.methodNotFound,
      `dev methods are off while the chain listens on ${host}: let it listen on 127.0.0.1`,
    );
  };
  return new Map(Object.keys(methods).map((name) => [name, refuse]));
}

function invalid(what: string): RpcError {
  return new RpcError(RPC_CODES.invalidParams, `Invalid params: ${what}`);
}

function recordParam(value: unknown): Readonly<Record<string, unknown>> {
  if (isAbsent(value)) return {};
  if (typeof value !== "object" || Array.isArray(value)) throw invalid("an object is expected");
  return value as Readonly<Record<string, unknown>>;
}

/** @throws RpcError with what `work` says. */
function read<T>(work: () => T): T {
  try {
    return work();
  } catch (error) {
    throw invalid((error as Error).message);
  }
}
