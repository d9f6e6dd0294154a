/** What a pallet is made of. Each pallet is one table in its own file; `runtime.ts` puts them together. */
import type { DispatchError, TokenError } from "../metadata/runtime-types.ts";
import type { StorageEntry, StorageView, StorageWriter } from "../metadata/storage-item.ts";
import type { ByteReader, Hex } from "../scale/bytes.ts";
import { type Codec, decodeFields, encode, type Fields, type FieldValues } from "../scale/codec.ts";

/** Who a call is dispatched for: the signer of an extrinsic, or root through the sudo key. */
export type Origin = { readonly kind: "signed"; readonly who: Hex } | { readonly kind: "root" };

/** The state before the call in hand, and the number of the block it is or would be in. */
export interface BlockView extends StorageView {
  readonly number: number;
}

/** The block that is being built. */
export interface Execution extends BlockView, StorageWriter {
  /** Deposits an event. It is dropped when the call that deposits it fails. */
  emit<F extends Fields>(event: PalletEvent<F>, values: FieldValues<F>): void;
  /**
   * Runs a call in its own storage layer.
   *
   * @throws DispatchFailure after undoing what the call did.
   */
  dispatch(call: DecodedCall, origin: Origin): void;
}

/** A call with its arguments. */
export interface DecodedCall {
  readonly pallet: string;
  readonly name: string;
  /** `Pays::No`: its signer needs no balance. */
  readonly feeless: boolean;
  /** The calls that it dispatches. */
  readonly inner: readonly DecodedCall[];
  /** A check that the pool makes before the call is in a block, and dispatch makes again. */
  guard(view: BlockView, who: Hex): PalletError | undefined;
  run(execution: Execution, origin: Origin): void;
}

/** A module error, by name in code and by number on the wire. */
export interface PalletError {
  readonly pallet: number;
  readonly index: number;
  readonly name: string;
}

/** A call ends like this. Everything it did is undone. */
export class DispatchFailure extends Error {
  override readonly name = "DispatchFailure";
  readonly reason: DispatchError;

  constructor(reason: DispatchError, message: string, options?: ErrorOptions) {
    super(message, options);
    this.reason = reason;
  }
}

/** @throws DispatchFailure with a module error. */
export function fail({ pallet, index, name }: PalletError): never {
  const error = Uint8Array.of(index, 0, 0, 0);
  throw new DispatchFailure({ type: "Module", value: [{ index: pallet, error }] }, name);
}

/** @throws DispatchFailure with `error` unless `condition`. */
export function ensure(condition: boolean, error: PalletError): asserts condition {
  if (!condition) fail(error);
}

/** @throws DispatchFailure of the balances' own kind. */
export function failToken(error: TokenError): never {
  throw new DispatchFailure({ type: "Token", value: [{ type: error }] }, error);
}

/** @returns why the call failed, or undefined; a failed call has left nothing behind. */
export function failureOf(
  execution: Execution,
  inner: DecodedCall,
  origin: Origin,
): DispatchError | undefined {
  try {
    execution.dispatch(inner, origin);
    return undefined;
  } catch (error) {
    if (error instanceof DispatchFailure) return error.reason;
    throw error;
  }
}

/** The signer. @throws DispatchFailure(BadOrigin) for root. */
export function signerOf(origin: Origin): Hex {
  if (origin.kind !== "signed") throw new DispatchFailure({ type: "BadOrigin" }, "BadOrigin");
  return origin.who;
}

/** @throws DispatchFailure(BadOrigin) for anyone else. */
export function ensureRoot(origin: Origin): void {
  if (origin.kind !== "root") throw new DispatchFailure({ type: "BadOrigin" }, "BadOrigin");
}

export interface PalletEvent<F extends Fields = Fields> {
  readonly pallet: number;
  readonly index: number;
  readonly fields: F;
}

type EventTable = Readonly<Record<string, readonly [index: number, fields: Fields]>>;
export type EventsOf<T extends EventTable> = { readonly [K in keyof T]: PalletEvent<T[K][1]> };

/** The events of pallet number `pallet`, by name. */
export function palletEvents<const T extends EventTable>(pallet: number, table: T): EventsOf<T> {
  const entries = Object.entries(table).map(([name, [index, fields]]) => [
    name,
    { pallet, index, fields },
  ]);
  return Object.fromEntries(entries) as EventsOf<T>;
}

/** The errors of pallet number `pallet`, by name. */
export function palletErrors<const T extends Readonly<Record<string, number>>>(
  pallet: number,
  table: T,
): { readonly [K in keyof T]: PalletError } {
  const entries = Object.entries(table).map(([name, index]) => [name, { pallet, index, name }]);
  return Object.fromEntries(entries) as { readonly [K in keyof T]: PalletError };
}

/** A row of a pallet's table of calls. */
export interface PalletCall {
  readonly index: number;
  readonly fields: Fields;
  /** Reads the arguments. @throws ScaleError */
  decode(input: ByteReader): Omit<DecodedCall, "pallet" | "name">;
}

interface CallRules<Arguments> {
  readonly feeless?: boolean;
  inner?(values: Arguments): readonly DecodedCall[];
  guard?(view: BlockView, who: Hex, values: Arguments): PalletError | undefined;
  run(execution: Execution, origin: Origin, values: Arguments): void;
}

/** @param index its number on the real chain: calls have explicit numbers, so a subset of them keeps its bytes. */
export function call<const F extends Readonly<Record<string, Codec<unknown>>>>(
  index: number,
  fields: F,
  rules: CallRules<FieldValues<F>>,
): PalletCall {
  return {
    index,
    fields,
    decode(input) {
      const values = decodeFields(fields, input);
      return {
        feeless: rules.feeless ?? false,
        inner: rules.inner?.(values) ?? [],
        guard: (view, who) => rules.guard?.(view, who, values),
        run: (execution, origin) => rules.run(execution, origin, values),
      };
    },
  };
}

/** A constant of a pallet, as the metadata carries it. */
export interface PalletConstant {
  readonly name: string;
  readonly codec: Codec<unknown>;
  readonly value: Uint8Array;
}

export function constant<T>(name: string, codec: Codec<T>, value: T): PalletConstant {
  return { name, codec, value: encode(codec, value) };
}

export interface Pallet {
  readonly name: string;
  readonly index: number;
  /** Crate name, the first part of its types' paths. */
  readonly path: string;
  readonly storage?: readonly StorageEntry[];
  readonly calls?: Readonly<Record<string, PalletCall>>;
  readonly events?: Readonly<Record<string, PalletEvent>>;
  readonly errors?: Readonly<Record<string, PalletError>>;
  readonly constants?: readonly PalletConstant[];
}

/** The metadata's rows of items, in the order of the table. */
export function entriesOf(
  items: Readonly<Record<string, { readonly entry: StorageEntry }>>,
): StorageEntry[] {
  return Object.values(items).map(({ entry }) => entry);
}

/** A runtime API function, called through `state_call`. */
export interface RuntimeFunction {
  readonly inputs: Readonly<Record<string, Codec<unknown>>>;
  readonly output: Codec<unknown>;
  /** @param input its encoded arguments. @throws ScaleError if they are malformed. */
  call(view: BlockView, input: ByteReader): Uint8Array;
}

export type RuntimeApi = Readonly<Record<string, RuntimeFunction>>;

/** Declares a runtime API function. */
export function runtimeFunction<const F extends Readonly<Record<string, Codec<unknown>>>, T>(
  inputs: F,
  output: Codec<T>,
  run: (view: BlockView, values: FieldValues<F>) => T,
): RuntimeFunction {
  return {
    inputs,
    output,
    call: (view, input) => encode(output, run(view, decodeFields(inputs, input))),
  };
}
