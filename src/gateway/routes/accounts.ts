import type { FastifyInstance } from "fastify";
import { RouterError } from "../../core/errors.ts";
import type { AccountId } from "../../core/ids.ts";
import type { Authenticator } from "../auth.ts";

/** Longest account name, in characters. */
const NAME_CHARS_MAX = 100;

export interface AccountDeps {
  readonly auth: Authenticator;
  /** Makes an account with its first API key and a management key, which are never shown again. */
  readonly createAccount: (name: string) => Promise<{
    readonly id: AccountId;
    readonly apiKey: string;
    readonly managementKey: string;
    readonly depositAddress: string;
  }>;
}

/** `POST /accounts`, for the operator. */
export function accountRoutes(app: FastifyInstance, deps: AccountDeps): void {
  app.post("/accounts", async (request, reply) => {
    deps.auth.requireAdmin(request.raw.headers);
    const { id, apiKey, managementKey, depositAddress } = await deps.createAccount(
      nameOf(request.body),
    );
    reply.code(201);
    return {
      account_id: id,
      api_key: apiKey,
      management_key: managementKey,
      deposit_address: depositAddress,
    };
  });
}

function nameOf(body: unknown): string {
  let json: unknown;
  try {
    json = Buffer.isBuffer(body) ? JSON.parse(body.toString("utf8")) : undefined;
  } catch (cause) {
    throw new RouterError("invalid_json", "The request body is not JSON.", { cause });
  }
  const name = typeof json === "object" && json !== null ? (json as { name?: unknown }).name : "";
  if (typeof name !== "string" || name.trim() === "" || name.length > NAME_CHARS_MAX)
    throw new RouterError(
      "invalid_request",
      `name must be a text of 1 to ${NAME_CHARS_MAX} characters.`,
      { details: { param: "name" } },
    );
  return name.trim();
}
