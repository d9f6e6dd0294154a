import { accountId, multiAddress } from "../metadata/runtime-types.ts";
import { type StorageView, storageOf } from "../metadata/storage-item.ts";
import type { Hex } from "../scale/bytes.ts";
import { bool, compactBig, u64, type ValueOf } from "../scale/codec.ts";
import {
  call,
  constant,
  DispatchFailure,
  type Execution,
  ensureRoot,
  entriesOf,
  failToken,
  type Pallet,
  palletErrors,
  palletEvents,
  signerOf,
} from "./pallet.ts";
import { system, systemEvents } from "./system.ts";

const INDEX = 5;
/** An account with less rao than this does not exist. */
export const EXISTENTIAL_DEPOSIT_RAO = 500n;

/** Balances themselves are in System.Account. */
const items = { TotalIssuance: storageOf("Balances").value("TotalIssuance", u64, 0n) };

const events = palletEvents(INDEX, {
  Endowed: [0, { account: accountId, free_balance: u64 }],
  DustLost: [1, { account: accountId, amount: u64 }],
  Transfer: [2, { from: accountId, to: accountId, amount: u64 }],
  BalanceSet: [3, { who: accountId, free: u64 }],
  Deposit: [7, { who: accountId, amount: u64 }],
  Withdraw: [8, { who: accountId, amount: u64 }],
});

/** Rao that `who` has. */
export function freeOf(view: StorageView, who: Hex): bigint {
  return system.Account.get(view, who).data.free;
}

/** Sets a balance, with the birth and death of accounts. Does not touch the total issuance. */
function writeFree(execution: Execution, who: Hex, free: bigint): void {
  const info = system.Account.get(execution, who);
  if (free < EXISTENTIAL_DEPOSIT_RAO) {
    if (info.providers === 0) return;
    if (free > 0n) {
      execution.emit(events.DustLost, { account: who, amount: free });
      changeIssuance(execution, -free);
    }
    // The nonce goes with the account, as on the real chain; the era of old transactions protects from replay.
    system.Account.remove(execution, who);
    execution.emit(systemEvents.KilledAccount, { account: who });
    return;
  }
  system.Account.put(execution, [who], { ...info, providers: 1, data: { ...info.data, free } });
  if (info.providers === 0) {
    execution.emit(systemEvents.NewAccount, { account: who });
    execution.emit(events.Endowed, { account: who, free_balance: free });
  }
}

function changeIssuance(execution: Execution, rao: bigint): void {
  items.TotalIssuance.put(execution, [], items.TotalIssuance.get(execution) + rao);
}

/** New money. Less than the existential deposit on a new account is dropped. */
export function mint(execution: Execution, who: Hex, rao: bigint): void {
  const free = freeOf(execution, who) + rao;
  if (free < EXISTENTIAL_DEPOSIT_RAO) return;
  changeIssuance(execution, rao);
  writeFree(execution, who, free);
}

/**
 * Takes money out of circulation and keeps the account alive.
 *
 * @returns false, with nothing done, if less than the existential deposit would be left.
 */
export function burn(execution: Execution, who: Hex, rao: bigint): boolean {
  const free = freeOf(execution, who);
  if (free < rao + EXISTENTIAL_DEPOSIT_RAO) return false;
  changeIssuance(execution, -rao);
  writeFree(execution, who, free - rao);
  return true;
}

/** Takes a fee. @returns false, with nothing done, if the signer cannot pay it and live. */
export function withdrawFee(execution: Execution, who: Hex, rao: bigint): boolean {
  if (!burn(execution, who, rao)) return false;
  execution.emit(events.Withdraw, { who, amount: rao });
  return true;
}

function transfer(execution: Execution, from: Hex, to: Hex, rao: bigint, keepAlive: boolean): void {
  const free = freeOf(execution, from);
  if (free < rao) failToken("FundsUnavailable");
  if (keepAlive && free - rao < EXISTENTIAL_DEPOSIT_RAO) failToken("NotExpendable");
  if (from === to) return;
  const received = freeOf(execution, to) + rao;
  if (received < EXISTENTIAL_DEPOSIT_RAO) failToken("BelowMinimum");
  if (received >> 64n !== 0n)
    throw new DispatchFailure(
      { type: "Arithmetic", value: [{ type: "Overflow" }] },
      "ArithmeticOverflow",
    );
  writeFree(execution, from, free - rao);
  writeFree(execution, to, received);
  execution.emit(events.Transfer, { from, to, amount: rao });
}

/** @throws DispatchFailure(CannotLookup) for address forms that the chain has no index of. */
function accountOf(address: ValueOf<typeof multiAddress>): Hex {
  if (address.type === "Id") return address.value[0];
  throw new DispatchFailure({ type: "CannotLookup" }, "CannotLookup");
}

const compactRao = compactBig(u64);

export const balancesPallet: Pallet = {
  name: "Balances",
  index: INDEX,
  path: "pallet_balances",
  storage: entriesOf(items),
  calls: {
    transfer_allow_death: call(
      0,
      { dest: multiAddress, value: compactRao },
      {
        run: (execution, origin, { dest, value }) =>
          transfer(execution, signerOf(origin), accountOf(dest), value, false),
      },
    ),
    force_transfer: call(
      2,
      { source: multiAddress, dest: multiAddress, value: compactRao },
      {
        run(execution, origin, { source, dest, value }) {
          ensureRoot(origin);
          transfer(execution, accountOf(source), accountOf(dest), value, false);
        },
      },
    ),
    transfer_keep_alive: call(
      3,
      { dest: multiAddress, value: compactRao },
      {
        run: (execution, origin, { dest, value }) =>
          transfer(execution, signerOf(origin), accountOf(dest), value, true),
      },
    ),
    transfer_all: call(
      4,
      { dest: multiAddress, keep_alive: bool },
      {
        run(execution, origin, { dest, keep_alive: keepAlive }) {
          const from = signerOf(origin);
          const kept = keepAlive ? EXISTENTIAL_DEPOSIT_RAO : 0n;
          transfer(execution, from, accountOf(dest), freeOf(execution, from) - kept, keepAlive);
        },
      },
    ),
    force_set_balance: call(
      8,
      { who: multiAddress, new_free: compactRao },
      {
        run(execution, origin, { who, new_free: free }) {
          ensureRoot(origin);
          const account = accountOf(who);
          const set = free < EXISTENTIAL_DEPOSIT_RAO ? 0n : free;
          changeIssuance(execution, set - freeOf(execution, account));
          writeFree(execution, account, set);
          execution.emit(events.BalanceSet, { who: account, free: set });
        },
      },
    ),
  },
  events,
  errors: palletErrors(INDEX, {
    VestingBalance: 0,
    LiquidityRestrictions: 1,
    InsufficientBalance: 2,
    ExistentialDeposit: 3,
    Expendability: 4,
  }),
  constants: [constant("ExistentialDeposit", u64, EXISTENTIAL_DEPOSIT_RAO)],
};
