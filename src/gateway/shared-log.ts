import type { Database } from "../runtime/database.ts";
import { enqueueJob } from "../runtime/job-outbox.ts";
import { migrate } from "../runtime/migrations.ts";
import type { SideKind } from "../usage-log/side-file.ts";

/** Queue of the job that sees to a root being on the chain. */
export const LOG_ROOT_QUEUE = "log-root";
/** The gateway that decides publishes at once; after this time the job finds out whether it did, in milliseconds. */
const LOG_ROOT_DELAY_MS = 3_000;

/** Makes or updates what gateways of one database share, after the ledger's and the jobs' tables. @throws ConfigError of `migrate`. */
export async function migrateGateway(database: Database): Promise<void> {
  await migrate(database, "gateway", new URL("./migrations/", import.meta.url));
}

/** Where an epoch of the log ends. */
export interface LogEnd {
  readonly epoch: number;
  /** Leaves before it, and up to and including it. */
  readonly first: bigint;
  readonly size: bigint;
  /** Catalogue that the epoch's file names: that of the gateway which decided, since others may have a newer one. */
  readonly catalogue: string | null;
}

/**
 * Decides together with other gateways where epochs of their log end. Leaves are appended and ends decided under one lock, so
 * whoever reads the leaf count first and the ends after it never goes past an end that it does not know.
 */
export interface LogEnds {
  /**
   * Ends an epoch after the leaves that are in the ledger now, unless it or a later one has ended; whoever comes first
   * decides. The job that sees to its root commits with it.
   *
   * @returns whether this call decided.
   */
  decide(epoch: number, catalogue: string): Promise<boolean>;
  /** Ends of later epochs than `epoch` that are not before leaf `size`, in order. */
  after(epoch: number, size: bigint): Promise<LogEnd[]>;
}

export function logEnds(database: Database, gateway: string): LogEnds {
  return {
    decide: async (epoch, catalogue) =>
      await database.transaction(async (tx) => {
        await tx.query("SELECT ledger.take_turn()");
        const decided = await tx.query(
          `INSERT INTO gateway.log_end (log, epoch, first, size, catalogue)
             SELECT gateway, $2, COALESCE((SELECT max(size) FROM gateway.log_end WHERE log = $1), 0), size, $3
               FROM ledger.log_head WHERE gateway = $1
                AND NOT EXISTS (SELECT FROM gateway.log_end WHERE log = $1 AND epoch >= $2)
             RETURNING epoch`,
          [gateway, epoch, catalogue],
        );
        if (decided.length === 0) return false;
        return await enqueueJob(tx, {
          queue: LOG_ROOT_QUEUE,
          id: `${gateway}/${epoch}`,
          payload: { epoch },
          delayMs: LOG_ROOT_DELAY_MS,
        });
      }),
    after: async (epoch, size) =>
      await database.query(
        "SELECT epoch, first, size, catalogue FROM gateway.log_end WHERE log = $1 AND epoch > $2 AND size >= $3 ORDER BY epoch",
        [gateway, epoch, size],
      ),
  };
}

/** Side files where every gateway finds them. */
export interface SideStore {
  /** Keeps a file; the first one under a name stays. */
  put(kind: SideKind, name: string, content: string): Promise<void>;
  get(kind: SideKind, name: string): Promise<string | undefined>;
}

export function sideStore(database: Database, gateway: string): SideStore {
  return {
    put: async (kind, name, content) => {
      await database.query(
        "INSERT INTO gateway.side_file (log, kind, name, content) VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING",
        [gateway, kind, name, content],
      );
    },
    get: async (kind, name) => {
      const [row] = await database.query<{ content: string }>(
        "SELECT content FROM gateway.side_file WHERE log = $1 AND kind = $2 AND name = $3",
        [gateway, kind, name],
      );
      return row?.content;
    },
  };
}
