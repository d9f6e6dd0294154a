import {
  Counter,
  DURATION_BUCKETS_SECONDS,
  Gauge,
  Histogram,
  Registry,
} from "../runtime/metrics.ts";
import type { EpochReport } from "./epoch-report.ts";
import type { ProbeSummary } from "./probe.ts";

interface ValidatorMetrics {
  readonly registry: Registry;
  epoch(report: EpochReport): void;
  weights(result: "set" | "refused"): void;
  probes(summary: ProbeSummary): void;
}

/** A validator's metrics. Labels are verdicts, reasons and outcomes; never hotkeys or requests. */
export function validatorMetrics(): ValidatorMetrics {
  const registry = new Registry();
  const registers = [registry];
  const epoch = new Gauge({
    name: "daybreak_validator_epoch",
    help: "last epoch that was processed",
    registers,
  });
  const epochs = new Counter({
    name: "daybreak_validator_epochs_total",
    help: "epochs processed, by verdict on their log",
    labelNames: ["verdict", "reason"],
    registers,
  });
  const burn = new Gauge({
    name: "daybreak_validator_burn_bps",
    help: "part of the last pool that no usage earned, basis points",
    registers,
  });
  const leaves = new Counter({
    name: "daybreak_validator_leaves_total",
    help: "leaves of the usage log audited",
    registers,
  });
  const refused = new Counter({
    name: "daybreak_validator_leaves_refused_total",
    help: "leaves that earned nothing, by reason",
    labelNames: ["reason"],
    registers,
  });
  const weights = new Counter({
    name: "daybreak_validator_weights_total",
    help: "set_weights calls, by result",
    labelNames: ["result"],
    registers,
  });
  const probes = new Counter({
    name: "daybreak_validator_probes_total",
    help: "probes bought, by outcome",
    labelNames: ["outcome"],
    registers,
  });
  const latency = new Histogram({
    name: "daybreak_validator_probe_seconds",
    help: "duration of successful probes, by model",
    labelNames: ["model"],
    buckets: [...DURATION_BUCKETS_SECONDS],
    registers,
  });
  return {
    registry,
    epoch: (report) => {
      epoch.set(report.epoch);
      burn.set(report.burn_bps);
      epochs.inc({ verdict: report.verdict, reason: report.reason ?? "none" });
      leaves.inc(report.leaves);
      for (const [reason, count] of Object.entries(report.refusals)) refused.inc({ reason }, count);
    },
    weights: (result) => weights.inc({ result }),
    probes: (summary) => {
      for (const { outcome, model, latency_ms } of summary.results) {
        probes.inc({ outcome });
        if (outcome === "ok") latency.observe({ model }, latency_ms / 1_000);
      }
    },
  };
}
