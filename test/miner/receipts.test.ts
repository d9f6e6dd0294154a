import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { appendFileSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { type EnclaveId, newRequestId, type RequestId } from "../../src/core/ids.ts";
import { pemOf, signingKey } from "../../src/core/jws.ts";
import { claimsHashOf, verifyClaims } from "../../src/core/signed-claims.ts";
import {
  openReceiptStore,
  type ReceiptOrder,
  type ReceiptStore,
} from "../../src/miner/receipts.ts";
import { log, sha256, temporaryFolder } from "./fixture.ts";

const A = sha256("enclave a") as EnclaveId;
const B = sha256("enclave b") as EnclaveId;
const SALT = "5a".repeat(16);

const key = signingKey();

async function append(
  store: ReceiptStore,
  enclave: EnclaveId,
  rid = newRequestId(Date.now()),
): Promise<RequestId> {
  await store.append(orderFor(enclave, rid));
  return rid;
}

function orderFor(enclave: EnclaveId, rid: RequestId): ReceiptOrder {
  return { enclave, rid, salt: SALT, key, claimsAt: (seq, prev) => ({ rid, seq, prev }) };
}

function payloadOf(token: string): { seq: number; prev: string } {
  const payload = verifyClaims(token, "usage-receipt", key);
  assert(payload !== undefined, token);
  return { seq: payload["seq"] as number, prev: payload["prev"] as string };
}

test("append() numbers and chains each enclave by itself", async (t) => {
  const store = await openReceiptStore(temporaryFolder(t), log);
  t.after(async () => await store.close());
  const first = await store.append(orderFor(A, newRequestId(1)));
  await append(store, B);
  const second = await store.append(orderFor(A, newRequestId(2)));
  assert.deepEqual(payloadOf(first.token), { seq: 0, prev: "" });
  assert.deepEqual(payloadOf(second.token), { seq: 1, prev: claimsHashOf(first.token) });
  assert.deepEqual(await store.page(A, -1), { receipts: [first, second], more: false });
});

test("append() signs what ends in one turn together, chained in the order of the calls", async (t) => {
  const folder = temporaryFolder(t);
  let store = await openReceiptStore(folder, log);
  await append(store, A);
  const rids = Array.from({ length: 300 }, (_, n) => newRequestId(n));
  const stored = await Promise.all(
    rids.map((rid, n) => store.append(orderFor(n % 7 === 3 ? B : A, rid))),
  );
  for (let round = 0; round < 2; round++) {
    for (const enclave of [A, B]) {
      const own = stored.filter((_, n) => (n % 7 === 3 ? B : A) === enclave);
      const { receipts } = await store.page(enclave, enclave === A ? 0 : -1);
      assert.deepEqual(receipts, own.slice(0, 256));
      let prev = enclave === A ? undefined : "";
      for (const { token } of receipts) {
        const payload = payloadOf(token);
        if (prev !== undefined) assert.equal(payload.prev, prev);
        prev = claimsHashOf(token);
      }
    }
    for (const [n, rid] of rids.entries()) assert.deepEqual(await store.byRequest(rid), stored[n]);
    await store.close();
    store = await openReceiptStore(folder, log);
  }
  await store.close();
  const signatures = new Set(stored.map(({ token }) => token.split("~").at(-1)));
  assert.equal(
    signatures.size,
    4,
    "256 at most share a signature, and an enclave signs for itself",
  );
});

test("claims that cannot be made, and a closed store, fail alone and do not move the chain", async (t) => {
  const store = await openReceiptStore(temporaryFolder(t), log);
  const broken = {
    ...orderFor(A, newRequestId(1)),
    claimsAt: (): never => {
      throw new Error("no");
    },
  };
  const [failed, stored] = await Promise.allSettled([
    store.append(broken),
    store.append(orderFor(A, newRequestId(2))),
  ]);
  assert.equal(failed.status, "rejected");
  assert(stored.status === "fulfilled");
  assert.deepEqual(payloadOf(stored.value.token), { seq: 0, prev: "" });
  const late = store.append(orderFor(A, newRequestId(3)));
  await store.close();
  await assert.rejects(late, /closed/);
});

test("a disk that is full midway keeps the receipts it took whole, and the next ones follow them", async (t) => {
  const folder = temporaryFolder(t);
  // A file-size limit makes the kernel cut a write short, as a full disk does.
  const script = `
    import { openReceiptStore } from ${JSON.stringify(new URL("../../src/miner/receipts.ts", import.meta.url).href)};
    import { newRequestId } from ${JSON.stringify(new URL("../../src/core/ids.ts", import.meta.url).href)};
    import { signingKey } from ${JSON.stringify(new URL("../../src/core/jws.ts", import.meta.url).href)};
    process.on("SIGXFSZ", () => {});
    const key = signingKey(process.argv[1]);
    const store = await openReceiptStore(${JSON.stringify(folder)}, { warn() {}, error() {} });
    const results = await Promise.allSettled(Array.from({ length: 40 }, (_, n) => {
      const rid = newRequestId(n);
      return store.append({ enclave: ${JSON.stringify(A)}, rid, salt: ${JSON.stringify(SALT)}, key,
        claimsAt: (seq, prev) => ({ rid, seq, prev }) });
    }));
    process.stdout.write(JSON.stringify(results.map(({ value, reason }) => value?.token ?? { code: reason.cause?.code })));
    process.exit(0);`;
  const child = spawn(
    "bash",
    [
      "-c",
      'ulimit -f 16; exec "$0" --input-type=module --eval "$1" -- "$2"',
      process.execPath,
      script,
      pemOf(key),
    ],
    { stdio: ["ignore", "pipe", "inherit"] },
  );
  let text = "";
  for await (const piece of child.stdout as AsyncIterable<Buffer>) text += piece.toString();
  const results = JSON.parse(text) as (string | { code: string })[];
  const tokens = results.filter((result) => typeof result === "string");
  assert(tokens.length > 0 && tokens.length < 40, `${tokens.length} of 40 fit into 16 KiB`);
  assert.deepEqual(results.at(-1), { code: "EFBIG" });
  const store = await openReceiptStore(folder, log);
  t.after(async () => await store.close());
  assert.deepEqual(
    (await store.page(A, -1)).receipts.map(({ token }) => token),
    tokens,
  );
  const next = await store.append(orderFor(A, newRequestId(99)));
  assert.deepEqual(payloadOf(next.token), {
    seq: tokens.length,
    prev: claimsHashOf(tokens.at(-1) ?? ""),
  });
});

test("a reopened store finds everything, and ends a torn line", async (t) => {
  const folder = temporaryFolder(t);
  const path = join(folder, "receipts.jsonl");
  let store = await openReceiptStore(folder, log);
  const rids: RequestId[] = [];
  for (let n = 0; n < 5; n++) rids.push(await append(store, A));
  await store.close();
  await store.close();
  const whole = readFileSync(path);
  const [rid0 = "", , , , rid4 = ""] = rids;
  for (let cut = 1; cut < 400; cut += 57) {
    writeFileSync(path, whole.subarray(0, whole.length - cut));
    store = await openReceiptStore(folder, log);
    assert.equal((await store.byRequest(rid4 as RequestId)) === undefined, true, `cut ${cut}`);
    assert.notEqual(await store.byRequest(rid0 as RequestId), undefined);
    const next = await append(store, B);
    assert.notEqual(await store.byRequest(next), undefined);
    assert.equal((await store.page(B, -1)).receipts.length, 1);
    await store.close();
    store = await openReceiptStore(folder, log);
    assert.notEqual(await store.byRequest(next), undefined);
    await store.close();
  }
});

test("a line that lacks only its end was refused, and stays refused", async (t) => {
  const folder = temporaryFolder(t);
  const path = join(folder, "receipts.jsonl");
  let store = await openReceiptStore(folder, log);
  const refusedRid = await append(store, A);
  await store.close();
  writeFileSync(path, readFileSync(path).subarray(0, -1));
  store = await openReceiptStore(folder, log);
  const accepted = await store.append(orderFor(A, newRequestId(2)));
  for (let round = 0; round < 2; round++) {
    assert.deepEqual(await store.page(A, -1), { receipts: [accepted], more: false });
    assert.equal(await store.byRequest(refusedRid), undefined);
    await store.close();
    store = await openReceiptStore(folder, log);
  }
  await store.close();
});

test("lines that are not receipts are passed over, however long", async (t) => {
  const folder = temporaryFolder(t);
  let store = await openReceiptStore(folder, log);
  await append(store, A);
  await store.close();
  appendFileSync(join(folder, "receipts.jsonl"), `{"att":"x"}\n${"y".repeat(300_000)}\n\n\0\n`);
  store = await openReceiptStore(folder, log);
  const rid = await append(store, A);
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
    await append(store, A);
    if (n % 3 === 0) await append(store, B);
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
  const rids: RequestId[] = [];
  for (let n = 0; n < 50; n++) rids.push(await append(store, A));
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
       import { signingKey } from ${JSON.stringify(new URL("../../src/core/jws.ts", import.meta.url).href)};
       const key = signingKey();
       const store = await openReceiptStore(${JSON.stringify(folder)}, { warn() {}, error() {} });
       for (;;) {
         const rid = newRequestId(Date.now());
         await store.append({ enclave: ${JSON.stringify(A)}, rid, salt: ${JSON.stringify(SALT)}, key,
           claimsAt: (seq, prev) => ({ rid, seq, prev }) });
         process.stdout.write(rid + "\\n");
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
