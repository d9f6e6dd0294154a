/**
 * Runs the test suite with `node --test` and fails when fewer test files are found than exist, or none.
 *
 * A glob that matches nothing passes silently, so the files are listed here and counted.
 *
 *   npm test                 every check
 *   npm test -- billing e2e  only files whose path contains one of the words
 *
 * @module
 */
import { spawn } from "node:child_process";
import { readdirSync } from "node:fs";
import { cpus } from "node:os";

const words = process.argv.slice(2);
const files = readdirSync("test", { recursive: true, encoding: "utf8" })
  .filter((file) => file.endsWith(".test.ts"))
  .map((file) => `test/${file.replaceAll("\\", "/")}`)
  .filter((file) => words.length === 0 || words.some((word) => file.includes(word)))
  .sort()
  // The longest first, so that none of them runs alone at the end.
  .sort((a, b) => Number(b.startsWith("test/e2e/")) - Number(a.startsWith("test/e2e/")));
if (files.length === 0) {
  console.error(`no test file matches ${words.join(" ") || "test/**/*.test.ts"}`);
  process.exit(1);
}
// One more than there are processors: some tests wait a minute for a limit to pass.
const atOnce = Math.max(3, cpus().length + 1);
const child = spawn(
  process.execPath,
  ["--test", "--test-timeout=120000", `--test-concurrency=${atOnce}`, ...files],
  { stdio: "inherit" },
);
child.on("exit", (code) => {
  process.exitCode = code ?? 1;
});
