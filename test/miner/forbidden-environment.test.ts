import assert from "node:assert/strict";
import { test } from "node:test";
import { checkEnvironment, forbiddenVariablesIn } from "../../src/miner/forbidden-environment.ts";
import { ConfigError } from "../../src/runtime/settings.ts";

test("forbiddenVariablesIn() names every variable that could expose prompts", () => {
  const forbidden = {
    ALL_PROXY: "x",
    HTTPS_PROXY: "x",
    LD_AUDIT: "x",
    LD_LIBRARY_PATH: "x",
    LD_PRELOAD: "x",
    NODE_EXTRA_CA_CERTS: "x",
    NODE_OPTIONS: "x",
    NODE_TLS_REJECT_UNAUTHORIZED: "0",
    NODE_V8_COVERAGE: "x",
    NO_PROXY: "x",
    SSLKEYLOGFILE: "x",
    SSL_CERT_DIR: "x",
    SSL_CERT_FILE: "x",
    http_proxy: "x",
    node_options: "x",
  };
  const harmless = { PATH: "/bin", NODE_OPTIONS_: "x", PROXY_HOST: "x", LD_PRELOAD_: "" };
  assert.deepEqual(forbiddenVariablesIn({ ...forbidden, ...harmless }), Object.keys(forbidden));
  assert.deepEqual(forbiddenVariablesIn({ NODE_OPTIONS: "", http_proxy: undefined }), []);
});

test("checkEnvironment() stops every kind of enclave but the simulated one", () => {
  const env = { NODE_OPTIONS: "--require ./spy.js", PATH: "/bin" };
  assert.deepEqual(checkEnvironment("sim", env), ["NODE_OPTIONS"]);
  assert.deepEqual(checkEnvironment("tdx-dstack", { PATH: "/bin" }), []);
  assert.throws(
    () => checkEnvironment("tdx-dstack", env),
    (error: unknown) =>
      error instanceof ConfigError &&
      error.message.includes("NODE_OPTIONS") &&
      !error.message.includes("spy"),
  );
});
