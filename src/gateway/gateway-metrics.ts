import {
  Counter,
  DURATION_BUCKETS_SECONDS,
  Gauge,
  Histogram,
  type Registry,
} from "../runtime/metrics.ts";

/** The gateway's metrics. Labels are codes, model ids and results: never an account, a key or a text from a request. */
export interface GatewayMetrics {
  /** Inference requests by model and by error code, or `ok`. */
  readonly requests: Counter<"model" | "code">;
  /** Attempts at miners by how they went. */
  readonly attempts: Counter<"result">;
  readonly requestSeconds: Histogram<"model">;
  readonly firstContentSeconds: Histogram<"model">;
  /** Nano-USD. */
  readonly chargedNusd: Counter<"model">;
  readonly tokens: Counter<"model" | "kind">;
}

/** @param gauges what is read when the metrics are asked for. */
export function gatewayMetrics(
  registry: Registry,
  gauges: {
    readonly requestsUnderWay: () => number;
    readonly bodyBytes: () => number;
    readonly minersServing: () => number;
    /** 1 when no deposit is credited any more, since the chain contradicts the books. */
    readonly depositsHalted: () => number;
    readonly depositsBlock: () => number;
  },
): GatewayMetrics {
  const registers = [registry];
  const gauge = (name: string, help: string, read: () => number): void => {
    new Gauge({
      name,
      help,
      registers,
      collect() {
        this.set(read());
      },
    });
  };
  gauge("daybreak_gateway_requests_under_way", "Inference requests now", gauges.requestsUnderWay);
  gauge("daybreak_gateway_body_bytes", "Bytes of bodies held now", gauges.bodyBytes);
  gauge("daybreak_gateway_miners_serving", "Miners with fresh evidence", gauges.minersServing);
  gauge("daybreak_gateway_deposits_halted", "1: the deposit scanner halted", gauges.depositsHalted);
  gauge("daybreak_gateway_deposits_block", "Last block that is booked", gauges.depositsBlock);
  return {
    requests: new Counter({
      name: "daybreak_gateway_requests_total",
      help: "Inference requests by model and outcome",
      labelNames: ["model", "code"],
      registers,
    }),
    attempts: new Counter({
      name: "daybreak_gateway_attempts_total",
      help: "Attempts at miners by result",
      labelNames: ["result"],
      registers,
    }),
    requestSeconds: new Histogram({
      name: "daybreak_gateway_request_seconds",
      help: "Time from a request's first byte to the end of its answer",
      labelNames: ["model"],
      buckets: DURATION_BUCKETS_SECONDS,
      registers,
    }),
    firstContentSeconds: new Histogram({
      name: "daybreak_gateway_first_content_seconds",
      help: "Time from sending to a miner to its first content",
      labelNames: ["model"],
      buckets: DURATION_BUCKETS_SECONDS,
      registers,
    }),
    chargedNusd: new Counter({
      name: "daybreak_gateway_charged_nusd_total",
      help: "Nano-USD charged to customers",
      labelNames: ["model"],
      registers,
    }),
    tokens: new Counter({
      name: "daybreak_gateway_tokens_total",
      help: "Tokens by kind of use",
      labelNames: ["model", "kind"],
      registers,
    }),
  };
}
