import type { AccountId } from "../core/ids.ts";
import type { Logger } from "../runtime/logger.ts";
import type { Closable } from "../runtime/shutdown.ts";
import type { ChainHead, Deposit, DepositBlock, DepositChain } from "./deposit.ts";

/** Blocks below the best head that are looked at; finality lags three or so, and much more only in trouble. */
const BLOCKS_MAX = 64;

export interface UnfinalizedDeposits extends Closable {
  /** The account's deposits in blocks that are not booked, newest first. */
  of(account: AccountId): readonly Deposit[];
}

interface SeenBlock {
  readonly head: ChainHead;
  readonly deposits: readonly Deposit[];
}

/**
 * Follows the best fork from its head down to what is booked. It lives in memory and touches no books: a block that is
 * retracted takes its deposits with it, and what it fails to see is credited all the same once it is final.
 */
export function openUnfinalizedDeposits({
  chain,
  bookedTo,
  depositsIn,
  log,
}: {
  readonly chain: Pick<DepositChain, "bestHead" | "onBestHead" | "blockFacts">;
  /** Number of the last block whose deposits are booked. */
  readonly bookedTo: () => number;
  readonly depositsIn: (facts: DepositBlock) => Promise<readonly Deposit[]>;
  readonly log: Logger;
}): UnfinalizedDeposits {
  /** Of the best fork, newest first, by hash. */
  let fork = new Map<string, SeenBlock>();
  let isClosed = false;

  const read = async (hash: string): Promise<SeenBlock> => {
    const facts = await chain.blockFacts(hash);
    return { head: facts.head, deposits: await depositsIn(facts) };
  };
  const follow = async (): Promise<void> => {
    let { hash, number } = await chain.bestHead();
    const followed = new Map<string, SeenBlock>();
    while (number > bookedTo() && followed.size < BLOCKS_MAX && !isClosed) {
      const block = fork.get(hash) ?? (await read(hash));
      followed.set(hash, block);
      hash = block.head.parentHash;
      number -= 1;
    }
    fork = followed;
  };

  let running: Promise<void> | undefined;
  let isWanted = false;
  const wake = (): void => {
    isWanted = true;
    running ??= (async () => {
      while (isWanted && !isClosed) {
        isWanted = false;
        try {
          await follow();
        } catch (error) {
          // The block may have been retracted while it was read. The next head tells.
          log.debug({ err: error }, "deposits.unfinalized_failed");
        }
      }
    })().finally(() => {
      running = undefined;
      if (isWanted && !isClosed) wake();
    });
  };
  const unsubscribe = chain.onBestHead(wake);
  wake();

  return {
    of: (account) =>
      [...fork.values()]
        .filter(({ head }) => head.number > bookedTo())
        .flatMap(({ deposits }) =>
          deposits.filter((deposit) => deposit.account === account).toReversed(),
        ),
    close: async () => {
      isClosed = true;
      unsubscribe();
      await running;
    },
  };
}
