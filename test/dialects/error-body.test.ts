import assert from "node:assert/strict";
import { existsSync, readFileSync } from "node:fs";
import path from "node:path";
import { test } from "node:test";
import { Ajv2020 } from "ajv/dist/2020.js";
import { ERRORS, type ErrorCode, RouterError } from "../../src/core/errors.ts";
import { newRequestId } from "../../src/core/ids.ts";
import { errorBody, insufficientCredit, streamErrorEvents } from "../../src/dialects/error-body.ts";
import { openMeter } from "../../src/dialects/stream-meter.ts";

const id = newRequestId(1_750_000_000_000);
const ids = { id: `gen-${id}`, model: "openai/gpt-5-mini", createdSeconds: 1_750_000_000 };
const error = new RouterError("unsupported_parameter", "plugins is not supported", {
  details: { param: "plugins", hint: "x" },
});

interface ChatError {
  error: { code: number; message: string; type: string; param: string | null; metadata: unknown };
}

function chatBody(thrown: RouterError): ChatError {
  return JSON.parse(errorBody("chat", thrown, id).toString()) as ChatError;
}

test("errorBody() has OpenRouter's shape with OpenAI's fields", () => {
  assert.deepEqual(chatBody(error), {
    error: {
      code: 400,
      message: "plugins is not supported",
      type: "invalid_request_error",
      param: "plugins",
      metadata: {
        hint: "x",
        error_type: "invalid_request",
        code: "unsupported_parameter",
        request_id: `gen-${id}`,
      },
    },
  });
});

test("errorBody() has Anthropic's shape on messages", () => {
  assert.deepEqual(JSON.parse(errorBody("messages", error, undefined).toString()), {
    type: "error",
    error: {
      type: "invalid_request_error",
      message: "plugins is not supported",
      error_type: "invalid_request",
      metadata: { hint: "x", error_type: "invalid_request", code: "unsupported_parameter" },
    },
    request_id: null,
  });
});

test("errorBody() does not let details overwrite the codes", () => {
  const sly = new RouterError("rate_limited", "m", { details: { code: "x", error_type: "y" } });
  assert.deepEqual(chatBody(sly).error.metadata, {
    code: "rate_limited",
    error_type: "rate_limit_exceeded",
    request_id: `gen-${id}`,
  });
});

test("errorBody() keeps what is internal inside", () => {
  const bug = new RouterError("internal", "secret 42", { details: { path: "secret 42" } });
  for (const surface of ["chat", "messages"] as const) {
    assert(!errorBody(surface, bug, id).includes("secret"));
    assert(!streamErrorEvents(surface, bug, ids).includes("secret"));
  }
});

test("insufficientCredit() names both amounts, exactly and in USD", () => {
  const { error: body } = chatBody(insufficientCredit(1_500_000_001n, 20n, 3_395));
  assert.equal(body.code, 402);
  assert.match(body.message, /1\.500000001 USD.*0\.00000002 USD.*max_tokens to 3395/);
  assert.deepEqual(body.metadata, {
    needed: "1.500000001",
    available: "0.00000002",
    needed_nusd: "1500000001",
    available_nusd: "20",
    affordable_max_tokens: 3_395,
    error_type: "payment_required",
    code: "insufficient_credit",
    request_id: `gen-${id}`,
  });
  assert.doesNotMatch(chatBody(insufficientCredit(2n, 1n)).error.message, /max_tokens/);
});

test("streamErrorEvents() ends a chat with an error chunk and the terminator", () => {
  const events = streamErrorEvents("chat", new RouterError("upstream_failed", "gone"), ids);
  const [first = "", second, ...rest] = events.toString().split("\n\n");
  assert.deepEqual([second, ...rest], ["data: [DONE]", ""]);
  const chunk = JSON.parse(first.slice(6)) as ChatError & { choices: object[]; object: string };
  assert.equal(chunk.error.code, 502);
  assert.equal(chunk.object, "chat.completion.chunk");
  assert.deepEqual(chunk.choices[0], {
    index: 0,
    delta: { content: "" },
    finish_reason: "error",
    native_finish_reason: null,
    logprobs: null,
  });
});

test("streamErrorEvents() ends messages with an error event and message_stop", () => {
  const events = streamErrorEvents("messages", new RouterError("upstream_failed", "gone"), ids);
  assert.match(
    events.toString(),
    /^event: error\ndata: \{"type":"error".*\n\nevent: message_stop\n/,
  );
});

test("streamErrorEvents() is read as a failure by the meter", () => {
  for (const surface of ["chat", "messages"] as const) {
    const meter = openMeter(surface, { stream: true });
    meter.push(streamErrorEvents(surface, new RouterError("upstream_failed", "gone"), ids));
    const { failed, failure, complete } = meter.end();
    assert.deepEqual(
      { failed, failure, complete },
      { failed: true, failure: "gone", complete: false },
    );
  }
});

const schemas = path.resolve("../shared/vectors/openai-response-schemas.json");

test("errorBody() validates against OpenAI's schema but for the integer code", {
  skip: existsSync(schemas) ? false : `${schemas} is not here`,
}, () => {
  const document = JSON.parse(readFileSync(schemas, "utf8"), (key, value: unknown) =>
    key === "nullable" || key === "format" ? undefined : value,
  ) as object;
  const ajv = new Ajv2020({ strict: false });
  ajv.addSchema(document, "openai");
  const validate = ajv.getSchema("openai#/components/schemas/ErrorResponse");
  assert(validate !== undefined);
  for (const code of Object.keys(ERRORS) as ErrorCode[]) {
    const body = chatBody(new RouterError(code, "m"));
    assert.equal(body.error.code, ERRORS[code].status);
    // OpenRouter's client insists on an integer; OpenAI's takes either.
    const asOpenai = { error: { ...body.error, code: String(body.error.code) } };
    assert(validate(asOpenai), `${code}: ${ajv.errorsText(validate.errors)}`);
  }
});
