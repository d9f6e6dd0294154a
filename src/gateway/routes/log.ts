import { open } from "node:fs/promises";
import { join } from "node:path";
import type { Readable } from "node:stream";
import type { FastifyInstance } from "fastify";
import { RouterError } from "../../core/errors.ts";
import type { SideKind } from "../../usage-log/side-file.ts";

export interface LogDeps {
  /** Folder of the usage log, as its writer lays it out. */
  readonly logDirectory: string;
  /** A side file that another gateway verified; undefined if there is none. */
  readonly sideFile: (kind: SideKind, name: string) => Promise<string | undefined>;
}

/** Every path of the log, and nothing else on the disk. */
const LOG_PATH =
  /^(?:checkpoint|tile\/(?:entries|\d{1,2})(?:\/x\d{3})*\/\d{3}(?:\.p\/\d{1,3})?|epoch\/\d{1,10}\.json|(?:quote|evidence)\/[\w-]{43}\.json)$/;
const SIDE_PATH = /^(quote|evidence)\/([\w-]{43})\.json$/;
const IMMUTABLE = "public, max-age=31536000, immutable";

/** The usage log as static files under `/log/`; any copy of the folder serves as well. */
export function logRoutes(app: FastifyInstance, deps: LogDeps): void {
  app.get<{ Params: { "*": string } }>("/log/*", async (request, reply) => {
    const path = request.params["*"];
    if (!LOG_PATH.test(path)) throw new RouterError("not_found", "The log has no such file.");
    let content: Readable | string;
    try {
      content = (await open(join(deps.logDirectory, path))).createReadStream();
    } catch (cause) {
      const [, kind, name] = SIDE_PATH.exec(path) ?? [];
      const shared = name === undefined ? undefined : await deps.sideFile(kind as SideKind, name);
      if (shared === undefined)
        throw new RouterError("not_found", "The log has no such file.", { cause });
      content = shared;
    }
    const isChanging = path === "checkpoint" || path.startsWith("evidence/");
    reply.header("cache-control", isChanging ? "no-cache" : IMMUTABLE);
    reply.header("access-control-allow-origin", "*");
    reply.type(
      path === "checkpoint"
        ? "text/plain; charset=utf-8"
        : path.endsWith(".json")
          ? "application/json"
          : "application/octet-stream",
    );
    return content;
  });
}
