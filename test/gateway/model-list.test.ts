import assert from "node:assert/strict";
import { existsSync, readFileSync } from "node:fs";
import path from "node:path";
import { test } from "node:test";
import { Ajv2020 } from "ajv/dist/2020.js";
import fc from "fast-check";
import { MODELS, modelOf } from "../../src/core/models.ts";
import { modelList, usdPerTokenOf } from "../../src/gateway/model-list.ts";

const all = MODELS.map((model) => ({ model, price: model.retail, miners: 1 }));

for (const { nanoUsdPerMtok, markupBps, expected } of [
  { nanoUsdPerMtok: 3_000_000_000n, markupBps: 0, expected: "0.000003" },
  { nanoUsdPerMtok: 250_000_000n, markupBps: 500, expected: "0.0000002625" },
  { nanoUsdPerMtok: 1n, markupBps: 1, expected: "0.0000000000000010001" },
  { nanoUsdPerMtok: 0n, markupBps: 500, expected: "0" },
  { nanoUsdPerMtok: 10n ** 15n, markupBps: 0, expected: "1" },
]) {
  test(`usdPerTokenOf() writes ${nanoUsdPerMtok} with ${markupBps} bp exactly`, () => {
    assert.equal(usdPerTokenOf(nanoUsdPerMtok, markupBps), expected);
  });
}

test("usdPerTokenOf() is exact for every price", () => {
  fc.assert(
    fc.property(fc.bigInt(0n, 10n ** 18n), fc.integer({ min: 0, max: 10_000 }), (price, bps) => {
      const text = usdPerTokenOf(price, bps);
      assert.match(text, /^\d+(\.\d*[1-9])?$/);
      const [whole = "", fraction = ""] = text.split(".");
      assert.equal(BigInt(whole + fraction.padEnd(19, "0")), price * BigInt(10_000 + bps));
    }),
  );
});

test("modelList() has every field that OpenRouter's client requires", () => {
  const { data, total_count, links } = modelList(all, 500);
  assert.equal(total_count, MODELS.length);
  assert.deepEqual(links, { next: null });
  for (const model of data) {
    for (const field of [
      "id",
      "canonical_slug",
      "name",
      "created",
      "context_length",
      "architecture",
      "pricing",
      "top_provider",
      "per_request_limits",
      "supported_parameters",
      "default_parameters",
      "supported_voices",
      "links",
    ])
      assert(field in model, field);
    assert(Object.values(model.pricing).every((price) => /^\d+(\.\d+)?$/.test(price)));
    assert(model.pricing["prompt"] !== undefined && model.pricing["completion"] !== undefined);
    assert.match(model.architecture.modality, /^text.*->text$/);
    assert.equal(model.top_provider.is_moderated, false);
  }
});

test("modelList() shows the live price, else retail, and who serves", () => {
  const model = modelOf("openai/gpt-5-mini");
  assert(model !== undefined);
  const [served, unserved] = modelList(
    [
      { model, price: { input: 100_000_000n, output: 1_000_000_000n }, miners: 2 },
      { model, price: undefined, miners: 0 },
    ],
    500,
  ).data;
  assert.equal(served?.pricing["prompt"], "0.000000105");
  assert.deepEqual([served?.available, served?.miners], [true, 2]);
  assert.equal(unserved?.pricing["prompt"], "0.0000002625");
  assert.deepEqual([unserved?.available, unserved?.miners], [false, 0]);
  assert.deepEqual(served?.api_shapes, ["chat.completions"]);
});

const schemas = path.resolve("../shared/vectors/openai-response-schemas.json");

test("modelList() validates against OpenAI's schema", {
  skip: existsSync(schemas) ? false : `${schemas} is not here`,
}, () => {
  const document = JSON.parse(readFileSync(schemas, "utf8"), (key, value: unknown) =>
    key === "nullable" || key === "format" ? undefined : value,
  ) as object;
  const ajv = new Ajv2020({ strict: false });
  ajv.addSchema(document, "openai");
  const validate = ajv.getSchema("openai#/components/schemas/ListModelsResponse");
  assert(validate !== undefined);
  assert(validate(modelList(all, 500)), ajv.errorsText(validate.errors));
  assert(!validate({ data: [] }), "the schema is not looking");
});
