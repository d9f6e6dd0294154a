import type { Logger } from "../runtime/logger.ts";
import type { DevchainConfig } from "./config.ts";
import { type Devchain, openDevchain } from "./devchain.ts";

/** Opens the chain that `daybreak devchain` runs. @throws ConfigError */
export async function openDevchainService(config: DevchainConfig, log: Logger): Promise<Devchain> {
  const { data, ...options } = config;
  return await openDevchain({ ...options, dataDir: data, log });
}
