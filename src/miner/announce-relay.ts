import { encodeAnnouncement, parseAnnouncement } from "../core/commitment.ts";
import type { Logger } from "../runtime/logger.ts";
import type { Closable } from "../runtime/shutdown.ts";

const RETRY_FIRST_MS = 1_000;
const RETRY_MAX_MS = 60_000;

/** Where a relay's address is published. */
export interface AnnouncementBoard {
  /** The fields of this hotkey's commitment, if it has one. */
  read(): Promise<readonly Uint8Array[] | undefined>;
  publish(fields: readonly Uint8Array[]): Promise<void>;
}

/**
 * Publishes the relay's URL unless it is there already. The first try is awaited; if it fails, as it does under the
 * chain's rate limit, it is repeated in the background with growing pauses.
 */
export async function openAnnouncement(
  url: string,
  board: AnnouncementBoard,
  log: Logger,
): Promise<Closable> {
  const field = encodeAnnouncement({ kind: "relay", url });
  let timer: NodeJS.Timeout | undefined;
  let closed = false;

  const attempt = async (pauseMs: number): Promise<void> => {
    try {
      const [published] = (await board.read()) ?? [];
      const known = published === undefined ? undefined : parseAnnouncement(published);
      if (known?.kind === "relay" && known.url === url) return;
      await board.publish([field]);
      log.info({ url }, "relay.announced");
    } catch (error) {
      if (closed) return;
      const reason = error instanceof Error ? error.name : "unknown";
      log.warn({ reason, retryMs: pauseMs }, "relay.not_announced");
      timer = setTimeout(() => {
        attempt(Math.min(pauseMs * 2, RETRY_MAX_MS)).catch(() => undefined);
      }, pauseMs);
      timer.unref();
    }
  };

  await attempt(RETRY_FIRST_MS);
  return {
    close: async () => {
      closed = true;
      clearTimeout(timer);
    },
  };
}
