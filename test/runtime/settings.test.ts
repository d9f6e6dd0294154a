import assert from "node:assert/strict";
import { test } from "node:test";
import {
  ConfigError,
  flag,
  flagOf,
  integer,
  loadSettings,
  oneOf,
  text,
  url,
  urls,
} from "../../src/runtime/settings.ts";

const table = {
  port: { env: "T_PORT", help: "port", default: "8080", parse: integer(0, 65_535) },
  maxBodyBytes: { env: "T_MAX", help: "bytes", optional: true, parse: integer(1, 9) },
  apiKey: { env: "T_KEY", help: "key", secret: true, parse: oneOf("right") },
} as const;

test("a command-line value wins over the environment, which wins over the default", () => {
  assert.deepEqual(loadSettings(table, { T_KEY: "right" }), { port: 8080, apiKey: "right" });
  assert.deepEqual(
    loadSettings(table, { T_KEY: "right", T_PORT: "1", T_MAX: "2" }, { port: "3" }),
    { port: 3, maxBodyBytes: 2, apiKey: "right" },
  );
});

test("an empty variable counts as unset, as in a shell's VAR= command", () => {
  assert.equal(loadSettings(table, { T_KEY: "right", T_PORT: "" }).port, 8080);
});

test("every problem is reported at once, without the value of a secret", () => {
  assert.throws(
    () => loadSettings(table, { T_PORT: "x", T_MAX: "10", T_KEY: "hunter2" }),
    (error: unknown) => {
      assert(error instanceof ConfigError);
      assert.equal(error.message.split("\n").length, 3);
      assert(!error.message.includes("hunter2"));
      assert.match(
        error.message,
        /T_PORT \(or --port\) is "x", but must be an integer from 0 to 65535/,
      );
      return true;
    },
  );
  assert.throws(() => loadSettings(table, {}), /T_KEY \(or --api-key\) is required: key/);
});

for (const [name, parse, good, bad] of [
  ["integer", integer(-5, 5), ["-5", "0", "5"], ["6", "-6", "1.0", "1e0", "", " 1", "0x1", "NaN"]],
  ["url", url("ws:", "wss:"), ["ws://a", "wss://a:1/b"], ["http://a", "a", ""]],
  [
    "urls",
    urls("ws:"),
    ["ws://a", "ws://a, ws://b/"],
    ["", "ws://a,", "ws://a,http://b", "ws://a,ws://a", Array(9).fill("ws://a").join(",")],
  ],
  ["flag", flag, ["true", "false"], ["yes", "1", "TRUE"]],
  ["text", text, ["a b"], ["a\nb", "a\r"]],
] as const) {
  test(`${name}() takes what it says and nothing else`, () => {
    for (const value of good) assert.doesNotThrow(() => parse(value));
    for (const value of bad) assert.throws(() => parse(value), Error, JSON.stringify(value));
  });
}

test("url() drops trailing slashes, and flagOf() is the kebab-case name", () => {
  assert.equal(url("http:")("http://a//"), "http://a");
  assert.equal(flagOf("maxBodyBytes"), "--max-body-bytes");
});
