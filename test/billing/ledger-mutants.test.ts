/**
 * Breaks one rule of the ledger's SQL at a time, and requires that the model finds it.
 *
 * A property that never fails proves nothing: an early one let a batch of holds overdraw an account, because its amounts
 * were too large for two holds ever to compete.
 */
import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { migrateBilling } from "../../src/billing/schema.ts";
import { openDatabase } from "../../src/runtime/database.ts";
import { checkLedgerProperty } from "./ledger-property.ts";
import { findPostgres, type PostgresServer, silent, startPostgres } from "./stores.ts";

const RUNS = 30;

interface Mutant {
  readonly name: string;
  readonly in: string;
  readonly from: string;
  readonly to: string;
}

const MUTANTS: readonly Mutant[] = [
  {
    name: "settle ignores that a request has ended",
    in: "apply_batch",
    from: "CASE WHEN e.ended_by = settle_calls[i] THEN 's' ELSE 'a' END",
    to: "'s'",
  },
  {
    name: "settle leaves the hold on the account",
    in: "apply_batch",
    from: "debits = a.debits + c.debits, held = a.held - c.held",
    to: "debits = a.debits + c.debits",
  },
  {
    name: "settle charges more than was held",
    in: "apply_batch",
    from: "LEAST(settle_charges[i], h.amount) AS charged",
    to: "settle_charges[i] AS charged",
  },
  {
    name: "release ignores that a request is settled",
    in: "apply_batch",
    from: "CASE WHEN e.ended_by = release_calls[i] THEN 's' ELSE 'a' END",
    to: "'s'",
  },
  {
    name: "release leaves the hold on the account",
    in: "apply_batch",
    from: "SELECT acct, sum(amount)::bigint AS amount FROM closed GROUP BY acct) f",
    to: "SELECT acct, 0 AS amount FROM closed GROUP BY acct) f",
  },
  {
    name: "holds of one batch do not see each other when all fit",
    in: "apply_batch",
    from: "sum(hold_amounts[i]) AS amount",
    to: "max(hold_amounts[i]) AS amount",
  },
  {
    name: "holds of one batch do not see each other when some do not fit",
    in: "apply_batch",
    from: "free := free - order_.amount",
    to: "free := free",
  },
  {
    name: "holds of one batch do not see each other within the key's limit",
    in: "apply_batch",
    from: "budget_free[budget] := budget_free[budget] - order_.amount",
    to: "budget_free[budget] := budget_free[budget]",
  },
  {
    name: "a key's limit forgets what was charged",
    in: "apply_batch",
    from: "THEN b.spent + c.charged ELSE b.spent END",
    to: "THEN b.spent ELSE b.spent END",
  },
  {
    name: "a repeated hold is refused",
    in: "apply_batch",
    from: "THEN CASE WHEN order_.is_same THEN 'r' ELSE 'c' END",
    to: "THEN 'c'",
  },
  {
    name: "another request under a known id is taken for a repeated one",
    in: "apply_batch",
    from: "AND h.fingerprint = hold_fingerprints[i]",
    to: "",
  },
  {
    name: "a deposit is posted twice",
    in: "post",
    from: "IF NOT FOUND THEN RETURN false; END IF;",
    to: "IF NOT FOUND THEN in_cause := in_cause || 'again'; END IF;",
  },
  {
    name: "refunds exceed the charge",
    in: "refund",
    from: "IF e.refunded + in_amount > e.charged THEN RETURN 'exceeds_charge'; END IF;",
    to: "",
  },
  {
    name: "expiry leaves the hold on the account",
    in: "expire",
    from: "SET held = a.held - c.amount",
    to: "SET held = a.held",
  },
];

const bin = findPostgres();
if (bin === undefined) {
  console.log(
    "skipped: no PostgreSQL under /usr/lib/postgresql, so the model is not tested on broken ledgers",
  );
} else {
  describe("a ledger with one rule broken", () => {
    let server: PostgresServer;
    let template: string;
    before(async () => {
      server = await startPostgres(bin);
      template = await server.newDatabase();
      const database = await openDatabase({ url: template, log: silent });
      await migrateBilling(database);
      await database.close();
    });
    after(async () => {
      await server.close();
    });

    for (const mutant of MUTANTS) {
      test(`the model finds that ${mutant.name}`, async () => {
        const url = await server.newDatabase(template);
        const database = await openDatabase({ url, log: silent });
        try {
          const [found] = await database.query<{ text: string }>(
            "SELECT pg_get_functiondef(p.oid) AS text FROM pg_proc p WHERE pronamespace = 'ledger'::regnamespace AND proname = $1",
            [mutant.in],
          );
          const parts = found?.text.split(mutant.from) ?? [];
          assert.equal(parts.length, 2, "the text to break is not there exactly once");
          await database.exec(parts.join(mutant.to));
          await assert.rejects(checkLedgerProperty(database, RUNS));
        } finally {
          await database.close();
        }
      });
    }
  });
}
