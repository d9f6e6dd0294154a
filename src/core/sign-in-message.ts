/** What a wallet is asked to sign. No field but `statement` may contain a line break or begin or end with a space. */
export interface SignInMessage {
  /** Host, and port if any, that asks (RFC 3986 authority). */
  readonly domain: string;
  readonly address: string;
  /** What the signature allows, in one line. */
  readonly statement: string;
  readonly uri: string;
  /** CAIP-2, such as `polkadot:2f0555cc76fc2840a25a6ea3b9637146`. */
  readonly chainId: string;
  /** At least 8 letters and digits. */
  readonly nonce: string;
  readonly issuedMs: number;
  readonly expiresMs: number;
}

/** The text of CAIP-122, as wallets show it. */
export function formatSignInMessage(message: SignInMessage): string {
  return [
    `${message.domain} wants you to sign in with your Bittensor account:`,
    message.address,
    "",
    message.statement,
    "",
    `URI: ${message.uri}`,
    "Version: 1",
    `Chain ID: ${message.chainId}`,
    `Nonce: ${message.nonce}`,
    `Issued At: ${new Date(message.issuedMs).toISOString()}`,
    `Expiration Time: ${new Date(message.expiresMs).toISOString()}`,
  ].join("\n");
}

/** CAIP-2 id of a Substrate chain: the first 16 bytes of its genesis hash (0x-hex), CAIP namespace `polkadot`. */
export function chainIdOf(genesisHash: string): string {
  return `polkadot:${genesisHash.replace(/^0x/, "").slice(0, 32)}`;
}
