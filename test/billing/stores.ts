/** SQL stores and accounts for the tests of this folder. */
import { spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { chownSync, mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import os from "node:os";
import path from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { createAccount } from "../../src/billing/accounts.ts";
import type { HoldOrder, SettleOrder } from "../../src/billing/ledger.ts";
import { type AccountId, type Hotkey, newRequestId, type RequestId } from "../../src/core/ids.ts";
import { nanoUsd } from "../../src/core/money.ts";
import { type Database, openDatabase } from "../../src/runtime/database.ts";
import { type Logger, openLogger } from "../../src/runtime/logger.ts";

export const silent: Logger = openLogger("test", "silent");

export const MINERS = ["A", "B", "C"].map((letter) => `5${letter.repeat(47)}` as Hotkey);

/** A fresh folder under the system's temporary folder. */
export function temporaryFolder(): { directory: string; remove: () => void } {
  const directory = mkdtempSync(path.join(os.tmpdir(), "daybreak-billing-"));
  return { directory, remove: () => rmSync(directory, { recursive: true, force: true }) };
}

/** An account with credit that comes from FX clearing, as a deposit's does. */
export async function fundedAccount(database: Database, amount: bigint): Promise<AccountId> {
  const { id } = await createAccount(database, { name: "test" });
  if (amount > 0n) await fund(database, id, amount);
  return id;
}

let causes = 0;

/** A cause that no journal of this run has. */
export function newCause(): string {
  causes += 1;
  return `test:${process.pid}:${causes}`;
}

/** @returns false when the cause was posted before. */
export async function fund(
  database: Database,
  account: AccountId,
  amount: bigint,
  cause = newCause(),
): Promise<boolean> {
  const [row] = await database.query<{ is_new: boolean }>(
    `SELECT ledger.post($1, 'deposit', NULL, NULL, ARRAY[1]::smallint[], ARRAY[ledger.system_acct(1, 40)],
       ARRAY[ledger.acct_of(10, $2)], ARRAY[$3::bigint]) AS is_new`,
    [cause, account, amount],
  );
  return row?.is_new === true;
}

export function holdOrder(
  account: AccountId,
  amount: bigint,
  over: Partial<HoldOrder> = {},
): HoldOrder {
  return {
    request: newRequestId(Date.now()),
    account,
    amount: nanoUsd(amount),
    fingerprint: "fingerprint",
    expiresMs: Date.now() + 600_000,
    row: {
      apiKeyId: "key",
      model: "model",
      surface: "chat",
      streamed: false,
      createdMs: Date.now(),
    },
    ...over,
  };
}

export function settleOrder(
  request: RequestId,
  charge: bigint,
  minerAmount: bigint,
  over: Partial<SettleOrder> = {},
): SettleOrder {
  const miner = over.miner ?? (MINERS[0] as Hotkey);
  return {
    request,
    charge: nanoUsd(charge),
    minerAmount: nanoUsd(minerAmount),
    miner,
    epoch: 7,
    leaf: `leaf of ${request}`,
    row: {
      hotkey: miner,
      usage: { input: 3, output: 5 },
      status: "complete",
      upstreamId: `up-${request}`,
      receiptHash: "hash",
      receiptSalt: "salt",
      attempts: 1,
    },
    ...over,
  };
}

export interface PostgresServer {
  /** URL of a fresh, empty database, or of a copy of the one at `template`, which nobody may be connected to. */
  newDatabase(template?: string): Promise<string>;
  /** Ends the server without a shutdown checkpoint, as a crash does. */
  crash(): Promise<void>;
  /** SIGKILL to it and to every process that it has started. */
  kill(): Promise<void>;
  start(): Promise<void>;
  /** Stops it and removes its files. */
  close(): Promise<void>;
}

/** The newest installed PostgreSQL's programs. @returns undefined if there is none. */
export function findPostgres(): string | undefined {
  const root = "/usr/lib/postgresql";
  try {
    const [newest] = readdirSync(root).sort((a, b) => Number(b) - Number(a));
    return newest === undefined ? undefined : path.join(root, newest, "bin");
  } catch {
    return undefined;
  }
}

/**
 * Runs a PostgreSQL server, reachable through a Unix socket in a temporary folder and nowhere else.
 *
 * @param parent folder for its data instead of the temporary one.
 */
export async function startPostgres(bin: string, parent?: string): Promise<PostgresServer> {
  const { directory, remove } = temporaryFolder();
  const data = path.join(parent ?? directory, "data");
  // PostgreSQL refuses to run as root.
  const user = process.getuid?.() === 0 ? unprivileged() : {};
  for (const folder of [directory, parent ?? directory])
    if (user.uid !== undefined) chownSync(folder, user.uid, user.gid ?? user.uid);
  const made = spawnSync(
    path.join(bin, "initdb"),
    ["-D", data, "-U", "postgres", "-A", "trust", "--locale=C.UTF-8", "-E", "UTF8"].concat(
      parent === undefined ? "--no-sync" : [],
    ),
    { ...user, cwd: directory, encoding: "utf8" },
  );
  if (made.status !== 0) throw new Error(`initdb: ${made.stderr}`);
  const urlOf = (name: string): string =>
    `postgres://postgres@${encodeURIComponent(directory)}/${name}`;

  let server: ReturnType<typeof spawn>;
  const start = async (): Promise<void> => {
    server = spawn(
      path.join(bin, "postgres"),
      ["-D", data, "-k", directory, "-c", "listen_addresses=", "-c", "autovacuum=off"],
      { ...user, cwd: directory, stdio: "ignore" },
    );
    const deadlineMs = Date.now() + 30_000;
    for (;;) {
      try {
        await (await openDatabase({ url: urlOf("postgres"), log: silent })).close();
        return;
      } catch (error) {
        if (Date.now() > deadlineMs) throw error;
        await delay(50);
      }
    }
  };
  const kill = async (): Promise<void> => {
    if (server.exitCode !== null || server.signalCode !== null) return;
    const children = readFileSync(`/proc/${server.pid}/task/${server.pid}/children`, "utf8");
    server.kill("SIGKILL");
    for (const pid of children.match(/\d+/g)?.map(Number) ?? []) {
      try {
        process.kill(pid, "SIGKILL");
      } catch {
        // It has ended by itself.
      }
    }
    await once(server, "exit");
  };
  const stop = async (signal: NodeJS.Signals): Promise<void> => {
    if (server.exitCode !== null || server.signalCode !== null) return;
    server.kill(signal);
    await once(server, "exit");
  };
  await start();
  let names = 0;
  return {
    start,
    // SIGQUIT: immediate shutdown; its children end with it, and the next start recovers from the log.
    crash: async () => await stop("SIGQUIT"),
    kill,
    close: async () => {
      await stop("SIGINT");
      remove();
    },
    newDatabase: async (template) => {
      names += 1;
      const admin = await openDatabase({ url: urlOf("postgres"), log: silent });
      const from = template === undefined ? "" : ` TEMPLATE ${template.split("/").at(-1)}`;
      await admin.exec(`CREATE DATABASE test${names}${from}`);
      await admin.close();
      return urlOf(`test${names}`);
    },
  };
}

function unprivileged(): { uid?: number; gid?: number } {
  for (const name of ["postgres", "nobody"]) {
    const [uid, gid] = ["-u", "-g"].map((flag) =>
      Number(spawnSync("id", [flag, name], { encoding: "utf8" }).stdout),
    );
    if (uid !== undefined && gid !== undefined && uid > 0) return { uid, gid };
  }
  return {};
}
