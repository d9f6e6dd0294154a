import { dispatchError } from "../metadata/runtime-types.ts";
import { type Codec, u32, vec } from "../scale/codec.ts";
import {
  call,
  constant,
  type DecodedCall,
  ensure,
  failureOf,
  type Pallet,
  palletErrors,
  palletEvents,
} from "./pallet.ts";

const INDEX = 11;
const NAME = "Utility";
const BATCHED_CALLS_MAX = 10_922;

const events = palletEvents(INDEX, {
  BatchInterrupted: [0, { index: u32, error: dispatchError }],
  BatchCompleted: [1, []],
  BatchCompletedWithErrors: [2, []],
  ItemCompleted: [3, []],
  ItemFailed: [4, { error: dispatchError }],
});

const errors = palletErrors(INDEX, { TooManyCalls: 0 });

/** Whether a batch contains a batch, which the runtime's call filter refuses. */
export function isNestedBatch(outer: DecodedCall): boolean {
  return outer.pallet === NAME && outer.inner.some(({ pallet }) => pallet === NAME);
}

/** @param runtimeCall the call of any pallet, this one included. */
export function utilityPallet(runtimeCall: Codec<DecodedCall>): Pallet {
  const fields = { calls: vec(runtimeCall) };
  const inner = ({ calls }: { readonly calls: readonly DecodedCall[] }) => calls;
  return {
    name: NAME,
    index: INDEX,
    path: "pallet_subtensor_utility",
    calls: {
      // Stops at the first failure and keeps what was done before it.
      batch: call(0, fields, {
        inner,
        run(execution, origin, { calls }) {
          ensure(calls.length <= BATCHED_CALLS_MAX, errors.TooManyCalls);
          for (const [index, one] of calls.entries()) {
            const error = failureOf(execution, one, origin);
            if (error !== undefined) {
              execution.emit(events.BatchInterrupted, { index, error });
              return;
            }
            execution.emit(events.ItemCompleted, []);
          }
          execution.emit(events.BatchCompleted, []);
        },
      }),
      // All or nothing: a failure leaves this call, and with it everything is undone.
      batch_all: call(2, fields, {
        inner,
        run(execution, origin, { calls }) {
          ensure(calls.length <= BATCHED_CALLS_MAX, errors.TooManyCalls);
          for (const one of calls) {
            execution.dispatch(one, origin);
            execution.emit(events.ItemCompleted, []);
          }
          execution.emit(events.BatchCompleted, []);
        },
      }),
      // Goes on after failures.
      force_batch: call(4, fields, {
        inner,
        run(execution, origin, { calls }) {
          ensure(calls.length <= BATCHED_CALLS_MAX, errors.TooManyCalls);
          let failed = false;
          for (const one of calls) {
            const error = failureOf(execution, one, origin);
            if (error === undefined) execution.emit(events.ItemCompleted, []);
            else execution.emit(events.ItemFailed, { error });
            failed ||= error !== undefined;
          }
          execution.emit(failed ? events.BatchCompletedWithErrors : events.BatchCompleted, []);
        },
      }),
    },
    events,
    errors,
    constants: [constant("batched_calls_limit", u32, BATCHED_CALLS_MAX)],
  };
}
