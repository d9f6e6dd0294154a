import { randomBytes, randomInt } from "node:crypto";
import { EvidenceError, parseEvidence } from "../attestation/evidence.ts";
import type { Policy } from "../attestation/policy.ts";
import { type VerifiedEvidence, verifyEvidence } from "../attestation/verify-evidence.ts";
import { parseAnnouncement } from "../core/commitment.ts";
import type { Coldkey, Hotkey, Netuid, Uid } from "../core/ids.ts";
import type { Logger } from "../runtime/logger.ts";
import type { Closable } from "../runtime/shutdown.ts";
import { AddressRefused } from "./outbound-address.ts";
import {
  askUnverifiedRelay,
  openRelayConnection,
  type RelayConnection,
  WrongTlsKey,
} from "./relay-connection.ts";

const EVIDENCE_TIMEOUT_MS = 5_000;
const EVIDENCE_BYTES_MAX = 256 * 1_024;
const QUOTES_BYTES_MAX = 256 * 1_024;
/** Least time between two readings of the chain; blocks of a local network come faster. */
const SCAN_INTERVAL_MS = 1_000;
const QUOTES_INTERVAL_MS = 10_000;
/** Relays that are asked at the same time. */
const CONCURRENCY_MAX = 16;
/** Relays that are remembered; a subnet has at most 256 neurons, give or take. */
const RELAYS_MAX = 4_096;
const RETRY_FIRST_MS = 500;
const RETRY_MAX_MS = 60_000;
/** Part of the evidence's life after which it is renewed, in percent: a random one of these, so that relays spread. */
const RENEW_PERCENT_MIN = 60;
const RENEW_PERCENT_MAX = 80;

export interface BlockHead {
  readonly number: number;
  readonly hash: string;
}

/** What the directory needs from the chain. */
export interface DirectoryChain {
  readonly genesisHash: string;
  readonly netuid: Netuid;
  finalizedHead(): Promise<BlockHead>;
  /** Tells every newest finalized head. @returns a function that stops it. */
  onFinalizedHead(listener: (head: BlockHead) => void): () => void;
  blockHash(number: number): Promise<string | undefined>;
  neurons(
    atHash: string,
  ): Promise<readonly { readonly uid: Uid; readonly hotkey: Hotkey; readonly coldkey: Coldkey }[]>;
  commitments(
    atHash: string,
  ): Promise<ReadonlyMap<Hotkey, { readonly fields: readonly Uint8Array[] }>>;
  publicKeyHexOf(hotkey: Hotkey): string;
  verifySr25519(message: Uint8Array, signature: Uint8Array, publicKeyHex: string): boolean;
}

/** Why a relay gets no traffic. Codes of evidence are those of `REASONS`. */
export interface RelayReason {
  readonly code: string;
  readonly stage: string;
  readonly message: string;
}

/** A neuron that announced a relay, and what the gateway thinks of it. */
export interface DirectoryEntry {
  readonly hotkey: Hotkey;
  readonly uid: Uid;
  readonly coldkey: Coldkey;
  readonly url: string;
  readonly state: "serving" | "refused" | "unreachable";
  readonly reason: RelayReason | undefined;
  /** The relay's attested side, while its evidence is fresh. */
  readonly relay: RelayConnection | undefined;
  /** The last evidence that passed, fresh or not. */
  readonly evidence: VerifiedEvidence | undefined;
}

export interface MinerDirectory extends Closable {
  entries(): readonly DirectoryEntry[];
  /** Relays that may get a request at this moment. */
  serving(): readonly (DirectoryEntry & { readonly relay: RelayConnection })[];
  /** Connections to every relay that was verified at least once since the start; receipts may be pulled from any. */
  known(): readonly RelayConnection[];
  /** Reads the chain and asks every relay that is due, now. Resolves when all have answered or timed out. */
  refresh(): Promise<void>;
}

interface MinerDirectoryOptions {
  readonly chain: DirectoryChain;
  readonly policy: Policy;
  readonly allowPrivate: boolean;
  /** Takes a verified relay's answer to `GET /v1/quotes`. */
  readonly acceptQuotes: (entry: DirectoryEntry, body: Buffer) => void | Promise<void>;
  /** Keeps evidence that passed, for those who check receipts later. A relay serves only once this is done. */
  readonly keepEvidence: (evidence: VerifiedEvidence) => Promise<void>;
  readonly log: Logger;
  readonly nowMs: () => number;
}

interface RelayRecord extends Omit<DirectoryEntry, "state" | "relay"> {
  uid: Uid;
  coldkey: Coldkey;
  state: DirectoryEntry["state"];
  reason: RelayReason | undefined;
  relay: RelayConnection | undefined;
  evidence: VerifiedEvidence | undefined;
  busy: boolean;
  failures: number;
  /** Not asked again before this time. */
  retryMs: number;
  /** Renewed once the chain or the clock has passed these. */
  renewBlock: number;
  renewMs: number;
  quotesMs: number;
}

/** Follows the announcements on the chain and keeps one verified connection per relay. Reads the chain before it resolves. */
export async function openMinerDirectory(options: MinerDirectoryOptions): Promise<MinerDirectory> {
  const { chain, policy, log, nowMs } = options;
  const records = new Map<Hotkey, RelayRecord>();
  let head = await chain.finalizedHead();
  let scannedMs = Number.NEGATIVE_INFINITY;
  let scanning: Promise<void> | undefined;
  let closed = false;

  const isFresh = (evidence: VerifiedEvidence): boolean =>
    nowMs() < evidence.expiresMs && head.number - evidence.block <= policy.maxAgeBlocks;

  const entryOf = (record: RelayRecord): DirectoryEntry => {
    const { hotkey, uid, coldkey, url, evidence } = record;
    const serves = record.relay !== undefined && evidence !== undefined && isFresh(evidence);
    const isStale = !serves && record.state === "serving";
    // Written out in one piece: it is made for every miner and request, and spreads would cost a microsecond each.
    return {
      hotkey,
      uid,
      coldkey,
      url,
      evidence,
      state: serves ? "serving" : isStale ? "refused" : record.state,
      reason: serves ? undefined : isStale ? STALE : record.reason,
      relay: serves ? record.relay : undefined,
    };
  };

  const retire = (record: RelayRecord): void => {
    const old = record.relay;
    record.relay = undefined;
    // Requests that run on it may end; new ones go elsewhere.
    old?.drain().catch(() => undefined);
  };

  const scan = async (): Promise<void> => {
    const at = head;
    const [neurons, commitments] = await Promise.all([
      chain.neurons(at.hash),
      chain.commitments(at.hash),
    ]);
    const seen = new Set<Hotkey>();
    for (const { hotkey, uid, coldkey } of neurons.slice(0, RELAYS_MAX)) {
      const field = commitments.get(hotkey)?.fields[0];
      const announcement = field === undefined ? undefined : parseAnnouncement(field);
      if (announcement?.kind !== "relay") continue;
      seen.add(hotkey);
      const known = records.get(hotkey);
      if (known !== undefined && known.url === announcement.url) {
        known.uid = uid;
        known.coldkey = coldkey;
        continue;
      }
      if (known !== undefined) retire(known);
      records.set(hotkey, freshRecord(hotkey, uid, coldkey, announcement.url));
    }
    for (const [hotkey, record] of records) {
      if (seen.has(hotkey)) continue;
      retire(record);
      records.delete(hotkey);
    }
    scannedMs = nowMs();
  };

  const isDueForEvidence = (record: RelayRecord): boolean =>
    record.relay === undefined ||
    record.evidence === undefined ||
    head.number >= record.renewBlock ||
    nowMs() >= record.renewMs;

  const attest = async (record: RelayRecord): Promise<void> => {
    if (!record.url.startsWith("https://")) throw new UrlRefused();
    const nonce = randomBytes(32).toString("hex");
    const answer = await askUnverifiedRelay(record.url, `/v1/attestation?nonce=${nonce}`, {
      timeoutMs: EVIDENCE_TIMEOUT_MS,
      bytesMax: EVIDENCE_BYTES_MAX,
      allowPrivate: options.allowPrivate,
    });
    if (answer.status !== 200) throw new Error(`the relay answered ${answer.status}`);
    const { block } = parseEvidence(answer.body).evidence.fresh;
    // A relay may know a newer block than this process has been told of.
    if (block > head.number) head = newer(head, await chain.finalizedHead());
    const hash = block <= head.number ? await chain.blockHash(block) : undefined;
    const evidence = verifyEvidence(answer.body, {
      policy,
      expected: {
        net: chain.genesisHash,
        netuid: chain.netuid,
        hotkeyPublicKeyHex: chain.publicKeyHexOf(record.hotkey),
        tlsSpki: answer.tlsSpki,
      },
      nonce,
      blockHashOf: (number) => (number === block ? hash : undefined),
      headBlock: head.number,
      nowMs: nowMs(),
      verifyHotkeySignature: (message, signature, key) =>
        chain.verifySr25519(message, signature, key),
    });
    await options.keepEvidence(evidence);
    if (closed || records.get(record.hotkey) !== record) return;
    if (record.relay === undefined || record.relay.peer.enclave !== evidence.enclave) {
      retire(record);
      const { allowPrivate } = options;
      record.relay = openRelayConnection(record.url, evidence, { allowPrivate });
      record.quotesMs = 0;
      log.info({ hotkey: record.hotkey, security: evidence.security }, "relay.verified");
    }
    record.evidence = evidence;
    record.failures = 0;
    const life = randomInt(RENEW_PERCENT_MIN, RENEW_PERCENT_MAX + 1) / 100;
    record.renewBlock = evidence.block + Math.max(1, Math.floor(policy.maxAgeBlocks * life));
    record.renewMs = nowMs() + (evidence.expiresMs - nowMs()) * life;
  };

  const fetchQuotes = async (record: RelayRecord): Promise<void> => {
    const { relay } = record;
    if (relay === undefined || nowMs() < record.quotesMs) return;
    record.quotesMs = nowMs() + QUOTES_INTERVAL_MS;
    const answer = await relay.ask(
      { method: "GET", path: "/v1/quotes", headers: {} },
      { timeoutMs: EVIDENCE_TIMEOUT_MS, bytesMax: QUOTES_BYTES_MAX },
    );
    if (answer.status !== 200) throw new Error(`the relay answered ${answer.status} for quotes`);
    await options.acceptQuotes(entryOf(record), answer.body);
  };

  const fail = (record: RelayRecord, error: unknown): void => {
    record.failures += 1;
    const backoffMs = Math.min(RETRY_FIRST_MS * 2 ** (record.failures - 1), RETRY_MAX_MS);
    record.retryMs = nowMs() + backoffMs * (0.75 + Math.random() / 2);
    const reason = reasonOf(error);
    const isFinding = reason.stage !== "network";
    // A finding is final. Trouble with the network is borne for as long as the last evidence is good.
    if (isFinding || record.evidence === undefined || !isFresh(record.evidence)) {
      retire(record);
      record.state = isFinding ? "refused" : "unreachable";
      if (record.reason?.code !== reason.code)
        log.warn({ hotkey: record.hotkey, code: reason.code }, "relay.refused");
      record.reason = reason;
    }
  };

  const visit = async (record: RelayRecord): Promise<void> => {
    record.busy = true;
    try {
      if (isDueForEvidence(record)) await attest(record);
      await fetchQuotes(record);
      // Only with its prices known does a relay serve: who sees that state may count on its products.
      if (record.relay !== undefined) {
        record.state = "serving";
        record.reason = undefined;
      }
    } catch (error) {
      if (!closed) fail(record, error);
    } finally {
      record.busy = false;
    }
  };
  const visits = new Set<Promise<void>>();
  const startVisits = (force: boolean): void => {
    for (const record of records.values()) {
      if (visits.size >= CONCURRENCY_MAX) return;
      if (record.busy) continue;
      const isDue =
        (force && record.relay === undefined) ||
        (nowMs() >= record.retryMs && (isDueForEvidence(record) || nowMs() >= record.quotesMs));
      if (!isDue) continue;
      const visiting = visit(record).finally(() => {
        visits.delete(visiting);
        if (!closed) startVisits(false);
      });
      visits.add(visiting);
    }
  };
  const round = async (force: boolean): Promise<void> => {
    if (closed) return;
    if (force || nowMs() - scannedMs >= SCAN_INTERVAL_MS) {
      try {
        await scan();
      } catch (error) {
        log.warn({ err: error }, "directory.scan_failed");
      }
    }
    if (!closed) startVisits(force);
  };
  /** One reading of the chain at a time. Relays are asked on the side, so that a slow one holds up no other. */
  const turn = async (force: boolean): Promise<void> => {
    scanning ??= round(force).finally(() => {
      scanning = undefined;
    });
    await scanning;
  };

  const stop = chain.onFinalizedHead((next) => {
    head = newer(head, next);
    turn(false).catch(() => undefined);
  });
  // Blocks drive the work; the timer serves relays that failed a moment ago and quotes that age.
  const timer = setInterval(() => {
    turn(false).catch(() => undefined);
  }, SCAN_INTERVAL_MS);
  await scan();
  turn(false).catch(() => undefined);

  return {
    entries: () => [...records.values()].map(entryOf),
    serving: () => [...records.values()].map(entryOf).filter(isServing),
    known: () =>
      [...records.values()].flatMap((record) => (record.relay === undefined ? [] : [record.relay])),
    refresh: async () => {
      await scanning;
      await turn(true);
      await Promise.all(visits);
    },
    close: async () => {
      if (closed) return;
      closed = true;
      stop();
      clearInterval(timer);
      await Promise.all([...records.values()].flatMap(({ relay }) => relay?.close() ?? []));
      await scanning?.catch(() => undefined);
      await Promise.all(visits);
      records.clear();
    },
  };
}

function isServing(
  entry: DirectoryEntry,
): entry is DirectoryEntry & { readonly relay: RelayConnection } {
  return entry.state === "serving" && entry.relay !== undefined;
}

function freshRecord(hotkey: Hotkey, uid: Uid, coldkey: Coldkey, url: string): RelayRecord {
  return {
    hotkey,
    uid,
    coldkey,
    url,
    state: "unreachable",
    reason: { code: "network/not-asked", stage: "network", message: "not asked yet" },
    relay: undefined,
    evidence: undefined,
    busy: false,
    failures: 0,
    retryMs: 0,
    renewBlock: 0,
    renewMs: 0,
    quotesMs: 0,
  };
}

const STALE: RelayReason = {
  code: "fresh/stale",
  stage: "fresh",
  message: "the evidence has expired",
};

function newer(a: BlockHead, b: BlockHead): BlockHead {
  return b.number > a.number ? b : a;
}

/** Prompts travel over TLS or not at all. */
class UrlRefused extends Error {
  constructor() {
    super("the announced URL does not start with https://");
  }
}

function reasonOf(error: unknown): RelayReason {
  if (error instanceof UrlRefused)
    return { code: "policy/url", stage: "policy", message: error.message };
  if (error instanceof EvidenceError)
    return { code: error.code, stage: error.stage, message: error.message };
  if (error instanceof WrongTlsKey)
    return { code: "binding/tls-key", stage: "binding", message: error.message };
  if (error instanceof AddressRefused)
    return { code: "policy/address", stage: "policy", message: error.message };
  // The text of other errors may hold addresses of the gateway's own network.
  return { code: "network/unreachable", stage: "network", message: "the relay does not answer" };
}
