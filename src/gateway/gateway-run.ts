import { newRunTag, type RunTag } from "../core/ids.ts";
import type { Database } from "../runtime/database.ts";
import type { Logger } from "../runtime/logger.ts";
import type { Closable } from "../runtime/shutdown.ts";

/** How often a gateway says that it is there, in milliseconds. */
const SEEN_MS = 2_000;
/** After this silence a gateway counts as dead, by the database's clock; in milliseconds. */
const SILENT_MS_MAX = 10_000;

/** This process among the gateways of its database. Closing tells the others at once that it has gone. */
export interface GatewayRun extends Closable {
  readonly tag: RunTag;
  /**
   * Tags of the other gateways that are there. What has another tag, and is not from this process, has nobody behind it.
   *
   * While the database could not be reached nobody could be heard, so nobody counts as silent until it has been there for as
   * long as silence lasts.
   */
  others(): Promise<ReadonlySet<RunTag>>;
}

/**
 * Joins the gateways of a database.
 *
 * @param gateway name of the log and the holds that they share.
 * @throws DatabaseError
 */
export async function openGatewayRun(
  database: Database,
  gateway: string,
  log: Logger,
  nowMs: () => number = () => performance.now(),
): Promise<GatewayRun> {
  const tag = newRunTag();
  // An embedded database has one process, so whoever is named in it is gone; on a server, only who has been silent for long.
  await database.query(
    "DELETE FROM gateway.run WHERE log = $1 AND ($2 OR seen_at < now() - interval '1 day')",
    [gateway, database.kind === "pglite"],
  );
  /** Since when this process has been heard without a gap. */
  let steadyMs = nowMs();
  let heardMs = nowMs();
  const beSeen = async (): Promise<void> => {
    await database.query(
      "INSERT INTO gateway.run (log, tag) VALUES ($1, $2) ON CONFLICT (log, tag) DO UPDATE SET seen_at = now()",
      [gateway, tag],
    );
    if (nowMs() - heardMs > SILENT_MS_MAX / 2) steadyMs = nowMs();
    heardMs = nowMs();
  };
  await beSeen();
  let turn: Promise<void> | undefined;
  const timer = setInterval(() => {
    turn ??= beSeen()
      .catch((error: unknown) => log.warn({ err: error }, "gateway.not_seen"))
      .finally(() => {
        turn = undefined;
      });
  }, SEEN_MS);
  const leave = async (): Promise<void> => {
    clearInterval(timer);
    await turn;
    await database
      .query("DELETE FROM gateway.run WHERE log = $1 AND tag = $2", [gateway, tag])
      .catch((error: unknown) => log.warn({ err: error }, "gateway.not_left"));
  };
  let closing: Promise<void> | undefined;
  return {
    tag,
    others: async () => {
      await beSeen();
      const rows = await database.query<{ tag: RunTag; is_silent: boolean }>(
        `SELECT tag, seen_at <= now() - $3::float8 * interval '1 ms' AS is_silent
           FROM gateway.run WHERE log = $1 AND tag <> $2`,
        [gateway, tag, SILENT_MS_MAX],
      );
      const isSteady = nowMs() - steadyMs > SILENT_MS_MAX;
      return new Set(rows.filter((row) => !(isSteady && row.is_silent)).map((row) => row.tag));
    },
    close: () => (closing ??= leave()),
  };
}
