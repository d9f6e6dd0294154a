import assert from "node:assert/strict";
import { mkdtemp, readdir, readFile, rm, truncate, unlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { performance } from "node:perf_hooks";
import { after, test } from "node:test";
import { signingKey } from "../../src/core/jws.ts";
import { encodeEpochFile, epochFileHashOf } from "../../src/usage-log/epoch-file.ts";
import { type FetchBytes, LogError, openLogReader } from "../../src/usage-log/reader.ts";
import { EMPTY_EDGE, grown, leafHashOf, rootOf } from "../../src/usage-log/tree.ts";
import { openUsageLogWriter } from "../../src/usage-log/writer.ts";

const key = signingKey();
const origin = "log.example";
const folders: string[] = [];
after(() => Promise.all(folders.map((folder) => rm(folder, { recursive: true, force: true }))));

async function newFolder(): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), "daybreak-log-"));
  folders.push(folder);
  return folder;
}

const leaf = (i: number) => Buffer.from(`leaf ${i} ${"x".repeat(i % 50)}`);
const leaves = (from: number, to: number) =>
  Array.from({ length: to - from }, (_, i) => leaf(from + i));
const rootAt = (size: number) => rootOf(grown(EMPTY_EDGE, leaves(0, size).map(leafHashOf)));

function filesOf(directory: string): FetchBytes {
  return async (path, bytesMax) => {
    try {
      const bytes = await readFile(join(directory, path));
      assert(bytes.length <= bytesMax, `${path} keeps its limit`);
      return bytes;
    } catch (error) {
      if (["ENOENT", "ENOTDIR"].includes((error as NodeJS.ErrnoException).code ?? ""))
        return undefined;
      throw error;
    }
  };
}

async function contentsOf(directory: string): Promise<Map<string, string>> {
  const contents = new Map<string, string>();
  for (const entry of await readdir(directory, { recursive: true, withFileTypes: true }))
    if (entry.isFile()) {
      const path = join(entry.parentPath, entry.name);
      contents.set(path.slice(directory.length), (await readFile(path)).toString("base64"));
    }
  return contents;
}

const isLogError = (code: string) => (error: unknown) =>
  error instanceof LogError && error.code === code;

test("a log of many sizes is read back, whole and from any epoch", async () => {
  const directory = await newFolder();
  const writer = await openUsageLogWriter({ directory, origin, key });
  const reader = openLogReader(filesOf(directory), key);
  const sizes = [0, 1, 2, 255, 256, 257, 300, 512, 700];
  let at = 0;
  for (const size of sizes) {
    await writer.append(leaves(at, size));
    at = size;
    await writer.publishCheckpoint();
    const checkpoint = await reader.checkpoint();
    assert.equal(checkpoint.size, BigInt(size));
    assert.deepEqual(Buffer.from(checkpoint.root), rootAt(size));
    assert.deepEqual(Buffer.from(writer.root()), rootAt(size));
  }
  // Partial tiles of older sizes are gone once the tile is full: the reader takes the start of the full one.
  for (const from of sizes) {
    const edge = await reader.edgeAt(BigInt(from));
    assert.deepEqual(rootOf(edge), rootAt(from), `edge at ${from}`);
    const read = await reader.appendedSince(edge, 700n, rootAt(700));
    assert.deepEqual(read.leaves, leaves(from, 700));
    assert.deepEqual(rootOf(read.edge), rootAt(700));
  }
  const middle = await reader.appendedSince(await reader.edgeAt(2n), 300n, rootAt(300));
  assert.deepEqual(middle.leaves, leaves(2, 300));
  const names = [...(await contentsOf(directory)).keys()].sort();
  assert.deepEqual(names, [
    "/checkpoint",
    "/tile/0/000",
    "/tile/0/001",
    "/tile/0/002.p/188",
    "/tile/1/000.p/1",
    "/tile/1/000.p/2",
    "/tile/entries/000",
    "/tile/entries/001",
    "/tile/entries/002.p/188",
  ]);
});

test("openLogReader() refuses an edited leaf, an edited edge and another root", async () => {
  const directory = await newFolder();
  const writer = await openUsageLogWriter({ directory, origin, key });
  await writer.append(leaves(0, 10));
  await writer.publishCheckpoint();
  const reader = openLogReader(filesOf(directory), key);
  const edge = await reader.edgeAt(10n);
  await writer.append(leaves(10, 20));
  await writer.publishCheckpoint();
  await assert.rejects(reader.appendedSince(edge, 20n, rootAt(19)), isLogError("root_mismatch"));
  const forged = { ...edge, hashes: [leafHashOf(leaf(3)), ...edge.hashes.slice(1)] };
  await assert.rejects(reader.appendedSince(forged, 20n, rootAt(20)), isLogError("root_mismatch"));
  await assert.rejects(reader.appendedSince(edge, 21n, rootAt(21)), isLogError("missing_tile"));
  await assert.rejects(reader.appendedSince(edge, 9n, rootAt(9)), isLogError("root_mismatch"));

  const path = join(directory, "tile/entries/000.p/20");
  const bytes = await readFile(path);
  bytes[bytes.length - 1] = (bytes.at(-1) ?? 0) ^ 1;
  await writeFile(path, bytes);
  await assert.rejects(reader.appendedSince(edge, 20n, rootAt(20)), isLogError("root_mismatch"));
  await truncate(path, bytes.length - 1);
  await assert.rejects(reader.appendedSince(edge, 20n, rootAt(20)), isLogError("malformed_tile"));
  await writeFile(join(directory, "checkpoint"), "not a note\n");
  await assert.rejects(reader.checkpoint(), isLogError("bad_checkpoint"));
});

test("openLogReader() takes an epoch file only with its hash", async () => {
  const directory = await newFolder();
  const writer = await openUsageLogWriter({ directory, origin, key });
  const reader = openLogReader(filesOf(directory), key);
  const root = rootAt(0);
  const empty = { first: 0n, size: 0n, root, catalogue: "c", sums: new Map(), receipts: 0 };
  const json = encodeEpochFile({ epoch: 3, ...empty });
  await assert.rejects(
    reader.epochFile(3, epochFileHashOf(json)),
    isLogError("missing_epoch_file"),
  );
  await writer.putEpoch(3, json);
  await writer.putEpoch(4, json);
  assert.equal((await reader.epochFile(3, epochFileHashOf(json))).epoch, 3);
  await assert.rejects(reader.epochFile(3, Buffer.alloc(32)), isLogError("epoch_file_mismatch"));
  const wrong = reader.epochFile(4, epochFileHashOf(json));
  await assert.rejects(wrong, isLogError("malformed_epoch_file"));
});

test("putSide() writes under hashes only, within its limit", async () => {
  const directory = await newFolder();
  const writer = await openUsageLogWriter({ directory, origin, key });
  const reader = openLogReader(filesOf(directory), key);
  const name = leafHashOf(leaf(0)).toString("base64url");
  assert.equal(await reader.side("quote", name), undefined);
  await writer.putSide("quote", name, '{"quote":"…"}');
  assert.equal(await reader.side("quote", name), '{"quote":"…"}');
  await assert.rejects(writer.putSide("quote", "../checkpoint", "{}"), /named by a hash/);
  await assert.rejects(writer.putSide("quote", name, "x".repeat(8_193)), /at most 8192 bytes/);
});

test("openUsageLogWriter() goes on where the last checkpoint was", async () => {
  const [directory, whole] = [await newFolder(), await newFolder()];
  for (const size of [3, 256, 260, 600]) {
    const writer = await openUsageLogWriter({ directory, origin, key });
    await writer.append(leaves(Number(writer.size()), size));
    await writer.publishCheckpoint();
  }
  const reopened = await openUsageLogWriter({ directory, origin, key });
  assert.equal(reopened.size(), 600n);
  assert.deepEqual(Buffer.from(reopened.root()), rootAt(600));
  await reopened.append(leaves(600, 610));
  await reopened.publishCheckpoint();

  const straight = await openUsageLogWriter({ directory: whole, origin, key });
  for (const [from, to] of [
    [0, 3],
    [3, 256],
    [256, 260],
    [260, 600],
    [600, 610],
  ] as const) {
    await straight.append(leaves(from, to));
    await straight.publishCheckpoint();
  }
  assert.deepEqual(await contentsOf(directory), await contentsOf(whole));
});

test("a crash before the checkpoint is repaired by appending again", async () => {
  const directory = await newFolder();
  const writer = await openUsageLogWriter({ directory, origin, key });
  await writer.append(leaves(0, 300));
  await writer.publishCheckpoint();
  await writer.append(leaves(300, 900)); // Full tiles are written; the process dies here.
  await writeFile(join(directory, "tile/entries/003.p.new"), "torn");

  const reopened = await openUsageLogWriter({ directory, origin, key });
  assert.equal(reopened.size(), 300n);
  await reopened.append(leaves(300, 900));
  await reopened.publishCheckpoint();
  const reader = openLogReader(filesOf(directory), key);
  const read = await reader.appendedSince(EMPTY_EDGE, 900n, rootAt(900));
  assert.equal(read.leaves.length, 900);
});

for (const [what, damage] of [
  ["a missing partial tile", (d: string) => unlink(join(d, "tile/0/001.p/44"))],
  ["a torn entries tile", (d: string) => truncate(join(d, "tile/entries/001.p/44"), 100)],
  ["an emptied level", (d: string) => truncate(join(d, "tile/1/000.p/1"), 0)],
] as const) {
  test(`a log with ${what} opens empty, and is only signed again when it is the same log`, async () => {
    const directory = await newFolder();
    const writer = await openUsageLogWriter({ directory, origin, key });
    await writer.append(leaves(0, 300));
    await writer.publishCheckpoint();
    await damage(directory);

    const reopened = await openUsageLogWriter({ directory, origin, key });
    assert.equal(reopened.size(), 0n);
    await assert.rejects(reopened.publishCheckpoint(), /300 were signed/);
    await assert.rejects(reopened.append([...leaves(0, 299), leaf(1)]), /not those/);
    assert.equal(reopened.size(), 0n, "a refused append adds nothing");
    await reopened.append(leaves(0, 310));
    await reopened.publishCheckpoint();
    const reader = openLogReader(filesOf(directory), key);
    assert.equal((await reader.appendedSince(EMPTY_EDGE, 310n, rootAt(310))).leaves.length, 310);
  });
}

test("openUsageLogWriter() refuses the log of another key or name", async () => {
  const directory = await newFolder();
  await (await openUsageLogWriter({ directory, origin, key })).publishCheckpoint();
  await assert.rejects(
    openUsageLogWriter({ directory, origin, key: signingKey() }),
    /did not sign/,
  );
  await assert.rejects(openUsageLogWriter({ directory, origin: "other", key }), /did not sign/);
});

test("a file that cannot be written leaves the writer as it was", async () => {
  const directory = await newFolder();
  const writer = await openUsageLogWriter({ directory, origin, key });
  await writer.append(leaves(0, 10));
  await writeFile(join(directory, "tile"), "in the way");
  await assert.rejects(writer.append(leaves(10, 300)));
  assert.equal(writer.size(), 10n);
  await unlink(join(directory, "tile"));
  await writer.append(leaves(10, 300));
  await writer.publishCheckpoint();
  assert.deepEqual(Buffer.from(writer.root()), rootAt(300));
});

test("ten thousand leaves take a fraction of a second, also in small batches", async () => {
  const directory = await newFolder();
  const writer = await openUsageLogWriter({ directory, origin, key });
  const batch = leaves(0, 10_000);
  const began = performance.now();
  for (let at = 0; at < batch.length; at += 20) await writer.append(batch.slice(at, at + 20));
  await writer.publishCheckpoint();
  const tookMs = performance.now() - began;
  assert.equal(writer.size(), 10_000n);
  // About 150 ms here. A root that costs O(n) per append takes minutes; a busy machine does not.
  assert(tookMs < 10_000, `took ${tookMs} ms`);
});
