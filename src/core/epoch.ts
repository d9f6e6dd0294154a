/** Blocks after an epoch's end at which validators look for its log root, at the chain's usual tempo of 360. */
const ROOT_DEADLINE_BLOCKS = 25;
const USUAL_TEMPO_BLOCKS = 360;
/** Below this many blocks a slow block or two would decide who is paid. */
const ROOT_DEADLINE_BLOCKS_MIN = 15;

/**
 * Blocks after an epoch's end by which its log root must be on the chain: 25, scaled with the tempo, at least 15, but
 * never later than the middle of the next epoch, so that weights still apply at its end. At least 2.
 */
export function rootDeadlineBlocks(tempo: number): number {
  const scaled = Math.floor((ROOT_DEADLINE_BLOCKS * tempo) / USUAL_TEMPO_BLOCKS);
  return Math.max(2, Math.min(Math.max(ROOT_DEADLINE_BLOCKS_MIN, scaled), Math.floor(tempo / 2)));
}

/** The epoch that pays for what is dispatched while `epochIndex` epochs have run. */
export function payingEpochOf(epochIndex: number): number {
  return epochIndex + 1;
}
