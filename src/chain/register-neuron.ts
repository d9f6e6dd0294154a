import { existsSync, writeFileSync } from "node:fs";
import { type Hotkey, netuidOf } from "../core/ids.ts";
import { rao } from "../core/money.ts";
import type { Logger } from "../runtime/logger.ts";
import { ConfigError } from "../runtime/settings.ts";
import { ChainError } from "./chain-error.ts";
import type { RegisterConfig } from "./config.ts";
import { keypairOf, newSecret } from "./keys.ts";
import { secretIn } from "./secret-file.ts";
import { openSubtensor } from "./subtensor.ts";

const CONNECT_TIMEOUT_MS = 30_000;

/**
 * Registers a hotkey in a subnet, and stakes on it when asked to. Does nothing that is done already.
 *
 * @returns lines for the operator.
 * @throws ConfigError for a file that cannot be used, or what the chain refused.
 */
export async function registerNeuron(config: RegisterConfig, log: Logger): Promise<string[]> {
  const netuid = netuidOf(config.netuid);
  if (netuid === undefined) throw new ConfigError(`${config.netuid} is not the number of a subnet`);
  const coldkey = keypairOf(secretIn(config.coldkeyFile, "coldkey"));
  if (!existsSync(config.hotkeyFile))
    writeFileSync(config.hotkeyFile, `${newSecret()}\n`, { mode: 0o600 });
  const hotkey = keypairOf(secretIn(config.hotkeyFile, "hotkey")).address as Hotkey;
  const chain = await openSubtensor({
    endpoints: config.chain,
    connectTimeoutMs: CONNECT_TIMEOUT_MS,
    log,
  });
  try {
    const { neurons } = await chain.metagraph(netuid);
    const known = neurons.find((neuron) => neuron.hotkey === hotkey);
    const lines = [`hotkey ${hotkey}`];
    if (known === undefined) {
      await chain.submit({ kind: "burned_register", netuid, hotkey }, coldkey);
      lines.push(`registered in subnet ${netuid} by ${coldkey.address}`);
    } else lines.push(`is in subnet ${netuid} already, as UID ${known.uid}`);
    if (config.stakeTao > 0n) {
      await chain.submit({ kind: "add_stake", netuid, hotkey, rao: rao(config.stakeTao) }, coldkey);
      lines.push("staked");
    }
    return lines;
  } catch (cause) {
    if (cause instanceof ChainError)
      throw new ConfigError(`the chain refused: ${cause.message}`, { cause });
    throw cause;
  } finally {
    await chain.close();
  }
}
