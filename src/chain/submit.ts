import type { DispatchError } from "@polkadot/types/interfaces";
import { blake2AsHex, blake2AsU8a } from "@polkadot/util-crypto";
import { isEvent, readEvents } from "./block-facts.ts";
import type { BlockStates, Head, SigningRuntime } from "./block-state.ts";
import { headOf } from "./block-state.ts";
import { type ChainCall, encodeCall } from "./calls.ts";
import { ChainError } from "./chain-error.ts";
import type { Connection } from "./connection.ts";
import type { Keypair } from "./keys.ts";

/** Blocks for which a signed extrinsic is valid. Short, since priority is flat and a tip never replaces a stuck one. */
const ERA_BLOCKS = 64;
/** Longest wait for inclusion and finality: an era of 12 s blocks, and half as much again. */
const SUBMIT_TIMEOUT_MS = 20 * 60_000;
/** Signings of one call, each with a fresh nonce and era. */
const ATTEMPTS_MAX = 5;
/** New heads wake the search; this is for when their subscription is gone. */
const POLL_MS = 2_000;
/** Calls of one signer that may wait for their nonce. */
const QUEUE_MAX = 256;
/** Blocks whose extrinsic hashes are remembered for all searches. */
const BLOCKS_KEPT_MAX = 128;
/** A payload longer than this is signed as its hash (`sp-runtime` `SignedPayload`). */
const PAYLOAD_BYTES_MAX = 256;
const SR25519_SIGNATURE = Uint8Array.of(1);
const EXTRINSIC_VERSION = 4;

/** Refusals that a new nonce or a new era cures. */
const CURABLE: ReadonlySet<string> = new Set([
  "Stale",
  "Future",
  "PriorityTooLow",
  "AncientBirthBlock",
]);

/** Refusals of an extrinsic that a block may already hold. */
const ENDED: ReadonlySet<string> = new Set(["Stale", "TemporarilyBanned"]);

/** Where an extrinsic was included. */
export interface Inclusion {
  readonly blockHash: string;
  readonly blockNumber: number;
}

export type WaitFor = "inBlock" | "finalized";

/**
 * Sends one signed call and waits until it has run.
 *
 * @throws ChainError with the name of the module error, dispatch error or pool refusal; "Expired" when its era ended
 * without it being included, so it never will be; "Timeout" when its fate is unknown.
 */
export type Submit = (call: ChainCall, signer: Keypair, waitFor?: WaitFor) => Promise<Inclusion>;

/**
 * The node's own watch is not used: it is not restored after a reconnect, so a call that waits for it can wait for ever.
 * Instead, blocks are searched for the extrinsic's hash.
 */
export function openSubmit(connection: Connection, states: BlockStates): Submit {
  const queues = new Map<string, { last: Promise<unknown>; length: number }>();
  const blocks = new Map<string, Promise<SearchedBlock>>();

  /** Runs the calls of one signer one after another until each is in the pool, so that each gets the next nonce. */
  const inTurn = async <T>(address: string, work: () => Promise<T>): Promise<T> => {
    const queue = queues.get(address) ?? { last: Promise.resolve(), length: 0 };
    if (queue.length >= QUEUE_MAX) {
      throw new ChainError("Overloaded", `${QUEUE_MAX} calls of ${address} wait for their nonce`);
    }
    queues.set(address, queue);
    queue.length += 1;
    const turn = queue.last.then(work);
    queue.last = turn.catch(() => undefined);
    try {
      return await turn;
    } finally {
      queue.length -= 1;
      if (queue.length === 0) queues.delete(address);
    }
  };

  const send = async (call: ChainCall, signer: Keypair): Promise<Sent> => {
    for (let attempt = 1; ; attempt++) {
      // The finalized block is on every fork; if finality lags, what remains of the era is shorter.
      const [signing, anchor, nonce] = await Promise.all([
        states.signingRuntime(),
        states.finalized(),
        connection.call("system_accountNextIndex", signer.address),
      ]);
      const bytes = sign(signing, call, signer, anchor, Number(nonce), connection.genesisHash);
      const sent = { hash: blake2AsHex(bytes, 256), anchor };
      try {
        await connection.call("author_submitExtrinsic", `0x${Buffer.from(bytes).toString("hex")}`);
        return sent;
      } catch (error) {
        if (!(error instanceof ChainError)) throw error;
        // After a reconnect a call is sent twice.
        if (error.name === "AlreadyImported") return sent;
        if (error.name === "Timeout") return sent; // it may have arrived: the search tells
        // So is a second sending of what a block has already taken.
        if (ENDED.has(error.name) && (await isIncluded(sent))) return sent;
        if (!CURABLE.has(error.name) || attempt >= ATTEMPTS_MAX) throw error;
        const heads = watchHeads(connection);
        await heads.next().finally(heads.stop);
      }
    }
  };

  const blockAt = (hash: string): Promise<SearchedBlock> => {
    const block = blocks.get(hash) ?? readBlock(connection, hash);
    blocks.delete(hash);
    blocks.set(hash, block);
    block.catch(() => blocks.delete(hash));
    const [oldest] = blocks.keys();
    if (blocks.size > BLOCKS_KEPT_MAX && oldest !== undefined) blocks.delete(oldest);
    return block;
  };

  /** Walks from the best block back to the anchor or a block of `searched`, so that a reorganisation is seen. */
  const find = async (
    sent: Sent,
    best: Head,
    searched: Set<string>,
  ): Promise<Found | undefined> => {
    let found: Found | undefined;
    let hash = best.hash;
    const walked: string[] = [];
    while (!searched.has(hash) && hash !== sent.anchor.hash) {
      const block = await blockAt(hash);
      if (block.number <= sent.anchor.number) break;
      walked.push(hash);
      const index = block.extrinsics.indexOf(sent.hash);
      if (index >= 0) {
        found = { hash, number: block.number, index };
        break;
      }
      hash = block.parentHash;
    }
    if (found === undefined) for (const each of walked) searched.add(each);
    return found;
  };

  const isIncluded = async (sent: Sent): Promise<boolean> =>
    (await find(sent, await states.best(), new Set())) !== undefined;

  const included = async (sent: Sent, waitFor: WaitFor): Promise<Found> => {
    const deadlineMs = performance.now() + SUBMIT_TIMEOUT_MS;
    const searched = new Set<string>();
    let found: Found | undefined;
    const heads = watchHeads(connection);
    try {
      for (;;) {
        try {
          const finalized = await states.finalized();
          if (found !== undefined && finalized.number >= found.number) {
            if ((await states.hashOf(found.number)) === found.hash) return found;
            found = undefined; // another fork won
            searched.clear();
          }
          found ??= await find(sent, await states.best(), searched);
          if (found !== undefined && waitFor === "inBlock") return found;
          if (found !== undefined && finalized.number >= found.number) continue;
          if (found === undefined && finalized.number > sent.anchor.number + ERA_BLOCKS) {
            throw new ChainError("Expired", "the call was not included before its era ended");
          }
        } catch (error) {
          if (!isPassing(error)) throw error;
        }
        if (performance.now() > deadlineMs) {
          throw new ChainError("Timeout", "it is not known whether the call was included");
        }
        await heads.next();
      }
    } finally {
      heads.stop();
    }
  };

  return async (call, signer, waitFor = "inBlock") => {
    const sent = await inTurn(signer.address, () => send(call, signer));
    const found = await included(sent, waitFor);
    await requireSuccess(states, found);
    return { blockHash: found.hash, blockNumber: found.number };
  };
}

interface Sent {
  readonly hash: string;
  /** Block in which the era begins. */
  readonly anchor: Head;
}

interface Found {
  readonly hash: string;
  readonly number: number;
  readonly index: number;
}

interface SearchedBlock {
  readonly number: number;
  readonly parentHash: string;
  /** Blake2-256 of each extrinsic, 0x-hex. */
  readonly extrinsics: readonly string[];
}

/** The extrinsic's bytes. @throws ChainError "UnknownSignedExtension" */
function sign(
  { runtime, specVersion, transactionVersion }: SigningRuntime,
  call: ChainCall,
  signer: Keypair,
  anchor: Head,
  nonce: number,
  genesisHash: string,
): Uint8Array {
  if (runtime.unknownExtensions.length > 0) {
    throw new ChainError(
      "UnknownSignedExtension",
      `the chain signs more than this version knows: ${runtime.unknownExtensions.join(", ")}`,
    );
  }
  const { registry } = runtime;
  const method = encodeCall(runtime, call);
  const era = registry.createType("ExtrinsicEra", { current: anchor.number, period: ERA_BLOCKS });
  const signed = {
    era: era.toHex(),
    nonce,
    tip: 0,
    mode: 0,
    metadataHash: null,
    specVersion,
    transactionVersion,
    genesisHash,
    blockHash: anchor.hash,
    method: method.toHex(),
  };
  const payload = registry.createType("ExtrinsicPayload", signed, { version: EXTRINSIC_VERSION });
  const bytes = payload.toU8a({ method: true });
  const signature = signer.sign(bytes.length > PAYLOAD_BYTES_MAX ? blake2AsU8a(bytes, 256) : bytes);
  const extrinsic = registry.createType("Extrinsic", method, { version: EXTRINSIC_VERSION });
  extrinsic.addSignature(
    signer.address,
    Buffer.concat([SR25519_SIGNATURE, signature]),
    payload.toHex(),
  );
  return extrinsic.toU8a();
}

/** @throws ChainError if the extrinsic ran and failed. */
async function requireSuccess(states: BlockStates, found: Found): Promise<void> {
  const state = await states.at(found.hash);
  for (const { phase, event } of await readEvents(state)) {
    if (!phase.isApplyExtrinsic || phase.asApplyExtrinsic.toNumber() !== found.index) continue;
    if (isEvent(event, "system", "ExtrinsicSuccess")) return;
    if (isEvent(event, "system", "ExtrinsicFailed")) {
      const name = state.runtime.dispatchErrorName(event.data[0] as DispatchError);
      throw new ChainError(name, `the call failed in block ${found.number}: ${name}`);
    }
  }
  throw new ChainError(
    "Unsupported",
    `block ${found.number} does not tell whether the call failed`,
  );
}

async function readBlock(connection: Connection, hash: string): Promise<SearchedBlock> {
  const answer = await connection.call("chain_getBlock", hash);
  const block = (answer as { block?: { header: unknown; extrinsics: readonly string[] } } | null)
    ?.block;
  if (block === undefined) throw new ChainError("UnknownBlock", `the chain has no block ${hash}`);
  const { number, parentHash } = headOf(block.header);
  const extrinsics = block.extrinsics.map((hex) =>
    blake2AsHex(Buffer.from(hex.slice(2), "hex"), 256),
  );
  return { number, parentHash, extrinsics };
}

/** A reconnect or a busy node: worth asking again until the deadline. */
function isPassing(error: unknown): boolean {
  return (
    error instanceof ChainError &&
    ["Disconnected", "Timeout", "Overloaded", "UnknownBlock", "StateDiscarded"].includes(error.name)
  );
}

/** `next` settles when a head has come since it last did, or after POLL_MS. It never rejects. */
function watchHeads(connection: Connection): { next(): Promise<void>; stop: () => void } {
  let news = Promise.withResolvers<void>();
  const stops = (["best", "finalized"] as const).map((kind) =>
    connection.onHeader(kind, () => news.resolve()),
  );
  let timer: NodeJS.Timeout | undefined;
  return {
    async next() {
      timer = setTimeout(() => news.resolve(), POLL_MS);
      await news.promise;
      clearTimeout(timer);
      news = Promise.withResolvers();
    },
    stop: () => {
      clearTimeout(timer);
      for (const stop of stops) stop();
    },
  };
}
