import { randomUUID } from "node:crypto";
import { linkSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import path from "node:path";
import { makeFolder } from "./make-folder.ts";
import { ConfigError } from "./settings.ts";

/** An exclusive claim on a data folder, held by this process until `release`. */
export interface DataLock {
  /** Whether the file still names this claim. False means that another process has taken the folder over. */
  isMine(): boolean;
  /** Removes the lock file. Idempotent. */
  release(): void;
}

interface Owner {
  readonly pid: number;
  /** The kernel's id of this boot; empty where the platform has none. */
  readonly boot: string;
  /** Start of the process in clock ticks since boot: tells a recycled pid from the owner. Empty where unknown. */
  readonly started: string;
  /** Random: tells two claims of one process apart. */
  readonly claim: string;
}

const LOCK_FILE = "lock";
/** Rounds of "gone, take it, lost the race" before giving up. */
const ATTEMPTS_MAX = 5;

/**
 * Claims `directory` (created when missing) for this process. A lock left by a process that is gone, or by an earlier
 * boot of the machine, is taken over.
 *
 * Node has no flock(2), so this is a file that only one process can create. It protects against a second process on the same
 * machine, not against two machines on one network file system.
 *
 * @throws ConfigError that names the owner's pid, or says why the folder cannot be written.
 */
export function lockDirectory(directory: string): DataLock {
  const file = path.join(directory, LOCK_FILE);
  const mine = JSON.stringify({
    pid: process.pid,
    boot: bootId(),
    started: processStat(process.pid).started,
    claim: randomUUID(),
  } satisfies Owner);
  try {
    makeFolder(directory);
    for (let attempt = 0; attempt < ATTEMPTS_MAX; attempt += 1) {
      if (createExclusively(file, mine)) return lockOf(file, mine);
      removeIfStale(directory, file);
    }
  } catch (cause) {
    if (cause instanceof ConfigError) throw cause;
    throw unwritable(directory, cause);
  }
  throw new ConfigError(
    `The data folder ${directory} is being opened by several processes at once. Start one of them.`,
  );
}

/** The error for a folder that cannot be used, with the reason in the operating system's words. */
export function unwritable(directory: string, cause: unknown): ConfigError {
  const reason = (cause as NodeJS.ErrnoException).code ?? String(cause);
  return new ConfigError(
    `The data folder ${directory} cannot be written (${reason}). Make it writable for this user, or choose another folder.`,
    { cause },
  );
}

function lockOf(file: string, mine: string): DataLock {
  liveClaims.add(mine);
  const isMine = (): boolean => contentOf(file) === mine;
  return {
    isMine,
    release: () => {
      if (liveClaims.delete(mine) && isMine()) rmSync(file, { force: true });
    },
  };
}

/** Claims of this process, so that a folder opened twice in one process is refused as well. */
const liveClaims = new Set<string>();

/** Appears with its whole content or not at all, so that nobody takes a half-written lock for a stale one. */
function createExclusively(file: string, content: string): boolean {
  const draft = `${file}.${randomUUID()}`;
  try {
    writeFileSync(draft, content, { flag: "wx", flush: true });
    linkSync(draft, file);
    return true;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "EEXIST") return false;
    throw error;
  } finally {
    rmSync(draft, { force: true });
  }
}

/** Removes the lock if its owner is gone. @throws ConfigError if the owner lives. */
function removeIfStale(directory: string, file: string): void {
  const content = contentOf(file);
  if (content === undefined) return;
  const owner = ownerOf(content);
  if (owner !== undefined && isAlive(owner, content)) {
    throw new ConfigError(
      `The data folder ${directory} is in use by process ${owner.pid}. Stop that process first, or choose another folder.`,
    );
  }
  // Another starter may have replaced the stale lock since it was read: move it aside first, and look at what was moved.
  const aside = `${file}.${randomUUID()}`;
  renameSync(file, aside);
  if (contentOf(aside) === content) rmSync(aside, { force: true });
  else renameSync(aside, file);
}

function contentOf(file: string): string | undefined {
  try {
    return readFileSync(file, "utf8");
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return undefined;
    throw error;
  }
}

function ownerOf(content: string): Owner | undefined {
  try {
    const { pid, boot, started, claim } = JSON.parse(content) as Partial<Owner>;
    if (!Number.isSafeInteger(pid) || pid === undefined || pid <= 0) return undefined;
    return { pid, boot: boot ?? "", started: started ?? "", claim: claim ?? "" };
  } catch {
    // Cut short by a power failure while it was written: nobody holds it.
    return undefined;
  }
}

function isAlive(owner: Owner, content: string): boolean {
  if (owner.boot !== bootId()) return false;
  if (owner.pid === process.pid) return liveClaims.has(content);
  try {
    process.kill(owner.pid, 0);
  } catch (error) {
    // EPERM: it exists and belongs to someone else.
    if ((error as NodeJS.ErrnoException).code === "ESRCH") return false;
  }
  const { state, started } = processStat(owner.pid);
  // A process that nobody has waited for is dead all the same; in a container it may stay like that for ever.
  if (state === "Z" || state === "X") return false;
  // Unknown on platforms without /proc, or where it hides other users' processes: then the pid has to do.
  return started === "" || owner.started === "" || started === owner.started;
}

function bootId(): string {
  return readOrEmpty("/proc/sys/kernel/random/boot_id").trim();
}

/** Fields 3 and 22 of /proc/<pid>/stat (proc_pid_stat(5)), empty where unknown. The name in field 2 may contain anything. */
function processStat(pid: number): { state: string; started: string } {
  const stat = readOrEmpty(`/proc/${pid}/stat`);
  const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
  return { state: fields[0] ?? "", started: fields[19] ?? "" };
}

function readOrEmpty(file: string): string {
  try {
    return readFileSync(file, "utf8");
  } catch {
    return "";
  }
}
