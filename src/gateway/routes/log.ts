import { open } from "node:fs/promises";
import { join } from "node:path";
import type { FastifyInstance } from "fastify";
import { RouterError } from "../../core/errors.ts";

export interface LogDeps {
  /** Folder of the usage log, as its writer lays it out. */
  readonly logDirectory: string;
}

/** Every path of the log, and nothing else on the disk. */
const LOG_PATH =
  /^(?:checkpoint|tile\/(?:entries|\d{1,2})(?:\/x\d{3})*\/\d{3}(?:\.p\/\d{1,3})?|epoch\/\d{1,10}\.json|(?:quote|evidence)\/[\w-]{43}\.json)$/;
const IMMUTABLE = "public, max-age=31536000, immutable";

/** The usage log as static files under `/log/`; any copy of the folder serves as well. */
export function logRoutes(app: FastifyInstance, deps: LogDeps): void {
  app.get<{ Params: { "*": string } }>("/log/*", async (request, reply) => {
    const path = request.params["*"];
    if (!LOG_PATH.test(path)) throw new RouterError("not_found", "The log has no such file.");
    let file: Awaited<ReturnType<typeof open>>;
    try {
      file = await open(join(deps.logDirectory, path));
    } catch (cause) {
      throw new RouterError("not_found", "The log has no such file.", { cause });
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
    return file.createReadStream();
  });
}
