import { netuidOf } from "../core/ids.ts";
import { verifyingKey } from "../core/jws.ts";
import type { Statement } from "../core/statement.ts";

/** Longest statement, in bytes. */
const STATEMENT_BYTES_MAX = 8 * 1024;
/** Most upstreams that a statement names. */
const UPSTREAMS_MAX = 64;
const TEXT_CHARS_MAX = 128;

const FIELDS: readonly (keyof Statement)[] = [
  "v",
  "net",
  "netuid",
  "hotkey",
  "worker",
  "kind",
  "boot",
  "iat",
  "exp",
  "receipt_jwk",
  "tls_spki",
  "image",
  "config",
  "upstreams",
];

/** Reads statement bytes. @returns undefined unless they are UTF-8 JSON with exactly the statement's fields. */
export function parseStatement(bytes: Uint8Array): Statement | undefined {
  if (bytes.length > STATEMENT_BYTES_MAX) return undefined;
  let json: unknown;
  try {
    json = JSON.parse(new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes));
  } catch {
    return undefined;
  }
  if (typeof json !== "object" || json === null || Array.isArray(json)) return undefined;
  if (Object.keys(json).length !== FIELDS.length) return undefined;
  const fields = json as Readonly<Record<string, unknown>>;
  const { v, net, hotkey, worker, kind, boot, iat, exp, tls_spki, image, config, upstreams } =
    fields;
  const netuid = netuidOf(fields["netuid"]);
  const receiptKey = verifyingKey(fields["receipt_jwk"]);
  if (v !== 1 || netuid === undefined || receiptKey === undefined) return undefined;
  if (Object.keys(fields["receipt_jwk"] as object).length !== 3) return undefined;
  if (!matches(net, /^0x[0-9a-f]{64}$/) || !matches(hotkey, /^[0-9a-f]{64}$/)) return undefined;
  if (!matches(worker, /^[\w.-]{1,64}$/) || !matches(kind, /^[a-z0-9-]{1,32}$/)) return undefined;
  if (!matches(boot, /^[\w-]{22}$/) || !matches(image, /^sha256:[0-9a-f]{64}$/)) return undefined;
  if (!matches(tls_spki, /^[\w-]{43}$/) || !matches(config, /^[\w-]{43}$/)) return undefined;
  if (!isSeconds(iat) || !isSeconds(exp) || exp <= iat) return undefined;
  if (!Array.isArray(upstreams) || upstreams.length > UPSTREAMS_MAX) return undefined;
  if (
    !upstreams.every((upstream): upstream is string => matches(upstream, /^[\w.:[\]-]+:\d{1,5}$/))
  )
    return undefined;
  return {
    v,
    net,
    netuid,
    hotkey,
    worker,
    kind,
    boot,
    iat,
    exp,
    receipt_jwk: receiptKey.jwk,
    tls_spki,
    image,
    config,
    upstreams,
  };
}

function matches(value: unknown, pattern: RegExp): value is string {
  return typeof value === "string" && value.length <= TEXT_CHARS_MAX && pattern.test(value);
}

function isSeconds(value: unknown): value is number {
  return Number.isSafeInteger(value) && (value as number) >= 0;
}
