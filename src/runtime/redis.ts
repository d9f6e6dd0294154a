import { Redis } from "ioredis";
import type { Logger } from "./logger.ts";
import { ConfigError } from "./settings.ts";
import type { Closable } from "./shutdown.ts";

const CONNECT_MS_MAX = 2_000;
/**
 * Redis answers in under a millisecond, and whoever waits for so long decides without it. Not less, since a busy process may
 * read an answer late, and would then give up what it shares when it matters most.
 */
const COMMAND_MS_MAX = 1_000;
const RECONNECT_MS_MIN = 100;
/** A process that stops while Redis is down may have to wait for one more attempt. */
const RECONNECT_MS_MAX = 2_000;

/** A connection to Redis that nothing has to wait for: it may be down at any time, and comes back by itself. */
export interface RedisConnection extends Closable {
  /** Host, port and database, for people. Never a password. */
  readonly description: string;
  /** Whether a command would be sent now. False while it connects or is down. */
  isReady(): boolean;
  /**
   * Runs a Lua script, which Redis keeps under its hash.
   *
   * @throws Error at once while Redis is down, and after a second without an answer: then it may have run all the same.
   */
  script(
    lua: string,
    keys: readonly string[],
    values: readonly (string | number)[],
  ): Promise<unknown>;
}

/** @throws ConfigError unless `url` is `redis://…` or `rediss://…`. */
export function redisUrlOf(url: string): URL {
  const parsed = URL.canParse(url) ? new URL(url) : undefined;
  if (parsed?.protocol !== "redis:" && parsed?.protocol !== "rediss:") {
    throw new ConfigError(
      "REDIS_URL is not a Redis URL. It looks like redis://user:password@host:6379/0.",
    );
  }
  return parsed;
}

/** How long to wait before connection attempt `n`, counted from 1, in milliseconds. */
export function reconnectMs(n: number): number {
  return Math.min(RECONNECT_MS_MIN * 2 ** Math.min(n - 1, 16), RECONNECT_MS_MAX);
}

/**
 * Begins to connect and returns at once. Says once when Redis cannot be reached, and once when it can again.
 *
 * @throws ConfigError if `url` is not one of Redis.
 */
export function openRedis(url: string, log: Logger): RedisConnection {
  const { host, pathname } = redisUrlOf(url);
  const description = `redis://${host}${pathname === "/" ? "" : pathname}`;
  const client = new Redis(url, {
    lazyConnect: true,
    connectTimeout: CONNECT_MS_MAX,
    commandTimeout: COMMAND_MS_MAX,
    // A command that cannot be sent now fails now.
    enableOfflineQueue: false,
    autoResendUnfulfilledCommands: false,
    maxRetriesPerRequest: 0,
    retryStrategy: reconnectMs,
  });
  let isDown = false;
  client.on("error", (error: Error) => {
    if (isDown) return;
    isDown = true;
    log.warn({ redis: description, reason: reasonOf(error) }, "redis.unavailable");
  });
  client.on("ready", () => {
    if (isDown) log.info({ redis: description }, "redis.available");
    isDown = false;
  });
  client.connect().catch(() => {
    // Told by the listener above; the client goes on trying.
  });
  const hashes = new Map<string, Promise<string>>();
  const hashOf = async (lua: string): Promise<string> => {
    let hash = hashes.get(lua);
    if (hash === undefined) {
      hash = client.script("LOAD", lua) as Promise<string>;
      hashes.set(lua, hash);
      hash.catch(() => hashes.delete(lua));
    }
    return await hash;
  };
  let closed = false;
  return {
    description,
    isReady: () => client.status === "ready",
    script: async (lua, keys, values) => {
      try {
        return await client.evalsha(await hashOf(lua), keys.length, ...keys, ...values);
      } catch (error) {
        // A Redis that was restarted has forgotten its scripts.
        if (!(error instanceof Error && error.message.startsWith("NOSCRIPT"))) throw error;
        hashes.delete(lua);
        return await client.eval(lua, keys.length, ...keys, ...values);
      }
    },
    close: async () => {
      if (closed) return;
      closed = true;
      client.disconnect();
    },
  };
}

/** Several addresses that all refused make an AggregateError without a message. */
function reasonOf(error: Error): string {
  const { code } = error as NodeJS.ErrnoException;
  return error.message === "" ? (code ?? error.name) : error.message;
}
