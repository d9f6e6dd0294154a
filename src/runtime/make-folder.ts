import { mkdirSync, statSync } from "node:fs";
import { dirname, resolve } from "node:path";

/**
 * Makes `folder` and those above it that are missing.
 *
 * `mkdirSync` with `recursive` (Node 24.21) never returns where a file system answers ENOENT to mkdir although the parent
 * exists, as /proc does; this tries each level once.
 *
 * @throws the system's error (EACCES, ENOTDIR, EROFS, ENOSPC, …).
 */
export function makeFolder(folder: string, mode = 0o777): void {
  const path = resolve(folder);
  if (statSync(path, { throwIfNoEntry: false })?.isDirectory() === true) return;
  const parent = dirname(path);
  if (parent !== path) makeFolder(parent, mode);
  try {
    mkdirSync(path, { mode });
  } catch (error) {
    // Another process may have been faster.
    if (statSync(path, { throwIfNoEntry: false })?.isDirectory() !== true) throw error;
  }
}
