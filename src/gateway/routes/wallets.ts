import type { FastifyInstance } from "fastify";
import type { LinkedWallet, WalletChallenge } from "../../billing/wallets.ts";
import { RouterError } from "../../core/errors.ts";
import type { AccountId } from "../../core/ids.ts";
import type { Authenticator } from "../auth.ts";
import { jsonObjectOf, textOf } from "../json-body.ts";
import { localRateLimiter } from "../rate-limit.ts";

/** Attempts of one account: ten at once, then one in five seconds. A wrong signature costs 5 ms of CPU. */
const ATTEMPTS = { burst: 10, perSecond: 0.2 };
/** Attempts of all accounts together: at most a twentieth of a core. */
const ATTEMPTS_OF_ALL = { burst: 40, perSecond: 10 };
const ALL = "all";
const ADDRESS_CHARS_MAX = 64;
const NONCE_CHARS_MAX = 64;
/** 0x and 65 bytes. */
const SIGNATURE_CHARS_MAX = 132;

export interface WalletDeps {
  readonly auth: Authenticator;
  /** The address with prefix 42 of the same public key. @throws Error if it is no address. */
  readonly walletAddressOf: (address: string) => string;
  readonly challengeWallet: (account: AccountId, address: string) => Promise<WalletChallenge>;
  readonly linkWallet: (
    account: AccountId,
    nonce: string,
    signature: string,
  ) => Promise<LinkedWallet>;
  readonly walletsOf: (account: AccountId) => Promise<readonly LinkedWallet[]>;
  readonly unlinkWallet: (account: AccountId, address: string) => Promise<boolean>;
}

/**
 * `POST /wallets/challenge`: a text to sign. `POST /wallets`: links the wallet that signed it. `GET /wallets` lists them,
 * `DELETE /wallets/{address}` unlinks one.
 */
export function walletRoutes(app: FastifyInstance, deps: WalletDeps): void {
  const waitOf = localRateLimiter(ATTEMPTS);
  const waitOfAll = localRateLimiter(ATTEMPTS_OF_ALL);
  const admit = (account: AccountId): void => {
    const nowMs = Date.now();
    const retryAfterSeconds = waitOf(account, nowMs) || waitOfAll(ALL, nowMs);
    if (retryAfterSeconds > 0)
      throw new RouterError("rate_limited", "Too many attempts to link a wallet.", {
        retryAfterSeconds,
      });
  };
  const addressOf = (address: string): string => {
    try {
      return deps.walletAddressOf(address);
    } catch (cause) {
      throw new RouterError("invalid_request", "address must be the ss58 address of a wallet.", {
        cause,
        details: { param: "address" },
      });
    }
  };

  app.post("/wallets/challenge", async (request) => {
    const { account } = await deps.auth.keyOf(request.raw.headers);
    const address = addressOf(textOf(jsonObjectOf(request.body), "address", ADDRESS_CHARS_MAX));
    admit(account);
    const challenge = await deps.challengeWallet(account, address);
    return {
      data: {
        nonce: challenge.nonce,
        address: challenge.address,
        message: challenge.message,
        issued_at: new Date(challenge.issuedMs).toISOString(),
        expires_at: new Date(challenge.expiresMs).toISOString(),
      },
    };
  });
  app.post("/wallets", async (request, reply) => {
    const { account } = await deps.auth.keyOf(request.raw.headers);
    const json = jsonObjectOf(request.body);
    const nonce = textOf(json, "nonce", NONCE_CHARS_MAX);
    const signature = textOf(json, "signature", SIGNATURE_CHARS_MAX);
    admit(account);
    const wallet = await deps.linkWallet(account, nonce, signature);
    reply.code(201);
    return { data: jsonOf(wallet) };
  });
  app.get("/wallets", async (request) => {
    const { account } = await deps.auth.keyOf(request.raw.headers);
    return { data: (await deps.walletsOf(account)).map(jsonOf) };
  });
  app.delete<{ Params: { address: string } }>("/wallets/:address", async (request) => {
    const { account } = await deps.auth.keyOf(request.raw.headers);
    const address = addressOf(request.params.address);
    if (!(await deps.unlinkWallet(account, address)))
      throw new RouterError("not_found", "This wallet is not linked to the account.");
    return { data: { address, deleted: true } };
  });
}

function jsonOf({ address, linkedMs }: LinkedWallet): Record<string, string> {
  return { address, linked_at: new Date(linkedMs).toISOString() };
}
