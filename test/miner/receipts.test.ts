import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { appendFileSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { type EnclaveId, newRequestId, type RequestId } from "../../src/core/ids.ts";
import { receiptHashOf } from "../../src/core/receipt.ts";
import { openReceiptStore, type ReceiptStore } from "../../src/miner/receipts.ts";
import { log, sha256, temporaryFolder } from "./fixture.ts";

const A = sha256("enclave a") as EnclaveId;
const B = sha256("enclave b") as EnclaveId;
const SALT = "5a".repeat(16);

function tokenOf(seq: number, prev: string): string {
  return `h.${Buffer.from(JSON.stringify({ seq, prev })).toString("base64url")}.s`;
}

function append(store: ReceiptStore, enclave: EnclaveId, rid?: RequestId): RequestId {
  const id = rid ?? newRequestId(Date.now());
  store.append(enclave, id, SALT, tokenOf);
  return id;
}

function payloadOf(token: string): { seq: number; prev: string } {
  return JSON.parse(Buffer.from(token.split(".")[1] ?? "", "base64url").toString()) as {
    seq: number;
    prev: string;
  };
}

test("append() numbers and chains each enclave by itself", async (t) => {
  const store = await openReceiptStore(temporaryFolder(t), log);
  t.after(async () => await store.close());
  const first = store.append(A, newRequestId(1), SALT, tokenOf);
  append(store, B);
  const second = store.append(A, newRequestId(2), SALT, tokenOf);
  assert.deepEqual(payloadOf(first.token), { seq: 0, prev: "" });
  assert.deepEqual(payloadOf(second.token), { seq: 1, prev: receiptHashOf(first.token) });
  assert.deepEqual(await store.page(A, -1), { receipts: [first, second], more: false });
});

test("a failed signature or a full disk does not move the chain", async (t) => {
  const store = await openReceiptStore(temporaryFolder(t), log);
  t.after(async () => await store.close());
  assert.throws(() =>
    store.append(A, newRequestId(1), SALT, () => {
      throw new Error("no");
    }),
  );
  const stored = store.append(A, newRequestId(2), SALT, tokenOf);
  assert.equal(payloadOf(stored.token).seq, 0);
});

test("a reopened store finds everything, and ends a torn line", async (t) => {
  const folder = temporaryFolder(t);
  const path = join(folder, "receipts.jsonl");
  let store = await openReceiptStore(folder, log);
  const rids = Array.from({ length: 5 }, () => append(store, A));
  await store.close();
  await store.close();
  const whole = readFileSync(path);
  const [rid0 = "", , , , rid4 = ""] = rids;
  for (let cut = 1; cut < 400; cut += 57) {
    writeFileSync(path, whole.subarray(0, whole.length - cut));
    store = await openReceiptStore(folder, log);
    assert.equal((await store.byRequest(rid4 as RequestId)) === undefined, true, `cut ${cut}`);
    assert.notEqual(await store.byRequest(rid0 as RequestId), undefined);
    const next = append(store, B);
    assert.notEqual(await store.byRequest(next), undefined);
    assert.equal((await store.page(B, -1)).receipts.length, 1);
    await store.close();
    store = await openReceiptStore(folder, log);
    assert.notEqual(await store.byRequest(next), undefined);
    await store.close();
  }
});

test("lines that are not receipts are passed over, however long", async (t) => {
  const folder = temporaryFolder(t);
  let store = await openReceiptStore(folder, log);
  append(store, A);
  await store.close();
  appendFileSync(join(folder, "receipts.jsonl"), `{"att":"x"}\n${"y".repeat(300_000)}\n\n\0\n`);
  store = await openReceiptStore(folder, log);
  const rid = append(store, A);
  await store.close();
  store = await openReceiptStore(folder, log);
  t.after(async () => await store.close());
  assert.equal((await store.page(A, -1)).receipts.length, 2);
  assert.notEqual(await store.byRequest(rid), undefined);
});

test("page() gives at most 256, in order, and says whether there are more", async (t) => {
  const folder = temporaryFolder(t);
  let store = await openReceiptStore(folder, log);
  for (let n = 0; n < 600; n++) {
    append(store, A);
    if (n % 3 === 0) append(store, B);
  }
  for (let round = 0; round < 2; round++) {
    const seqs: number[] = [];
    for (let after = -1, more = true; more; ) {
      const page = await store.page(A, after);
      assert(page.receipts.length <= 256);
      seqs.push(...page.receipts.map(({ token }) => payloadOf(token).seq));
      after = seqs.at(-1) ?? after;
      more = page.more;
    }
    assert.deepEqual(seqs, [...Array(600).keys()]);
    const [first] = (await store.page(A, 511)).receipts;
    assert.equal(payloadOf(first?.token ?? "").seq, 512);
    assert.deepEqual(await store.page(A, 599), { receipts: [], more: false });
    assert.deepEqual(await store.page(A, 9_999), { receipts: [], more: false });
    await store.close();
    store = await openReceiptStore(folder, log);
  }
  await store.close();
});

test("receipts that memory has forgotten are found in the file", async (t) => {
  const folder = temporaryFolder(t);
  const store = await openReceiptStore(folder, log, 10);
  t.after(async () => await store.close());
  const rids = Array.from({ length: 50 }, () => append(store, A));
  for (const rid of rids) assert.notEqual(await store.byRequest(rid), undefined);
  assert.equal(await store.byRequest(newRequestId(1)), undefined);
});

test("receipts outlive a process that is killed in the middle of writing", async (t) => {
  const folder = temporaryFolder(t);
  const path = join(folder, "receipts.jsonl");
  const child = spawn(
    process.execPath,
    [
      "--input-type=module",
      "--eval",
      `import { openReceiptStore } from ${JSON.stringify(new URL("../../src/miner/receipts.ts", import.meta.url).href)};
       import { newRequestId } from ${JSON.stringify(new URL("../../src/core/ids.ts", import.meta.url).href)};
       const store = await openReceiptStore(${JSON.stringify(folder)}, { warn() {}, error() {} });
       for (;;) {
         const rid = newRequestId(Date.now());
         store.append(${JSON.stringify(A)}, rid, ${JSON.stringify(SALT)}, (seq) => "h." + seq + ".s");
         process.stdout.write(rid + "\\n");
         await new Promise((resolve) => setImmediate(resolve));
       }`,
    ],
    { stdio: ["ignore", "pipe", "inherit"] },
  );
  t.after(() => child.kill("SIGKILL"));
  let told = "";
  child.stdout.setEncoding("latin1");
  for await (const piece of child.stdout as AsyncIterable<string>) {
    told += piece;
    if (told.length > 37 * 500) break;
  }
  child.kill("SIGKILL");
  if (child.exitCode === null && child.signalCode === null) await once(child, "exit");
  assert(statSync(path).size > 0);
  const store = await openReceiptStore(folder, log);
  t.after(async () => await store.close());
  const rids = told.split("\n").slice(0, -1);
  assert(rids.length >= 500);
  for (const rid of rids) assert.notEqual(await store.byRequest(rid as RequestId), undefined, rid);
});
