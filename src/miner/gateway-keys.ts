import { parseAnnouncement } from "../core/commitment.ts";
import type { Hotkey } from "../core/ids.ts";
import { type VerifyingKey, verifyingKey } from "../core/jws.ts";
import type { Logger } from "../runtime/logger.ts";

/** Least time between two readings of the chain, in milliseconds; unknown signers cannot make it more. */
const REFRESH_INTERVAL_MS = 500;
/** How long the subnet owner is believed to be the same, in milliseconds. */
const OWNER_LIFE_MS = 60_000;
/** How long a key that was replaced still counts, in milliseconds: the longest life of what it may have signed. */
const OLD_KEY_LIFE_MS = 120_000;

/** What the keys are read from. */
export interface GatewayKeySource {
  /** The subnet owner's hotkey: the gateway that counts is the one it announces. */
  ownerHotkey(): Promise<Hotkey | undefined>;
  /** The fields of a hotkey's commitment. */
  commitmentOf(hotkey: Hotkey): Promise<readonly Uint8Array[] | undefined>;
}

/** The keys whose grants this relay accepts, as announced on the chain. */
export interface GatewayKeys {
  keyOf(kid: string): VerifyingKey | undefined;
  /** Reads the chain again, unless that was just done. Never rejects: trouble keeps the keys that are known. */
  refresh(): Promise<void>;
}

/** Starts with no key: call `refresh`. */
export function gatewayKeys(
  source: GatewayKeySource,
  { nowMs, log }: { readonly nowMs: () => number; readonly log: Logger },
): GatewayKeys {
  let owner: { hotkey: Hotkey | undefined; readMs: number } | undefined;
  let current: VerifyingKey | undefined;
  let previous: { key: VerifyingKey; untilMs: number } | undefined;
  let refreshedMs = Number.NEGATIVE_INFINITY;
  let refreshing: Promise<void> | undefined;

  const read = async (): Promise<void> => {
    if (owner === undefined || owner.hotkey === undefined || nowMs() - owner.readMs > OWNER_LIFE_MS)
      owner = { hotkey: await source.ownerHotkey(), readMs: nowMs() };
    if (owner.hotkey === undefined) return;
    const [field] = (await source.commitmentOf(owner.hotkey)) ?? [];
    const announcement = field === undefined ? undefined : parseAnnouncement(field);
    if (announcement?.kind !== "gateway") return;
    const key = verifyingKey(announcement.key);
    if (key === undefined || key.kid === current?.kid) return;
    if (current !== undefined) previous = { key: current, untilMs: nowMs() + OLD_KEY_LIFE_MS };
    current = key;
    log.info({ gateway: owner.hotkey, kid: key.kid }, "gateway.key_found");
  };

  const refresh = async (): Promise<void> => {
    try {
      await read();
    } catch (error) {
      log.warn({ reason: error instanceof Error ? error.name : "unknown" }, "gateway.key_unread");
    } finally {
      refreshedMs = nowMs();
      refreshing = undefined;
    }
  };

  return {
    keyOf: (kid) => {
      if (current?.kid === kid) return current;
      return previous?.key.kid === kid && previous.untilMs > nowMs() ? previous.key : undefined;
    },
    refresh: async () => {
      if (refreshing === undefined && nowMs() - refreshedMs >= REFRESH_INTERVAL_MS)
        refreshing = refresh();
      await refreshing;
    },
  };
}
