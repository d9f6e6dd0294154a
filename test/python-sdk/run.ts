/**
 * Runs the Python SDK of Bittensor, unmodified, against a local chain. It is fetched into a virtual environment in the
 * temporary folder, so this needs Python and PyPI; without them it says so and passes.
 *
 *   npm run test:python-sdk
 *
 * @module
 */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { openDevchain } from "../../src/devchain/devchain.ts";
import { ALICE, BOB, TAO } from "../devchain/local-client.ts";

const SDK = "bittensor==11.3.0";
/** Oldest Python that this SDK installs on. */
const PYTHON_TEST = "import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 10))";
const INSTALL_TIMEOUT_MS = 400_000;
const CHECK_TIMEOUT_MS = 120_000;
/** What pip says when it does not reach its registry, as opposed to a package that does not install. */
const UNREACHED =
  /NewConnectionError|ConnectionError|ProxyError|Max retries|Temporary failure|timed out|No matching distribution|ETIMEDOUT/i;

const folder = mkdtempSync(join(tmpdir(), "daybreak-python-sdk-"));
try {
  process.exitCode = await main(join(folder, "venv"));
} finally {
  rmSync(folder, { recursive: true, force: true });
}

async function main(venv: string): Promise<number> {
  const python = await run("python3", ["-c", PYTHON_TEST], CHECK_TIMEOUT_MS);
  if (python.code !== 0) return skipped("there is no Python 3.10 or newer with venv here");
  const made = await run("python3", ["-m", "venv", venv], CHECK_TIMEOUT_MS);
  if (made.code !== 0) return failed("the virtual environment cannot be made", made.output);
  const bin = join(venv, "bin");
  const pip = ["install", "--quiet", "--disable-pip-version-check", "--retries", "1", SDK];
  const installed = await run(join(bin, "pip"), pip, INSTALL_TIMEOUT_MS);
  if (installed.code !== 0)
    return UNREACHED.test(installed.output)
      ? skipped(`PyPI cannot be reached, so ${SDK} is not here`)
      : failed(`${SDK} cannot be installed`, installed.output);

  const chain = await openDevchain({
    host: "127.0.0.1",
    port: 0,
    blockMs: 250,
    tempo: 360,
    finalityLagBlocks: 1,
    endowed: [ALICE, BOB].map(({ address }) => ({ address, rao: 1_000_000n * TAO })),
  });
  const script = join(import.meta.dirname, "check.py");
  const checked = await run(join(bin, "python"), [script, chain.url], CHECK_TIMEOUT_MS);
  await chain.close();
  process.stdout.write(checked.output);
  return checked.code === 0 ? 0 : failed("the SDK and the chain do not agree", "");
}

function skipped(reason: string): number {
  console.log(`skipped: ${reason}`);
  return 0;
}

function failed(what: string, output: string): number {
  console.error(`${output}${what}`);
  return 1;
}

/** Runs a program and keeps what it prints. Its home is the temporary folder: the SDK keeps caches there. */
async function run(
  program: string,
  args: readonly string[],
  timeout: number,
): Promise<{ readonly code: number; readonly output: string }> {
  const child = spawn(program, args, { timeout, env: { ...process.env, HOME: folder } });
  let output = "";
  for (const stream of [child.stdout, child.stderr])
    stream.setEncoding("utf8").on("data", (text: string) => {
      output += text;
    });
  try {
    const [code] = (await once(child, "close")) as [number | null];
    return { code: code ?? 1, output };
  } catch (error) {
    return { code: 1, output: String(error) };
  }
}
