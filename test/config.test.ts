import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { registerSettings, sweepSettings } from "../src/chain/config.ts";
import { devchainSettings } from "../src/devchain/config.ts";
import { gatewaySettings } from "../src/gateway/config.ts";
import { localSettings } from "../src/local/config.ts";
import { minerSettings } from "../src/miner/config.ts";
import { processSettings } from "../src/runtime/logger.ts";
import { flagOf, type Setting } from "../src/runtime/settings.ts";
import { validatorSettings } from "../src/validator/config.ts";

const SERVICES: Record<string, Readonly<Record<string, Setting<unknown>>>> = {
  local: localSettings,
  gateway: gatewaySettings,
  miner: minerSettings,
  validator: validatorSettings,
  devchain: devchainSettings,
  register: registerSettings,
  sweep: sweepSettings,
};

test("docs/CONFIG.md lists every setting once, with its option, default and meaning, and no other", () => {
  const expected = new Map<string, string>();
  const usedBy = new Map<string, string[]>();
  const add = (service: string, name: string, setting: Setting<unknown>) => {
    const optional =
      setting.default === undefined
        ? setting.optional === true
          ? "–"
          : "required"
        : `\`${setting.default || "(empty)"}\``;
    const row = `| \`${setting.env}\` | \`${flagOf(name)}\` | ${optional} | ${setting.help.replaceAll("|", "\\|")} |`;
    const earlier = expected.get(setting.env);
    assert(
      earlier === undefined || earlier === row,
      `${setting.env} means two things:\n${earlier}\n${row}`,
    );
    expected.set(setting.env, row);
    usedBy.set(setting.env, [...(usedBy.get(setting.env) ?? []), service]);
  };
  for (const [name, setting] of Object.entries(processSettings)) add("all", name, setting);
  for (const [service, table] of Object.entries(SERVICES))
    for (const [name, setting] of Object.entries(table)) add(service, name, setting);
  const rows = [...expected].map(
    ([env, row]) => `${row.slice(0, -1)}| ${usedBy.get(env)?.join(", ")} |`,
  );
  const documented = readFileSync("docs/CONFIG.md", "utf8")
    .split("\n")
    .filter((line) => line.startsWith("| `"));
  assert.deepEqual(documented, rows);
});
