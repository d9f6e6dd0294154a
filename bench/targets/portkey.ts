import { execFile, spawn } from "node:child_process";
import { existsSync, mkdirSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import { stop } from "../child.ts";
import { freePort, listens, type Target, Unavailable, type Upstream, until } from "./target.ts";

const VERSION = "1.15.2";
/** Portkey asks for any 1.x, and 1.19.19 makes response headers immutable, with which it answers every stream with 500. */
const HONO_SERVER_VERSION = "1.13.8";
/** Time for npm to fetch and install it, ms. */
const INSTALL_LIMIT_MS = 120_000;
const START_LIMIT_MS = 20_000;

/**
 * Portkey's open-source gateway, started as its own command starts it, without cache, guardrails or log.
 *
 * It is installed on demand into a cache folder outside the checkout, because nothing of Daybreak needs it.
 *
 * @throws Unavailable when npm cannot install it.
 */
export async function openPortkey(upstream: Upstream): Promise<Target> {
  const script = await installPortkey();
  const port = await freePort();
  const child = spawn(process.execPath, [script, `--port=${port}`, "--headless"], {
    stdio: "ignore",
    env: {
      ...process.env,
      NODE_ENV: "production",
      // Portkey refuses a provider on loopback unless it is listed.
      TRUSTED_CUSTOM_HOSTS: "127.0.0.1,localhost",
    },
  });
  try {
    await until("Portkey", START_LIMIT_MS, () => {
      if (child.exitCode !== null) throw new Error(`Portkey ended with code ${child.exitCode}`);
      return listens(port);
    });
  } catch (error) {
    await stop(child);
    throw error;
  }
  return {
    name: `Portkey ${VERSION}`,
    does: "transforms, fetch; one process",
    port,
    path: "/v1/chat/completions",
    headers: {
      authorization: "Bearer none",
      "x-portkey-provider": "openai",
      "x-portkey-custom-host": upstream.baseUrl,
    },
    model: "gpt-5-mini",
    processes: { portkey: child.pid ?? 0 },
    close: () => stop(child),
  };
}

/** @returns the path of its start script. */
async function installPortkey(): Promise<string> {
  const parent = join(process.env["XDG_CACHE_HOME"] ?? tmpdir(), "daybreak-bench");
  const folder = join(parent, `portkey-${VERSION}-${HONO_SERVER_VERSION}`);
  const script = join(folder, "node_modules/@portkey-ai/gateway/build/start-server.js");
  if (existsSync(script)) return script;
  // Installed aside and renamed, so that an interrupted install is not taken for a whole one.
  const partial = `${folder}.${process.pid}`;
  try {
    mkdirSync(partial, { recursive: true });
    const overrides = { "@hono/node-server": HONO_SERVER_VERSION };
    writeFileSync(join(partial, "package.json"), JSON.stringify({ private: true, overrides }));
    await promisify(execFile)(
      "npm",
      [
        "install",
        `@portkey-ai/gateway@${VERSION}`,
        "--save-exact",
        "--ignore-scripts",
        "--omit=dev",
        "--no-audit",
        "--no-fund",
      ],
      { cwd: partial, timeout: INSTALL_LIMIT_MS },
    );
    rmSync(folder, { recursive: true, force: true });
    renameSync(partial, folder);
  } catch (cause) {
    throw new Unavailable(`npm could not install @portkey-ai/gateway ${VERSION}`, { cause });
  } finally {
    rmSync(partial, { recursive: true, force: true });
  }
  return script;
}
