/**
 * Measures how long a hold and a settlement wait for their commit, on the embedded database and on PostgreSQL.
 *
 *   npm run bench:ledger
 *   npm run bench:ledger -- --rate 1000 --seconds 20 --only pglite
 *
 * One process has the ledger as a gateway has it. Requests arrive at random (Poisson) at the given rate whatever the
 * database does; half of them are streams, which settle after seconds, and half are settled soon. Exit code 1 when the
 * books do not balance afterwards or an order was refused.
 *
 * @module
 */
import { parseArgs } from "node:util";
import { createAccount } from "../src/billing/accounts.ts";
import { auditLedger } from "../src/billing/audit.ts";
import { type Ledger, openLedger } from "../src/billing/ledger.ts";
import type { AccountId } from "../src/core/ids.ts";
import { openDatabase } from "../src/runtime/database.ts";
import {
  findPostgres,
  fund,
  holdOrder,
  settleOrder,
  silent,
  startPostgres,
  temporaryFolder,
} from "../test/billing/stores.ts";
import { machineBusyUs, machineLine } from "./cpu.ts";

const ACCOUNTS = 1_000;
const CREDIT_NUSD = 1_000_000_000_000n;
const HOLD_NUSD = 40_000_000n;
const CHARGE_NUSD = 1_200_000n;
/** About the length of a leaf: two tokens in a batch of signatures. */
const LEAF_CHARS = 1_500;
/** From the hold to the settlement, ms, at least and at most. */
const ANSWER_MS = [200, 400] as const;
const STREAM_MS = [2_000, 6_000] as const;
const WARM_UP_MS = 5_000;

const { values: options } = parseArgs({
  options: {
    rate: { type: "string", default: "1000" },
    seconds: { type: "string", default: "15" },
    only: { type: "string" },
  },
});
const rate = Number(options.rate);
const seconds = Number(options.seconds);
if (!(rate > 0) || !(seconds > 0)) throw new Error("--rate and --seconds must be positive numbers");

interface Store {
  readonly name: string;
  /** The goal for the median from hold to acknowledgement on a quiet machine of two cores, ms. */
  readonly goalMs: number;
  open(): Promise<{
    readonly where: { readonly url: string } | { readonly directory: string };
    close(): Promise<void>;
  }>;
}

const STORES: readonly Store[] = [
  {
    name: "pglite",
    goalMs: 8,
    open: async () => {
      const { directory, remove } = temporaryFolder();
      return { where: { directory }, close: async () => remove() };
    },
  },
  {
    name: "postgres",
    goalMs: 5,
    open: async () => {
      const bin = findPostgres();
      if (bin === undefined) throw new Error("no PostgreSQL under /usr/lib/postgresql");
      const server = await startPostgres(bin);
      return { where: { url: await server.newDatabase() }, close: () => server.close() };
    },
  },
];

let isRight = true;
console.log(
  `${machineLine()}; ${rate} requests/s, half of them streams, for ${seconds} s after a warm-up of ${WARM_UP_MS / 1000} s\n`,
);
for (const store of STORES) {
  if (options.only !== undefined && options.only !== store.name) continue;
  await measure(store);
}
process.exitCode = isRight ? 0 : 1;

async function measure(store: Store): Promise<void> {
  const opened = await store.open();
  try {
    const database = await openDatabase({ ...opened.where, log: silent });
    const ledger = await openLedger({ database, gateway: "bench", log: silent });
    const accounts: AccountId[] = [];
    for (let i = 0; i < ACCOUNTS; i += 1) {
      const { id } = await createAccount(database, { name: `customer ${i}` });
      await fund(database, id, CREDIT_NUSD);
      accounts.push(id);
    }
    const run = load(ledger, accounts);
    await run.wait(WARM_UP_MS);
    run.measure();
    const [cpu, busy, startMs] = [process.cpuUsage(), machineBusyUs(), performance.now()];
    await run.wait(seconds * 1_000);
    const used = process.cpuUsage(cpu);
    const wallUs = (performance.now() - startMs) * 1_000;
    const { holdMs, settleMs, refused } = await run.stop();
    const broken = (await auditLedger(database)).filter(({ ok }) => !ok);
    await ledger.close();
    await database.close();
    const p50 = at(holdMs, 0.5);
    console.log(
      `${store.name.padEnd(8)}  hold → ack p50 ${p50.toFixed(2)} ms, p99 ${at(holdMs, 0.99).toFixed(1)} ms; ` +
        `settle → ack p50 ${at(settleMs, 0.5).toFixed(2)} ms, p99 ${at(settleMs, 0.99).toFixed(1)} ms; ` +
        `${holdMs.length} holds, ${settleMs.length} settlements; this process ${((used.user + used.system) / wallUs).toFixed(2)} cores, ` +
        `machine ${((machineBusyUs() - busy) / wallUs).toFixed(2)}; goal ${p50 <= store.goalMs ? "met" : "NOT met"}: p50 ≤ ${store.goalMs} ms`,
    );
    if (broken.length > 0 || refused > 0) {
      isRight = false;
      console.log(`WRONG: ${refused} orders refused, ${broken.length} invariants broken`);
    }
  } finally {
    await opened.close();
  }
}

/** Requests that arrive and end, until it is stopped. */
function load(ledger: Ledger, accounts: readonly AccountId[]) {
  const leaf = "x".repeat(LEAF_CHARS);
  let holdMs: number[] = [];
  let settleMs: number[] = [];
  let refused = 0;
  let open = 0;
  let isOver = false;
  const startMs = performance.now();
  let dueMs = startMs;

  const between = ([least, most]: readonly [number, number]): number =>
    least + Math.random() * (most - least);
  const serve = async (): Promise<void> => {
    const account = accounts[Math.floor(Math.random() * accounts.length)] as AccountId;
    const hold = holdOrder(account, HOLD_NUSD);
    const heldAt = performance.now();
    const verdict = await ledger.hold(hold);
    holdMs.push(performance.now() - heldAt);
    if (!verdict.ok) throw new Error(verdict.refusal);
    const answerMs = between(Math.random() < 0.5 ? STREAM_MS : ANSWER_MS);
    await new Promise((resolve) => setTimeout(resolve, isOver ? 0 : answerMs));
    const settledAt = performance.now();
    await ledger.settle(
      settleOrder(hold.request, CHARGE_NUSD, CHARGE_NUSD, { leaf: `${hold.request}${leaf}` }),
    );
    settleMs.push(performance.now() - settledAt);
  };
  const timer = setInterval(() => {
    while (dueMs <= performance.now()) {
      dueMs += (-Math.log(1 - Math.random()) * 1_000) / rate;
      open += 1;
      serve()
        .catch(() => {
          refused += 1;
        })
        .finally(() => {
          open -= 1;
        });
    }
  }, 1);

  const wait = async (ms: number): Promise<void> =>
    await new Promise((resolve) => setTimeout(resolve, ms));
  return {
    wait,
    /** Forgets what was measured before. */
    measure: () => {
      holdMs = [];
      settleMs = [];
    },
    /** Ends the arrivals and waits for the last settlement. */
    stop: async () => {
      clearInterval(timer);
      const measured = { holdMs, settleMs };
      [holdMs, settleMs] = [[], []];
      isOver = true;
      while (open > 0) await wait(50);
      return { ...measured, refused };
    },
  };
}

function at(values: readonly number[], share: number): number {
  const sorted = Float64Array.from(values).sort();
  return sorted[Math.round(share * (sorted.length - 1))] ?? Number.NaN;
}
