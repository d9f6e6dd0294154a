import { isIP } from "node:net";
import { type Dispatcher, Pool } from "undici";
import { MODELS, type Model, modelOf, slugOf } from "../core/models.ts";
import { SURFACES, type Surface } from "../core/surface.ts";
import type { Closable } from "../runtime/shutdown.ts";

/** How an upstream takes its key, and on which surface and path it is asked. */
const KINDS = {
  openai: {
    surface: "chat",
    author: "openai",
    defaultBaseUrl: "https://api.openai.com/v1",
    pathOf: (base: string) => base + SURFACES.chat.path,
    authHeader: (key: string) => ["authorization", `Bearer ${key}`],
  },
  anthropic: {
    surface: "messages",
    author: "anthropic",
    defaultBaseUrl: "https://api.anthropic.com",
    // Anthropic's own SDK takes the base without the version; other tools write it with.
    pathOf: (base: string) => `${base.replace(/\/v1$/, "")}/v1${SURFACES.messages.path}`,
    authHeader: (key: string) => ["x-api-key", key],
  },
  // Google's OpenAI-compatible endpoint.
  gemini: {
    surface: "chat",
    author: "google",
    defaultBaseUrl: "https://generativelanguage.googleapis.com/v1beta/openai",
    pathOf: (base: string) => base + SURFACES.chat.path,
    authHeader: (key: string) => ["authorization", `Bearer ${key}`],
  },
} as const satisfies Record<
  string,
  {
    surface: Surface;
    author: string;
    defaultBaseUrl: string;
    pathOf(base: string): string;
    authHeader(key: string): readonly [string, string];
  }
>;

export type UpstreamKind = keyof typeof KINDS;

/** A provider as configured. */
export interface UpstreamConfig {
  readonly name: string;
  readonly kind: UpstreamKind;
  /** Absolute URL without a trailing slash; https, or http to this machine. */
  readonly baseUrl: string;
  readonly apiKey: string;
  /** Products that it serves. */
  readonly models: readonly Model[];
}

const UPSTREAMS_MAX = 32;
/** Most connections to one upstream; each carries one request at a time. */
export const UPSTREAM_CONNECTIONS_MAX = 512;

/** Patience with upstreams, in milliseconds. */
export interface UpstreamTimeouts {
  readonly connectMs: number;
  /** To the first byte of a streamed answer. */
  readonly firstByteMs: number;
  /** Between two bytes, and to the first byte of an answer that comes whole: its status waits for its last token. */
  readonly gapMs: number;
}

export const UPSTREAM_TIMEOUTS: UpstreamTimeouts = {
  connectMs: 10_000,
  firstByteMs: 120_000,
  gapMs: 300_000,
};

/** Parses DAYBREAK_UPSTREAMS. @throws Error with what it must be; the text itself holds keys and is never quoted. */
export function upstreamList(text: string): readonly UpstreamConfig[] {
  let json: unknown;
  try {
    json = JSON.parse(text);
  } catch {
    throw new Error("a JSON list of {name, kind, base_url, api_key, models}");
  }
  if (!Array.isArray(json) || json.length === 0 || json.length > UPSTREAMS_MAX)
    throw new Error(`a JSON list of 1 to ${UPSTREAMS_MAX} upstreams`);
  return json.map((entry: unknown, index) => upstreamFromJson(entry, `upstream ${index + 1}`));
}

function upstreamFromJson(json: unknown, where: string): UpstreamConfig {
  if (typeof json !== "object" || json === null) throw new Error(`${where} an object`);
  const { name, kind, base_url, api_key, models, ...rest } = json as Record<string, unknown>;
  const unknown = Object.keys(rest)[0];
  if (unknown !== undefined) throw new Error(`${where} without the unknown field "${unknown}"`);
  if (typeof kind !== "string" || !Object.hasOwn(KINDS, kind))
    throw new Error(`${where} with a kind of ${Object.keys(KINDS).join(", ")}`);
  const known = kind as UpstreamKind;
  if (typeof name !== "string" || !/^[\w.-]{1,64}$/.test(name))
    throw new Error(`${where} with a name of letters, digits, dots and dashes`);
  if (typeof api_key !== "string" || !/^[\x21-\x7e]{1,512}$/.test(api_key))
    throw new Error(`${where} with an api_key of visible ASCII characters`);
  const baseUrl = base_url ?? KINDS[known].defaultBaseUrl;
  if (typeof baseUrl !== "string" || !isAllowedBaseUrl(baseUrl))
    throw new Error(`${where} with an https base_url (http only to this machine)`);
  return {
    name,
    kind: known,
    baseUrl: baseUrl.replace(/\/+$/, ""),
    apiKey: api_key,
    models: models === undefined ? modelsOf(known) : modelsFromJson(models, known, where),
  };
}

function modelsFromJson(json: unknown, kind: UpstreamKind, where: string): readonly Model[] {
  if (!Array.isArray(json) || json.length === 0)
    throw new Error(`${where} with a list of models, or none for all of its kind`);
  return json.map((name: unknown) => {
    const model = typeof name === "string" ? modelOf(name) : undefined;
    if (model === undefined) throw new Error(`${where} with models of the catalogue`);
    if (model.surface !== KINDS[kind].surface)
      throw new Error(
        `${where} with models that it can serve; ${model.id} needs ${SURFACES[model.surface].name}`,
      );
    return model;
  });
}

function modelsOf(kind: UpstreamKind): readonly Model[] {
  return MODELS.filter((model) => model.id.startsWith(`${KINDS[kind].author}/`));
}

/** Prompts leave the relay under TLS, unless they do not leave the machine. */
function isAllowedBaseUrl(text: string): boolean {
  if (!URL.canParse(text)) return false;
  const { protocol, hostname, username, password, search, hash } = new URL(text);
  if (username !== "" || password !== "" || search !== "" || hash !== "") return false;
  if (protocol === "https:") return true;
  const isLoopback =
    hostname === "localhost" ||
    hostname === "[::1]" ||
    (isIP(hostname) === 4 && hostname.startsWith("127."));
  return protocol === "http:" && isLoopback;
}

/** The upstreams that single keys in the environment stand for. */
export function upstreamsOfKeys(
  keys: Readonly<Partial<Record<UpstreamKind, string | undefined>>>,
): readonly UpstreamConfig[] {
  return (Object.keys(KINDS) as UpstreamKind[]).flatMap((kind) => {
    const apiKey = keys[kind];
    if (apiKey === undefined) return [];
    const { defaultBaseUrl } = KINDS[kind];
    return [{ name: kind, kind, baseUrl: defaultBaseUrl, apiKey, models: modelsOf(kind) }];
  });
}

/** Where one product is served. */
export interface Upstream {
  readonly model: Model;
  /** The model's name at the upstream. */
  readonly upstreamModel: string;
  /** host:port, as in the statement and the receipt. */
  readonly host: string;
  /**
   * Sends one request, once: no redirect is followed and nothing is retried, since the first try may already be billed.
   *
   * @param headers of the client, already filtered; the upstream's key is added here.
   */
  send(
    request: {
      readonly body: Buffer;
      readonly headers: Readonly<Record<string, string>>;
      readonly streamed: boolean;
    },
    handler: Dispatcher.DispatchHandler,
  ): void;
  /** Whether `text` contains the upstream's key. */
  leaksKey(text: string): boolean;
}

export interface Upstreams extends Closable {
  /** Products, each once, in the order of the catalogue. */
  readonly models: readonly Model[];
  /** host:port of every upstream, sorted. */
  readonly hosts: readonly string[];
  of(model: Model): Upstream | undefined;
}

/** Opens a bounded pool of connections per upstream. A product that two upstreams offer goes to the first. */
export function openUpstreams(
  configs: readonly UpstreamConfig[],
  timeouts: UpstreamTimeouts = UPSTREAM_TIMEOUTS,
): Upstreams {
  const byModel = new Map<Model, Upstream>();
  const pools: Pool[] = [];
  const hosts = new Set<string>();
  for (const config of configs) {
    const { origin, pathname, hostname, port, protocol } = new URL(
      KINDS[config.kind].pathOf(config.baseUrl),
    );
    const pool = new Pool(origin, {
      connections: UPSTREAM_CONNECTIONS_MAX,
      pipelining: 1,
      // undici's HTTP/2 client sends POSTs of one session one after the other (8.12.4).
      allowH2: false,
      connect: { timeout: timeouts.connectMs },
      headersTimeout: timeouts.gapMs,
      bodyTimeout: timeouts.gapMs,
    });
    pools.push(pool);
    const host = `${hostname}:${port === "" ? (protocol === "https:" ? 443 : 80) : port}`;
    hosts.add(host);
    const [authName, authValue] = KINDS[config.kind].authHeader(config.apiKey);
    for (const model of config.models) {
      if (byModel.has(model)) continue;
      byModel.set(model, {
        model,
        upstreamModel: slugOf(model),
        host,
        send: ({ body, headers, streamed }, handler) => {
          pool.dispatch(
            {
              method: "POST",
              path: pathname,
              headers: {
                ...headers,
                // A compressed answer could not be metered as it passes.
                "accept-encoding": "identity",
                [authName]: authValue,
              },
              body,
              ...(streamed ? { headersTimeout: timeouts.firstByteMs } : {}),
            },
            handler,
          );
        },
        leaksKey: (text) => text.includes(config.apiKey),
      });
    }
  }
  let closing: Promise<unknown> | undefined;
  return {
    models: MODELS.filter((model) => byModel.has(model)),
    hosts: [...hosts].sort(),
    of: (model) => byModel.get(model),
    close: async () => {
      closing ??= Promise.all(pools.map(async (pool) => await pool.destroy()));
      await closing;
    },
  };
}
