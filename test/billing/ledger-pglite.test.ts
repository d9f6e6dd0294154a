import { openDatabase } from "../../src/runtime/database.ts";
import { ledgerSuite } from "./ledger-suite.ts";
import { silent } from "./stores.ts";

ledgerSuite("PGlite", async () => await openDatabase({ log: silent }), 30);
