import { ApiPromise, WsProvider } from "@polkadot/api";
import type { ApiOptions, SubmittableExtrinsic } from "@polkadot/api/types";
import { Keyring } from "@polkadot/keyring";
import type { KeyringPair } from "@polkadot/keyring/types";
import type { EventRecord } from "@polkadot/types/interfaces";
import { type Devchain, type DevchainOptions, openDevchain } from "../../src/devchain/devchain.ts";

export const TAO = 1_000_000_000n;
/** Longest wait for anything that a test waits for, in milliseconds. */
const DEADLINE_MS = 15_000;

export type Tx = SubmittableExtrinsic<"promise">;

/** An sr25519 key pair by its URI, such as //Alice. */
export function pairOf(uri: string): KeyringPair {
  return new Keyring({ type: "sr25519", ss58Format: 42 }).addFromUri(uri);
}

export const ALICE = pairOf("//Alice");
export const BOB = pairOf("//Bob");

/** An unmodified polkadot-js client. The caller disconnects it. */
export async function connect(url: string): Promise<ApiPromise> {
  return await ApiPromise.create({
    // WsProvider's own typings clash with exactOptionalPropertyTypes (@polkadot/api 16.5.6).
    provider: new WsProvider(url, 100) as NonNullable<ApiOptions["provider"]>,
    noInitWarn: true,
    // They have no bytes; naming them keeps polkadot-js from warning.
    signedExtensions: Object.fromEntries(
      [
        "SudoTransactionExtension",
        "CheckShieldedTxValidity",
        "SubtensorTransactionExtension",
        "DrandPriority",
      ].map((name) => [name, { extrinsic: {}, payload: {} }]),
    ),
  });
}

/** What happened to a transaction. */
export interface Outcome {
  readonly blockHash: string;
  readonly blockNumber: number;
  /** `section.method` of its events, in order. */
  readonly events: readonly string[];
  readonly records: readonly EventRecord[];
  /** Name of the error it failed with. */
  readonly error: string | undefined;
}

export interface LocalClient {
  readonly chain: Devchain;
  readonly api: ApiPromise;
  /** Sends it and waits for its block. */
  readonly send: (tx: Tx, signer: KeyringPair) => Promise<Outcome>;
  /** Sends it over HTTP. @returns the error's data (or message), undefined if it was accepted. */
  readonly refusalOf: (tx: Tx, signer: KeyringPair) => Promise<string | undefined>;
  readonly rpc: (method: string, ...params: unknown[]) => Promise<unknown>;
  /** Disconnects the client and closes the chain. */
  readonly close: () => Promise<void>;
}

/** A chain in memory whose blocks come only with transactions or `produceBlock`, and a client of it. */
export async function openLocalClient(
  options: Partial<DevchainOptions> = {},
): Promise<LocalClient> {
  const chain = await openDevchain({
    host: "127.0.0.1",
    port: 0,
    blockMs: 0,
    tempo: 20,
    finalityLagBlocks: 0,
    endowed: [ALICE, BOB].map(({ address }) => ({ address, rao: 1_000_000n * TAO })),
    ...options,
  });
  return clientOf(chain, await connect(chain.url));
}

export function clientOf(chain: Devchain, api: ApiPromise): LocalClient {
  return {
    chain,
    api,
    async send(tx, signer) {
      const signed = await tx.signAsync(signer, { nonce: -1 });
      const blockHash = await inBlock(signed);
      const at = await api.at(blockHash);
      const { block } = await api.rpc.chain.getBlock(blockHash);
      const index = block.extrinsics.findIndex(({ hash }) => hash.eq(signed.hash));
      const all = (await at.query["system"]?.["events"]?.()) as unknown as EventRecord[];
      const records = [...all].filter(
        ({ phase }) => phase.isApplyExtrinsic && phase.asApplyExtrinsic.eqn(index),
      );
      return {
        blockHash,
        blockNumber: block.header.number.toNumber(),
        events: records.map(({ event }) => `${event.section}.${event.method}`),
        records,
        error: errorOf(api, records),
      };
    },
    async refusalOf(tx, signer) {
      const signed = await tx.signAsync(signer, { nonce: -1 });
      const answer = await post(chain.url, {
        jsonrpc: "2.0",
        id: 1,
        method: "author_submitExtrinsic",
        params: [signed.toHex()],
      });
      const { error } = answer as { error?: { message: string; data?: string } };
      return error === undefined ? undefined : (error.data ?? error.message);
    },
    async rpc(method, ...params) {
      const answer = await post(chain.url, { jsonrpc: "2.0", id: 1, method, params });
      return (answer as { result?: unknown }).result;
    },
    async close() {
      await api.disconnect();
      await chain.close();
    },
  };
}

async function inBlock(signed: Tx): Promise<string> {
  return await withDeadline(
    new Promise((resolve, reject) => {
      signed
        .send(({ status }) => {
          // A block that is final at once is reported as final only.
          if (status.isInBlock) resolve(status.asInBlock.toHex());
          else if (status.isFinalized) resolve(status.asFinalized.toHex());
          else if (status.isInvalid || status.isDropped)
            reject(new Error(`the transaction is ${status.type}`));
        })
        .catch(reject);
    }),
  );
}

function errorOf(api: ApiPromise, records: readonly EventRecord[]): string | undefined {
  const failed = records.find(({ event }) => event.method === "ExtrinsicFailed");
  return failed && errorName(api, failed.event.data[0]);
}

/** The name of a dispatch error in an event. */
export function errorName(api: ApiPromise, error: unknown): string {
  const dispatchError = error as {
    isModule: boolean;
    asModule: Parameters<ApiPromise["registry"]["findMetaError"]>[0];
    toString(): string;
  };
  return dispatchError.isModule
    ? api.registry.findMetaError(dispatchError.asModule).name
    : dispatchError.toString();
}

/** Posts JSON (or, as text, anything) to the chain's HTTP port. */
export async function post(url: string, body: unknown): Promise<unknown> {
  const response = await fetch(url.replace(/^ws/, "http"), {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: typeof body === "string" ? body : JSON.stringify(body),
  });
  return await response.json();
}

/** @throws Error if `promise` takes longer than the deadline. */
export async function withDeadline<T>(promise: Promise<T>): Promise<T> {
  const deadline = AbortSignal.timeout(DEADLINE_MS);
  return await Promise.race([
    promise,
    new Promise<never>((_, reject) => {
      deadline.addEventListener("abort", () => reject(new Error("nothing happened in time")));
    }),
  ]);
}

/** A call by its place in the metadata: `calls.x?.y` without the question marks. */
export function call(api: ApiPromise, section: string, method: string, ...args: unknown[]): Tx {
  const found = api.tx[section]?.[method];
  if (found === undefined) throw new Error(`the chain has no ${section}.${method}`);
  return found(...args);
}

/** A storage value, as plain JSON; numbers beyond 2^53 are hex or text. */
export async function query(
  api: { readonly query: ApiPromise["query"] },
  section: string,
  item: string,
  ...keys: unknown[]
): Promise<unknown> {
  const found = api.query[section]?.[item];
  if (found === undefined) throw new Error(`the chain has no ${section}.${item}`);
  return (await found(...keys)).toJSON();
}

/** Rao that an address has. */
export async function freeOf(
  api: { readonly query: ApiPromise["query"] },
  address: string,
): Promise<bigint> {
  const { data } = (await query(api, "system", "account", address)) as {
    data: { free: string | number };
  };
  return BigInt(data.free);
}

/** Overwrites a storage item with the sudo key, which is Alice's. */
export async function setStorage(
  { api, send }: LocalClient,
  section: string,
  item: string,
  keys: readonly unknown[],
  value: unknown,
): Promise<void> {
  const found = api.query[section]?.[item];
  if (found === undefined) throw new Error(`the chain has no ${section}.${item}`);
  const { type } = found.creator.meta;
  const id = type.isPlain ? type.asPlain : type.asMap.value;
  const encoded = api.registry.createType(api.registry.createLookupType(id), value).toHex(true);
  const set = call(api, "system", "setStorage", [[found.key(...keys), encoded]]);
  const { error, records } = await send(call(api, "sudo", "sudo", set), ALICE);
  const result = records.find(({ event }) => event.method === "Sudid")?.event.data[0]?.toString();
  if (error !== undefined || !(result ?? "").toLowerCase().includes("ok"))
    throw new Error(`set_storage failed: ${error ?? result}`);
}
