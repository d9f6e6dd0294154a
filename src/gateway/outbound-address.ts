import { type LookupAddress, lookup } from "node:dns";
import { BlockList, isIP, type LookupFunction } from "node:net";

/** Ranges that are not on the public internet (IANA special-purpose registries), plus tunnels that could reach them. */
const NOT_PUBLIC: readonly (readonly [network: string, prefix: number, family: "ipv4" | "ipv6"])[] =
  [
    ["0.0.0.0", 8, "ipv4"],
    ["10.0.0.0", 8, "ipv4"],
    ["100.64.0.0", 10, "ipv4"],
    ["127.0.0.0", 8, "ipv4"],
    ["169.254.0.0", 16, "ipv4"],
    ["172.16.0.0", 12, "ipv4"],
    ["192.0.0.0", 24, "ipv4"],
    ["192.0.2.0", 24, "ipv4"],
    ["192.168.0.0", 16, "ipv4"],
    ["198.18.0.0", 15, "ipv4"],
    ["198.51.100.0", 24, "ipv4"],
    ["203.0.113.0", 24, "ipv4"],
    ["224.0.0.0", 4, "ipv4"],
    ["240.0.0.0", 4, "ipv4"],
    ["::", 127, "ipv6"],
    ["64:ff9b::", 96, "ipv6"],
    ["100::", 64, "ipv6"],
    ["2001::", 32, "ipv6"],
    ["2001:db8::", 32, "ipv6"],
    ["2002::", 16, "ipv6"],
    ["fc00::", 7, "ipv6"],
    ["fe80::", 10, "ipv6"],
    ["ff00::", 8, "ipv6"],
  ];

const notPublic = new BlockList();
for (const [network, prefix, family] of NOT_PUBLIC) notPublic.addSubnet(network, prefix, family);

/** Whether an IP address is one that anyone on the internet could reach. */
export function isPublicAddress(address: string): boolean {
  const version = isIP(address);
  return version !== 0 && !notPublic.check(address, version === 6 ? "ipv6" : "ipv4");
}

/** An address that a URL from the chain led to, and that must not be called. */
export class AddressRefused extends Error {
  override readonly name = "AddressRefused";
  constructor() {
    super("the address is not a public one");
  }
}

/**
 * A `lookup` for sockets that yields only public addresses. URLs come from strangers, through the chain; without this
 * they could aim the gateway at its own network. The check is on the resolved address, so a name that changes between
 * two look-ups gains nothing.
 */
export const lookupPublic: LookupFunction = (hostname, options, callback) => {
  lookup(hostname, { ...options, all: true }, (error, addresses: LookupAddress[]) => {
    if (error !== null) return callback(error, "", 0);
    const allowed = addresses.filter(({ address }) => isPublicAddress(address));
    const first = allowed[0];
    if (first === undefined) return callback(new AddressRefused(), "", 0);
    return options.all === true
      ? callback(null, allowed)
      : callback(null, first.address, first.family);
  });
};

/**
 * What to pass to `net.connect` or `tls.connect` so that it refuses addresses that are not public.
 *
 * @throws AddressRefused for a literal address, which is never looked up.
 */
export function outboundOptions(
  hostname: string,
  allowPrivate: boolean,
): { lookup?: LookupFunction } {
  if (allowPrivate) return {};
  const literal = hostname.replace(/^\[|\]$/g, "");
  if (isIP(literal) !== 0 && !isPublicAddress(literal)) throw new AddressRefused();
  return { lookup: lookupPublic };
}
