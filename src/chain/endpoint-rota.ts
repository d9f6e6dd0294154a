/** Shortest and longest rest of an endpoint that failed; each failure in a row doubles it. */
const REST_MS_MIN = 1_000;
const REST_MS_MAX = 60_000;
/** Longest rest that an endpoint may ask for: what asks for more is not coming back today. */
const ASKED_REST_MS_MAX = 600_000;

/** One of the nodes that a client may use. */
export interface Endpoint {
  readonly url: string;
  /** The URL without path, query and user: public nodes take their API keys there, and it is logged. */
  readonly shown: string;
}

/** Says which endpoint is tried next, and when. */
export interface EndpointRota {
  /**
   * The endpoint that has rested soonest, in list order among those that have, and how long it still rests.
   *
   * @returns undefined when every endpoint is excluded.
   */
  next(nowMs: number): { readonly endpoint: Endpoint; readonly waitMs: number } | undefined;
  /** It rests, longer after each failure in a row, and at least as long as it asks for. */
  failed(endpoint: Endpoint, nowMs: number, askedMs?: number): void;
  /** Its next failure counts as the first. */
  worked(endpoint: Endpoint): void;
  /** It is never tried again. */
  exclude(endpoint: Endpoint): void;
}

/** @param random in [0, 1): jitter of 50 % keeps the clients of a restarted node apart. */
export function openEndpointRota(urls: readonly string[], random: () => number): EndpointRota {
  const states = new Map(
    urls.map((url) => [
      { url, shown: shownUrl(url) } satisfies Endpoint,
      { failures: 0, restedMs: -Infinity },
    ]),
  );
  const stateOf = (endpoint: Endpoint) => states.get(endpoint) ?? { failures: 0, restedMs: 0 };

  return {
    next(nowMs) {
      let best: { endpoint: Endpoint; waitMs: number } | undefined;
      for (const [endpoint, { restedMs }] of states) {
        const waitMs = Math.max(0, restedMs - nowMs);
        if (best === undefined || waitMs < best.waitMs) best = { endpoint, waitMs };
      }
      return best;
    },
    failed(endpoint, nowMs, askedMs = 0) {
      const state = stateOf(endpoint);
      const restMs = Math.min(REST_MS_MAX, REST_MS_MIN * 2 ** Math.min(state.failures, 10));
      const jittered = restMs * (0.5 + random() / 2);
      state.failures += 1;
      state.restedMs = nowMs + Math.max(jittered, Math.min(askedMs, ASKED_REST_MS_MAX));
    },
    worked: (endpoint) => void (stateOf(endpoint).failures = 0),
    exclude: (endpoint) => void states.delete(endpoint),
  };
}

function shownUrl(url: string): string {
  const { protocol, host } = new URL(url);
  return `${protocol}//${host}`;
}
