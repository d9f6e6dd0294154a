import type { LoadResult } from "./load.ts";
import { type Scenario, STREAM_CHUNKS } from "./scenarios.ts";

/** One run of one scenario on one target. */
export interface Measurement {
  readonly scenario: string;
  readonly target: string;
  readonly round: number;
  readonly load: LoadResult;
  /** CPU of the target's processes per whole answer, µs, warm-up included. */
  readonly cpuUsPerAnswer: number;
  /** The same per content chunk; NaN without streams. */
  readonly cpuUsPerChunk: number;
  /** CPU per whole answer of each of the target's processes, µs. */
  readonly cpuUsPerAnswerOf: Readonly<Record<string, number>>;
  /** CPU of the target's processes, in cores. */
  readonly cores: number;
  /** CPU of everything that is not part of the benchmark, in cores. */
  readonly foreignCores: number;
  readonly residentMib: number;
}

/** Names of the targets that others are measured against. */
export interface References {
  readonly direct: string;
  readonly bare: string | undefined;
  readonly portkey: string | undefined;
}

type Measure = (measurement: Measurement) => number;

interface Column {
  readonly title: string;
  readonly digits: number;
  readonly of: Measure;
  /** Show the median difference to the direct path of the same round, not the value. */
  readonly added?: true;
}

const ms =
  (of: (load: LoadResult) => number): Measure =>
  (measurement) =>
    of(measurement.load) / 1_000;

/** Answers per second; of streams, chunks per second over their length, which does not depend on when a stream ends. */
export function throughputOf(scenario: Scenario): Measure {
  return scenario.stream === undefined
    ? (m) => m.load.answersPerSecond
    : (m) => m.load.chunksPerSecond / STREAM_CHUNKS;
}

function columnsOf(scenario: Scenario): readonly Column[] {
  const cpu: Column = { title: "CPU µs/req", digits: 0, of: (m) => m.cpuUsPerAnswer };
  const latency: readonly Column[] = [
    { title: "added p50 ms", digits: 2, of: ms((l) => l.latency.p50), added: true },
    { title: "added p99 ms", digits: 2, of: ms((l) => l.latency.p99), added: true },
  ];
  if (scenario.rate !== undefined) return [...latency, cpu];
  if (scenario.stream === undefined)
    return [
      { title: "req/s", digits: 0, of: throughputOf(scenario) },
      { title: "p50 ms", digits: 2, of: ms((l) => l.latency.p50) },
      { title: "p99 ms", digits: 2, of: ms((l) => l.latency.p99) },
      ...latency,
      cpu,
    ];
  const stream: readonly Column[] = [
    { title: "streams/s", digits: 1, of: throughputOf(scenario) },
    { title: "added first chunk p50 ms", digits: 2, of: ms((l) => l.firstChunk.p50), added: true },
    { title: "p99", digits: 2, of: ms((l) => l.firstChunk.p99), added: true },
    { title: "added end p50 ms", digits: 2, of: ms((l) => l.latency.p50), added: true },
    { title: "p99", digits: 2, of: ms((l) => l.latency.p99), added: true },
  ];
  const cpuPerChunk: Column = { title: "CPU µs/chunk", digits: 1, of: (m) => m.cpuUsPerChunk };
  if (scenario.stream.paceMs === 0) return [...stream, cpuPerChunk];
  return [
    ...stream,
    { title: "added chunk delay p50 ms", digits: 2, of: ms((l) => l.chunkDelay.p50), added: true },
    { title: "p99", digits: 2, of: ms((l) => l.chunkDelay.p99), added: true },
    cpuPerChunk,
  ];
}

/** The middle value; the mean of the two middle ones of an even count. NaN of none. */
export function median(values: readonly number[]): number {
  const sorted = values.filter((value) => !Number.isNaN(value)).sort((a, b) => a - b);
  const low = sorted[Math.floor((sorted.length - 1) / 2)];
  const high = sorted[Math.ceil((sorted.length - 1) / 2)];
  return low === undefined || high === undefined ? Number.NaN : (low + high) / 2;
}

/** Median over the rounds of `combine` applied to a target's value and a reference's value of the same round. */
export function paired(
  measurements: readonly Measurement[],
  scenario: Scenario,
  [target, reference]: readonly [string, string],
  of: Measure,
  combine: (value: number, reference: number) => number,
): number {
  const values: number[] = [];
  for (const m of measurements) {
    if (m.scenario !== scenario.name || m.target !== target) continue;
    const beside = measurements.find(
      (r) => r.scenario === m.scenario && r.target === reference && r.round === m.round,
    );
    if (beside !== undefined) values.push(combine(of(m), of(beside)));
  }
  return median(values);
}

/** The table of one scenario. */
export function scenarioTable(
  scenario: Scenario,
  targets: readonly string[],
  references: References,
  measurements: readonly Measurement[],
): string {
  const mine = measurements.filter((m) => m.scenario === scenario.name);
  const columns = columnsOf(scenario);
  const isOpenLoop = scenario.rate !== undefined;
  const ratios = [
    { title: "× bare", reference: references.bare },
    { title: "× Portkey", reference: references.portkey },
  ];
  const titles = ["", ...columns.map((c) => c.title)];
  if (!isOpenLoop) titles.push(...ratios.map((r) => r.title));
  titles.push("CPU × bare", "RSS MiB", "foreign cores", "errors");
  const rows = targets.map((target) => {
    const own = mine.filter((m) => m.target === target);
    const isDirect = target === references.direct;
    const cells = columns.map((column) => {
      if (column.title.startsWith("CPU") && isDirect) return "-";
      if (column.added !== true) return number(median(own.map(column.of)), column.digits);
      if (isDirect) return "-";
      const pair = [target, references.direct] as const;
      return number(
        paired(mine, scenario, pair, column.of, (a, b) => a - b),
        column.digits,
      );
    });
    if (!isOpenLoop)
      for (const { reference } of ratios)
        cells.push(ratio(mine, scenario, target, reference, throughputOf(scenario)));
    cells.push(isDirect ? "-" : ratio(mine, scenario, target, references.bare, cpuOf(scenario)));
    cells.push(isDirect ? "-" : number(median(own.map((m) => m.residentMib)), 0));
    cells.push(number(median(own.map((m) => m.foreignCores)), 2));
    cells.push(String(own.reduce((sum, m) => sum + m.load.errors, 0)));
    return [target, ...cells];
  });
  return `${scenario.name}: ${scenario.describes}\n${aligned([titles, ...rows])}`;
}

/** For targets of several processes, a line that says which of them needs the CPU. */
export function cpuLines(
  scenario: Scenario,
  targets: readonly string[],
  measurements: readonly Measurement[],
): readonly string[] {
  return targets.flatMap((target) => {
    const own = measurements.filter((m) => m.scenario === scenario.name && m.target === target);
    const names = Object.keys(own[0]?.cpuUsPerAnswerOf ?? {});
    if (names.length < 2) return [];
    const parts = names.map((name) => {
      const cpu = median(own.map((m) => m.cpuUsPerAnswerOf[name] ?? Number.NaN));
      return `${name} ${number(cpu, 0)}`;
    });
    const cores = number(median(own.map((m) => m.cores)), 2);
    return [
      `${scenario.name}: CPU µs/req of ${target}: ${parts.join(", ")}; ${cores} cores in use`,
    ];
  });
}

/** CPU per request, or per chunk of a stream. */
export function cpuOf(scenario: Scenario): Measure {
  return scenario.stream === undefined ? (m) => m.cpuUsPerAnswer : (m) => m.cpuUsPerChunk;
}

function ratio(
  measurements: readonly Measurement[],
  scenario: Scenario,
  target: string,
  reference: string | undefined,
  of: Measure,
): string {
  if (reference === undefined) return "-";
  return number(
    paired(measurements, scenario, [target, reference], of, (a, b) => a / b),
    2,
  );
}

function number(value: number, digits: number): string {
  return Number.isNaN(value) ? "-" : value.toFixed(digits);
}

function aligned(rows: readonly (readonly string[])[]): string {
  const widths = (rows[0] ?? []).map((_, i) => Math.max(...rows.map((row) => row[i]?.length ?? 0)));
  return rows
    .map((row) =>
      row
        .map((cell, i) =>
          i === 0 ? cell.padEnd(widths[i] ?? 0) : cell.padStart((widths[i] ?? 0) + 2),
        )
        .join(""),
    )
    .join("\n");
}
