import { randomInt } from "node:crypto";
import { Agent, request } from "undici";
import { hotkeyOf } from "../core/ids.ts";
import { type Model, modelOf } from "../core/models.ts";
import { SURFACES } from "../core/surface.ts";

/** Nano-USD that one epoch's probes may cost at list prices with a markup: five cents. */
export const PROBE_NUSD_PER_EPOCH_MAX = 50_000_000n;
/** Probes of one epoch. */
const PROBES_MAX = 512;
const UNDERWAY_MAX = 4;
const OUTPUT_TOKENS_MAX = 16;
/** More than the longest prompt below has, with its frame. */
const INPUT_TOKENS_ASSUMED = 64n;
/** List price and any markup that a gateway may ask, doubled: what is set aside for a probe before it is bought. */
const MARGIN = 2n;
const TOKENS_PER_MTOK = 1_000_000n;
const PROBE_TIMEOUT_MS = 30_000;
const LIST_TIMEOUT_MS = 10_000;
const ANSWER_BYTES_MAX = 262_144;
const LIST_BYTES_MAX = 4_194_304;

const PROMPTS = [
  "Reply with the word for the colour of the sky on a clear day.",
  "What is the capital of Portugal? One word.",
  "Name any fruit that starts with the letter P.",
  "Is seven a prime number? Yes or no.",
  "Translate 'thank you' to French.",
] as const;

/** How one probe ended. */
export interface ProbeResult {
  readonly hotkey: string;
  readonly model: string;
  /** `ok`, `wrong_miner`, `malformed_answer`, `timeout`, `unreachable` or `http_` and the status. */
  readonly outcome: string;
  /** Milliseconds from the request to the end of the answer. */
  readonly latency_ms: number;
}

/** What a validator bought in one epoch. */
export interface ProbeSummary {
  readonly epoch: number;
  readonly attempted: number;
  readonly succeeded: number;
  /** Left out because of the limits on spending and number. */
  readonly skipped: number;
  readonly spent_nusd: string;
  readonly results: readonly ProbeResult[];
}

/** A summary without the single results, for the epoch's report. */
export interface ProbeReport {
  readonly attempted: number;
  readonly succeeded: number;
  readonly skipped: number;
  readonly spent_nusd: string;
  readonly outcomes: Readonly<Record<string, number>>;
  /** Median of the successful ones; absent when there was none. */
  readonly latency_ms_p50?: number;
}

/** Counts the outcomes of a summary. */
export function probeReportOf(summary: ProbeSummary): ProbeReport {
  const { attempted, succeeded, skipped, spent_nusd, results } = summary;
  const outcomes: Record<string, number> = {};
  for (const { outcome } of results) outcomes[outcome] = (outcomes[outcome] ?? 0) + 1;
  const latencies = results
    .filter(({ outcome }) => outcome === "ok")
    .map(({ latency_ms }) => latency_ms)
    .sort((a, b) => a - b);
  const median = latencies[Math.floor(latencies.length / 2)];
  return {
    attempted,
    succeeded,
    skipped,
    spent_nusd,
    outcomes,
    ...(median === undefined ? {} : { latency_ms_p50: median }),
  };
}

interface ProbeOptions {
  readonly epoch: number;
  readonly gatewayUrl: string;
  /** An ordinary customer's key. */
  readonly apiKey: string;
  readonly signal: AbortSignal;
  readonly budgetNusd?: bigint;
  readonly nowMs?: () => number;
}

interface Target {
  readonly hotkey: string;
  readonly model: Model;
}

/**
 * Buys one tiny answer from every miner for each of its models, through the gateway, as any customer can.
 *
 * @returns undefined if the gateway does not say which miners there are. It never throws.
 */
export async function runProbes(options: ProbeOptions): Promise<ProbeSummary | undefined> {
  const agent = new Agent({ connections: UNDERWAY_MAX });
  try {
    const targets = await targetsOf(options, agent);
    if (targets === undefined || targets.length === 0) return undefined;
    // What one epoch leaves out comes first in a later one.
    const start = (options.epoch * PROBES_MAX) % targets.length;
    const rotated = [...targets.slice(start), ...targets.slice(0, start)];
    return await buy(rotated, options, agent);
  } finally {
    await agent.destroy();
  }
}

async function buy(
  targets: readonly Target[],
  options: ProbeOptions,
  agent: Agent,
): Promise<ProbeSummary> {
  const budget = options.budgetNusd ?? PROBE_NUSD_PER_EPOCH_MAX;
  const results: ProbeResult[] = [];
  let spent = 0n;
  let reserved = 0n;
  const queue = targets.slice(0, PROBES_MAX);
  let skipped = targets.length - queue.length;
  const worker = async (): Promise<void> => {
    for (let target = queue.shift(); target !== undefined; target = queue.shift()) {
      const most = mostOf(target.model);
      if (options.signal.aborted || spent + reserved + most > budget) {
        skipped += 1;
        continue;
      }
      reserved += most;
      const { result, costNusd } = await buyOne(target, options, agent);
      reserved -= most;
      spent += costNusd ?? most;
      results.push(result);
    }
  };
  await Promise.all(Array.from({ length: UNDERWAY_MAX }, worker));
  return {
    epoch: options.epoch,
    attempted: results.length,
    succeeded: results.filter(({ outcome }) => outcome === "ok").length,
    skipped,
    spent_nusd: spent.toString(),
    results: results.sort((a, b) => (a.hotkey + a.model < b.hotkey + b.model ? -1 : 1)),
  };
}

/** @returns what was charged, when the gateway said so; a failed request costs nothing. */
async function buyOne(
  { hotkey, model }: Target,
  { gatewayUrl, apiKey, signal, nowMs = () => performance.now() }: ProbeOptions,
  agent: Agent,
): Promise<{ result: ProbeResult; costNusd: bigint | undefined }> {
  const prompt = PROMPTS[randomInt(PROMPTS.length)];
  const bound = model.surface === "chat" ? "max_completion_tokens" : "max_tokens";
  const startedMs = nowMs();
  const ended = (outcome: string, costNusd: bigint | undefined) => ({
    result: { hotkey, model: model.id, outcome, latency_ms: Math.round(nowMs() - startedMs) },
    costNusd,
  });
  try {
    const { statusCode, headers, body } = await request(
      `${gatewayUrl}/v1${SURFACES[model.surface].path}`,
      {
        dispatcher: agent,
        method: "POST",
        headers: { authorization: `Bearer ${apiKey}`, "content-type": "application/json" },
        body: JSON.stringify({
          model: model.id,
          [bound]: OUTPUT_TOKENS_MAX,
          messages: [{ role: "user", content: prompt }],
          provider: { only: [hotkey], allow_fallbacks: false },
        }),
        signal: AbortSignal.any([signal, AbortSignal.timeout(PROBE_TIMEOUT_MS)]),
      },
    );
    const text = await textOf(body as AsyncIterable<Buffer>, ANSWER_BYTES_MAX);
    if (statusCode !== 200) return ended(`http_${statusCode}`, 0n);
    const cost = headers["x-daybreak-cost-nusd"];
    const costNusd = typeof cost === "string" && /^\d{1,18}$/.test(cost) ? BigInt(cost) : undefined;
    if (headers["x-daybreak-miner"] !== hotkey) return ended("wrong_miner", costNusd);
    return ended(jsonOf(text) === undefined ? "malformed_answer" : "ok", costNusd);
  } catch (error) {
    const timedOut = error instanceof DOMException && error.name === "TimeoutError";
    return ended(timedOut ? "timeout" : "unreachable", undefined);
  }
}

/** At most this much for one probe. */
function mostOf({ retail }: Model): bigint {
  const input = INPUT_TOKENS_ASSUMED * (retail.input ?? 0n);
  const output =
    BigInt(OUTPUT_TOKENS_MAX) *
    ((retail.output ?? 0n) > (retail.reasoning ?? 0n)
      ? (retail.output ?? 0n)
      : (retail.reasoning ?? 0n));
  return ((input + output) * MARGIN) / TOKENS_PER_MTOK;
}

/** `GET /v1/network/miners`: `{data: [{hotkey, state, products: [{model: "author/slug"}]}]}`. */
async function targetsOf(
  { gatewayUrl, signal }: ProbeOptions,
  agent: Agent,
): Promise<Target[] | undefined> {
  try {
    const { statusCode, body } = await request(`${gatewayUrl}/v1/network/miners`, {
      dispatcher: agent,
      signal: AbortSignal.any([signal, AbortSignal.timeout(LIST_TIMEOUT_MS)]),
    });
    const text = await textOf(body as AsyncIterable<Buffer>, LIST_BYTES_MAX);
    const data = statusCode === 200 ? jsonOf(text)?.["data"] : undefined;
    if (!Array.isArray(data)) return undefined;
    return (data as unknown[]).flatMap((entry) => {
      const { hotkey, state, products } = (entry ?? {}) as Record<string, unknown>;
      const miner = hotkeyOf(hotkey);
      if (miner === undefined || state !== "serving" || !Array.isArray(products)) return [];
      return (products as unknown[]).flatMap((product) => {
        const { model: name } = (product ?? {}) as Record<string, unknown>;
        const model = typeof name === "string" ? modelOf(name) : undefined;
        return model === undefined ? [] : [{ hotkey: miner, model }];
      });
    });
  } catch {
    return undefined;
  }
}

async function textOf(body: AsyncIterable<Buffer>, bytesMax: number): Promise<string> {
  const parts: Buffer[] = [];
  let length = 0;
  for await (const part of body) {
    length += part.length;
    if (length > bytesMax) throw new Error(`the answer is longer than ${bytesMax} bytes`);
    parts.push(part);
  }
  return Buffer.concat(parts).toString("utf8");
}

function jsonOf(text: string): Record<string, unknown> | undefined {
  try {
    const json: unknown = JSON.parse(text);
    return typeof json === "object" && json !== null && !Array.isArray(json)
      ? (json as Record<string, unknown>)
      : undefined;
  } catch {
    return undefined;
  }
}
