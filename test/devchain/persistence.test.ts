import assert from "node:assert/strict";
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import {
  appendFileSync,
  chmodSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  statSync,
  truncateSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, afterEach, before, beforeEach, describe, test } from "node:test";
import { pathToFileURL } from "node:url";
import { u8aToHex } from "@polkadot/util";
import { openChain } from "../../src/devchain/chain.ts";
import { type Devchain, type DevchainOptions, openDevchain } from "../../src/devchain/devchain.ts";
import { system } from "../../src/devchain/pallets/system.ts";
import { openRecordLog } from "../../src/devchain/record-log.ts";
import { ConfigError } from "../../src/runtime/settings.ts";
import {
  ALICE,
  BOB,
  call,
  clientOf,
  connect,
  freeOf,
  pairOf,
  query,
  TAO,
  withDeadline,
} from "./local-client.ts";

const RICH = [ALICE, BOB].map(({ address }) => ({ address, rao: 1_000_000n * TAO }));

let root: string;
let dataDir: string;
let count = 0;
before(() => {
  root = mkdtempSync(join(tmpdir(), "daybreak-devchain-"));
});
after(() => rmSync(root, { recursive: true, force: true }));
beforeEach(() => {
  count += 1;
  dataDir = join(root, `chain-${count}`);
});

const opened: Devchain[] = [];
/** Chains that a failed test has left open. */
afterEach(async () => {
  for (const chain of opened.splice(0)) await chain.close();
});

const open = async (options: Partial<DevchainOptions> = {}): Promise<Devchain> => {
  const chain = await openDevchain({
    host: "127.0.0.1",
    port: 0,
    blockMs: 0,
    tempo: 20,
    finalityLagBlocks: 0,
    endowed: RICH,
    dataDir,
    ...options,
  });
  opened.push(chain);
  return chain;
};

/** Runs `work` with a client of the chain, then disconnects it. */
async function withClient<T>(
  chain: Devchain,
  work: (local: ReturnType<typeof clientOf>) => Promise<T>,
): Promise<T> {
  const api = await connect(chain.url);
  try {
    return await work(clientOf(chain, api));
  } finally {
    await api.disconnect();
  }
}

const file = () => join(dataDir, "chain.log");
const isConfigError = (pattern: RegExp) => (error: unknown) =>
  error instanceof ConfigError && pattern.test(error.message);

test("openRecordLog() goes on after the last whole record", async () => {
  const first = openRecordLog(dataDir);
  assert.deepEqual(first.records, []);
  first.append(Buffer.from("one"));
  first.append(Buffer.from("a second one that is longer"));
  await first.sync();
  await first.close();
  truncateSync(file(), statSync(file()).size - 3);

  const second = openRecordLog(dataDir);
  assert.deepEqual(second.records.map(String), ["one"]);
  assert.equal(second.droppedBytes, 32);
  assert.equal(statSync(file()).size, second.bytes());
  second.append(Buffer.from("two"));
  await second.close();

  const third = openRecordLog(dataDir);
  assert.deepEqual(third.records.map(String), ["one", "two"]);
  assert.equal(third.droppedBytes, 0);
  third.replace([Buffer.from("all of it")]);
  third.append(Buffer.from("more"));
  await third.sync();
  await third.close();
  const fourth = openRecordLog(dataDir);
  assert.deepEqual(fourth.records.map(String), ["all of it", "more"]);
  await fourth.close();
});

describe("a chain in a folder", () => {
  test("goes on where it was: genesis, blocks, state, history, nonces", async () => {
    const first = await open();
    const { genesisHash } = first;
    const then = await withClient(first, async ({ api, send }) => {
      await send(call(api, "subtensorModule", "registerNetwork", pairOf("//P/o").address), ALICE);
      const paid = await send(
        call(api, "balances", "transferKeepAlive", BOB.address, 7n * TAO),
        ALICE,
      );
      await send(call(api, "balances", "transferKeepAlive", BOB.address, 1n * TAO), ALICE);
      return { paid, now: await freeOf(api, BOB.address) };
    });
    for (let i = 0; i < 5; i++) first.produceBlock();
    await first.close();

    const second = await open({ endowed: [] });
    assert.equal(second.genesisHash, genesisHash);
    await withClient(second, async ({ api, send }) => {
      assert.equal((await api.rpc.chain.getHeader()).number.toNumber(), 8);
      assert.equal(await freeOf(api, BOB.address), then.now);
      assert.equal(await freeOf(await api.at(then.paid.blockHash), BOB.address), then.now - TAO);
      assert.equal(await query(api, "subtensorModule", "totalNetworks"), 2);
      assert.equal((await api.rpc.system.accountNextIndex(ALICE.address)).toNumber(), 3);
      const { error } = await send(
        call(api, "balances", "transferKeepAlive", BOB.address, TAO),
        ALICE,
      );
      assert.equal(error, undefined);
    });
    await second.close();
  });

  test("takes a new tempo for subnets that exist", async () => {
    const first = await open({ tempo: 20 });
    await withClient(first, async ({ api, send }) => {
      await send(call(api, "subtensorModule", "registerNetwork", pairOf("//P/o").address), ALICE);
    });
    await first.close();
    const second = await open({ tempo: 50 });
    second.produceBlock();
    await withClient(second, async ({ api }) => {
      assert.equal(await query(api, "subtensorModule", "tempo", 1), 50);
      assert.equal(await query(api, "subtensorModule", "weightsSetRateLimit", 1), 25);
    });
    await second.close();
  });

  test("drops a record that was cut short, and only that one", async () => {
    const first = await open();
    for (let i = 0; i < 3; i++) first.produceBlock();
    const { size } = statSync(file());
    first.produceBlock();
    await first.close();
    const whole = statSync(file()).size;
    for (const keep of [size + 1, size + 9, whole - 1]) {
      const copy = readFileSync(file());
      truncateSync(file(), keep);
      const again = await open();
      assert.equal(again.produceBlock(), 4, `${keep} of ${whole} bytes`);
      await again.close();
      writeFileSync(file(), copy);
    }
    appendFileSync(file(), Buffer.alloc(64, 0xff));
    const again = await open();
    assert.equal(again.produceBlock(), 5);
    await again.close();
  });

  test("refuses a file that is damaged in the middle", async () => {
    const chain = await open();
    const { size } = statSync(file());
    for (let i = 0; i < 3; i++) chain.produceBlock();
    await chain.close();
    const bytes = readFileSync(file());
    bytes[size + 40] = (bytes[size + 40] ?? 0) ^ 1;
    writeFileSync(file(), bytes);
    await assert.rejects(open(), isConfigError(/damaged.*restore/));
  });

  test("refuses a newer format, a foreign file, a file for a folder, a folder that it may not write", async () => {
    const chain = await open();
    await chain.close();
    const bytes = readFileSync(file());
    bytes.writeUInt32LE(99, 8);
    writeFileSync(file(), bytes);
    await assert.rejects(open(), isConfigError(/newer version.*update/));
    writeFileSync(file(), "something else entirely");
    await assert.rejects(open(), isConfigError(/not a chain/));
    dataDir = join(root, "a-file");
    writeFileSync(dataDir, "");
    await assert.rejects(open(), isConfigError(/a-file/));
    if (process.getuid?.() === 0) return; // Root may write anywhere.
    dataDir = join(root, "read-only");
    mkdirSync(dataDir);
    chmodSync(dataDir, 0o500);
    await assert.rejects(open(), isConfigError(/read-only/));
  });

  test("is used by one process at a time, and free again after close", async () => {
    const chain = await open();
    await assert.rejects(open(), isConfigError(new RegExp(`process ${process.pid}`)));
    await chain.close();
    await chain.close();
    const again = await open();
    await again.close();
  });

  test("keeps its file short, with the last 256 blocks in it", async () => {
    const options = {
      dataDir,
      fileBytesMax: 300_000,
      tempo: 20,
      slotMs: 12_000,
      finalityLagBlocks: 0,
      endowed: [{ account: u8aToHex(ALICE.publicKey), rao: TAO }],
      log: undefined,
    };
    const chain = openChain(options);
    let rewritten = 0;
    let largest = 0;
    let size = statSync(file()).size;
    for (let i = 0; i < 3_000; i++) {
      chain.produce();
      const now = statSync(file()).size;
      if (now < size) rewritten += 1;
      size = now;
      largest = Math.max(largest, size);
    }
    assert(rewritten > 3, `rewritten ${rewritten} times`);
    assert(largest < 2 * options.fileBytesMax, `${largest} bytes`);
    const head = chain.head();
    const number = system.Number.keyOf();
    const oldest = chain.hashOf(head.number - 256) ?? "0x";
    const past = chain.stateAt(oldest)?.get(number);
    await chain.close();

    const again = openChain(options);
    try {
      assert.deepEqual(again.head(), head);
      assert.deepEqual(again.stateAt(oldest)?.get(number), past);
      assert.deepEqual(again.stateAt(oldest)?.number, head.number - 256);
      const older = again.hashOf(head.number - 257) ?? "0x";
      assert.equal(again.stateAt(older), undefined);
      assert.equal(again.produce().parentHash, head.hash);
    } finally {
      await again.close();
    }
  });
});

describe("a chain that is killed", () => {
  const children: ChildProcess[] = [];
  after(() => {
    for (const child of children) child.kill("SIGKILL");
  });

  /** A chain in a process of its own, with a block every few milliseconds. */
  async function startProcess(): Promise<{ child: ChildProcess; url: string }> {
    const script = `
      const { openDevchain } = await import(${JSON.stringify(pathToFileURL("src/devchain/devchain.ts").href)});
      const chain = await openDevchain({
        host: "127.0.0.1", port: 0, blockMs: 5, tempo: 20, finalityLagBlocks: 0,
        endowed: ${JSON.stringify(RICH.map(({ address }) => address))}.map((address) => ({ address, rao: 10n ** 15n })),
        dataDir: ${JSON.stringify(dataDir)},
      });
      process.stdout.write(chain.url + "\\n");
    `;
    const child = spawn(process.execPath, ["--input-type=module", "-e", script], {
      stdio: ["ignore", "pipe", "inherit"],
    });
    children.push(child);
    const [line] = (await withDeadline(once(child.stdout, "data"))) as [Buffer];
    return { child, url: line.toString().trim() };
  }

  test("has lost nothing that it announced, and its lock does not stand in the way", async () => {
    let genesis: string | undefined;
    let paid = 0n;
    let initial: bigint | undefined;
    for (let round = 0; round < 3; round++) {
      const { child, url } = await startProcess();
      const api = await connect(url);
      const local = clientOf({ url } as Devchain, api);
      genesis ??= api.genesisHash.toHex();
      assert.equal(api.genesisHash.toHex(), genesis);
      initial ??= await freeOf(api, BOB.address);
      assert.equal(await freeOf(api, BOB.address), initial + paid);
      await assert.rejects(open(), isConfigError(new RegExp(`process ${child.pid}`)));
      for (let i = 0; i <= round; i++) {
        const { error } = await local.send(
          call(api, "balances", "transferKeepAlive", BOB.address, TAO),
          ALICE,
        );
        assert.equal(error, undefined);
        paid += TAO;
      }
      const exited = once(child, "exit");
      child.kill("SIGKILL");
      await exited;
      await api.disconnect();
    }
    const chain = await open();
    assert.equal(chain.genesisHash, genesis);
    await withClient(chain, async ({ api }) => {
      assert.equal(await freeOf(api, BOB.address), (initial ?? 0n) + paid);
    });
    await chain.close();
  });
});
