import type { ReceiptStatus } from "../core/receipt.ts";
import type { Surface } from "../core/surface.ts";
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
  /** A request whose grant was spent, by the status of its receipt. */
  countRequest(surface: Surface, status: ReceiptStatus | "receipt_not_stored"): void;
  readonly refusals: Counter<"refusal">;
  readonly seconds: Histogram<"surface">;
  countTokens(input: number, output: number): void;
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
  // Every `inc` of prom-client builds a string of the labels and looks it up, so what every request counts is kept in
  // plain numbers, and prom-client gets them when it is asked.
  const requests: Readonly<Record<Surface, Map<string, number>>> = {
    chat: new Map(),
    messages: new Map(),
  };
  const tokens = { input: 0, output: 0 };
  new Counter({
    name: "daybreak_relay_requests_total",
    help: "Requests whose grant was spent, by the status of their receipt.",
    labelNames: ["surface", "status"],
    registers,
    collect() {
      this.reset();
      for (const [surface, byStatus] of Object.entries(requests))
        for (const [status, count] of byStatus) this.inc({ surface, status }, count);
    },
  });
  new Counter({
    name: "daybreak_relay_tokens_total",
    help: "Tokens on receipts.",
    labelNames: ["direction"],
    registers,
    collect() {
      this.reset();
      this.inc({ direction: "input" }, tokens.input);
      this.inc({ direction: "output" }, tokens.output);
    },
  });
  return {
    registry,
    countRequest: (surface, status) => {
      const byStatus = requests[surface];
      byStatus.set(status, (byStatus.get(status) ?? 0) + 1);
    },
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
    countTokens: (input, output) => {
      tokens.input += input;
      tokens.output += output;
    },
  };
}
