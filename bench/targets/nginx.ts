import { execFile, spawn } from "node:child_process";
import { chmodSync, existsSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { delimiter, join } from "node:path";
import { promisify } from "node:util";
import { stop } from "../child.ts";
import { freePort, listens, type Target, Unavailable, type Upstream, until } from "./target.ts";

/** Time for apt to fetch and install one package, ms. */
const INSTALL_LIMIT_MS = 120_000;
const START_LIMIT_MS = 10_000;

const run = promisify(execFile);

/**
 * nginx with one worker as a reverse proxy with keep-alive on both sides and no response buffering.
 *
 * Installs the Debian package when there is none and this is root; its own service is not started.
 *
 * @throws Unavailable when nginx is missing and cannot be installed.
 */
export async function openNginx(upstream: Upstream): Promise<Target> {
  const binary = findNginx() ?? (await installNginx());
  const version = (await run(binary, ["-v"])).stderr.trim().replace(/^.*nginx\//, "");
  const folder = mkdtempSync(join(tmpdir(), "daybreak-bench-nginx-"));
  chmodSync(folder, 0o755); // the worker runs as another user and keeps large bodies here
  const port = await freePort();
  writeFileSync(join(folder, "nginx.conf"), configuration(folder, port, upstream.port));
  const child = spawn(binary, ["-c", join(folder, "nginx.conf"), "-p", folder], {
    stdio: ["ignore", "ignore", "inherit"],
  });
  async function close(): Promise<void> {
    await stop(child);
    rmSync(folder, { recursive: true, force: true });
  }
  try {
    await until("nginx", START_LIMIT_MS, () => {
      if (child.exitCode !== null) throw new Error(`nginx ended with code ${child.exitCode}`);
      return listens(port);
    });
  } catch (error) {
    await close();
    throw error;
  }
  return {
    name: `nginx ${version}`,
    does: "forwards; one worker",
    port,
    path: "/v1/chat/completions",
    headers: { authorization: "Bearer none" },
    model: "gpt-5-mini",
    processes: { nginx: child.pid ?? 0 },
    close,
  };
}

function findNginx(): string | undefined {
  // Debian keeps it in sbin, which is not on every user's path.
  const folders = [...(process.env["PATH"] ?? "").split(delimiter), "/usr/sbin"];
  return folders.map((folder) => join(folder, "nginx")).find((file) => existsSync(file));
}

async function installNginx(): Promise<string> {
  if (process.getuid?.() !== 0 || !existsSync("/usr/bin/apt-get"))
    throw new Unavailable("nginx is not installed (apt-get install nginx)");
  // Run level 1 is how the Debian scripts are told not to start the service they install.
  const env = { ...process.env, DEBIAN_FRONTEND: "noninteractive", RUNLEVEL: "1" };
  const install = ["install", "-y", "--no-install-recommends", "nginx"];
  const options = { env, timeout: INSTALL_LIMIT_MS };
  try {
    await run("apt-get", install, options).catch(async () => {
      await run("apt-get", ["update"], options);
      await run("apt-get", install, options);
    });
  } catch (cause) {
    throw new Unavailable("apt-get could not install nginx", { cause });
  }
  const binary = findNginx();
  if (binary === undefined) throw new Unavailable("apt-get installed nginx, but it is not found");
  return binary;
}

function configuration(folder: string, port: number, upstreamPort: number): string {
  const user = process.getuid?.() === 0 ? "user nobody nogroup;" : "";
  return `${user}
worker_processes 1;
daemon off;
pid ${folder}/nginx.pid;
error_log stderr error;
worker_rlimit_nofile 8192;
events { worker_connections 4096; multi_accept on; }
http {
  access_log off;
  client_body_temp_path ${folder}/body; proxy_temp_path ${folder}/proxy;
  fastcgi_temp_path ${folder}/fastcgi; uwsgi_temp_path ${folder}/uwsgi; scgi_temp_path ${folder}/scgi;
  client_body_buffer_size 2m; client_max_body_size 20m;
  keepalive_timeout 120s; keepalive_requests 10000000; tcp_nodelay on;
  upstream provider {
    server 127.0.0.1:${upstreamPort};
    keepalive 512; keepalive_requests 10000000; keepalive_timeout 120s;
  }
  server {
    listen 127.0.0.1:${port} backlog=4096;
    location / {
      proxy_pass http://provider;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_buffering off;
      proxy_read_timeout 300s;
    }
  }
}
`;
}
