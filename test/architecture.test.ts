import assert from "node:assert/strict";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { dirname, join, relative } from "node:path";
import { test } from "node:test";

const LIBRARIES = ["attestation", "dialects", "usage-log", "chain", "devchain"] as const;

/** Folder → folders of src it may import. A `main.ts` wires its service and may import any library, never another service. */
const MAY_IMPORT: Record<string, readonly string[]> = {
  core: [],
  runtime: ["core"],
  ...Object.fromEntries(LIBRARIES.map((library) => [library, ["core", "runtime"]])),
  billing: ["core", "runtime"],
  gateway: ["core", "runtime", "attestation", "dialects", "usage-log", "billing"],
  miner: ["core", "runtime", "attestation", "dialects"],
  validator: ["core", "runtime", "attestation", "usage-log"],
  local: ["core", "runtime", "billing", "gateway", "miner", "validator", ...LIBRARIES],
  "cli.ts": [
    "core",
    "runtime",
    "billing",
    "gateway",
    "miner",
    "validator",
    "chain",
    "devchain",
    "local",
  ],
};
const MAIN_MAY_IMPORT = ["core", "runtime", "billing", ...LIBRARIES];

/** npm package → the only folders that may import it. */
const OWNERS: Record<string, readonly string[]> = {
  "@polkadot/api": ["chain"],
  "@polkadot/keyring": ["chain", "devchain"],
  "@polkadot/types": ["chain", "devchain"],
  "@polkadot/util": ["chain", "devchain"],
  "@polkadot/util-crypto": ["chain", "devchain"],
  "@polkadot/rpc-provider": ["chain"],
  "@noble/curves": ["devchain"],
  "@electric-sql/pglite": ["runtime"],
  "@electric-sql/pglite-prepopulatedfs": ["runtime"],
  "@copilotkit/aimock": ["local"],
  bullmq: ["runtime"],
  commander: ["cli.ts"],
  fastify: ["gateway", "miner", "validator"],
  ioredis: ["runtime"],
  pg: ["runtime"],
  pino: ["runtime"],
  "prom-client": ["runtime"],
  undici: ["gateway", "miner", "validator"],
  uqr: ["gateway"],
  ws: ["chain", "devchain"],
};

/** Static imports and re-exports, bare imports, and dynamic imports. */
const SPECIFIER =
  /^(?:import|export)\b[^;"]*?\bfrom\s*"([^"]+)"|^import\s*"([^"]+)"|\bimport\("([^"]+)"\)/gms;

test("src imports follow the direction table", () => {
  const files = readdirSync("src", { recursive: true, encoding: "utf8" })
    .map((file) => file.replaceAll("\\", "/"))
    .filter((file) => file.endsWith(".ts"));
  const broken: string[] = [];
  let imports = 0;
  for (const file of files) {
    const folder = file.split("/")[0] ?? "";
    const isMain = file.endsWith("/main.ts") && folder !== "local";
    const mayImport = isMain ? MAIN_MAY_IMPORT : MAY_IMPORT[folder];
    assert(mayImport, `src/${folder} has no row in the direction table`);
    for (const match of readFileSync(join("src", file), "utf8").matchAll(SPECIFIER)) {
      const specifier = match[1] ?? match[2] ?? match[3] ?? "";
      imports += 1;
      if (specifier.startsWith("node:")) continue;
      const allowed = specifier.startsWith(".")
        ? [folder, ...mayImport].includes(folderOf(file, specifier))
        : OWNERS[packageOf(specifier)]?.includes(folder);
      if (allowed !== true) broken.push(`${file} -> ${specifier}`);
    }
  }
  assert.deepEqual(broken, []);
  assert(imports > files.length, "too few imports seen: the scan itself is broken");
});

test("every relative link in the documents leads to a file", () => {
  const documents = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "bench/README.md"].filter(
    existsSync,
  );
  for (const file of readdirSync("docs", { recursive: true, encoding: "utf8" })) {
    if (file.endsWith(".md")) documents.push(join("docs", file));
  }
  const broken: string[] = [];
  for (const document of documents) {
    for (const [, target = ""] of readFileSync(document, "utf8").matchAll(
      /\]\(([^)#\s]+)[^)]*\)/g,
    )) {
      if (/^[a-z]+:/.test(target)) continue;
      if (!existsSync(join(dirname(document), target))) broken.push(`${document} -> ${target}`);
    }
  }
  assert.deepEqual(broken, []);
});

function folderOf(file: string, specifier: string): string {
  return relative("src", join("src", dirname(file), specifier)).split("/")[0] ?? "";
}

function packageOf(specifier: string): string {
  const [scopeOrName = "", name] = specifier.split("/");
  return scopeOrName.startsWith("@") ? `${scopeOrName}/${name}` : scopeOrName;
}
