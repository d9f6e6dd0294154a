/** Bytes of bodies that the process holds at once. Who takes some gives them back. */
export interface MemoryBudget {
  /** @returns false, and takes nothing, when fewer than `bytes` are left. */
  take(bytes: number): boolean;
  give(bytes: number): void;
  readonly used: () => number;
}

export function memoryBudget(bytesMax: number): MemoryBudget {
  let used = 0;
  return {
    take: (bytes) => {
      if (used + bytes > bytesMax) return false;
      used += bytes;
      return true;
    },
    give: (bytes) => {
      used -= bytes;
    },
    used: () => used,
  };
}
