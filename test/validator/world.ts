import assert from "node:assert/strict";
import { createHash, randomBytes } from "node:crypto";
import { createReadStream } from "node:fs";
import { mkdtemp, rm, stat } from "node:fs/promises";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { encodeAnnouncement, encodeLogRoot, type LogRoot } from "../../src/core/commitment.ts";
import type { Coldkey, EnclaveId, Hotkey, RequestId, Uid } from "../../src/core/ids.ts";
import { type SigningKey, signingKey, verifyingKey } from "../../src/core/jws.ts";
import { CATALOGUE_VERSION, modelOf } from "../../src/core/models.ts";
import { minerAmountOf, priceToJson, type Usage } from "../../src/core/pricing.ts";
import { type PriceQuote, quoteHashOf, type SignedQuote } from "../../src/core/quote.ts";
import { type Countersignature, type Receipt } from "../../src/core/receipt.ts";
import { claimsHashOf } from "../../src/core/signed-claims.ts";
import { openLogger } from "../../src/runtime/logger.ts";
import {
  type EpochFile,
  encodeEpochFile,
  epochFileHashOf,
} from "../../src/usage-log/epoch-file.ts";
import { openUsageLogWriter, type UsageLogWriter } from "../../src/usage-log/writer.ts";
import type { VerifiedEnclave } from "../../src/validator/audit-epoch.ts";
import {
  type ChainHead,
  type EpochLoop,
  openEpochLoop,
  type SubnetView,
  type ValidatorChain,
} from "../../src/validator/epoch-loop.ts";
import type { EpochReport } from "../../src/validator/epoch-report.ts";
import { openLogFetch } from "../../src/validator/log-fetch.ts";
import { LEDGER_PARAMETERS } from "../../src/validator/miner-pay-ledger.ts";
import { stateFile } from "../../src/validator/validator-state.ts";
import { signCountersignature, signReceipt } from "../signed.ts";

/** A model whose output costs 25 USD per million tokens at most. */
export const MODEL = modelOf("anthropic/claude-opus-4-8") ?? assert.fail("the model is listed");
/** Output tokens that earn one USD at the list price. */
export const TOKENS_PER_USD = 40_000;
export const USD = 1_000_000_000n;

export const hash = (text: string) => createHash("sha256").update(text).digest();
/** Looks like an ss58 address, and is nobody's. */
export const hotkeyNamed = (name: string) =>
  `5${hash(name).toString("hex").replaceAll("0", "z").slice(0, 47)}` as Hotkey;

export interface Enclave {
  readonly id: EnclaveId;
  readonly hotkey: Hotkey;
  readonly key: SigningKey;
  readonly quote: SignedQuote;
  seq: number;
}

export const nowSeconds = 1_800_000_000;

export function newEnclave(
  hotkey: Hotkey,
  change: Partial<Omit<PriceQuote, "price">> & { price?: PriceQuote["price"] } = {},
): Enclave {
  const id = randomBytes(32).toString("base64url") as EnclaveId;
  const quote: PriceQuote = {
    v: 1,
    hk: hotkey,
    ek: id,
    prod: MODEL.id,
    route: "direct",
    price: MODEL.retail,
    cap: { rpm: 1, tpm: 1, inflight: 1 },
    nbf: nowSeconds - 600,
    exp: nowSeconds + 600,
    seq: 1,
    min_payout_bps: 0,
    ...change,
  };
  const text = JSON.stringify({ ...quote, price: priceToJson(quote.price) });
  return { id, hotkey, key: signingKey(), seq: 0, quote: signedQuote(text, quote.hk) };
}

/** Stands in for sr25519: the seam is a function. */
export function signedQuote(text: string, hotkey: Hotkey): SignedQuote {
  return { quote: text, sig: hash(`${hotkey} signed ${text}`).toString("hex") };
}

export const isQuoteSigned = ({ quote, sig }: SignedQuote, hotkey: Hotkey) =>
  sig === hash(`${hotkey} signed ${quote}`).toString("hex");

export const verifiedOf = (enclave: Enclave): VerifiedEnclave => ({
  hotkey: enclave.hotkey,
  receiptKey: verifyingKey(enclave.key.jwk) ?? assert.fail(),
  iat: nowSeconds - 3_600,
  exp: nowSeconds + 3_600,
});

export interface LeafChange {
  readonly use?: Usage;
  readonly receipt?: Partial<Receipt>;
  readonly countersignature?: Partial<Countersignature>;
  readonly receiptKey?: SigningKey;
  readonly gatewayKey?: SigningKey;
}

/** A leaf as an honest relay and gateway make it, but for what `change` says. */
export function leafOf(
  enclave: Enclave,
  epoch: number,
  gatewayKey: SigningKey,
  change: LeafChange = {},
): Buffer {
  const b64 = (text: string) => hash(text).toString("base64url");
  const use = change.use ?? { output: TOKENS_PER_USD };
  const receipt: Receipt = {
    v: 1,
    iss: enclave.hotkey,
    aud: gatewayKey.kid,
    ts: nowSeconds * 1_000,
    rid: crypto.randomUUID() as RequestId,
    e: epoch,
    grant: b64("grant"),
    att: enclave.id,
    kind: "sim",
    security: "simulated",
    sealed_by: "gateway",
    model: MODEL.id,
    upm: "m",
    uph: "api.example:443",
    upid: "",
    quote: quoteHashOf(enclave.quote.quote),
    use,
    src: "provider",
    status: "complete",
    req: b64("request"),
    res: b64("response"),
    bytes: { in: 1_000, out: 10_000_000 },
    t: { ttft: 10, dur: 1_000 },
    seq: enclave.seq,
    prev: "",
    ...change.receipt,
  };
  enclave.seq += 1;
  const token = signReceipt(receipt, change.receiptKey ?? enclave.key);
  const countersignature: Countersignature = {
    v: 1,
    receipt: claimsHashOf(token),
    amt: (minerAmountOf(receipt.use, MODEL.retail) ?? 0n).toString(),
    payer_tag: "payer",
    promo: false,
    ...change.countersignature,
  };
  return Buffer.from(
    `${token}\n${signCountersignature(countersignature, change.gatewayKey ?? gatewayKey)}`,
  );
}

export const TEMPO = 20;
const FIRST_BLOCK = 5;
/** `rootDeadlineBlocks(20)`. */
export const DEADLINE = 10;
const POOL_RAO = 20_000_000_000n;
/** With 400 USD per TAO: 20 USD per alpha, a pool of 400 USD. */
const ALPHA_PRICE_RAO = 50_000_000n;
const WAIT_MS = 10_000;

export const OWNER = hotkeyNamed("owner");
export const MINERS = [hotkeyNamed("miner 1"), hotkeyNamed("miner 2"), hotkeyNamed("miner 3")];
export const VALIDATORS = [hotkeyNamed("validator 1"), hotkeyNamed("validator 2")];
const [MINER_1 = OWNER, MINER_2 = OWNER, MINER_3 = OWNER] = MINERS;

export { MINER_1, MINER_2, MINER_3 };

export const blockOf = (epoch: number) => FIRST_BLOCK + epoch * TEMPO;

/** A chain as plain functions, the gateway's log on a real HTTP server, and validators between them. */
export async function openWorld() {
  const directory = await mkdtemp(join(tmpdir(), "daybreak-validator-"));
  const gatewayKey = signingKey();
  const logDirectory = join(directory, "log");
  const writer: UsageLogWriter = await openUsageLogWriter({
    directory: logDirectory,
    origin: "log.example",
    key: gatewayKey,
  });
  const server = createServer((request, response) => {
    world.requests += 1;
    if (world.logIsDown) {
      response.writeHead(503).end();
      return;
    }
    const path = join(logDirectory, decodeURIComponent(request.url ?? "/").replace("/log/", "/"));
    stat(path).then(
      (found) =>
        found.isFile() ? createReadStream(path).pipe(response) : response.writeHead(404).end(),
      () => response.writeHead(404).end(),
    );
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const logUrl = `http://127.0.0.1:${(server.address() as AddressInfo).port}/log`;

  let head = FIRST_BLOCK;
  const listeners = new Set<(head: ChainHead) => void>();
  const commitments: { block: number; fields: Uint8Array[] }[] = [];
  const slots: { fromBlock: number; hotkeys: Hotkey[] }[] = [
    { fromBlock: 0, hotkeys: [OWNER, ...MINERS, ...VALIDATORS] },
  ];
  const weightCalls: { block: number; hotkey: Hotkey; weights: readonly number[] }[] = [];
  const loops: EpochLoop[] = [];
  const fetcher = openLogFetch();
  const enclaves = new Map<EnclaveId, Enclave>();

  const hashAt = (number: number) => `0x${hash(`block ${number}`).toString("hex")}`;
  const numberOf = (blockHash: string) => {
    for (let n = head; n >= 0; n -= 1) if (hashAt(n) === blockHash) return n;
    return assert.fail("a block of this chain");
  };
  const stateAt = (blockHash: string) => {
    const number = numberOf(blockHash);
    assert(number >= world.oldestState, "the state was discarded");
    return number;
  };
  const slotsAt = (block: number) =>
    slots.findLast(({ fromBlock }) => fromBlock <= block)?.hotkeys ?? [];
  const indexAt = (block: number) => Math.max(0, Math.floor((block - FIRST_BLOCK) / TEMPO));
  const subnetAt = (block: number): SubnetView => ({
    ownerHotkey: OWNER,
    ownerColdkey: "owner's coldkey" as Coldkey,
    neurons: slotsAt(block).map((hotkey, uid) => ({
      uid: uid as Uid,
      hotkey,
      coldkey: `${hotkey === OWNER ? "owner" : hotkey}'s coldkey` as Coldkey,
      lastUpdate:
        weightCalls.findLast((call) => call.hotkey === hotkey && call.block <= block)?.block ?? 0,
    })),
    weightsVersionKey: 7n,
    weightsRateLimitBlocks: world.rateLimitBlocks,
    commitRevealEnabled: world.commitReveal,
  });

  const chainFor = (hotkey: Hotkey): ValidatorChain => ({
    finalizedHead: async () => ({ number: head, hash: hashAt(head) }),
    onFinalizedHead: (listener) => {
      listeners.add(listener);
      return () => listeners.delete(listener);
    },
    blockHash: async (number) => (number <= head ? hashAt(number) : undefined),
    epochOf: async (at) => {
      const index = indexAt(stateAt(at));
      return { index, lastEpochBlock: blockOf(index), tempo: TEMPO };
    },
    subnet: async (at) => subnetAt(stateAt(at)),
    // As the chain does: the pool by the last weights that were set before this block, the median being one row.
    minerEmissions: async (at) => {
      const block = stateAt(at);
      const row = weightCalls.findLast((call) => call.block < block)?.weights ?? [1];
      const total = row.reduce((sum, weight) => sum + weight, 0);
      return row.map((weight) => (POOL_RAO * BigInt(weight)) / BigInt(total));
    },
    alphaPriceRao: async (at) => (stateAt(at) >= FIRST_BLOCK ? ALPHA_PRICE_RAO : 0n),
    commitmentFields: async (of, at) => {
      const block = stateAt(at);
      return of === OWNER ? (commitments.findLast((c) => c.block <= block)?.fields ?? []) : [];
    },
    setWeights: async (_epoch, weights, versionKey) => {
      assert.equal(versionKey, 7n);
      if (world.refuseWeights !== undefined) return { ok: false, refusal: world.refuseWeights };
      await world.beforeWeights();
      const block = head + 1;
      weightCalls.push({ block, hotkey, weights });
      world.advanceTo(block);
      return { ok: true, block };
    },
  });

  const world = {
    directory,
    logDirectory,
    gatewayKey,
    writer,
    requests: 0,
    logIsDown: false,
    oldestState: 0,
    rateLimitBlocks: 0,
    commitReveal: false,
    refuseWeights: undefined as string | undefined,
    beforeWeights: async (): Promise<void> => undefined,
    weightCalls,
    /** Leaves of the log so far. */
    size: 0n,

    enclaveOf: (hotkey: Hotkey, change?: Parameters<typeof newEnclave>[1]): Enclave => {
      const enclave = newEnclave(hotkey, change);
      enclaves.set(enclave.id, enclave);
      return enclave;
    },
    leaf: (enclave: Enclave, epoch: number, change?: LeafChange) =>
      leafOf(enclave, epoch, gatewayKey, change),

    /** Appends leaves with what they refer to, and returns the epoch's file. */
    closeEpoch: async (
      epoch: number,
      leaves: readonly Buffer[],
      sums: ReadonlyMap<Hotkey, bigint>,
    ): Promise<EpochFile> => {
      for (const { id, quote } of enclaves.values()) {
        await writer.putSide("evidence", id, `evidence of ${id}`);
        await writer.putSide("quote", quoteHashOf(quote.quote), JSON.stringify(quote));
      }
      const first = writer.size();
      await writer.append(leaves);
      await writer.publishCheckpoint();
      const file: EpochFile = {
        epoch,
        first,
        size: writer.size(),
        root: writer.root(),
        catalogue: CATALOGUE_VERSION,
        sums,
        receipts: leaves.length,
      };
      await writer.putEpoch(epoch, encodeEpochFile(file));
      return file;
    },
    /** Puts the root of an epoch on the chain one block after it ran. */
    commit: (epoch: number, file: EpochFile, change: Partial<LogRoot> = {}): void => {
      const root = {
        epoch,
        size: file.size,
        root: file.root,
        sums: epochFileHashOf(encodeEpochFile(file)),
        ...change,
      };
      commitments.push({
        block: blockOf(epoch) + 1,
        fields: [
          encodeAnnouncement({
            kind: "gateway",
            url: "http://gateway.example",
            log: logUrl,
            key: gatewayKey.jwk,
          }),
          encodeLogRoot(root),
        ],
      });
    },
    /** An epoch as an honest gateway runs it. */
    honestEpoch: async (epoch: number, usd: ReadonlyMap<Enclave, number>): Promise<void> => {
      // No single answer can cost much more than 100 USD and be believed.
      const leaves = [...usd].flatMap(([enclave, amount]) =>
        Array.from({ length: Math.ceil(amount / 100) }, (_, i) =>
          leafOf(enclave, epoch, gatewayKey, {
            use: { output: TOKENS_PER_USD * Math.min(100, amount - 100 * i) },
          }),
        ),
      );
      const sums = new Map<Hotkey, bigint>();
      for (const [{ hotkey }, amount] of usd)
        sums.set(hotkey, (sums.get(hotkey) ?? 0n) + USD * BigInt(amount));
      world.commit(epoch, await world.closeEpoch(epoch, leaves, sums));
    },
    reassignSlot: (uid: number, hotkey: Hotkey, fromBlock = head + 1): void => {
      slots.push({ fromBlock, hotkeys: slotsAt(head).with(uid, hotkey) });
    },
    /** Finalizes blocks. */
    advanceTo: (number: number): void => {
      head = Math.max(head, number);
      for (const listener of listeners) listener({ number: head, hash: hashAt(head) });
    },
    head: () => head,
    openValidator: async (
      name: string,
      hotkey = VALIDATORS[0] ?? OWNER,
      more: Partial<Parameters<typeof openEpochLoop>[0]> = {},
    ): Promise<EpochLoop> => {
      const loop = await openEpochLoop({
        chain: chainFor(hotkey),
        hotkey,
        state: stateFile(join(directory, name), { genesis: "0x00", netuid: 1 }),
        rules: { parameters: LEDGER_PARAMETERS, nanoUsdPerTao: 400n * USD },
        fetchFrom: (url) => fetcher.from(url),
        verifyEnclave: async (id, evidence) => {
          const enclave = enclaves.get(id);
          return enclave && evidence === `evidence of ${id}` ? verifiedOf(enclave) : undefined;
        },
        verifyQuoteSignature: isQuoteSigned,
        log: openLogger("validator", "silent"),
        ...more,
      });
      loops.push(loop);
      return loop;
    },
    close: async () => {
      for (const loop of loops) await loop.close();
      await fetcher.close();
      server.closeAllConnections();
      await new Promise((resolve) => server.close(resolve));
      await rm(directory, { recursive: true, force: true });
    },
  };
  return world;
}

export type World = Awaited<ReturnType<typeof openWorld>>;

/** Waits until `condition` gives a value. */
export async function until<T>(what: string, condition: () => T | undefined): Promise<T> {
  const deadline = performance.now() + WAIT_MS;
  for (;;) {
    const value = condition();
    if (value !== undefined && value !== false) return value;
    assert(performance.now() < deadline, `waited too long for ${what}`);
    await delay(2);
  }
}

/** The report of an epoch, once there is one. */
export async function reportOf(loop: EpochLoop, epoch: number): Promise<EpochReport> {
  return await until(`epoch ${epoch}`, () => loop.reports().find((r) => r.epoch === epoch));
}

/** Waits until the validator has handled the head. */
export async function handled(loop: EpochLoop, world: World): Promise<void> {
  await until("the head to be handled", () => loop.handledBlock() >= world.head() || undefined);
}
