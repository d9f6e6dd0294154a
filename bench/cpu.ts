import { readdirSync, readFileSync } from "node:fs";
import { cpus } from "node:os";

/** Kernel clock ticks per second in /proc; 100 on every Linux that Node supports. */
const TICKS_PER_SECOND = 100;

function read(path: string): string {
  try {
    return readFileSync(path, "latin1");
  } catch {
    return ""; // the process or thread has ended, or this is not Linux
  }
}

/** The processes and all that they have started, each once. */
export function processTree(roots: readonly number[]): readonly number[] {
  const seen = new Set<number>();
  const todo = [...roots];
  for (let pid = todo.pop(); pid !== undefined; pid = todo.pop()) {
    if (seen.has(pid)) continue;
    seen.add(pid);
    for (const thread of threadsOf(pid)) {
      const children = read(`/proc/${pid}/task/${thread}/children`).trim();
      if (children !== "") todo.push(...children.split(/\s+/).map(Number));
    }
  }
  return [...seen];
}

function threadsOf(pid: number): readonly string[] {
  try {
    return readdirSync(`/proc/${pid}/task`);
  } catch {
    return [];
  }
}

/**
 * CPU time that the processes and all their threads have used so far, µs.
 *
 * From /proc/<pid>/task/<tid>/schedstat (ns); NaN where the kernel has none, so that a report shows a gap and no zero.
 */
export function cpuUs(roots: readonly number[]): number {
  let ns = 0;
  let found = false;
  for (const pid of processTree(roots)) {
    for (const thread of threadsOf(pid)) {
      const [running] = read(`/proc/${pid}/task/${thread}/schedstat`).split(" ");
      if (running === undefined || running === "") continue;
      found = true;
      ns += Number(running);
    }
  }
  return found ? ns / 1_000 : Number.NaN;
}

/** Resident memory of the processes and all that they have started, MiB. */
export function residentMib(roots: readonly number[]): number {
  let kib = 0;
  for (const pid of processTree(roots))
    kib += Number(/VmRSS:\s+(\d+)/.exec(read(`/proc/${pid}/status`))?.[1] ?? 0);
  return kib / 1_024;
}

/** CPU time that everything on this machine has used so far, without idle and I/O wait, µs. */
export function machineBusyUs(): number {
  const [line = ""] = read("/proc/stat").split("\n", 1);
  const [user, nice, system, , , irq, softIrq] = line.trim().split(/\s+/).slice(1).map(Number);
  if (user === undefined) return Number.NaN;
  const ticks = user + (nice ?? 0) + (system ?? 0) + (irq ?? 0) + (softIrq ?? 0);
  return (ticks / TICKS_PER_SECOND) * 1e6;
}

/** One line about the machine, for the head of the report. */
export function machineLine(): string {
  const list = cpus();
  const version = `Node ${process.versions.node}`;
  return `${list.length} × ${list[0]?.model.trim() ?? "unknown CPU"}, ${process.platform}, ${version}`;
}
