import type { FastifyInstance } from "fastify";
import type { PresentPrice } from "../../billing/price.ts";
import { RouterError } from "../../core/errors.ts";
import { formatNano } from "../../core/money.ts";
import { parseTaoPrice } from "../../core/tao-price.ts";
import type { Authenticator } from "../auth.ts";

export interface PriceDeps {
  readonly auth: Authenticator;
  readonly presentPrice: () => PresentPrice;
  /** Sets the price of this minute, nano-USD per TAO. @returns false if it has one already. */
  readonly setPrice: (nanoUsdPerTao: bigint) => Promise<boolean>;
}

/** `POST /price`, for the operator: the price of this minute, when the sources have none. */
export function priceRoutes(app: FastifyInstance, deps: PriceDeps): void {
  app.post("/price", async (request, reply) => {
    deps.auth.requireAdmin(request.raw.headers);
    const price = priceIn(request.body);
    if (deps.presentPrice().state === "fixed")
      throw new RouterError("invalid_request", "This gateway's price is fixed by its settings.");
    if (!(await deps.setPrice(price)))
      throw new RouterError(
        "invalid_request",
        "This minute has a price already, and it stays. Try again in the next minute.",
      );
    reply.code(201);
    return { data: { nusd_per_tao: price.toString(), usd_per_tao: formatNano(price) } };
  });
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
