import type { FastifyInstance } from "fastify";
import type { PresentPrice } from "../../billing/price.ts";
import type { PriceTick } from "../../billing/price-ticks.ts";
import { RouterError } from "../../core/errors.ts";
import { formatNano } from "../../core/money.ts";
import { parseTaoPrice } from "../../core/tao-price.ts";
import type { Authenticator } from "../auth.ts";

const TIME_CHARS_MAX = 40;

export interface PriceDeps {
  readonly auth: Authenticator;
  readonly presentPrice: () => PresentPrice;
  /** Recorded prices from that minute on, or the newest, oldest first. */
  readonly priceTicks: (fromMs: number | undefined) => Promise<readonly PriceTick[]>;
  /** Sets the price of this minute, nano-USD per TAO. @returns false if it has one already. */
  readonly setPrice: (nanoUsdPerTao: bigint) => Promise<boolean>;
}

/**
 * `GET /price/ticks?from=TIME`: the recorded prices; the first of them is the rate of a deposit whose block has that time.
 * `POST /price`, for the operator: the price of this minute, while the sources have none.
 */
export function priceRoutes(app: FastifyInstance, deps: PriceDeps): void {
  app.get<{ Querystring: { from?: unknown } }>("/price/ticks", async (request) => {
    await deps.auth.keyOf(request.raw.headers);
    const ticks = await deps.priceTicks(timeIn(request.query.from));
    return {
      data: ticks.map(({ minuteMs, nanoUsdPerTao, sources }) => ({
        minute: new Date(minuteMs).toISOString(),
        nusd_per_tao: nanoUsdPerTao.toString(),
        sources,
      })),
    };
  });
  app.post("/price", async (request, reply) => {
    deps.auth.requireAdmin(request.raw.headers);
    const price = priceIn(request.body);
    const { state } = deps.presentPrice();
    if (state !== "frozen")
      throw new RouterError(
        "invalid_request",
        state === "fixed"
          ? "This gateway's price is fixed by its settings."
          : "The sources agree on a price. It can be set by hand only while it is frozen.",
      );
    if (!(await deps.setPrice(price)))
      throw new RouterError(
        "invalid_request",
        "This minute has a price already, and it stays. Try again in the next minute.",
      );
    reply.code(201);
    return { data: { nusd_per_tao: price.toString(), usd_per_tao: formatNano(price) } };
  });
}

/** An ISO time → Unix milliseconds. */
function timeIn(text: unknown): number | undefined {
  if (text === undefined) return undefined;
  const timeMs =
    typeof text === "string" && text.length <= TIME_CHARS_MAX ? Date.parse(text) : Number.NaN;
  if (Number.isNaN(timeMs) || timeMs < 0)
    throw new RouterError("invalid_request", "from must be a time such as 2026-06-01T12:00:00Z.", {
      details: { param: "from" },
    });
  return timeMs;
}

function priceIn(body: unknown): bigint {
  let json: unknown;
  try {
    json = Buffer.isBuffer(body) ? JSON.parse(body.toString("utf8")) : undefined;
  } catch (cause) {
    throw new RouterError("invalid_json", "The request body is not JSON.", { cause });
  }
  const text =
    typeof json === "object" && json !== null && "usd_per_tao" in json ? json.usd_per_tao : "";
  const price = typeof text === "string" ? parseTaoPrice(text) : undefined;
  if (price === undefined)
    throw new RouterError(
      "invalid_request",
      'usd_per_tao must be a decimal in quotes, such as "412.50": more than 0, at most 1000000, at most 9 decimals.',
      { details: { param: "usd_per_tao" } },
    );
  return price;
}

/** A price as JSON shows it. */
export function priceJson(price: PresentPrice): Record<string, unknown> {
  const isFrozen = price.state === "frozen";
  return {
    state: price.state,
    nusd_per_tao: isFrozen ? null : price.nanoUsdPerTao.toString(),
    usd_per_tao: isFrozen ? null : formatNano(price.nanoUsdPerTao),
    sources: isFrozen ? [] : price.sources,
    frozen_because: isFrozen ? price.reason : null,
    frozen_since: isFrozen ? new Date(price.sinceMs).toISOString() : null,
  };
}
