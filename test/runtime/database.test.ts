import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import os from "node:os";
import path from "node:path";
import { after, before, describe, test } from "node:test";
import { setTimeout as delay } from "node:timers/promises";
import { pathToFileURL } from "node:url";
import { lockDirectory } from "../../src/runtime/data-lock.ts";
import { type Database, openDatabase } from "../../src/runtime/database.ts";
import { openLogger } from "../../src/runtime/logger.ts";
import { migrate } from "../../src/runtime/migrations.ts";
import { DatabaseError, isRetryable } from "../../src/runtime/queryable.ts";
import { ConfigError } from "../../src/runtime/settings.ts";

const log = openLogger("test", "silent");
const root = mkdtempSync(path.join(os.tmpdir(), "daybreak-database-"));
after(() => rmSync(root, { recursive: true, force: true }));

let folders = 0;
function newFolder(): string {
  folders += 1;
  return path.join(root, `folder${folders}`);
}

/** One line that names the folder. */
function isConfigError(pattern: RegExp): (error: unknown) => boolean {
  return (error) => {
    assert.ok(error instanceof ConfigError, String(error));
    assert.match(error.message, pattern);
    assert.doesNotMatch(error.message, /\n/);
    return true;
  };
}

describe("openDatabase() in memory", () => {
  let database: Database;
  before(async () => {
    database = await openDatabase({ log });
    await database.exec("CREATE TABLE t (i int8 PRIMARY KEY); INSERT INTO t VALUES (1)");
  });
  after(async () => {
    await database.close();
    await database.close();
  });

  test("maps int8, bytea, jsonb, timestamps and arrays", async () => {
    const [row] = await database.query(
      `SELECT 9007199254740993::int8 AS big, '\\x00ff'::bytea AS bytes, '{"a":[1]}'::jsonb AS json,
              'epoch'::timestamptz AS at, $1::int8[] AS numbers, $2::text[] AS texts, NULL AS nothing`,
      [
        [1n, "2"],
        ['a,"b"\\{}', "NULL"],
      ],
    );
    assert.deepEqual(row, {
      big: 9007199254740993n,
      bytes: new Uint8Array([0, 255]),
      json: { a: [1] },
      at: new Date(0),
      numbers: [1n, 2n],
      texts: ['a,"b"\\{}', "NULL"],
      nothing: null,
    });
  });

  test("reports SQLSTATE and goes on", async () => {
    await assert.rejects(database.query("INSERT INTO t VALUES ($1)", [1]), (error) => {
      assert.ok(error instanceof DatabaseError);
      assert.equal(error.sqlState, "23505");
      return true;
    });
    assert.deepEqual(await database.query("SELECT i FROM t"), [{ i: 1n }]);
  });

  test("takes binary parameters among others, and goes on after a bad one", async () => {
    const sql = "SELECT $1::int4 AS four, $2::int8 AS eight, $3::text AS text, $4::bytea AS bytes";
    const four = new Uint8Array([0, 0, 1, 0]);
    const bytes = new Uint8Array([1, 2]);
    const expected = [{ four: 256, eight: 5n, text: null, bytes }];
    assert.deepEqual(await database.query(sql, [four, 5n, null, bytes]), expected);
    await assert.rejects(database.query(sql, [new Uint8Array(3), 5n, null, bytes]), (error) => {
      assert.ok(error instanceof DatabaseError);
      assert.equal(error.sqlState, "08P01");
      assert.equal(isRetryable(error), false);
      return true;
    });
    assert.deepEqual(await database.query(sql, [four, 5n, null, bytes]), expected);
    await assert.rejects(database.query("SELECT $1::int4 / 0", [four]), DatabaseError);
    await assert.rejects(database.query("SELEC $1::int4", [four]), DatabaseError);
    assert.deepEqual(await database.query("SELECT i FROM t"), [{ i: 1n }]);
  });

  test("transaction() commits all or nothing, and keeps other statements out", async () => {
    const failed = database.transaction(async (tx) => {
      await tx.query("INSERT INTO t VALUES (2)");
      throw new Error("changed my mind");
    });
    const seen = database.query("SELECT count(*) AS n FROM t");
    await assert.rejects(failed, /changed my mind/);
    assert.deepEqual(await seen, [{ n: 1n }]);
    const result = await database.transaction(async (tx) => {
      await tx.query("INSERT INTO t VALUES (3)");
      return await tx.query("SELECT max(i) AS i FROM t");
    });
    assert.deepEqual(result, [{ i: 3n }]);
    await database.query("DELETE FROM t WHERE i = 3");
  });
});

describe("openDatabase() in a folder", () => {
  const directory = path.join(root, "main");

  test("keeps what was committed, also when the process was killed", async () => {
    const first = await openDatabase({ directory, log });
    await first.exec("CREATE TABLE t (i int)");
    await first.query("INSERT INTO t VALUES (1)");
    await first.close();
    const script = `
      import { openDatabase } from ${JSON.stringify(pathToFileURL(path.resolve("src/runtime/database.ts")).href)};
      import { openLogger } from ${JSON.stringify(pathToFileURL(path.resolve("src/runtime/logger.ts")).href)};
      const database = await openDatabase({ directory: ${JSON.stringify(directory)}, log: openLogger("t", "silent") });
      await database.query("INSERT INTO t VALUES (2)");
      process.stdout.write("committed\\n");
      setInterval(() => {}, 1000);`;
    const child = spawn(process.execPath, ["--input-type=module-typescript", "-e", script], {
      stdio: ["ignore", "pipe", "inherit"],
    });
    try {
      const [line] = (await Promise.race([once(child.stdout, "data"), once(child, "exit")])) as [
        unknown,
      ];
      assert.equal(String(line), "committed\n");
      await assert.rejects(
        openDatabase({ directory, log }),
        isConfigError(new RegExp(`in use by process ${child.pid}\\. Stop that process first`)),
      );
    } finally {
      child.kill("SIGKILL");
      await once(child, "exit");
    }
    const again = await openDatabase({ directory, log });
    assert.deepEqual(await again.query("SELECT i FROM t ORDER BY i"), [{ i: 1 }, { i: 2 }]);
    await assert.rejects(openDatabase({ directory, log }), isConfigError(/in use by process/));
    await again.close();
    assert.ok(!existsSync(path.join(directory, "lock")));
  });

  test("starts the engine again when it dies", async () => {
    const database = await openDatabase({ directory, log });
    // Without a folder for its log, PostgreSQL gives up (PANIC) at the next segment.
    const wal = path.join(directory, "postgres", "pg_wal");
    renameSync(wal, `${wal}.away`);
    await database.query("SELECT pg_switch_wal()");
    await assert.rejects(
      database.query("INSERT INTO t VALUES (3)"),
      (error) => error instanceof DatabaseError && error.sqlState === undefined,
    );
    rmSync(wal, { recursive: true, force: true });
    renameSync(`${wal}.away`, wal);
    const deadlineMs = Date.now() + 20_000;
    for (;;) {
      try {
        assert.deepEqual(await database.query("SELECT count(*) AS n FROM t"), [{ n: 2n }]);
        break;
      } catch (error) {
        if (Date.now() > deadlineMs || !(error instanceof DatabaseError)) throw error;
        await delay(50);
      }
    }
    await database.close();
  });

  test("refuses a folder of a newer version, of another PostgreSQL, or with missing or damaged files", async () => {
    const copy = newFolder();
    mkdirSync(path.join(copy, "postgres"), { recursive: true });
    const format = path.join(copy, "format.json");
    const open = () => openDatabase({ directory: copy, log });
    await assert.rejects(
      open(),
      isConfigError(/is broken \(it has postgres but no format\.json\)/),
    );
    writeFileSync(format, '{"format":2,"state":"ready"}');
    await assert.rejects(open(), isConfigError(/written by another version \(format 2/));
    writeFileSync(format, '{"format":1,"state":"ready"}');
    await assert.rejects(open(), isConfigError(/is broken \(PG_VERSION is missing\)/));
    writeFileSync(path.join(copy, "postgres", "PG_VERSION"), "19\n");
    await assert.rejects(open(), isConfigError(/PostgreSQL 19 files/));
    writeFileSync(path.join(copy, "postgres", "PG_VERSION"), "18\n");
    await assert.rejects(open(), isConfigError(/is broken \(.+\)\. Restore it from a backup/));
    writeFileSync(format, "{");
    await assert.rejects(open(), isConfigError(/format\.json cannot be read/));
    assert.ok(!existsSync(path.join(copy, "lock")));
  });

  test("refuses a folder whose control file is damaged", async () => {
    const control = path.join(directory, "postgres", "global", "pg_control");
    const intact = readFileSync(control);
    writeFileSync(control, Buffer.alloc(intact.length, 7));
    await assert.rejects(openDatabase({ directory, log }), isConfigError(/is broken/));
    writeFileSync(control, intact);
    await (await openDatabase({ directory, log })).close();
  });

  test("makes the database anew when its creation was interrupted", async () => {
    const folder = newFolder();
    mkdirSync(path.join(folder, "postgres"), { recursive: true });
    writeFileSync(path.join(folder, "postgres", "PG_VERSION"), "18\n");
    writeFileSync(path.join(folder, "format.json"), '{"format":1,"state":"creating"}');
    const database = await openDatabase({ directory: folder, log });
    assert.deepEqual(await database.query("SELECT 1 AS one"), [{ one: 1 }]);
    await database.close();
  });

  test("refuses a folder that cannot be written, and one without a database when it may not make one", async () => {
    const file = path.join(root, "file");
    writeFileSync(file, "");
    await assert.rejects(
      openDatabase({ directory: path.join(file, "data"), log }),
      isConfigError(/cannot be written \(EEXIST\)/),
    );
    if (process.getuid?.() === 0) console.log("skipped: root may write to any folder");
    else {
      const locked = newFolder();
      mkdirSync(locked);
      chmodSync(locked, 0o500);
      const open = openDatabase({ directory: locked, log });
      await assert.rejects(open, isConfigError(/cannot be written \(EACCES\)/));
    }
    const missing = newFolder();
    await assert.rejects(
      openDatabase({ directory: missing, create: false, log }),
      isConfigError(/There is no database in/),
    );
    assert.ok(!existsSync(missing));
  });
});

describe("lockDirectory()", () => {
  const owner = (over: object): string =>
    JSON.stringify({ pid: process.pid, boot: "", started: "", claim: "x", ...over });

  test("refuses a second claim until the first is released", () => {
    const directory = newFolder();
    const lock = lockDirectory(directory);
    assert.ok(lock.isMine());
    assert.throws(() => lockDirectory(directory), isConfigError(/in use by process/));
    lock.release();
    lock.release();
    lockDirectory(directory).release();
  });

  for (const [what, content] of [
    ["an earlier boot", owner({ boot: "another boot" })],
    ["a process that is gone", owner({ pid: 2 ** 22 + 1 })],
    ["an earlier process with this pid", owner({ started: "1" })],
    ["nobody, cut short", '{"pid":'],
  ] as const) {
    test(`takes over a lock of ${what}`, () => {
      const directory = newFolder();
      mkdirSync(directory);
      writeFileSync(path.join(directory, "lock"), content);
      const lock = lockDirectory(directory);
      assert.ok(lock.isMine());
      lock.release();
    });
  }

  test("notices that another process has taken the folder, and leaves its lock alone", () => {
    const directory = newFolder();
    const lock = lockDirectory(directory);
    const file = path.join(directory, "lock");
    writeFileSync(file, owner({}));
    assert.ok(!lock.isMine());
    lock.release();
    assert.ok(existsSync(file));
  });
});

describe("migrate()", () => {
  let database: Database;
  before(async () => {
    database = await openDatabase({ log });
  });
  after(async () => await database.close());

  const folderOf = (files: Readonly<Record<string, string>>): URL => {
    const folder = newFolder();
    mkdirSync(folder);
    for (const [name, sql] of Object.entries(files)) writeFileSync(path.join(folder, name), sql);
    return pathToFileURL(`${folder}/`);
  };
  const one = { "0001-one.sql": "CREATE TABLE one (i int);\nINSERT INTO one VALUES (1);" };
  const two = { ...one, "0002-two.sql": "ALTER TABLE one ADD j int" };

  test("applies what is missing, once and in order", async () => {
    await migrate(database, "a", folderOf(one));
    await Promise.all([
      migrate(database, "a", folderOf(two)),
      migrate(database, "a", folderOf(two)),
    ]);
    assert.deepEqual(await database.query("SELECT * FROM one"), [{ i: 1, j: null }]);
    const crlf = { ...two, "0001-one.sql": one["0001-one.sql"].replaceAll("\n", "\r\n") };
    await migrate(database, "a", folderOf(crlf));
  });

  test("refuses a newer and an edited database", async () => {
    await assert.rejects(
      migrate(database, "a", folderOf(one)),
      isConfigError(/written by a newer version \(a 2 two; this one knows 1\)/),
    );
    const edited = { ...two, "0001-one.sql": "CREATE TABLE one (i int8)" };
    await assert.rejects(
      migrate(database, "a", folderOf(edited)),
      isConfigError(/another text of a 1 one/),
    );
  });

  test("leaves nothing behind when a file fails", async () => {
    const files = { "0001-x.sql": "CREATE TABLE x (i int); SELECT 1/0" };
    await assert.rejects(migrate(database, "b", folderOf(files)), DatabaseError);
    assert.deepEqual(await database.query("SELECT to_regclass('x')::text AS x"), [{ x: null }]);
    await assert.rejects(
      migrate(database, "b", folderOf({ "0002-x.sql": "" })),
      /not migration number 1/,
    );
  });
});
