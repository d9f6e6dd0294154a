import { connect as connectTcp } from "node:net";
import { connect as connectTls } from "node:tls";
import { Agent, type buildConnector, request } from "undici";
import { parseAnnouncement } from "../core/commitment.ts";
import { type Hotkey, hotkeyOf } from "../core/ids.ts";
import type { Logger } from "../runtime/logger.ts";
import type { Closable } from "../runtime/shutdown.ts";
import { outboundOptions } from "./outbound-address.ts";

const REFRESH_INTERVAL_MS = 5_000;
const FETCH_TIMEOUT_MS = 5_000;
const REPORT_BYTES_MAX = 1_048_576;
/** Epochs that are shown. */
const EPOCHS_MAX = 20;
/** Validators that are asked, those with the most stake first. */
const VALIDATORS_MAX = 16;

/** One epoch as a validator reports it. Amounts are nano-USD. */
export interface NetworkEpoch {
  readonly epoch: number;
  readonly verdict: string;
  readonly burnBps: number;
  readonly pool: string;
  /** By hotkey: credited in this epoch, paid so far, open. */
  readonly sums: Readonly<Record<Hotkey, string>>;
  readonly paid: Readonly<Record<Hotkey, string>>;
  readonly owed: Readonly<Record<Hotkey, string>>;
}

/** What the subnet did lately, as far as this gateway can tell. */
export interface NetworkReport {
  /** Epochs that have run. */
  readonly epoch: number;
  readonly block: number;
  /** Share of the last epoch's miner emission that went to the owner's slot, in basis points, as the chain has it. */
  readonly chainBurnBps: number;
  /** The validator whose report is shown, and its epochs, newest first. */
  readonly validator: { readonly hotkey: Hotkey; readonly url: string } | undefined;
  readonly epochs: readonly NetworkEpoch[];
}

export interface ReportChain {
  readonly metagraph: () => Promise<{
    readonly block: number;
    readonly blockHash: string;
    readonly epochIndex: number;
    readonly ownerHotkey: Hotkey;
    readonly neurons: readonly {
      readonly hotkey: Hotkey;
      readonly stakeRao: bigint;
      readonly incentive: number;
    }[];
  }>;
  readonly commitments: (
    atHash: string,
  ) => Promise<ReadonlyMap<Hotkey, { readonly fields: readonly Uint8Array[] }>>;
}

export interface ValidatorReports extends Closable {
  /** The newest report; undefined until the chain was read once. */
  latest(): NetworkReport | undefined;
}

/**
 * Reads the chain and the report of the validator with the most stake, every few seconds. It is shown, and nothing is
 * decided by it.
 */
export function openValidatorReports(options: {
  readonly chain: ReportChain;
  readonly allowPrivate: boolean;
  readonly log: Logger;
}): ValidatorReports {
  const agent = new Agent({
    connect: publicConnector(options.allowPrivate),
    connections: 2,
    allowH2: false,
  });
  let latest: NetworkReport | undefined;
  let busy: Promise<void> | undefined;
  let closed = false;

  const refresh = async (): Promise<void> => {
    const graph = await options.chain.metagraph();
    const commitments = await options.chain.commitments(graph.blockHash);
    const reports = graph.neurons
      .toSorted((a, b) => (a.stakeRao < b.stakeRao ? 1 : a.stakeRao > b.stakeRao ? -1 : 0))
      .flatMap(({ hotkey }) => {
        const field = commitments.get(hotkey)?.fields[0];
        const announcement = field === undefined ? undefined : parseAnnouncement(field);
        return announcement?.kind === "validator" ? [{ hotkey, url: announcement.url }] : [];
      })
      .slice(0, VALIDATORS_MAX);
    let validator: NetworkReport["validator"];
    let epochs: readonly NetworkEpoch[] = [];
    for (const candidate of reports) {
      const found = await epochsOf(agent, candidate.url);
      if (found === undefined) continue;
      validator = candidate;
      epochs = found;
      break;
    }
    const owner = graph.neurons.find(({ hotkey }) => hotkey === graph.ownerHotkey);
    const total = graph.neurons.reduce((sum, { incentive }) => sum + incentive, 0);
    latest = {
      epoch: graph.epochIndex,
      block: graph.block,
      chainBurnBps: total === 0 ? 0 : Math.round(((owner?.incentive ?? 0) * 10_000) / total),
      validator,
      epochs,
    };
  };
  const turn = (): void => {
    if (closed) return;
    busy ??= refresh()
      .catch((error: unknown) => options.log.debug({ err: error }, "network.report_failed"))
      .finally(() => {
        busy = undefined;
      });
  };
  const timer = setInterval(turn, REFRESH_INTERVAL_MS);
  turn();
  return {
    latest: () => latest,
    close: async () => {
      if (closed) return;
      closed = true;
      clearInterval(timer);
      await agent.destroy();
      await busy;
    },
  };
}

/** Plain or TLS sockets to public addresses only; certificates are checked as usual. */
function publicConnector(allowPrivate: boolean): buildConnector.connector {
  return ({ hostname, port, protocol, servername }, callback) => {
    try {
      const host = hostname.replace(/^\[|\]$/g, "");
      const options = outboundOptions(hostname, allowPrivate);
      const isTls = protocol === "https:";
      const socket = isTls
        ? connectTls({
            host,
            port: port === "" ? 443 : Number(port),
            ...(servername === undefined ? {} : { servername }),
            ALPNProtocols: ["http/1.1"],
            ...options,
          })
        : connectTcp({ host, port: port === "" ? 80 : Number(port), ...options });
      const timer = setTimeout(
        () => socket.destroy(new Error("no connection in time")),
        FETCH_TIMEOUT_MS,
      );
      const fail = (error: Error): void => {
        clearTimeout(timer);
        callback(error, null);
      };
      socket.once("error", fail);
      socket.once(isTls ? "secureConnect" : "connect", () => {
        clearTimeout(timer);
        socket.off("error", fail);
        callback(null, socket);
      });
    } catch (error) {
      callback(error instanceof Error ? error : new Error("cannot connect"), null);
    }
  };
}

/** @returns undefined if the validator does not answer, or not with epochs. */
async function epochsOf(agent: Agent, url: string): Promise<NetworkEpoch[] | undefined> {
  try {
    const { statusCode, body } = await request(`${url.replace(/\/+$/, "")}/v1/epochs`, {
      dispatcher: agent,
      headersTimeout: FETCH_TIMEOUT_MS,
      bodyTimeout: FETCH_TIMEOUT_MS,
      signal: AbortSignal.timeout(FETCH_TIMEOUT_MS * 2),
    });
    const chunks: Buffer[] = [];
    let bytes = 0;
    for await (const chunk of body as AsyncIterable<Buffer>) {
      bytes += chunk.length;
      if (bytes > REPORT_BYTES_MAX) return undefined;
      chunks.push(chunk);
    }
    if (statusCode !== 200) return undefined;
    return parseEpochs(JSON.parse(Buffer.concat(chunks).toString("utf8")));
  } catch {
    return undefined;
  }
}

/** Reads what a validator says about its epochs, newest first. @returns undefined if it is not a list of epochs. */
export function parseEpochs(json: unknown): NetworkEpoch[] | undefined {
  const list = (json as { epochs?: unknown } | null)?.epochs;
  if (!Array.isArray(list)) return undefined;
  return (list as readonly unknown[])
    .flatMap((item) => {
      const epoch = epochOf(item);
      return epoch === undefined ? [] : [epoch];
    })
    .toSorted((a, b) => b.epoch - a.epoch)
    .slice(0, EPOCHS_MAX);
}

function epochOf(json: unknown): NetworkEpoch | undefined {
  if (typeof json !== "object" || json === null) return undefined;
  const { epoch, verdict, burn_bps, pool_nusd, sums, paid, owed } = json as Record<string, unknown>;
  if (!Number.isSafeInteger(epoch) || typeof verdict !== "string" || verdict.length > 40)
    return undefined;
  if (!Number.isInteger(burn_bps) || (burn_bps as number) < 0 || (burn_bps as number) > 10_000)
    return undefined;
  if (!isAmount(pool_nusd)) return undefined;
  return {
    epoch: epoch as number,
    verdict,
    burnBps: burn_bps as number,
    pool: pool_nusd,
    sums: amountsOf(sums),
    paid: amountsOf(paid),
    owed: amountsOf(owed),
  };
}

function isAmount(value: unknown): value is string {
  return typeof value === "string" && /^-?\d{1,30}$/.test(value);
}

function amountsOf(json: unknown): Record<Hotkey, string> {
  const amounts: Record<Hotkey, string> = {};
  if (typeof json !== "object" || json === null) return amounts;
  for (const [key, value] of Object.entries(json)) {
    const hotkey = hotkeyOf(key);
    if (hotkey !== undefined && isAmount(value)) amounts[hotkey] = value;
  }
  return amounts;
}
