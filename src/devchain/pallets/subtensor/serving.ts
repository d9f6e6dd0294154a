import type { Hex } from "../../scale/bytes.ts";
import {
  type BlockView,
  type Execution,
  ensure,
  fail,
  type Origin,
  type PalletError,
  signerOf,
} from "../pallet.ts";
import { subtensorErrors as errors, subtensorEvents as events } from "./events.ts";
import { type AxonInfo, CERTIFICATE_KEY_BYTES_MAX, NO_AXON, subtensor } from "./storage.ts";

const IPV4 = 4;
const IPV6 = 6;
const IPV4_LOOPBACK = 0x7f000001n;
const IPV4_MAX = 0xffffffffn;
const IPV6_LOOPBACK = 1n;
const IPV6_MAX = (1n << 128n) - 1n;

/** The arguments of `serve_axon`. */
export type AxonCall = Omit<AxonInfo, "block"> & { readonly netuid: number };

/**
 * Why an axon may not be served; the pool asks too. Loopback addresses are refused as on the real chain, so local
 * software cannot come to depend on them.
 *
 * @see subtensor, pallets/subtensor/src/subnets/serving.rs, validate_serve_axon
 */
export function guardAxon(view: BlockView, hotkey: Hex, call: AxonCall): PalletError | undefined {
  const { netuid, ip, port, ip_type: type } = call;
  if (subtensor.Uids.get(view, netuid, hotkey) === undefined)
    return errors.HotKeyNotRegisteredInNetwork;
  if (type !== IPV4 && type !== IPV6) return errors.InvalidIpType;
  const refused =
    type === IPV4 ? ip >= IPV4_MAX || ip === IPV4_LOOPBACK : ip >= IPV6_MAX || ip === IPV6_LOOPBACK;
  if (refused) return errors.InvalidIpAddress;
  const last = (subtensor.Axons.get(view, netuid, hotkey) ?? NO_AXON).block;
  const limit = subtensor.ServingRateLimit.get(view, netuid);
  if (last !== 0n && BigInt(view.number) - last < limit) return errors.ServingRateLimitExceeded;
  return port === 0 ? errors.InvalidPort : undefined;
}

/** `serve_axon_tls`: the same with the key of a TLS certificate. One that is too long is left out, as on the real chain. */
export function serveAxonTls(
  execution: Execution,
  origin: Origin,
  { certificate, ...axon }: AxonCall & { readonly certificate: Uint8Array },
): void {
  serveAxon(execution, origin, axon);
  const [algorithm, ...key] = certificate;
  if (algorithm === undefined || key.length > CERTIFICATE_KEY_BYTES_MAX) return;
  subtensor.NeuronCertificates.put(execution, [axon.netuid, signerOf(origin)], {
    public_key: Uint8Array.from(key),
    algorithm,
  });
}

/** `serve_axon`. */
export function serveAxon(execution: Execution, origin: Origin, call: AxonCall): void {
  const hotkey = signerOf(origin);
  const { netuid, ...axon } = call;
  ensure(subtensor.NetworksAdded.get(execution, netuid), errors.SubnetNotExists);
  const refused = guardAxon(execution, hotkey, call);
  if (refused !== undefined) fail(refused);
  const info = { ...axon, block: BigInt(execution.number) };
  subtensor.Axons.put(execution, [netuid, hotkey], info);
  execution.emit(events.AxonServed, [netuid, hotkey]);
}
