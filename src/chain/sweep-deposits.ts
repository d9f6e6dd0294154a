import { formatNano } from "../core/money.ts";
import type { Logger } from "../runtime/logger.ts";
import { ConfigError } from "../runtime/settings.ts";
import { ChainError } from "./chain-error.ts";
import type { SweepConfig } from "./config.ts";
import { canonicalAddressOf, depositPathOf, deriveDepositAddress, keypairOf } from "./keys.ts";
import { secretIn } from "./secret-file.ts";
import { openSubtensor, type Subtensor } from "./subtensor.ts";

const CONNECT_TIMEOUT_MS = 30_000;
/** Addresses that are looked at, or emptied, at once. */
const AT_ONCE_MAX = 20;

/**
 * Sends all TAO of the deposit addresses, from the common one to that of the last account, to one wallet. Needs the
 * treasury's secret, which no gateway has. What it did not do, since the chain refused or it was stopped, the next run does.
 *
 * @returns lines for the operator, the public key that the gateway must have first.
 * @throws ConfigError for a file or an address that cannot be used, or what the chain refused.
 */
export async function sweepDeposits(config: SweepConfig, log: Logger): Promise<string[]> {
  const secret = secretIn(config.treasuryFile, "treasury");
  const treasury = keypairOf(secret);
  const to = walletOf(config.to);
  const chain = await openSubtensor({
    endpoints: config.chain,
    connectTimeoutMs: CONNECT_TIMEOUT_MS,
    log,
  });
  try {
    const lines = [`treasury ${treasury.address}`];
    for (let first = 0; first <= config.accounts; first += AT_ONCE_MAX) {
      const indexes = Array.from(
        { length: Math.min(AT_ONCE_MAX, config.accounts - first + 1) },
        (_, i) => first + i,
      );
      const swept = await Promise.all(
        indexes.map((index) => sweepOne(chain, index, { ...config, secret, to, treasury })),
      );
      lines.push(...swept.flatMap((line) => line ?? []));
    }
    if (lines.length === 1)
      lines.push(`nothing to sweep: no address has ${formatNano(config.minimumTao)} TAO`);
    return lines;
  } catch (cause) {
    if (cause instanceof ChainError)
      throw new ConfigError(`the chain refused: ${cause.message}`, { cause });
    throw cause;
  } finally {
    await chain.close();
  }
}

async function sweepOne(
  chain: Subtensor,
  index: number,
  {
    secret,
    treasury,
    to,
    minimumTao,
  }: {
    readonly secret: string;
    readonly treasury: { readonly publicKeyHex: string };
    readonly to: string;
    readonly minimumTao: bigint;
  },
): Promise<string | undefined> {
  const address = deriveDepositAddress(treasury.publicKeyHex, index);
  const free = await chain.freeBalance(address);
  if (free < minimumTao || address === to) return undefined;
  const signer = keypairOf(secret + depositPathOf(index));
  const { blockNumber } = await chain.submit({ kind: "transfer_all", to }, signer, "finalized");
  return `swept ${formatNano(free)} TAO less the fee from ${address} (account ${index}) in block ${blockNumber}`;
}

function walletOf(address: string): string {
  try {
    return canonicalAddressOf(address);
  } catch (cause) {
    throw new ConfigError(`--to is not a valid address: ${address}`, { cause });
  }
}
