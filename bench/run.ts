/**
 * Measures Daybreak beside a bare Node proxy, nginx and Portkey on this machine, in one run, and prints ratios.
 *
 *   npm run bench
 *   npm run bench -- --seconds 2 --rounds 3 --only bare-undici,daybreak --scenario json,stream-paced --json out.json
 *
 * Exit code 1 when an answer of any target was wrong or cut off, or a target did not start.
 *
 * @module
 */
import { writeFileSync } from "node:fs";
import { parseArgs } from "node:util";
import { cpuUs, machineBusyUs, machineLine, residentMib } from "./cpu.ts";
import { type Load, startLoad } from "./load.ts";
import {
  cpuLines,
  type Measurement,
  median,
  paired,
  scenarioTable,
  throughputOf,
} from "./report.ts";
import { loadSpecOf, SCENARIOS, type Scenario } from "./scenarios.ts";
import { openBareUndici, openTwoHops } from "./targets/bare-undici.ts";
import { type DaybreakOptions, openDaybreak, openDaybreakLocal } from "./targets/daybreak.ts";
import { openNginx } from "./targets/nginx.ts";
import { openPortkey } from "./targets/portkey.ts";
import { type Target, Unavailable, type Upstream } from "./targets/target.ts";
import { startUpstream } from "./upstream.ts";

const OPENERS = {
  "bare-undici": openBareUndici,
  "two-hops": openTwoHops,
  nginx: openNginx,
  portkey: openPortkey,
  daybreak: openDaybreak,
  "daybreak-local": openDaybreakLocal,
} as const satisfies Record<
  string,
  (upstream: Upstream, options: DaybreakOptions) => Promise<Target>
>;
type OpenerName = keyof typeof OPENERS;

/** `daybreak-local` is left out: on two cores its one process says more about the machine than about the product. */
const DEFAULT_TARGETS: readonly OpenerName[] = [
  "bare-undici",
  "two-hops",
  "nginx",
  "portkey",
  "daybreak",
];

/** Load on each target before the first round, ms of each scenario: compilers and connection pools settle. */
const WARM_UP_MS = 750;
/** The same for the first scenario, in which most code is met for the first time. */
const FIRST_WARM_UP_MS = 10_000;
/** Work of others on this machine above which latencies say little, cores. */
const FOREIGN_CORES_MAX = 0.5;
/** Longest wait for a quieter machine before a measurement, ms. */
const QUIET_WAIT_MS = 1_000;
const QUIET_PROBE_MS = 150;
/** What this version aims at, as shares of the bare proxy's throughput. */
const GOALS = [
  { scenario: "json", share: 0.3 },
  { scenario: "stream-paced", share: 0.8 },
] as const;

const { values: options } = parseArgs({
  options: {
    seconds: { type: "string", default: "2.5" },
    rounds: { type: "string", default: "3" },
    only: { type: "string" },
    scenario: { type: "string" },
    json: { type: "string" },
    profile: { type: "string" },
  },
});
const windowMs = positive("--seconds", options.seconds) * 1_000;
const rounds = Math.ceil(positive("--rounds", options.rounds));
const openers =
  options.only === undefined
    ? DEFAULT_TARGETS
    : chosen("--only", options.only, Object.keys(OPENERS) as OpenerName[]);
const scenarioNames = chosen(
  "--scenario",
  options.scenario,
  SCENARIOS.map(({ name }) => name),
);
const scenarios: readonly Scenario[] = SCENARIOS.filter(({ name }) => scenarioNames.includes(name));

const startedMs = performance.now();
const cleanUps: (() => Promise<void>)[] = [];
for (const signal of ["SIGINT", "SIGTERM"] as const) {
  process.once(signal, () => {
    process.exitCode = 1;
    void closeEverything().finally(() => process.exit());
  });
}
try {
  if (!(await benchmark())) process.exitCode = 1;
} finally {
  await closeEverything();
}

async function benchmark(): Promise<boolean> {
  const upstream = await startUpstream();
  cleanUps.push(() => upstream.close());
  const load = await startLoad();
  cleanUps.push(() => load.close());
  const direct: Target = {
    name: "direct",
    does: "no proxy",
    port: upstream.port,
    path: "/v1/chat/completions",
    headers: { authorization: "Bearer none" },
    model: "gpt-5-mini",
    processes: {},
    close: async () => {},
  };
  console.log(`${machineLine()}; ${rounds} rounds of ${windowMs / 1_000} s, targets interleaved\n`);
  const { targets, failures } = await openTargets({
    port: upstream.port,
    baseUrl: `http://127.0.0.1:${upstream.port}/v1`,
  });
  const all = [direct, ...targets.values()];
  for (const target of all) console.log(`  ${target.name.padEnd(20)} ${target.does}`);

  for (const scenario of scenarios) {
    const warmUpMs = scenario === scenarios[0] ? FIRST_WARM_UP_MS : WARM_UP_MS;
    for (const target of all) await load.run(loadSpecOf(scenario, target, warmUpMs));
  }
  const measurements: Measurement[] = [];
  for (let round = 0; round < rounds; round++) {
    for (const scenario of scenarios) {
      for (const target of shuffled(all)) {
        await waitForQuiet();
        measurements.push(await measure(load, scenario, target, round));
      }
    }
    console.log(`  round ${round + 1} done after ${seconds()} s`);
  }

  const references = {
    direct: direct.name,
    bare: targets.get("bare-undici")?.name,
    portkey: targets.get("portkey")?.name,
  };
  const names = all.map(({ name }) => name);
  for (const scenario of scenarios)
    console.log(`\n${scenarioTable(scenario, names, references, measurements)}`);
  console.log();
  for (const scenario of scenarios)
    for (const line of cpuLines(scenario, names, measurements)) console.log(line);
  printGoals(measurements, targets);
  let ok = printNotes(measurements) && failures === 0;
  for (const target of targets.values()) {
    if (target.epilogue === undefined) continue;
    try {
      console.log(`${target.name}: ${await target.epilogue()}`);
    } catch (error) {
      ok = false;
      console.log(`${target.name}: FAILED: ${(error as Error).message}`);
    }
  }
  if (options.json !== undefined)
    writeFileSync(options.json, `${JSON.stringify(measurements, null, 1)}\n`);
  console.log(`took ${seconds()} s`);
  return ok;
}

async function openTargets(
  upstream: Upstream,
): Promise<{ targets: ReadonlyMap<OpenerName, Target>; failures: number }> {
  const targets = new Map<OpenerName, Target>();
  let failures = 0;
  for (const name of openers) {
    try {
      const target = await OPENERS[name](upstream, { profileFolder: options.profile });
      cleanUps.push(() => target.close());
      targets.set(name, target);
    } catch (error) {
      if (!(error instanceof Unavailable)) failures += 1;
      const verb = error instanceof Unavailable ? "skipped" : "FAILED TO START";
      console.log(`  ${name} ${verb}: ${(error as Error).message}`);
    }
  }
  return { targets, failures };
}

async function measure(
  load: Load,
  scenario: Scenario,
  target: Target,
  round: number,
): Promise<Measurement> {
  const foreignCores = watchForeign();
  const startedMs = performance.now();
  const before = Object.values(target.processes).map((pid) => cpuUs([pid]));
  const result = await load.run(loadSpecOf(scenario, target, windowMs));
  const parts = Object.entries(target.processes).map(
    ([name, pid], i) => [name, cpuUs([pid]) - (before[i] ?? Number.NaN)] as const,
  );
  const usedUs = parts.reduce((sum, [, us]) => sum + us, 0);
  const elapsedUs = (performance.now() - startedMs) * 1_000;
  return {
    scenario: scenario.name,
    target: target.name,
    round,
    load: result,
    cpuUsPerAnswer: usedUs / result.answers,
    cpuUsPerChunk: result.allChunks === 0 ? Number.NaN : usedUs / result.allChunks,
    cpuUsPerAnswerOf: Object.fromEntries(parts.map(([name, us]) => [name, us / result.answers])),
    cores: usedUs / elapsedUs,
    foreignCores: foreignCores(),
    residentMib: residentMib(Object.values(target.processes)),
  };
}

/** @returns a function that tells how many cores others have used since: everything here is a child of this process. */
function watchForeign(): () => number {
  const startedMs = performance.now();
  const busyUs = machineBusyUs();
  const ownUs = cpuUs([process.pid]);
  return () => {
    const foreignUs = machineBusyUs() - busyUs - (cpuUs([process.pid]) - ownUs);
    return Math.max(0, foreignUs / ((performance.now() - startedMs) * 1_000));
  };
}

/** Waits, not long, until others leave room. */
async function waitForQuiet(): Promise<void> {
  const deadline = performance.now() + QUIET_WAIT_MS;
  for (;;) {
    const foreignCores = watchForeign();
    await new Promise((resolve) => setTimeout(resolve, QUIET_PROBE_MS));
    if (!(foreignCores() > FOREIGN_CORES_MAX) || performance.now() > deadline) return;
  }
}

function printGoals(
  measurements: readonly Measurement[],
  targets: ReadonlyMap<OpenerName, Target>,
): void {
  const bare = targets.get("bare-undici")?.name;
  if (bare === undefined) return;
  console.log();
  for (const [name, target] of targets) {
    if (!name.startsWith("daybreak")) continue;
    for (const { scenario: scenarioName, share } of GOALS) {
      const scenario = scenarios.find((candidate) => candidate.name === scenarioName);
      if (scenario === undefined) continue;
      const pair = [target.name, bare] as const;
      const value = paired(measurements, scenario, pair, throughputOf(scenario), (a, b) => a / b);
      const verdict = value >= share ? "met" : "NOT met";
      console.log(
        `goal ${verdict}: ${target.name} ${scenarioName} ${value.toFixed(2)} × bare (aim ${share})`,
      );
    }
  }
}

/** @returns whether every answer of every target was whole and right. */
function printNotes(measurements: readonly Measurement[]): boolean {
  const foreign = measurements.map((m) => m.foreignCores);
  const noisy = foreign.filter((cores) => cores > FOREIGN_CORES_MAX).length;
  console.log(
    `\nmachine: others used ${median(foreign).toFixed(2)} cores at the median, ${Math.max(...foreign).toFixed(2)} at most`,
  );
  if (noisy > 0)
    console.log(
      `NOISY: in ${noisy} of ${foreign.length} measurements others used more than ${FOREIGN_CORES_MAX} cores; trust CPU per request, not latencies`,
    );
  const late = Math.max(0, ...measurements.map((m) => m.load.lagMaxUs)) / 1_000;
  if (late > 10)
    console.log(`NOISY: the open loop was up to ${late.toFixed(0)} ms behind its schedule`);
  let ok = true;
  for (const { target, scenario, round, load } of measurements) {
    if (load.errors === 0 && load.answers > 0) continue;
    ok = false;
    const counts = `${load.errors} errors, ${load.truncated} of them cut off, ${load.answers} good`;
    console.log(`WRONG: ${target} ${scenario} round ${round + 1}: ${counts}: ${load.firstError}`);
  }
  if (ok) console.log("every answer of every target was whole and right");
  return ok;
}

async function closeEverything(): Promise<void> {
  for (const cleanUp of cleanUps.splice(0).reverse()) await cleanUp();
}

function seconds(): string {
  return ((performance.now() - startedMs) / 1_000).toFixed(0);
}

function shuffled<T>(items: readonly T[]): readonly T[] {
  return items
    .map((item) => ({ item, at: Math.random() }))
    .sort((a, b) => a.at - b.at)
    .map(({ item }) => item);
}

function positive(flag: string, text: string): number {
  const value = Number(text);
  if (!(value > 0)) fail(`${flag} must be a positive number`);
  return value;
}

function chosen<T extends string>(
  flag: string,
  text: string | undefined,
  known: readonly T[],
): readonly T[] {
  if (text === undefined) return known;
  const words = text.split(",");
  for (const word of words)
    if (!known.some((name) => name === word)) fail(`${flag} knows ${known.join(", ")}`);
  return known.filter((name) => words.includes(name));
}

function fail(message: string): never {
  console.error(`bench: ${message}`);
  process.exit(1);
}
