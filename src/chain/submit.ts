import assert from "node:assert/strict";
import type { DispatchError } from "@polkadot/types/interfaces";
import type { Logger } from "../runtime/logger.ts";
import { isEvent, readEvents } from "./block-facts.ts";
import type { BlockStates } from "./block-state.ts";
import type { ChainCall } from "./calls.ts";
import { ChainError } from "./chain-error.ts";
import type { Connection } from "./connection.ts";
import { type Found, openExtrinsicSearch } from "./extrinsic-search.ts";
import type { Keypair } from "./keys.ts";
import type { Inclusion, Outbox, OutboxRecord } from "./outbox.ts";
import { type SignedExtrinsic, signExtrinsic } from "./sign-extrinsic.ts";

/** Longest wait for inclusion and finality: an era of 12 s blocks, and half as much again. */
const SUBMIT_TIMEOUT_MS = 20 * 60_000;
/** Signings of one call, each with a fresh nonce and era. */
const ATTEMPTS_MAX = 5;
/** New heads wake the search; this is for when their subscription is gone. */
const POLL_MS = 2_000;
/** Blocks without it after which an extrinsic is sent again: a full pool drops some, and a node that stops forgets all. */
const RESEND_BLOCKS = 10;
/** Calls of one signer that may wait for their nonce. */
const QUEUE_MAX = 256;
/** Purposes whose fate is open. */
const OPEN_PURPOSES_MAX = 1_024;
const PURPOSE_LENGTH_MAX = 200;

/** Refusals that a new nonce or a new era cures. */
const CURABLE: ReadonlySet<string> = new Set([
  "Stale",
  "Future",
  "PriorityTooLow",
  "AncientBirthBlock",
]);

export type WaitFor = "inBlock" | "finalized";

/**
 * Sends one signed call and waits until it has run.
 *
 * @throws ChainError with the name of the module error, dispatch error or pool refusal; "Expired" when its era ended
 * without it being included, so it never will be; "Timeout" when its fate is unknown.
 */
export type Submit = (call: ChainCall, signer: Keypair, waitFor?: WaitFor) => Promise<Inclusion>;

/**
 * As `Submit`, but what `purpose` names runs at most once on this chain, also over restarts when the outbox is a file.
 *
 * The extrinsic is in the outbox before it is sent. While its fate is open, whoever submits its purpose waits for that
 * fate, and nothing else is signed for it, whatever the call; once it has run, its inclusion is returned. A purpose is
 * free again only when the chain has refused the call, or a finalized block shows that it failed or that its era is over.
 *
 * @param purpose 1 to 200 characters.
 * @throws ChainError as `Submit`; after "Timeout", "Closed" and "StateDiscarded" the purpose is not free.
 */
export type SubmitOnce = (
  purpose: string,
  call: ChainCall,
  signer: Keypair,
  waitFor?: WaitFor,
) => Promise<Inclusion>;

export interface Submitter {
  readonly submit: Submit;
  readonly submitOnce: SubmitOnce;
  /** Resolves when nothing is written to the outbox any more. The connection has to be closed before. */
  ended(): Promise<void>;
}

/** How an extrinsic with a purpose is doing. */
interface Course {
  readonly inBlock: Promise<Inclusion>;
  readonly finalized: Promise<Inclusion>;
}

/** What became of an extrinsic. */
type Fate =
  | { readonly kind: "included"; readonly inclusion: Inclusion }
  | { readonly kind: "failed"; readonly error: ChainError };

/**
 * The node's own watch is not used: it is not restored after a reconnect, so a call that waits for it can wait for ever.
 * Instead, blocks are searched for the extrinsic's hash.
 *
 * What the outbox holds from before is followed at once.
 */
export function openSubmitter(options: {
  readonly connection: Connection;
  readonly states: BlockStates;
  readonly outbox: Outbox;
  readonly log: Logger;
}): Submitter {
  const { connection, states, outbox, log } = options;
  const { genesisHash } = connection;
  const find = openExtrinsicSearch(connection, states);
  const queues = new Map<string, { last: Promise<unknown>; length: number }>();
  /** Sent, and not found in a block that counts. */
  const underWay = new Set<SignedExtrinsic>();
  const courses = new Map<string, Course>();

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

  /** Whatever a node says to it, only the blocks tell what became of an extrinsic that has been sent before. */
  const sendAgain = async ({ bytes }: SignedExtrinsic): Promise<void> => {
    await connection.callOnce("author_submitExtrinsic", bytes).catch(() => undefined);
  };

  /** The next nonce as the node sees it, after it has been told of what other nodes may know. */
  const nextNonce = async (address: string): Promise<number> => {
    const ask = async (): Promise<number> =>
      Number(await connection.call("system_accountNextIndex", address));
    const nonce = await ask();
    const unseen = [...underWay]
      .filter((sent) => sent.signer === address && sent.nonce >= nonce)
      .sort((a, b) => a.nonce - b.nonce);
    if (unseen.length === 0) return nonce;
    for (const sent of unseen) await sendAgain(sent);
    return await ask();
  };

  /** @param keep is awaited before anything is sent. */
  const send = async (
    call: ChainCall,
    signer: Keypair,
    keep: (extrinsic: SignedExtrinsic) => Promise<void>,
  ): Promise<SignedExtrinsic> => {
    for (let attempt = 1; ; attempt++) {
      const [signing, anchor, nonce] = await Promise.all([
        states.signingRuntime(),
        states.finalized(),
        nextNonce(signer.address),
      ]);
      const extrinsic = signExtrinsic(signing, call, signer, { anchor, nonce, genesisHash });
      await keep(extrinsic);
      try {
        await connection.callOnce("author_submitExtrinsic", extrinsic.bytes);
        return extrinsic;
      } catch (error) {
        if (!(error instanceof ChainError)) throw error;
        // It has arrived, or may have: the search tells.
        if (!isRefusal(error)) return extrinsic;
        // No node has this one, so that another may take its place.
        const isUpgraded =
          error.name === "BadProof" &&
          (await states.signingRuntime()).specVersion !== signing.specVersion;
        if (attempt >= ATTEMPTS_MAX || !(CURABLE.has(error.name) || isUpgraded)) throw error;
        if (isUpgraded) continue;
        const heads = watchHeads(connection);
        await heads.next().finally(heads.stop);
      }
    }
  };

  const included = async (extrinsic: SignedExtrinsic, waitFor: WaitFor): Promise<Found> => {
    const deadlineMs = performance.now() + SUBMIT_TIMEOUT_MS;
    const searched = new Set<string>();
    let found: Found | undefined;
    let sentAtBlock: number | undefined;
    const heads = watchHeads(connection);
    const stopReconnects = connection.onReconnect(() => {
      sentAtBlock = -Infinity; // a node that forgot it, or another one
    });
    try {
      for (;;) {
        try {
          const finalized = await states.finalized();
          if (found !== undefined && finalized.number >= found.number) {
            if ((await states.hashOf(found.number)) === found.hash) return found;
            found = undefined; // another fork won
            searched.clear();
          }
          const best = await states.best();
          found ??= await find(extrinsic, best, searched);
          if (found !== undefined && waitFor === "inBlock") return found;
          if (found !== undefined && finalized.number >= found.number) continue;
          if (found === undefined && finalized.number > extrinsic.lastBlock) {
            throw new ChainError("Expired", "the call was not included before its era ended");
          }
          sentAtBlock ??= best.number;
          if (found === undefined && best.number >= sentAtBlock + RESEND_BLOCKS) {
            sentAtBlock = best.number;
            await sendAgain(extrinsic);
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
      stopReconnects();
    }
  };

  const fateOf = async (extrinsic: SignedExtrinsic, waitFor: WaitFor): Promise<Fate> => {
    let found: Found;
    try {
      found = await included(extrinsic, waitFor);
    } catch (error) {
      if (error instanceof ChainError && error.name === "Expired") return { kind: "failed", error };
      throw error;
    }
    const error = await failureOf(states, found);
    if (error !== undefined) return { kind: "failed", error };
    return {
      kind: "included",
      inclusion: { blockHash: found.hash, blockNumber: found.number },
    };
  };

  const follow = async (extrinsic: SignedExtrinsic, waitFor: WaitFor): Promise<Inclusion> => {
    underWay.add(extrinsic);
    try {
      const fate = await fateOf(extrinsic, waitFor);
      if (fate.kind === "failed") throw fate.error;
      return fate.inclusion;
    } finally {
      underWay.delete(extrinsic);
    }
  };

  /** Waits for the finalized fate and writes it down. @throws ChainError, after which the record stays if it is unknown. */
  const settle = async (record: OutboxRecord, extrinsic: SignedExtrinsic): Promise<Inclusion> => {
    const { purpose, hash } = record;
    underWay.add(extrinsic);
    try {
      const fate = await fateOf(extrinsic, "finalized");
      if (fate.kind === "failed") {
        await outbox.remove(record);
        log.warn({ purpose, hash, reason: fate.error.name }, "outbox.failed");
        throw fate.error;
      }
      const { bytes: _sent, ...rest } = record;
      await outbox.put({ ...rest, inclusion: fate.inclusion });
      log.debug({ purpose, hash, block: fate.inclusion.blockNumber }, "outbox.included");
      return fate.inclusion;
    } finally {
      underWay.delete(extrinsic);
    }
  };

  const begin = (purpose: string, sending: Promise<SignedExtrinsic>): Course => {
    const inBlock = sending.then((extrinsic) => follow(extrinsic, "inBlock"));
    const finalized = sending.then(async (extrinsic) => {
      await inBlock.catch(() => undefined);
      return await settle({ purpose, genesis: genesisHash, ...extrinsic }, extrinsic);
    });
    const course = { inBlock, finalized };
    courses.set(purpose, course);
    inBlock.catch(() => undefined); // whoever waits for it gets it
    finalized
      .catch((error: unknown) => {
        const reason = error instanceof ChainError ? error.name : "unknown";
        log.debug({ purpose, reason }, "outbox.not_included");
      })
      .finally(() => courses.delete(purpose));
    return course;
  };

  const sendOnce = async (
    purpose: string,
    call: ChainCall,
    signer: Keypair,
  ): Promise<SignedExtrinsic> => {
    let kept: OutboxRecord | undefined;
    try {
      return await send(call, signer, async (extrinsic) => {
        kept = { purpose, genesis: genesisHash, ...extrinsic };
        await outbox.put(kept);
      });
    } catch (error) {
      // Every failure of `send` means that no node has it.
      if (kept !== undefined) await outbox.remove(kept);
      throw error;
    }
  };

  /** Takes up what an earlier process has signed; nothing tells whether it was sent as well. */
  const resume = (record: OutboxRecord): Course => {
    const { purpose, genesis: _chain, inclusion: _none, bytes = "", ...rest } = record;
    const extrinsic = { ...rest, bytes };
    log.info({ purpose, hash: record.hash, nonce: record.nonce }, "outbox.resumed");
    return begin(
      purpose,
      inTurn(record.signer, async () => {
        await sendAgain(extrinsic);
        return extrinsic;
      }),
    );
  };

  for (const record of outbox.records(genesisHash))
    if (record.inclusion === undefined) resume(record);

  return {
    async submit(call, signer, waitFor = "inBlock") {
      const sent = await inTurn(signer.address, () => send(call, signer, async () => undefined));
      return await follow(sent, waitFor);
    },
    async submitOnce(purpose, call, signer, waitFor = "inBlock") {
      assert(
        purpose.length > 0 && purpose.length <= PURPOSE_LENGTH_MAX,
        `a purpose has 1 to ${PURPOSE_LENGTH_MAX} characters`,
      );
      const record = outbox.of(genesisHash, purpose);
      if (record?.inclusion !== undefined) return record.inclusion;
      let course = courses.get(purpose);
      if (course === undefined && courses.size >= OPEN_PURPOSES_MAX)
        throw new ChainError("Overloaded", `${OPEN_PURPOSES_MAX} calls wait for their finality`);
      course ??=
        record === undefined
          ? begin(
              purpose,
              inTurn(signer.address, () => sendOnce(purpose, call, signer)),
            )
          : resume(record);
      return await course[waitFor];
    },
    async ended() {
      await Promise.allSettled([...courses.values()].map(({ finalized }) => finalized));
    },
  };
}

/** @returns the error with which the extrinsic ran; undefined if it succeeded. */
async function failureOf(states: BlockStates, found: Found): Promise<ChainError | undefined> {
  const state = await states.at(found.hash);
  for (const { phase, event } of await readEvents(state)) {
    if (!phase.isApplyExtrinsic || phase.asApplyExtrinsic.toNumber() !== found.index) continue;
    if (isEvent(event, "system", "ExtrinsicSuccess")) return undefined;
    if (isEvent(event, "system", "ExtrinsicFailed")) {
      const name = state.runtime.dispatchErrorName(event.data[0] as DispatchError);
      return new ChainError(name, `the call failed in block ${found.number}: ${name}`);
    }
  }
  throw new ChainError(
    "Unsupported",
    `block ${found.number} does not tell whether the call failed`,
  );
}

/** Whether the node has certainly not taken the extrinsic. Proxies before nodes have error codes of their own. */
function isRefusal({ name }: ChainError): boolean {
  const code = /^Rpc:(-?\d+)$/.exec(name)?.[1];
  if (code === undefined) return !["AlreadyImported", "Timeout", "StateDiscarded"].includes(name);
  // JSON-RPC's own, save "internal error", and those of Substrate's author module.
  return /^(?:-32700|-3260[0-2]|10\d\d)$/.test(code);
}

/** A reconnect or a busy node: worth asking again until the deadline. */
function isPassing(error: unknown): boolean {
  return (
    error instanceof ChainError &&
    ["Disconnected", "Timeout", "Overloaded", "UnknownBlock", "StateDiscarded"].includes(error.name)
  );
}

/** `next` settles when a head has come since it last did, after POLL_MS, or when the connection is closed. It never rejects. */
function watchHeads(connection: Connection): { next(): Promise<void>; stop: () => void } {
  let news = Promise.withResolvers<void>();
  const wake = (): void => news.resolve();
  const stops = (["best", "finalized"] as const).map((kind) => connection.onHeader(kind, wake));
  connection.closed.addEventListener("abort", wake, { once: true });
  let timer: NodeJS.Timeout | undefined;
  return {
    async next() {
      if (connection.closed.aborted) return;
      timer = setTimeout(wake, POLL_MS);
      await news.promise;
      clearTimeout(timer);
      news = Promise.withResolvers();
    },
    stop: () => {
      clearTimeout(timer);
      connection.closed.removeEventListener("abort", wake);
      for (const stop of stops) stop();
    },
  };
}
