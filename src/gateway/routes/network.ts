import type { FastifyInstance } from "fastify";
import type { PresentPrice } from "../../billing/price.ts";
import type { Hotkey, Uid } from "../../core/ids.ts";
import type { NetworkReport } from "../validator-reports.ts";
import { priceJson } from "./price.ts";

/** A miner as `GET /network/miners` shows it. */
export interface MinerFacts {
  readonly hotkey: Hotkey;
  readonly uid: Uid;
  readonly url: string;
  readonly state: "serving" | "refused" | "unreachable" | "ejected";
  readonly reason: {
    readonly code: string;
    readonly stage: string;
    readonly message: string;
  } | null;
  readonly enclave: string | null;
  readonly kind: string | null;
  readonly security: string | null;
  readonly evidence_block: number | null;
  /** What it sells now: price, quote, health. */
  readonly products: readonly unknown[];
  /** Why its newest quotes were refused, by product. */
  readonly quote_refusals: Readonly<Record<string, string>>;
  readonly last_bad_receipt: { readonly code: string; readonly at: string } | null;
}

export interface NetworkDeps {
  readonly networkReport: () => NetworkReport | undefined;
  readonly miners: () => readonly MinerFacts[];
  readonly payingEpoch: () => number;
  readonly presentPrice: () => PresentPrice;
  /** What is fixed for this gateway: netuid, genesis, hotkey, log URL, key id. */
  readonly networkFacts: () => Readonly<Record<string, string | number>>;
}

/** `GET /network` and `GET /network/miners`: the subnet in public numbers; no key needed. */
export function networkRoutes(app: FastifyInstance, deps: NetworkDeps): void {
  app.get("/network", () => {
    const report = deps.networkReport();
    const last = report?.epochs[0];
    return Promise.resolve({
      data: {
        ...deps.networkFacts(),
        epoch: report?.epoch ?? deps.payingEpoch() - 1,
        block: report?.block ?? null,
        tao_price: priceJson(deps.presentPrice()),
        burn_bps: last?.burnBps ?? report?.chainBurnBps ?? null,
        chain_burn_bps: report?.chainBurnBps ?? null,
        pool_nusd: last?.pool ?? null,
        paid_nusd: last === undefined ? null : sumOf(last.paid),
        owed_nusd: last === undefined ? null : sumOf(last.owed),
        reported_by: report?.validator ?? null,
        epochs: (report?.epochs ?? []).map((epoch) => ({
          epoch: epoch.epoch,
          verdict: epoch.verdict,
          burn_bps: epoch.burnBps,
          pool_nusd: epoch.pool,
          credited_nusd: sumOf(epoch.sums),
          paid_nusd: sumOf(epoch.paid),
          owed_nusd: sumOf(epoch.owed),
          miners: minersOf(epoch),
        })),
      },
    });
  });
  app.get("/network/miners", () => Promise.resolve({ data: deps.miners() }));
}

function sumOf(amounts: Readonly<Record<Hotkey, string>>): string {
  return Object.values<string>(amounts)
    .reduce((sum, amount) => sum + BigInt(amount), 0n)
    .toString();
}

function minersOf(epoch: NetworkReport["epochs"][number]) {
  const hotkeys = new Set([epoch.sums, epoch.paid, epoch.owed].flatMap((map) => Object.keys(map)));
  return [...hotkeys].toSorted().map((key) => {
    const hotkey = key as Hotkey;
    return {
      hotkey,
      credited_nusd: epoch.sums[hotkey] ?? "0",
      paid_nusd: epoch.paid[hotkey] ?? "0",
      owed_nusd: epoch.owed[hotkey] ?? "0",
    };
  });
}
