/**
 * Holds and settles as fast as it can, and says what was acknowledged; crash.test.ts kills it.
 *
 *   node crash-writer.ts <folder or postgres:// URL>
 *
 * @module
 */
import { writeSync } from "node:fs";
import { openLedger } from "../../src/billing/ledger.ts";
import { openDatabase } from "../../src/runtime/database.ts";
import { fundedAccount, holdOrder, settleOrder, silent } from "./stores.ts";

const WRITERS = 8;

const [, , where = ""] = process.argv;
const database = await openDatabase({
  ...(where.startsWith("postgres:") ? { url: where } : { directory: where }),
  log: silent,
});
const ledger = await openLedger({ database, gateway: "gw", log: silent });
const account = await fundedAccount(database, 1_000_000_000n);
// Synchronous: a line is out before anything else happens.
const say = (line: string): number => writeSync(1, `${line}\n`);

await Promise.all(
  Array.from({ length: WRITERS }, async () => {
    for (;;) {
      const hold = holdOrder(account, 100n);
      const verdict = await ledger.hold(hold);
      if (!verdict.ok) return;
      say(`held ${hold.request}`);
      await ledger.settle(settleOrder(hold.request, 90n, 80n));
      say(`settled ${hold.request}`);
    }
  }),
);
