import { createHmac } from "node:crypto";
import type { AddressInfo } from "node:net";
import { join } from "node:path";
import type { Policy } from "../attestation/policy.ts";
import { budgetOf, findApiKey } from "../billing/accounts.ts";
import { assignDeposit } from "../billing/assign-deposit.ts";
import { auditLedger } from "../billing/audit.ts";
import type { Deposit } from "../billing/deposit.ts";
import { memoOf } from "../billing/deposit-owner.ts";
import { createDepositQuote, listQuoteUses, openQuoteOf } from "../billing/deposit-quotes.ts";
import {
  type DepositScanner,
  listDeposits,
  listDepositsIn,
  openDepositScanner,
} from "../billing/deposits.ts";
import type { Ledger } from "../billing/ledger.ts";
import type { TaoPrice } from "../billing/price.ts";
import { listTicks } from "../billing/price-ticks.ts";
import { expirePromo, promoBalanceOf } from "../billing/promo.ts";
import { drawStatement } from "../billing/statements.ts";
import type { TreasuryWallets } from "../billing/treasury.ts";
import { readUsage, usageByDay } from "../billing/usage-records.ts";
import {
  createWalletChallenge,
  linkWallet,
  listWallets,
  unlinkWallet,
} from "../billing/wallets.ts";
import {
  listRequestedWithdrawals,
  listWithdrawals,
  rejectWithdrawal,
  requestWithdrawal,
} from "../billing/withdrawals.ts";
import { encodeAnnouncement } from "../core/commitment.ts";
import { RouterError } from "../core/errors.ts";
import { type AccountId, type Hotkey, requestOfGenerationId } from "../core/ids.ts";
import type { SigningKey } from "../core/jws.ts";
import { modelOf } from "../core/models.ts";
import type { Rao } from "../core/money.ts";
import { chainIdOf } from "../core/sign-in-message.ts";
import type { Database } from "../runtime/database.ts";
import { migrateJobs } from "../runtime/job-outbox.ts";
import { type OpenDispatcher, openJobs } from "../runtime/jobs.ts";
import type { Logger } from "../runtime/logger.ts";
import type { Registry } from "../runtime/metrics.ts";
import { type Closable, closeAll } from "../runtime/shutdown.ts";
import type { SideKind } from "../usage-log/side-file.ts";
import { openUsageLogWriter } from "../usage-log/writer.ts";
import { accountAdmin } from "./account-admin.ts";
import { buildGateway } from "./app.ts";
import { type ApiKey, authenticator } from "./auth.ts";
import { claimsSigner } from "./claims-signer.ts";
import type { GatewayConfig } from "./config.ts";
import { gatewayMetrics } from "./gateway-metrics.ts";
import { openGatewayRun } from "./gateway-run.ts";
import { jsonRow } from "./json-row.ts";
import { keyStore } from "./key-store.ts";
import { keyUsageReader } from "./key-usage.ts";
import { leafWriter, payerTags } from "./log-leaf.ts";
import {
  type LogChain,
  type LogPublisher,
  logRootQueue,
  openLogPublisher,
} from "./log-publisher.ts";
import { memoryBudget } from "./memory-budget.ts";
import { type DirectoryChain, openMinerDirectory } from "./miner-directory.ts";
import { minerRouter } from "./miner-router.ts";
import { modelList } from "./model-list.ts";
import type { TopUp } from "./payment-required.ts";
import { quoteBook } from "./quote-book.ts";
import { localRateLimiter, type RateLimit, type RateLimiter } from "./rate-limit.ts";
import { openRecovery } from "./recover-requests.ts";
import { reportSlots } from "./report-slots.ts";
import { announceRunning, newRunKey } from "./running-gateway.ts";
import { requestServer } from "./serve-request.ts";
import { settler } from "./settle-request.ts";
import { logEnds, migrateGateway, sideStore } from "./shared-log.ts";
import { sideFiles } from "./side-files.ts";
import { openValidatorReports, type ReportChain } from "./validator-reports.ts";

/**
 * How often holds of gateways that never came back are freed, and how long after their time, in milliseconds. Promo credit
 * expires as often.
 */
const EXPIRE_INTERVAL_MS = 60_000;
const EXPIRE_GRACE_MS = 600_000;
/** One account may have a quarter of the memory for bodies, so that it cannot shut out the others. */
const ACCOUNT_SHARE_DIVISOR = 4;
const READY_TIMEOUT_MS = 2_000;
/** When to ask again after a price was missing. */
const PRICE_RETRY_SECONDS = 30;
/** A key may send this many seconds' worth of its rate at once. */
const BURST_SECONDS = 10;

/** What the gateway needs from the chain, as plain functions. */
export interface GatewayChain {
  readonly directory: DirectoryChain;
  readonly log: LogChain;
  readonly reports: ReportChain;
  readonly deposits: Parameters<typeof openDepositScanner>[0]["chain"];
  /** Deposit address of an account, from its position under the treasury's public key; 0 is the common address. */
  depositAddressOf(accountIndex: number): string;
  /** Where the operator keeps TAO. */
  readonly treasury: TreasuryWallets;
  /** The address with prefix 42 of the same public key. @throws Error if it is no address. */
  walletAddressOf(address: string): string;
  /** Whether the wallet signed the text, as wallets sign texts. */
  verifySignedText(text: string, signature: Uint8Array, address: string): boolean;
}

export interface GatewayParts {
  readonly config: Pick<
    GatewayConfig,
    | "host"
    | "port"
    | "publicUrl"
    | "data"
    | "markupBps"
    | "allowPrivateRelays"
    | "bodyBytesMax"
    | "headerBytesMax"
    | "requestsMax"
    | "bodyBytesInFlightMax"
    | "requestsPerMinute"
    | "drainMs"
  > & { readonly depositMinimumTao: bigint };
  readonly chain: GatewayChain;
  readonly policy: Policy;
  readonly database: Database;
  readonly ledger: Ledger;
  readonly metrics: Registry;
  readonly signingKey: SigningKey;
  readonly adminKey: string;
  /** Hotkey of the gateway's operator: the subnet owner's. */
  readonly hotkey: Hotkey;
  readonly price: TaoPrice;
  /** Where requests of a key are counted; default: in this process. */
  readonly rateLimiterOf?: ((limit: RateLimit) => RateLimiter) | undefined;
  /** Hands jobs out to several gateways; without one, each does those that it finds. */
  readonly openDispatcher?: OpenDispatcher | undefined;
  readonly log: Logger;
}

/** A running gateway. */
export interface GatewayService extends Closable {
  /** Base URL, without a path. */
  readonly url: string;
}

/** Opens everything of the gateway but the chain and the database, and listens. */
export async function openGatewayService(parts: GatewayParts): Promise<GatewayService> {
  const { config, chain, database, ledger, signingKey, log } = parts;
  const nowMs = Date.now;
  const logDirectory = join(config.data, "log");
  const opened: Closable[] = [];
  const runKey = newRunKey();
  const memory = memoryBudget(config.bodyBytesInFlightMax);
  let underWay = 0;
  let draining = false;
  let publisher: LogPublisher | undefined;
  let scanner: DepositScanner | undefined;
  /** Called when the last request has left. */
  let onIdle: (() => void) | undefined;

  try {
    await migrateJobs(database);
    await migrateGateway(database);
    const run = await openGatewayRun(database, signingKey.kid, log);
    opened.push(run);
    // An embedded database has one process, whose folder has everything.
    const shared = database.kind === "postgres" ? sideStore(database, signingKey.kid) : undefined;
    const writer = await openUsageLogWriter({
      directory: logDirectory,
      origin: logOriginOf(parts),
      key: signingKey,
    });
    const side = sideFiles(logDirectory, shared);
    const keepSide = async (kind: SideKind, name: string, json: string): Promise<void> => {
      await writer.putSide(kind, name, json);
      await shared?.put(kind, name, json);
    };
    const quotes = quoteBook({
      verifySignature: (message, signature, hotkey) =>
        chain.directory.verifySr25519(message, signature, chain.directory.publicKeyHexOf(hotkey)),
      retailOf: (product) => {
        const model = modelOf(product);
        return model?.id === product ? model.retail : undefined;
      },
    });
    const directory = await openMinerDirectory({
      chain: chain.directory,
      policy: parts.policy,
      allowPrivate: config.allowPrivateRelays,
      acceptQuotes: (entry, body) => router.acceptQuotes(entry, body),
      keepEvidence: ({ enclave, evidenceJson }) => keepSide("evidence", enclave, evidenceJson),
      log,
      nowMs,
    });
    opened.push(directory);
    const router = minerRouter({
      directory,
      quotes,
      keepQuote: (hash, quote) => keepSide("quote", hash, JSON.stringify(quote)),
      markupBps: config.markupBps,
      log,
      nowMs,
    });
    const metrics = gatewayMetrics(parts.metrics, {
      requestsUnderWay: () => underWay,
      bodyBytes: memory.used,
      minersServing: () => directory.serving().length,
      depositsHalted: () => (scanner?.halted() === undefined ? 0 : 1),
      depositsBlock: () => scanner?.scannedTo() ?? 0,
    });
    const leafOf = leafWriter(
      claimsSigner("countersign", signingKey),
      payerTags(payerTagSecretOf(signingKey)),
    );
    const settle = settler({ ledger, gatewayKey: signingKey, leafOf, log, nowMs });
    opened.push({
      close: async () => {
        settle.abort();
        await settle.idle();
      },
    });

    const presentRate = (): bigint | undefined => {
      const price = parts.price.present();
      return price.state === "frozen" ? undefined : price.nanoUsdPerTao;
    };
    const topUpOf = async ({ account, accountIndex }: ApiKey): Promise<TopUp> => {
      // A database that does not answer now must not turn a refusal into another error.
      const quote = await openQuoteOf(database, account, nowMs()).catch(() => undefined);
      return {
        gatewayUrl: url,
        genesisHash: chain.directory.genesisHash,
        address: chain.depositAddressOf(accountIndex),
        minimumRao: config.depositMinimumTao,
        nanoUsdPerTao: quote?.nanoUsdPerTao ?? presentRate(),
        quote,
      };
    };
    const serve = requestServer({
      plan: (facts, model, bodyBytes) => router.plan(facts, model, bodyBytes),
      hold: (order) => ledger.hold(order),
      settler: settle,
      started: (candidate, model) => router.started(candidate, model),
      payingEpoch: () => payingEpoch(),
      issuer: parts.hotkey,
      signGrant: claimsSigner("grant", signingKey),
      gatewayKeyId: signingKey.kid,
      markupBps: config.markupBps,
      memory,
      metrics,
      log,
      nowMs,
      topUpOf,
    });
    const payingEpoch = (): number => {
      if (publisher === undefined)
        throw new RouterError("overloaded", "The gateway is starting.", { retryAfterSeconds: 1 });
      return publisher.payingEpoch();
    };
    /** Bytes of bodies that each account has under way. */
    const bodyBytesOf = new Map<AccountId, number>();
    const bodyBytesPerAccountMax = Math.max(
      config.bodyBytesMax,
      Math.floor(config.bodyBytesInFlightMax / ACCOUNT_SHARE_DIVISOR),
    );
    const admit = (account: AccountId, bodyBytes: number): (() => void) => {
      if (draining)
        throw new RouterError("shutting_down", "The gateway is shutting down.", {
          retryAfterSeconds: 5,
        });
      const ofAccount = (bodyBytesOf.get(account) ?? 0) + bodyBytes;
      if (ofAccount > bodyBytesPerAccountMax)
        throw new RouterError("rate_limited", "Too much of this account is under way at once.", {
          retryAfterSeconds: 1,
        });
      if (underWay >= config.requestsMax || !memory.take(bodyBytes))
        throw new RouterError("overloaded", "The gateway is busy.", { retryAfterSeconds: 1 });
      underWay += 1;
      bodyBytesOf.set(account, ofAccount);
      return () => {
        const left = (bodyBytesOf.get(account) ?? 0) - bodyBytes;
        if (left > 0) bodyBytesOf.set(account, left);
        else bodyBytesOf.delete(account);
        underWay -= 1;
        memory.give(bodyBytes);
        if (underWay === 0) onIdle?.();
      };
    };
    const reports = openValidatorReports({
      chain: chain.reports,
      allowPrivate: config.allowPrivateRelays,
      log,
    });
    opened.push(reports);
    const perSecond = config.requestsPerMinute / 60;

    const app = buildGateway({
      log,
      bodyBytesMax: config.bodyBytesMax,
      headerBytesMax: config.headerBytesMax,
      auth: authenticator((hash) => findApiKey(database, hash), [parts.adminKey, runKey]),
      rateLimit: (parts.rateLimiterOf ?? localRateLimiter)({
        perSecond,
        burst: Math.max(1, perSecond * BURST_SECONDS),
      }),
      run: run.tag,
      admit,
      serve,
      accounts: accountAdmin(database, nowMs, (index) => chain.depositAddressOf(index)),
      balanceOf: (account) => ledger.balance(account),
      promoBalanceOf: (account) => promoBalanceOf(database, account),
      depositAddressOf: (index) => chain.depositAddressOf(index),
      rateNanoUsdPerTao: presentRate,
      presentPrice: () => parts.price.present(),
      priceTicks: (fromMs) => listTicks(database, fromMs),
      setPrice: (nanoUsdPerTao) => parts.price.setByHand(nanoUsdPerTao),
      quoteDeposit: (account, nanoUsdPerTao) =>
        createDepositQuote(database, account, nanoUsdPerTao, nowMs()),
      depositMinimumRao: config.depositMinimumTao,
      memoOf,
      depositsOf: async (account) => {
        // What was seen is read first: what is booked meanwhile is then in both lists, not in none.
        const seen = scanner?.seen(account) ?? [];
        const uses = await listQuoteUses(database, account);
        return withSeen(seen, await listDeposits(database, account)).map((deposit) => {
          const use = uses.find((one) => one.deposit === deposit.id);
          return { ...jsonRow(deposit), quote: use === undefined ? null : jsonRow(use) };
        });
      },
      depositsIn: async (state) => (await listDepositsIn(database, state)).map(jsonRow),
      assignDeposit: async (deposit, account, note) => {
        await assignDeposit(database, { deposit, account, note });
        log.warn({ deposit, account }, "deposit.assigned");
      },
      walletAddressOf: (address) => chain.walletAddressOf(address),
      challengeWallet: (account, address) =>
        createWalletChallenge(database, {
          account,
          address,
          url,
          chainId: chainIdOf(chain.deposits.genesisHash),
          nowMs: nowMs(),
        }),
      linkWallet: (account, nonce, signature) =>
        linkWallet(database, {
          account,
          nonce,
          signature,
          url,
          nowMs: nowMs(),
          verify: (text, bytes, address) => chain.verifySignedText(text, bytes, address),
        }),
      walletsOf: (account) => listWallets(database, account),
      unlinkWallet: (account, address) =>
        unlinkWallet(database, { account, address, nowMs: nowMs() }),
      requestWithdrawal: async (account, address, amount) => {
        const rateNanoUsdPerTao = presentRate();
        if (rateNanoUsdPerTao === undefined)
          throw new RouterError("overloaded", "There is no price of TAO right now.", {
            retryAfterSeconds: PRICE_RETRY_SECONDS,
          });
        const minimumRao = config.depositMinimumTao as Rao;
        const order = { account, address, amount, rateNanoUsdPerTao, minimumRao, nowMs: nowMs() };
        return jsonRow(await requestWithdrawal(database, order));
      },
      withdrawalsOf: async (account) => (await listWithdrawals(database, account)).map(jsonRow),
      requestedWithdrawals: async () => (await listRequestedWithdrawals(database)).map(jsonRow),
      rejectWithdrawal: (id, note) => rejectWithdrawal(database, { id, note, nowMs: nowMs() }),
      generationOf: (id, account) => ledger.requestOf(requestOfGenerationId(id) ?? id, account),
      auditLedger: async () =>
        (await auditLedger(database)).map(({ name, value, ok }) => ({
          name,
          value: value.toString(),
          ok,
        })),
      usageOfKey: keyUsageReader(database, nowMs),
      enterReport: reportSlots(),
      usageOf: (account, period, after) => readUsage(database, account, period, after),
      usageByDay: (account, period) => usageByDay(database, account, period),
      statementOf: (account, period) => drawStatement(database, account, period),
      keys: keyStore(database),
      budgetOfKey: (keyId) => budgetOf(database, keyId),
      logDirectory,
      sideFile: async (kind, name) => await shared?.get(kind, name),
      modelList: () => modelList(router.listedModels(), config.markupBps),
      networkReport: () => reports.latest(),
      miners: () => router.miners(),
      payingEpoch,
      networkFacts: () => ({
        netuid: chain.directory.netuid,
        genesis: chain.directory.genesisHash,
        gateway_hotkey: parts.hotkey,
        gateway_key: signingKey.kid,
        log_url: `${url}/log`,
      }),
      metrics: parts.metrics,
      notReady: () => missingOf(ledger, publisher),
    });
    await app.listen({ host: config.host, port: config.port });
    opened.push({
      close: async () => {
        app.server.closeAllConnections();
        await app.close();
      },
    });
    const { port } = app.server.address() as AddressInfo;
    const host = config.host.includes(":") ? `[${config.host}]` : config.host;
    const url = config.publicUrl ?? `http://${host}:${port}`;

    opened.push(announceRunning(config.data, `http://${host}:${port}`, runKey));

    publisher = await openLogPublisher({
      ledger,
      writer,
      ends: logEnds(database, signingKey.kid),
      chain: chain.log,
      announcement: encodeAnnouncement({
        kind: "gateway",
        url,
        log: `${url}/log`,
        key: signingKey.jwk,
      }),
      log,
    });
    opened.push(publisher);
    opened.push(
      await openJobs({
        database,
        queues: [logRootQueue(publisher)],
        openDispatcher: parts.openDispatcher,
        log,
        metrics: parts.metrics,
      }),
    );
    scanner = await openDepositScanner({
      database,
      chain: chain.deposits,
      addressOf: (index) => chain.depositAddressOf(index),
      treasury: chain.treasury,
      rateNanoUsdPerTao: parts.price.rateOf,
      minimumRao: config.depositMinimumTao as Rao,
      log,
    });
    opened.push(scanner);
    opened.push(
      openRecovery({
        openHolds: () => ledger.openHolds(),
        isLive: (request) => settle.isLive(request),
        othersAlive: () => run.others(),
        ledger,
        relays: () => ({
          known: directory.known(),
          all: directory.entries().every(({ relay }) => relay !== undefined),
        }),
        sideFiles: side,
        gatewayKey: signingKey,
        leafOf,
        markupBps: config.markupBps,
        log,
        nowMs,
      }),
    );
    opened.push(expireLoop(ledger, database, log));
    log.info({ url, hotkey: parts.hotkey }, "gateway.ready");

    const drain = async (): Promise<void> => {
      draining = true;
      const deadline = Date.now() + config.drainMs;
      if (underWay > 0) {
        await new Promise<void>((resolve) => {
          const timer = setTimeout(resolve, config.drainMs);
          onIdle = () => {
            clearTimeout(timer);
            resolve();
          };
        });
      }
      await within(settle.idle(), Math.max(0, deadline - Date.now()));
    };
    let closing: Promise<void> | undefined;
    return {
      url,
      close: () =>
        (closing ??= (async () => {
          await drain();
          await closeAll(opened);
        })()),
    };
  } catch (error) {
    await closeAll(opened);
    throw error;
  }
}

/** Name of the log: one per chain, subnet and gateway, whatever its URL. */
function logOriginOf({ chain, hotkey }: GatewayParts): string {
  const { genesisHash, netuid } = chain.directory;
  return `daybreak/${genesisHash.slice(2, 10)}/${netuid}/${hotkey}`;
}

/** Follows from the signing key, so that there is one secret to keep and to back up. */
function payerTagSecretOf(key: SigningKey): Buffer {
  const secret = key.privateKey.export({ type: "pkcs8", format: "der" });
  return createHmac("sha256", secret).update("daybreak/payer-tag/v1").digest();
}

async function missingOf(
  ledger: Ledger,
  publisher: LogPublisher | undefined,
): Promise<readonly string[]> {
  const missing: string[] = [];
  const answered = await within(
    ledger.leafCount().then(
      () => true,
      () => false,
    ),
    READY_TIMEOUT_MS,
  );
  if (answered !== true) missing.push("ledger");
  if (publisher?.announced() !== true) missing.push("announcement");
  return missing;
}

/** @returns undefined when the time is up first. */
async function within<T>(work: Promise<T>, milliseconds: number): Promise<T | undefined> {
  let timer: NodeJS.Timeout | undefined;
  try {
    return await Promise.race([
      work,
      new Promise<undefined>((resolve) => {
        timer = setTimeout(() => resolve(undefined), milliseconds);
      }),
    ]);
  } finally {
    clearTimeout(timer);
  }
}

function expireLoop(ledger: Ledger, database: Database, log: Logger): Closable {
  let running: Promise<void> | undefined;
  const timer = setInterval(() => {
    running ??= ledger
      .expire(Date.now() - EXPIRE_GRACE_MS)
      .then((count) => {
        if (count > 0) log.warn({ count }, "holds.expired");
        return expirePromo(database, Date.now());
      })
      .catch((error: unknown) => log.warn({ err: error }, "holds.expire_failed"))
      .finally(() => {
        running = undefined;
      });
  }, EXPIRE_INTERVAL_MS);
  return {
    close: async () => {
      clearInterval(timer);
      await running;
    },
  };
}

/** Deposits that are only seen, then those that are booked; each once. */
function withSeen(seen: readonly Deposit[], booked: readonly Deposit[]): Deposit[] {
  const ids = new Set(booked.map(({ id }) => id));
  return [...seen.filter(({ id }) => !ids.has(id)), ...booked];
}
