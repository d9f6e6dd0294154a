import { readFileSync } from "node:fs";
import type { Logger } from "../runtime/logger.ts";
import { ConfigError } from "../runtime/settings.ts";
import type { DevchainConfig } from "./config.ts";
import { type Devchain, openDevchain } from "./devchain.ts";

/** Opens the chain that `daybreak devchain` runs. @throws ConfigError */
export async function openDevchainService(config: DevchainConfig, log: Logger): Promise<Devchain> {
  const { data, snapshot, ...options } = config;
  return await openDevchain({
    ...options,
    dataDir: data,
    snapshot: snapshot === undefined ? undefined : jsonOf(snapshot),
    log,
  });
}

function jsonOf(path: string): unknown {
  try {
    return JSON.parse(readFileSync(path, "utf8"));
  } catch (cause) {
    throw new ConfigError(`the snapshot ${path} cannot be read: ${(cause as Error).message}`, {
      cause,
    });
  }
}
