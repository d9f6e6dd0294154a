import type { FastifyInstance } from "fastify";
import { RouterError } from "../../core/errors.ts";
import type { AccountAdmin } from "../account-admin.ts";
import type { Authenticator } from "../auth.ts";

export interface AccountDeps {
  readonly auth: Authenticator;
  readonly accounts: AccountAdmin;
}

type Params = { Params: { account: string } };

/**
 * `GET, POST /accounts`, `GET, PATCH /accounts/{id}` and `POST /accounts/{id}/credits`, for the operator. Answers are those
 * of `AccountAdmin`.
 */
export function accountRoutes(app: FastifyInstance, { auth, accounts }: AccountDeps): void {
  app.get<{ Querystring: { offset?: unknown } }>("/accounts", async (request) => {
    auth.requireAdmin(request.raw.headers);
    return await accounts.list(request.query.offset);
  });
  app.post("/accounts", async (request, reply) => {
    auth.requireAdmin(request.raw.headers);
    const made = await accounts.create(fieldsOf(request.body)["name"]);
    reply.code(201);
    return made;
  });
  app.get<Params>("/accounts/:account", async (request) => {
    auth.requireAdmin(request.raw.headers);
    return { data: await accounts.show(request.params.account) };
  });
  app.patch<Params>("/accounts/:account", async (request) => {
    auth.requireAdmin(request.raw.headers);
    const { disabled } = fieldsOf(request.body);
    return { data: await accounts.setDisabled(request.params.account, disabled) };
  });
  app.post<Params>("/accounts/:account/credits", async (request, reply) => {
    auth.requireAdmin(request.raw.headers);
    const granted = await accounts.credit(request.params.account, fieldsOf(request.body));
    reply.code(granted.is_new ? 201 : 200);
    return { data: granted };
  });
}

function fieldsOf(body: unknown): Readonly<Record<string, unknown>> {
  let json: unknown;
  try {
    json = Buffer.isBuffer(body) ? JSON.parse(body.toString("utf8")) : undefined;
  } catch (cause) {
    throw new RouterError("invalid_json", "The request body is not JSON.", { cause });
  }
  if (typeof json !== "object" || json === null || Array.isArray(json))
    throw new RouterError("invalid_json", "The request body is not a JSON object.");
  return json as Record<string, unknown>;
}
