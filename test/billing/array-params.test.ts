import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { arrayParams, type Column } from "../../src/billing/array-params.ts";
import { type Database, openDatabase } from "../../src/runtime/database.ts";
import { silent } from "./stores.ts";

const COLUMNS: readonly (Column & { readonly sql: string })[] = [
  { type: "text", values: ["", "plain", null, 'é 🚀 "{},\\', "x".repeat(70_000)], sql: "text" },
  { type: "text", values: [], sql: "text" },
  { type: "uuid", values: ["0190c0de-0000-7000-8000-0123456789ab"], sql: "uuid" },
  { type: "int8", values: [-(2n ** 63n), 0n, 2n ** 63n - 1n], sql: "int8" },
  { type: "int4", values: [-(2 ** 31), 2 ** 31 - 1], sql: "int4" },
  { type: "bool", values: [true, false], sql: "bool" },
];

describe("arrayParams()", () => {
  let database: Database;
  before(async () => {
    database = await openDatabase({ log: silent });
  });
  after(async () => {
    await database.close();
  });

  test("writes what PostgreSQL reads", async () => {
    const [row] = await database.query(
      `SELECT ${COLUMNS.map(({ sql }, i) => `$${i + 1}::${sql}[] AS c${i}`).join(", ")}`,
      arrayParams(COLUMNS),
    );
    assert.deepEqual(row, Object.fromEntries(COLUMNS.map(({ values }, i) => [`c${i}`, values])));
  });

  for (const column of [
    { type: "uuid", values: ["0190c0de"] },
    { type: "int8", values: [2n ** 63n] },
    { type: "int4", values: [Number.NaN] },
  ] as const satisfies readonly Column[]) {
    test(`refuses ${column.values[0]} as ${column.type}`, () => {
      assert.throws(() => arrayParams([column]));
    });
  }
});
