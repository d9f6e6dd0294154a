import assert from "node:assert/strict";
import type { Call } from "@polkadot/types/interfaces";
import type { ChainRuntime } from "./chain-runtime.ts";
import { commitmentInfoOf } from "./commitments.ts";

/** What this project asks the chain to do. Amounts are rao; keys are ss58 addresses. */
export type ChainCall =
  /** Fails rather than close the sender's account. */
  | { readonly kind: "transfer"; readonly to: string; readonly rao: bigint }
  /** All that the sender has, less the fee. Closes the sender's account. */
  | { readonly kind: "transfer_all"; readonly to: string }
  /** Signed by the coldkey that will own the subnet; `hotkey` becomes its owner hotkey. */
  | { readonly kind: "register_network"; readonly hotkey: string }
  /** Signed by the coldkey that will own the neuron. */
  | { readonly kind: "burned_register"; readonly netuid: number; readonly hotkey: string }
  /** Signed by the coldkey. */
  | {
      readonly kind: "add_stake";
      readonly netuid: number;
      readonly hotkey: string;
      readonly rao: bigint;
    }
  /** Signed by a registered hotkey. At most 3 fields of at most 512 bytes. */
  | {
      readonly kind: "set_commitment";
      readonly netuid: number;
      readonly fields: readonly Uint8Array[];
    }
  /** Signed by a registered hotkey. `weights[i]` (u16) is for `uids[i]`. */
  | {
      readonly kind: "set_weights";
      readonly netuid: number;
      readonly uids: readonly number[];
      readonly weights: readonly number[];
      readonly versionKey: bigint;
    }
  /** All or nothing. */
  | { readonly kind: "batch_all"; readonly calls: readonly ChainCall[] }
  /** Leaves its hash in an event. */
  | { readonly kind: "remark"; readonly bytes: Uint8Array };

const U16_MAX = 65_535;

/** @throws ChainError "Unsupported" if the live runtime has no such call or names its arguments otherwise. */
export function encodeCall(runtime: ChainRuntime, call: ChainCall): Call {
  switch (call.kind) {
    case "transfer":
      return runtime.call("balances", "transferKeepAlive", { dest: call.to, value: call.rao });
    case "transfer_all":
      return runtime.call("balances", "transferAll", { dest: call.to, keepAlive: false });
    case "register_network":
      return runtime.call("subtensorModule", "registerNetwork", { hotkey: call.hotkey });
    case "burned_register":
      return runtime.call("subtensorModule", "burnedRegister", {
        netuid: call.netuid,
        hotkey: call.hotkey,
      });
    case "add_stake":
      return runtime.call("subtensorModule", "addStake", {
        hotkey: call.hotkey,
        netuid: call.netuid,
        amountStaked: call.rao,
      });
    case "set_commitment":
      return runtime.call("commitments", "setCommitment", {
        netuid: call.netuid,
        info: commitmentInfoOf(call.fields),
      });
    case "set_weights":
      assert(call.uids.length === call.weights.length, "one weight per uid");
      assert([...call.uids, ...call.weights].every(isU16), "uids and weights are u16");
      return runtime.call("subtensorModule", "setWeights", {
        netuid: call.netuid,
        dests: call.uids,
        weights: call.weights,
        versionKey: call.versionKey,
      });
    case "batch_all":
      return runtime.call("utility", "batchAll", {
        calls: call.calls.map((inner) => encodeCall(runtime, inner)),
      });
    case "remark":
      return runtime.call("system", "remarkWithEvent", {
        remark: `0x${Buffer.from(call.bytes).toString("hex")}`,
      });
  }
}

function isU16(n: number): boolean {
  return Number.isInteger(n) && n >= 0 && n <= U16_MAX;
}
