import { accountId, dispatchResult } from "../metadata/runtime-types.ts";
import { storageOf } from "../metadata/storage-item.ts";
import type { Codec } from "../scale/codec.ts";
import {
  call,
  type DecodedCall,
  ensure,
  entriesOf,
  failureOf,
  type Pallet,
  palletErrors,
  palletEvents,
  signerOf,
} from "./pallet.ts";

const INDEX = 12;

const items = { Key: storageOf("Sudo").optional("Key", accountId) };

/** Storage of the Sudo pallet. */
export const sudo = items;

const events = palletEvents(INDEX, { Sudid: [0, { sudo_result: dispatchResult }] });
const errors = palletErrors(INDEX, { RequireSudo: 0 });

/** @param runtimeCall the call of any pallet, this one included. */
export function sudoPallet(runtimeCall: Codec<DecodedCall>): Pallet {
  return {
    name: "Sudo",
    index: INDEX,
    path: "pallet_sudo",
    storage: entriesOf(items),
    calls: {
      sudo: call(
        0,
        { call: runtimeCall },
        {
          feeless: true,
          inner: ({ call: inner }) => [inner],
          run(execution, origin, { call: inner }) {
            ensure(signerOf(origin) === items.Key.get(execution), errors.RequireSudo);
            const error = failureOf(execution, inner, { kind: "root" });
            execution.emit(events.Sudid, {
              sudo_result:
                error === undefined ? { type: "Ok", value: [[]] } : { type: "Err", value: [error] },
            });
          },
        },
      ),
    },
    events,
    errors,
  };
}
