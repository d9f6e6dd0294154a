/**
 * Processes that are killed, and a disk that loses what was not synced, at moments that nobody chose. Each time: nothing
 * that was acknowledged is lost, the books balance, and every request has ended or will, once.
 */
import assert from "node:assert/strict";
import { spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { chmodSync, mkdirSync } from "node:fs";
import path from "node:path";
import { createInterface } from "node:readline";
import { test } from "node:test";
import { setTimeout as delay } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { auditDatabase, auditLedger } from "../../src/billing/audit.ts";
import { type Database, openDatabase } from "../../src/runtime/database.ts";
import { ConfigError } from "../../src/runtime/settings.ts";
import { findPostgres, silent, startPostgres, temporaryFolder } from "./stores.ts";

const ROUNDS = 2;
const POWER_LOSSES = 2;
const WRITER = fileURLToPath(new URL("./crash-writer.ts", import.meta.url));
/** How long a writer writes before the crash, ms: at least, and at most this much more. */
const WRITES_MS_MIN = 100;
const WRITES_MS_MORE = 400;
const DISK_MIB = 600;
/** ext4's EXT4_IOC_SHUTDOWN, and its argument for a disk that keeps nothing that was not flushed. */
const SHUTDOWN_DISK = "my $how = pack('I', 2); ioctl(D, 0x8004587d, $how) or die $!";

/** Where a writer writes, and what may crash. */
interface Store {
  readonly where: { readonly directory: string } | { readonly url: string };
  /** Ends at once whatever belongs to the store; the writer is killed as well. */
  crash(): Promise<void>;
  /** Makes it usable again. */
  restart(): Promise<void>;
}

interface Acknowledged {
  readonly held: string[];
  readonly settled: string[];
}

async function crashRepeatedly(what: string, rounds: number, store: Store): Promise<void> {
  const all: Acknowledged = { held: [], settled: [] };
  for (let round = 0; round < rounds; round += 1) {
    const { held, settled } = await writeUntil(store, async () => await store.crash());
    all.held.push(...held);
    all.settled.push(...settled);
    await store.restart();
    const database = await openDatabase({ ...store.where, log: silent });
    try {
      await assertNothingLost(database, all);
    } finally {
      await database.close();
    }
  }
  const acknowledgements = all.held.length + all.settled.length;
  assert.ok(acknowledgements > 100, `only ${acknowledgements} acknowledgements`);
  console.log(`${what}: ${rounds} crashes, ${acknowledgements} acknowledgements, none lost`);
}

async function assertNothingLost(
  database: Database,
  { held, settled }: Acknowledged,
): Promise<void> {
  assert.deepEqual(
    (await auditLedger(database)).filter((row) => !row.ok),
    [],
  );
  // What the crash left open ends now, and everything else has ended before.
  await database.query("SELECT ledger.expire($1, 1000000)", [Number.MAX_SAFE_INTEGER]);
  const rows = await database.query<{ id: string; state: number }>(
    "SELECT id, state FROM ledger.request",
  );
  const states = new Map(rows.map(({ id, state }) => [id, state]));
  assert.equal(states.size, rows.length, "a request ended twice");
  for (const id of held) assert.ok((states.get(id) ?? 0) > 0, `hold ${id} is lost or open`);
  for (const id of settled) assert.equal(states.get(id), 1, `settlement ${id} is lost`);
  const [leaves] = await database.query<{ n: bigint }>("SELECT count(*) AS n FROM ledger.log_leaf");
  assert.equal(Number(leaves?.n), rows.filter(({ state }) => state === 1).length);
  assert.deepEqual(
    (await auditLedger(database)).filter((row) => !row.ok),
    [],
  );
}

async function writeUntil(store: Store, crash: () => Promise<void>): Promise<Acknowledged> {
  const where = "url" in store.where ? store.where.url : store.where.directory;
  const child = spawn(process.execPath, [WRITER, where], { stdio: ["ignore", "pipe", "ignore"] });
  const held: string[] = [];
  const settled: string[] = [];
  const lines = createInterface(child.stdout);
  const ended = Promise.all([once(lines, "close"), once(child, "exit")]);
  const begun = new Promise<void>((resolve) => {
    lines.on("line", (line) => {
      const [kind, id] = line.split(" ");
      // A line may be cut short by the kill.
      if (id?.length === 36) (kind === "held" ? held : settled).push(id);
      resolve();
    });
  });
  try {
    await Promise.race([begun, ended]);
    // Any moment will do; the point is that it is not a chosen one.
    await delay(WRITES_MS_MIN + Math.random() * WRITES_MS_MORE);
    await crash();
  } finally {
    child.kill("SIGKILL");
    await ended;
  }
  return { held, settled };
}

const bin = findPostgres();
const doNothing = async (): Promise<void> => {};

test("kill -9 on PGlite loses nothing that was acknowledged", async () => {
  const { directory, remove } = temporaryFolder();
  try {
    const store = { where: { directory }, crash: doNothing, restart: doNothing };
    await crashRepeatedly("kill -9 on PGlite", ROUNDS, store);
    const audit = await auditDatabase({ directory, log: silent });
    assert.ok(audit.ok);
    assert.ok(audit.lines.every((line) => line.startsWith("ok ")));
  } finally {
    remove();
  }
});

if (bin === undefined) {
  console.log("skipped: no PostgreSQL under /usr/lib/postgresql, so it is not crashed");
} else {
  test("kill -9 of PostgreSQL and its client loses nothing that was acknowledged", async () => {
    const server = await startPostgres(bin);
    try {
      const url = await server.newDatabase();
      const store = { where: { url }, crash: () => server.kill(), restart: () => server.start() };
      await crashRepeatedly("kill -9 on PostgreSQL", ROUNDS, store);
    } finally {
      await server.close();
    }
  });
}

const refusal = diskRefusal();
if (refusal !== undefined) {
  console.log(`skipped: power is not cut, because ${refusal}`);
} else {
  test("a power failure under PGlite loses nothing that was acknowledged", async () => {
    const disk = openDisk();
    try {
      const store = {
        where: { directory: path.join(disk.folder, "ledger") },
        crash: async () => disk.cutPower(),
        restart: async () => await disk.remount(),
      };
      await crashRepeatedly("power failure under PGlite", POWER_LOSSES, store);
    } finally {
      await disk.close();
    }
  });

  if (bin !== undefined) {
    test("a power failure under PostgreSQL loses nothing that was acknowledged", async () => {
      const disk = openDisk();
      try {
        const server = await startPostgres(bin, disk.folder);
        const store = {
          where: { url: await server.newDatabase() },
          crash: async () => {
            disk.cutPower();
            await server.kill();
          },
          restart: async () => {
            await disk.remount();
            await server.start();
          },
        };
        await crashRepeatedly("power failure under PostgreSQL", POWER_LOSSES, store);
        await server.kill();
      } finally {
        await disk.close();
      }
    });
  }
}

test("auditDatabase() refuses a folder that is missing or in use, and finds what is broken", async () => {
  const { directory, remove } = temporaryFolder();
  try {
    await assert.rejects(auditDatabase({ directory, log: silent }), /There is no database in/);
    const database = await openDatabase({ directory, log: silent });
    await assert.rejects(auditDatabase({ directory, log: silent }), (error) => {
      assert.ok(error instanceof ConfigError);
      assert.match(
        error.message,
        new RegExp(`in use by process ${process.pid}. Stop that process`),
      );
      return true;
    });
    await database.close();
    await assert.rejects(auditDatabase({ directory, log: silent }), /There is no ledger in/);
    await writeUntil({ where: { directory }, crash: doNothing, restart: doNothing }, doNothing);
    const again = await openDatabase({ directory, log: silent });
    await again.exec("UPDATE ledger.acct SET credits = credits + 1 WHERE code = 30");
    await again.close();
    const { ok, lines } = await auditDatabase({ directory, log: silent });
    assert.ok(!ok);
    assert.deepEqual(
      lines.filter((line) => line.startsWith("BROKEN")),
      [
        "BROKEN  USD accounts sum to zero: 1",
        "BROKEN  accounts that differ from their transfers: 1",
      ],
    );
  } finally {
    remove();
  }
});

/** Why no disk can be made to fail here; undefined when one can. */
function diskRefusal(): string | undefined {
  if (process.platform !== "linux") return "this is not Linux";
  if (process.getuid?.() !== 0) return "only root may mount a disk";
  const tool = ["losetup", "mkfs.ext4", "perl"].find((name) => spawnSync(name, ["-V"]).error);
  if (tool !== undefined) return `there is no ${tool}`;
  const { status, stderr } = spawnSync("losetup", ["--find"], { encoding: "utf8" });
  return status === 0 ? undefined : `there is no loop device (${stderr.trim()})`;
}

/** A disk of its own in a file, whose power can be cut: what was written and not synced is gone. */
function openDisk() {
  const { directory, remove } = temporaryFolder();
  const image = path.join(directory, "image");
  const folder = path.join(directory, "disk");
  mkdirSync(folder);
  // PostgreSQL runs as another user than root.
  chmodSync(directory, 0o711);
  const run = (command: string, ...args: string[]): void => {
    const { status, stderr } = spawnSync(command, args, { encoding: "utf8" });
    assert.equal(status, 0, `${command}: ${stderr}`);
  };
  const unmount = async (): Promise<void> => {
    // The kernel may take a moment to close the files of a killed process.
    for (let left = 100; spawnSync("umount", [folder]).status !== 0; left -= 1) {
      assert.ok(left > 0, `${folder} cannot be unmounted`);
      await delay(50);
    }
  };
  run("truncate", "-s", `${DISK_MIB}M`, image);
  run("mkfs.ext4", "-q", "-F", image);
  run("mount", "-o", "loop", image, folder);
  return {
    folder,
    cutPower: () => run("perl", "-e", `open(D, '<', $ARGV[0]) or die $!; ${SHUTDOWN_DISK}`, folder),
    remount: async () => {
      await unmount();
      run("mount", "-o", "loop", image, folder);
    },
    close: async () => {
      await unmount();
      remove();
    },
  };
}
