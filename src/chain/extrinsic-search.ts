import { blake2AsHex } from "@polkadot/util-crypto";
import { type BlockStates, type Head, headOf } from "./block-state.ts";
import { ChainError } from "./chain-error.ts";
import type { Connection } from "./connection.ts";
import type { SignedExtrinsic } from "./sign-extrinsic.ts";

/** Blocks whose extrinsic hashes are remembered for all searches. */
const BLOCKS_KEPT_MAX = 128;

/** Where an extrinsic is. */
export interface Found {
  readonly hash: string;
  readonly number: number;
  /** Its position in the block. */
  readonly index: number;
}

/** What may be searched for. */
export type Searched = Pick<SignedExtrinsic, "hash" | "anchor" | "lastBlock">;

/**
 * Looks for an extrinsic in the blocks of its era, back from `best`. A hash in `known` stands for a block that was
 * searched before with all before it; new ones are added.
 *
 * @throws ChainError "UnknownBlock" if the node does not have one of the blocks (yet).
 */
export type FindExtrinsic = (
  extrinsic: Searched,
  best: Head,
  known: Set<string>,
) => Promise<Found | undefined>;

export function openExtrinsicSearch(connection: Connection, states: BlockStates): FindExtrinsic {
  const blocks = new Map<string, Promise<SearchedBlock>>();

  const blockAt = (hash: string): Promise<SearchedBlock> => {
    const block = blocks.get(hash) ?? readBlock(connection, hash);
    blocks.delete(hash);
    blocks.set(hash, block);
    block.catch(() => blocks.delete(hash));
    const [oldest] = blocks.keys();
    if (blocks.size > BLOCKS_KEPT_MAX && oldest !== undefined) blocks.delete(oldest);
    return block;
  };

  /** The newest block of the chain of `best` that can hold it. */
  const lastOf = async ({ lastBlock }: Searched, best: Head): Promise<string> => {
    if (best.number <= lastBlock) return best.hash;
    const hash = await states.hashOf(lastBlock);
    if (hash === undefined)
      throw new ChainError("UnknownBlock", `the chain has no block ${lastBlock}`);
    return hash;
  };

  return async (extrinsic, best, known) => {
    const { anchor } = extrinsic;
    const walked: string[] = [];
    let hash = await lastOf(extrinsic, best);
    // By parent hashes, so that a reorganisation is seen.
    while (!known.has(hash) && hash !== anchor.hash) {
      const block = await blockAt(hash);
      if (block.number <= anchor.number) break;
      const index = block.extrinsics.indexOf(extrinsic.hash);
      if (index >= 0) return { hash, number: block.number, index };
      walked.push(hash);
      hash = block.parentHash;
    }
    for (const each of walked) known.add(each);
    return undefined;
  };
}

interface SearchedBlock {
  readonly number: number;
  readonly parentHash: string;
  /** Blake2-256 of each extrinsic, 0x-hex. */
  readonly extrinsics: readonly string[];
}

async function readBlock(connection: Connection, hash: string): Promise<SearchedBlock> {
  const answer = await connection.call("chain_getBlock", hash);
  const block = (answer as { block?: { header: unknown; extrinsics: readonly string[] } } | null)
    ?.block;
  if (block === undefined) throw new ChainError("UnknownBlock", `the chain has no block ${hash}`);
  const { number, parentHash } = headOf(block.header);
  const extrinsics = block.extrinsics.map((hex) =>
    blake2AsHex(Buffer.from(hex.slice(2), "hex"), 256),
  );
  return { number, parentHash, extrinsics };
}
