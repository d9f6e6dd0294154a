import {
  budgetOf,
  countApiKeys,
  createApiKey,
  deleteApiKey,
  findApiKey,
  KEYS_MAX,
  limitKey,
  listApiKeys,
  updateApiKey,
} from "../billing/accounts.ts";
import { RouterError } from "../core/errors.ts";
import type { Database } from "../runtime/database.ts";
import type { KeyStore, ManagedKey } from "./routes/keys.ts";

/** The keys of accounts, with their limits, in the database. */
export function keyStore(database: Database): KeyStore {
  const managedOf = async (record: Omit<ManagedKey, "budget">): Promise<ManagedKey> => ({
    ...record,
    budget: await budgetOf(database, record.id),
  });
  return {
    create: async (account, { label, limit, expiresMs }) => {
      if ((await countApiKeys(database, account)) >= KEYS_MAX)
        throw new RouterError("invalid_request", `An account has at most ${KEYS_MAX} keys.`);
      return await database.transaction(async (tx) => {
        const made = await createApiKey(tx, account, { label, management: false, expiresMs });
        if (limit !== undefined) await limitKey(tx, made.id, limit);
        return made;
      });
    },
    list: async (account, offset) => {
      const managed: ManagedKey[] = [];
      for (const record of await listApiKeys(database, account, offset))
        managed.push(await managedOf(record));
      return managed;
    },
    find: async (account, id) => {
      const record = await findApiKey(database, id);
      return record === undefined || record.account !== account || record.management
        ? undefined
        : await managedOf(record);
    },
    update: async (id, { limit, ...change }) => {
      await database.transaction(async (tx) => {
        await updateApiKey(tx, id, change);
        if (limit !== undefined) await limitKey(tx, id, limit ?? undefined);
      });
    },
    remove: async (id) => await deleteApiKey(database, id),
  };
}
