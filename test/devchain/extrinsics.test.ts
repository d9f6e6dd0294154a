import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { Keyring } from "@polkadot/keyring";
import type { ExtrinsicEra, RuntimeVersion } from "@polkadot/types/interfaces";
import { hexToU8a, u8aToHex } from "@polkadot/util";
import { openDevchain } from "../../src/devchain/devchain.ts";
import {
  ALICE,
  BOB,
  call,
  freeOf,
  type LocalClient,
  openLocalClient,
  pairOf,
  post,
  TAO,
  type Tx,
  withDeadline,
} from "./local-client.ts";

describe("a signed extrinsic", () => {
  let local: LocalClient;
  before(async () => {
    local = await openLocalClient();
  });
  after(() => local.close());

  const pay = (rao: bigint = TAO): Tx =>
    call(local.api, "balances", "transferKeepAlive", BOB.address, rao);
  const submit = async (hex: string, url = local.chain.url) => {
    const body = { jsonrpc: "2.0", id: 1, method: "author_submitExtrinsic", params: [hex] };
    const { error } = (await post(url, body)) as {
      error?: { code: number; message: string; data?: string };
    };
    return error;
  };
  const nextNonce = async (address: string) =>
    (await local.api.rpc.system.accountNextIndex(address)).toNumber();

  test("with one flipped bit anywhere in its signed part is refused", async () => {
    const signed = hexToU8a((await pay().signAsync(ALICE, { nonce: -1 })).toHex());
    const before_ = await freeOf(local.api, BOB.address);
    // Byte 2…: 0x84, address kind, key, signature kind, signature, era, nonce, tip, mode, call.
    const body = signed.length - 2;
    let badSignatures = 0;
    for (let at = 2; at < signed.length; at += 3) {
      const forged = Uint8Array.from(signed);
      forged[at] = (forged[at] ?? 0) ^ 1;
      const error = await submit(u8aToHex(forged));
      assert(error !== undefined, `byte ${at} of ${body}`);
      if (error.data === "Transaction has a bad signature") badSignatures += 1;
    }
    assert(badSignatures > 20, `${badSignatures}`);
    local.chain.produceBlock();
    assert.equal(await freeOf(local.api, BOB.address), before_);
  });

  test("of another chain is refused, though all else is the same", async () => {
    const other = await openDevchain({
      host: "127.0.0.1",
      port: 0,
      blockMs: 0,
      tempo: 20,
      finalityLagBlocks: 0,
      endowed: [{ address: ALICE.address, rao: TAO * 100n }],
    });
    try {
      assert.notEqual(other.genesisHash, local.chain.genesisHash);
      const immortal = await pay().signAsync(ALICE, { nonce: 0, era: 0 });
      const error = await submit(immortal.toHex(), other.url);
      assert.equal(error?.code, 1010);
      assert.equal(error?.data, "Transaction has a bad signature");
    } finally {
      await other.close();
    }
  });

  for (const { name, specVersion, transactionVersion } of [
    { name: "an older runtime", specVersion: 424, transactionVersion: 1 },
    { name: "a newer transaction format", specVersion: 425, transactionVersion: 2 },
  ]) {
    test(`for ${name} is refused`, async () => {
      const { api } = local;
      const signed = api.registry.createType("Extrinsic", pay().method).sign(ALICE, {
        blockHash: api.genesisHash,
        era: api.registry.createType("ExtrinsicEra", "0x00"),
        genesisHash: api.genesisHash,
        nonce: await nextNonce(ALICE.address),
        runtimeVersion: api.registry.createType("RuntimeVersion", {
          ...api.runtimeVersion.toJSON(),
          specVersion,
          transactionVersion,
        }) as RuntimeVersion,
        signedExtensions: api.registry.signedExtensions,
      });
      assert.equal((await submit(signed.toHex()))?.data, "Transaction has a bad signature");
    });
  }

  test("with a used nonce is outdated", async () => {
    await local.send(pay(), ALICE);
    const signed = await pay().signAsync(ALICE, { nonce: 0 });
    assert.deepEqual(await submit(signed.toHex()), {
      code: 1010,
      message: "Invalid Transaction",
      data: "Transaction is outdated",
    });
  });

  test("with a later nonce waits for the ones before it", async () => {
    const nonce = await nextNonce(ALICE.address);
    const statuses: string[] = [];
    const later = await pay().signAsync(ALICE, { nonce: nonce + 1 });
    const done = new Promise<void>((resolve, reject) => {
      later
        .send(({ status }) => {
          statuses.push(status.type);
          if (status.isFinalized) resolve();
        })
        .catch(reject);
    });
    local.chain.produceBlock();
    assert.equal(await nextNonce(ALICE.address), nonce);
    await local.send(pay(), ALICE);
    await withDeadline(done);
    assert.equal(statuses[0], "Future");
  });

  test("cannot replace another with the same nonce, nor be sent twice", async () => {
    const nonce = (await nextNonce(ALICE.address)) + 1;
    const first = await pay(1n * TAO).signAsync(ALICE, { nonce });
    const second = await pay(2n * TAO).signAsync(ALICE, { nonce });
    assert.equal(await submit(first.toHex()), undefined);
    assert.equal((await submit(first.toHex()))?.code, 1013);
    assert.equal((await submit(second.toHex()))?.code, 1014);
    const pending = (await local.rpc("author_pendingExtrinsics")) as string[];
    assert.deepEqual(pending, [first.toHex()]);
  });

  test("is told when its era has passed while it waited", async () => {
    const statuses: string[] = [];
    const dave = pairOf("//Extrinsics/waiting");
    await local.send(call(local.api, "balances", "transferKeepAlive", dave.address, TAO), BOB);
    const signed = await pay(1_000n).signAsync(dave, { nonce: 1, era: 8 });
    const done = new Promise<void>((resolve, reject) => {
      signed
        .send(({ status }) => {
          statuses.push(status.type);
          if (status.isInvalid) resolve();
        })
        .catch(reject);
    });
    // Once it is in the pool, let its eight blocks go by.
    await withDeadline(
      (async () => {
        while (!statuses.includes("Future")) await new Promise((resolve) => setImmediate(resolve));
      })(),
    );
    for (let i = 0; i < 9; i++) local.chain.produceBlock();
    await withDeadline(done);
    assert.deepEqual(statuses, ["Future", "Invalid"]);
  });

  test("signed for an era that is over has a bad signature", async () => {
    const { api, chain } = local;
    const { hash, number } = await api.rpc.chain.getHeader();
    const era = api.registry.createType("ExtrinsicEra", {
      current: number.toNumber(),
      period: 8,
    }) as ExtrinsicEra;
    const nonce = await nextNonce(BOB.address);
    const signed = await pay().signAsync(BOB, { nonce, era, blockHash: hash });
    for (let i = 0; i < 9; i++) chain.produceBlock();
    assert.equal((await submit(signed.toHex()))?.data, "Transaction has a bad signature");
  });

  test("of an account that cannot pay the fee is refused", async () => {
    const poor = pairOf("//Extrinsics/poor");
    const data = "Inability to pay some fees (e.g. account balance too low)";
    assert.equal(await local.refusalOf(pay(), poor), data);
  });

  test("may be signed with ed25519", async () => {
    const ed = new Keyring({ type: "ed25519", ss58Format: 42 }).addFromUri("//Ed");
    await local.send(call(local.api, "balances", "transferKeepAlive", ed.address, TAO), BOB);
    assert.equal((await local.send(pay(1_000n), ed)).error, undefined);
  });

  test("longer than 256 bytes is hashed before it is signed", async () => {
    const remark = call(local.api, "system", "remark", `0x${"ab".repeat(2_000)}`);
    assert.equal((await local.send(remark, BOB)).error, undefined);
  });

  test("that is too long, malformed, unsigned or unknown has an invalid format", async () => {
    const inherent = "0x280402000b00a0a8c1d201";
    for (const hex of ["0x", "0x00", "0x04ff", inherent, `0x${"ff".repeat(300)}`])
      assert.equal((await submit(hex))?.code, 1001, hex);
    const remark = call(local.api, "system", "remark", `0x${"ab".repeat(200_000)}`);
    assert.equal(await local.refusalOf(remark, BOB), "Transaction would exhaust the block limits");
  });

  test("with calls nested deeper than the limit has an invalid format", async () => {
    const { api } = local;
    let nested = call(api, "system", "remark", "0x00");
    for (let i = 0; i < 40; i++) nested = call(api, "sudo", "sudo", nested);
    assert.match((await local.refusalOf(nested, ALICE)) ?? "", /nested too deep/);
  });
});
