import { randomBytes } from "node:crypto";
import { RouterError } from "../core/errors.ts";
import type { AccountId } from "../core/ids.ts";
import { formatSignInMessage } from "../core/sign-in-message.ts";
import type { Database, Queryable } from "../runtime/database.ts";

/** How long a challenge can be signed, in milliseconds. */
const CHALLENGE_MS = 5 * 60_000;
/** Challenges of one account that may be open at once. */
const CHALLENGES_MAX = 20;
/** Wallets of one account. */
const WALLETS_MAX = 20;
const NONCE_BYTES = 16;
const SIGNATURE_BYTES = 64;
/** What MultiSignature puts before an sr25519 signature; some wallets do. */
const SR25519_TYPE = 1;

/** A text that a wallet is asked to sign. */
export interface WalletChallenge {
  /** Names the challenge; good for one attempt. */
  readonly nonce: string;
  /** Sign exactly this text (`signRaw` with type "bytes"). */
  readonly message: string;
  readonly address: string;
  readonly issuedMs: number;
  readonly expiresMs: number;
}

/** A wallet whose transfers to the common address are credited to an account. */
export interface LinkedWallet {
  /** ss58, prefix 42. */
  readonly address: string;
  readonly account: AccountId;
  readonly linkedMs: number;
}

/**
 * Makes a challenge for linking a wallet: a CAIP-122 text that names account and wallet, for 5 minutes and one attempt.
 *
 * @throws RouterError `rate_limited` if 20 challenges of the account are open.
 */
export async function createWalletChallenge(
  database: Queryable,
  {
    account,
    address,
    url,
    chainId,
    nowMs,
  }: {
    readonly account: AccountId;
    /** ss58, prefix 42. */
    readonly address: string;
    /** Base URL of the gateway; its host is the domain that asks. */
    readonly url: string;
    /** CAIP-2. */
    readonly chainId: string;
    readonly nowMs: number;
  },
): Promise<WalletChallenge> {
  const nonce = randomBytes(NONCE_BYTES).toString("hex");
  const domain = domainOf(url);
  const challenge = { address, nonce, issuedMs: nowMs, expiresMs: nowMs + CHALLENGE_MS };
  const message = formatSignInMessage({
    ...challenge,
    domain,
    statement: `Link this wallet to the Daybreak account ${account}: what it sends to the common deposit address is credited there.`,
    uri: `${url}/v1/wallets`,
    chainId,
  });
  await database.query("DELETE FROM ledger.wallet_challenge WHERE expires_ms <= $1", [nowMs]);
  const made = await database.query(
    `INSERT INTO ledger.wallet_challenge (nonce, purpose, account, address, domain, message, issued_ms, expires_ms)
       SELECT $1, 'link', $2, $3, $4, $5, $6, $7
        WHERE (SELECT count(*) FROM ledger.wallet_challenge WHERE account = $2) < $8 RETURNING nonce`,
    [nonce, account, address, domain, message, nowMs, challenge.expiresMs, CHALLENGES_MAX],
  );
  if (made.length === 0)
    throw new RouterError(
      "rate_limited",
      `${CHALLENGES_MAX} challenges of this account are open. Sign one of them, or wait until they expire.`,
      { retryAfterSeconds: CHALLENGE_MS / 1_000 },
    );
  return { ...challenge, message };
}

/**
 * Links the wallet that signed a challenge. The challenge is used up, whatever becomes of the attempt.
 *
 * @param verify whether `signature` (64 bytes) is the wallet's, over the text as wallets sign texts.
 * @throws RouterError `challenge_refused` if it is not an open challenge of this account and domain, `signature_refused`,
 * `conflict` if the wallet is another account's, `invalid_request` if the account has 20 wallets.
 */
export async function linkWallet(
  database: Database,
  {
    account,
    nonce,
    signature,
    url,
    nowMs,
    verify,
  }: {
    readonly account: AccountId;
    readonly nonce: string;
    /** 0x-hex: 64 bytes, or 65 with the type byte of sr25519. */
    readonly signature: string;
    readonly url: string;
    readonly nowMs: number;
    readonly verify: (message: string, signature: Uint8Array, address: string) => boolean;
  },
): Promise<LinkedWallet> {
  const [challenge] = await database.query<{
    address: string;
    domain: string;
    message: string;
    expires_ms: bigint;
  }>(
    `DELETE FROM ledger.wallet_challenge WHERE nonce = $1 AND account = $2 AND purpose = 'link'
       RETURNING address, domain, message, expires_ms`,
    [nonce, account],
  );
  if (
    challenge === undefined ||
    challenge.expires_ms <= BigInt(nowMs) ||
    challenge.domain !== domainOf(url)
  )
    throw new RouterError(
      "challenge_refused",
      "This nonce is unknown, used or expired. Ask for a new challenge with POST /v1/wallets/challenge.",
      { details: { param: "nonce" } },
    );
  const { address, message } = challenge;
  const bytes = signatureOf(signature);
  if (bytes === undefined || !verify(message, bytes, address))
    throw new RouterError(
      "signature_refused",
      `This is not the signature of ${address} over the challenge's message. Sign it with signRaw and type "bytes", with an sr25519 key, then ask for a new challenge.`,
      { details: { param: "signature" } },
    );
  return await database.transaction(async (tx) => {
    // One at a time for each account: the wallets are counted.
    await tx.query("SELECT 1 AS one FROM ledger.account WHERE id = $1 FOR UPDATE", [account]);
    const open = await listWallets(tx, account);
    const linked = open.find((wallet) => wallet.address === address);
    if (linked !== undefined) return linked;
    if (open.length >= WALLETS_MAX)
      throw new RouterError(
        "invalid_request",
        `An account can have ${WALLETS_MAX} wallets. Unlink one with DELETE /v1/wallets/{address}.`,
      );
    const made = await tx.query(
      `INSERT INTO ledger.linked_wallet (nonce, address, account, message, signature, linked_ms)
         VALUES ($1, $2, $3, $4, decode($5, 'hex'), $6)
         ON CONFLICT (address) WHERE unlinked_ms IS NULL DO NOTHING RETURNING nonce`,
      [nonce, address, account, message, Buffer.from(bytes).toString("hex"), nowMs],
    );
    if (made.length === 0)
      throw new RouterError(
        "conflict",
        "This wallet is linked to another account. Unlink it there first.",
      );
    return { address, account, linkedMs: nowMs };
  });
}

/** Wallets linked to the account now, oldest first. */
export async function listWallets(
  database: Queryable,
  account: AccountId,
): Promise<LinkedWallet[]> {
  const rows = await database.query<{ address: string; linked_ms: bigint }>(
    `SELECT address, linked_ms FROM ledger.linked_wallet
      WHERE account = $1 AND unlinked_ms IS NULL ORDER BY linked_ms, address`,
    [account],
  );
  return rows.map((row) => ({ address: row.address, account, linkedMs: Number(row.linked_ms) }));
}

/** Ends a link: later transfers of the wallet are not the account's. @returns false if there is none. */
export async function unlinkWallet(
  database: Queryable,
  {
    account,
    address,
    nowMs,
  }: { readonly account: AccountId; readonly address: string; readonly nowMs: number },
): Promise<boolean> {
  const ended = await database.query(
    `UPDATE ledger.linked_wallet SET unlinked_ms = GREATEST($3, linked_ms)
      WHERE account = $1 AND address = $2 AND unlinked_ms IS NULL RETURNING nonce`,
    [account, address, nowMs],
  );
  return ended.length > 0;
}

function domainOf(url: string): string {
  return new URL(url).host;
}

function signatureOf(hex: string): Uint8Array | undefined {
  const digits = /^0x((?:[0-9a-f]{2})+)$/i.exec(hex)?.[1];
  if (digits === undefined || digits.length > 2 * (SIGNATURE_BYTES + 1)) return undefined;
  const bytes = Buffer.from(digits, "hex");
  if (bytes.length === SIGNATURE_BYTES + 1 && bytes[0] === SR25519_TYPE) return bytes.subarray(1);
  return bytes.length === SIGNATURE_BYTES ? bytes : undefined;
}
