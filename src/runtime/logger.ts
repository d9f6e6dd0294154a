import { openSync } from "node:fs";
import { dirname } from "node:path";
import pino, { type Logger as PinoLogger } from "pino";
import { makeFolder } from "./make-folder.ts";
import { oneOf, type Setting } from "./settings.ts";

/** Structured log: an event name (`hold.settled`) and fields with units. Never prompts, completions, keys or evidence. */
export type Logger = PinoLogger;

export const LOG_LEVELS = ["trace", "debug", "info", "warn", "error", "fatal", "silent"] as const;
export type LogLevel = (typeof LOG_LEVELS)[number];

/** Settings that every service has. */
export const processSettings = {
  logLevel: {
    env: "DAYBREAK_LOG_LEVEL",
    help: "least severe level that is logged",
    default: "info",
    parse: oneOf(...LOG_LEVELS),
  },
} as const satisfies Record<string, Setting<unknown>>;

/** Fields that are removed wherever they appear, in case a library logs a request. A second line of defence. */
const REDACTED = [
  "authorization",
  "api_key",
  "apiKey",
  "key",
  "body",
  "messages",
  "prompt",
  "content",
  "evidence",
  "grant",
  "headers",
  "req.headers",
  "err.body",
  "err.headers",
];

/** @param destination a file path, or undefined for standard output. */
export function openLogger(service: string, level: LogLevel, destination?: string): Logger {
  return pino(
    {
      level,
      base: { service },
      messageKey: "event",
      timestamp: pino.stdTimeFunctions.isoTime,
      redact: { paths: REDACTED.flatMap((path) => [path, `*.${path}`]), remove: true },
    },
    // Asynchronous writes keep the disk off the request path; pino flushes them at exit, which throws while a file that it
    // opens itself is not open yet (pino 10.4).
    pino.destination({
      ...(destination === undefined ? {} : { fd: openLogFile(destination) }),
      sync: false,
    }),
  );
}

function openLogFile(path: string): number {
  makeFolder(dirname(path));
  return openSync(path, "a");
}
