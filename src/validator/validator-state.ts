import { open, readFile, rename } from "node:fs/promises";
import { dirname, join } from "node:path";
import type { Hotkey } from "../core/ids.ts";
import { makeFolder } from "../runtime/make-folder.ts";
import { ConfigError } from "../runtime/settings.ts";
import type { Edge } from "../usage-log/tree.ts";
import type { SeenReceipt } from "./audit-epoch.ts";
import type { EpochReport } from "./epoch-report.ts";
import {
  EMPTY_LEDGER,
  type LedgerState,
  ledgerFromJson,
  ledgerToJson,
} from "./miner-pay-ledger.ts";
import type { ProbeSummary } from "./probe.ts";

/** Reports that are kept. */
export const REPORTS_MAX = 50;
/** Probe summaries that are kept: an epoch is reported when the probes of the next have begun. */
export const PROBES_KEPT = 3;

/** Weights that were decided and are not on the chain yet. */
export interface PendingWeights {
  readonly epoch: number;
  /** By uid. */
  readonly weights: readonly number[];
  /** Who had each uid when the weights were decided. */
  readonly hotkeys: readonly Hotkey[];
}

/** All that a validator remembers. */
export interface ValidatorState {
  /** The last epoch that was processed. */
  readonly epoch: number;
  /** Its price, nano-USD per alpha. */
  readonly price: bigint;
  readonly ledger: LedgerState;
  /** The log as far as its roots were on the chain, and the id of the key that signed it. */
  readonly log: { readonly kid: string; readonly edge: Edge } | undefined;
  readonly seen: readonly SeenReceipt[];
  readonly paid: ReadonlyMap<Hotkey, bigint>;
  /** Oldest first. */
  readonly reports: readonly EpochReport[];
  readonly pending: PendingWeights | undefined;
  /** Block of the last set_weights; 0 before the first. */
  readonly weightsBlock: number;
  /** Oldest first: those of the epochs that are not reported yet, and the newest. */
  readonly probes: readonly ProbeSummary[];
}

/** A validator that has seen nothing, just before its first epoch. */
export function newState(firstEpoch: number): ValidatorState {
  return {
    epoch: firstEpoch - 1,
    price: 0n,
    ledger: { ...EMPTY_LEDGER, e: firstEpoch - 1 },
    log: undefined,
    seen: [],
    paid: new Map(),
    reports: [],
    pending: undefined,
    weightsBlock: 0,
    probes: [],
  };
}

/** The state in one file. It is replaced as a whole, and on disk before `save` resolves. */
export interface StateFile {
  /** @returns undefined before the first save. @throws ConfigError if the file is damaged or of another subnet. */
  load(): Promise<ValidatorState | undefined>;
  save(state: ValidatorState): Promise<void>;
}

/** @param subnet names the subnet: a state is refused under another. */
export function stateFile(
  directory: string,
  subnet: { readonly genesis: string; readonly netuid: number },
): StateFile {
  const path = join(directory, "state.json");
  return {
    load: async () => {
      const text = await readFile(path, "utf8").catch((error: NodeJS.ErrnoException) => {
        if (error.code === "ENOENT") return undefined;
        throw new ConfigError(`cannot read ${path}: ${error.message}`, { cause: error });
      });
      if (text === undefined) return undefined;
      const stored = parseState(text, path);
      if (stored.genesis !== subnet.genesis || stored.netuid !== subnet.netuid)
        throw new ConfigError(
          `${path} belongs to subnet ${stored.netuid} of another chain or network: choose another data folder, or move the file away to start with an empty ledger`,
        );
      return stored.state;
    },
    save: async (state) => {
      makeFolder(directory);
      await replaceFile(path, JSON.stringify({ v: 1, ...subnet, ...toJson(state) }));
    },
  };
}

async function replaceFile(path: string, text: string): Promise<void> {
  const file = await open(`${path}.new`, "w");
  try {
    await file.writeFile(text);
    await file.sync();
  } finally {
    await file.close();
  }
  await rename(`${path}.new`, path);
  // The rename itself is on disk once the folder is.
  const folder = await open(dirname(path), "r");
  try {
    await folder.sync();
  } finally {
    await folder.close();
  }
}

interface StateJson {
  readonly v: 1;
  readonly genesis: string;
  readonly netuid: number;
  readonly epoch: number;
  readonly price: string;
  readonly ledger: object;
  readonly log: { kid: string; size: string; hashes: string[] } | null;
  readonly seen: readonly SeenReceipt[];
  readonly paid: Readonly<Record<string, string>>;
  readonly reports: readonly EpochReport[];
  readonly pending: PendingWeights | null;
  readonly weightsBlock: number;
  readonly probes: readonly ProbeSummary[];
}

function toJson(state: ValidatorState): Omit<StateJson, "v" | "genesis" | "netuid"> {
  const { epoch, seen, reports, weightsBlock } = state;
  return {
    epoch,
    price: state.price.toString(),
    ledger: ledgerToJson(state.ledger),
    log: state.log
      ? {
          kid: state.log.kid,
          size: state.log.edge.size.toString(),
          hashes: state.log.edge.hashes.map((hash) => Buffer.from(hash).toString("hex")),
        }
      : null,
    seen,
    paid: Object.fromEntries([...state.paid].map(([hotkey, v]) => [hotkey, v.toString()])),
    reports,
    pending: state.pending ?? null,
    weightsBlock,
    probes: state.probes,
  };
}

function parseState(
  text: string,
  path: string,
): { genesis: string; netuid: number; state: ValidatorState } {
  try {
    // Only this module writes the file; a damaged one fails in one of the conversions.
    const json = JSON.parse(text) as StateJson;
    if (json.v !== 1 || !Number.isSafeInteger(json.epoch)) throw new Error("not version 1");
    const ledger = ledgerFromJson(json.ledger);
    if (ledger.e !== json.epoch) throw new Error("the ledger is of another epoch");
    return {
      genesis: json.genesis,
      netuid: json.netuid,
      state: {
        epoch: json.epoch,
        price: BigInt(json.price),
        ledger,
        log: json.log
          ? {
              kid: json.log.kid,
              edge: {
                size: BigInt(json.log.size),
                hashes: json.log.hashes.map((hash) => Buffer.from(hash, "hex")),
              },
            }
          : undefined,
        seen: json.seen,
        paid: new Map(Object.entries(json.paid).map(([k, v]) => [k as Hotkey, BigInt(v)])),
        reports: json.reports,
        pending: json.pending ?? undefined,
        weightsBlock: json.weightsBlock,
        probes: json.probes,
      },
    };
  } catch (cause) {
    throw new ConfigError(
      `${path} is damaged or from another version: restore it, or move it away to start with an empty ledger`,
      { cause },
    );
  }
}
