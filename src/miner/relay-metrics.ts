import {
  Counter,
  DURATION_BUCKETS_SECONDS,
  Gauge,
  Histogram,
  Registry,
} from "../runtime/metrics.ts";

/** What a relay counts. Labels are closed sets: surface, status, refusal. */
export interface RelayMetrics {
  readonly registry: Registry;
  readonly requests: Counter<"surface" | "status">;
  readonly refusals: Counter<"refusal">;
  readonly seconds: Histogram<"surface">;
  readonly tokens: Counter<"direction">;
}

/** @param inFlight requests under way, read when the metrics are. */
export function buildRelayMetrics(inFlight: () => number): RelayMetrics {
  const registry = new Registry();
  const registers = [registry];
  new Gauge({
    name: "daybreak_relay_in_flight",
    help: "Requests under way.",
    registers,
    collect() {
      this.set(inFlight());
    },
  });
  return {
    registry,
    requests: new Counter({
      name: "daybreak_relay_requests_total",
      help: "Requests whose grant was spent, by the status of their receipt.",
      labelNames: ["surface", "status"],
      registers,
    }),
    refusals: new Counter({
      name: "daybreak_relay_refusals_total",
      help: "Requests that were refused before the upstream was called.",
      labelNames: ["refusal"],
      registers,
    }),
    seconds: new Histogram({
      name: "daybreak_relay_request_seconds",
      help: "Seconds from the spent grant to the receipt.",
      labelNames: ["surface"],
      buckets: DURATION_BUCKETS_SECONDS,
      registers,
    }),
    tokens: new Counter({
      name: "daybreak_relay_tokens_total",
      help: "Tokens on receipts.",
      labelNames: ["direction"],
      registers,
    }),
  };
}
