import { RouterError } from "../core/errors.ts";

/**
 * The JSON object of a request's body, as the content parser kept it.
 *
 * @throws RouterError `invalid_json`, or `invalid_request` if the JSON is no object.
 */
export function jsonObjectOf(body: unknown): Readonly<Record<string, unknown>> {
  let json: unknown;
  try {
    json = Buffer.isBuffer(body) ? JSON.parse(body.toString("utf8")) : undefined;
  } catch (cause) {
    throw new RouterError("invalid_json", "The request body is not JSON.", { cause });
  }
  if (typeof json !== "object" || json === null || Array.isArray(json))
    throw new RouterError("invalid_request", "The request body must be a JSON object.");
  return json as Record<string, unknown>;
}

/** A text field of it. @throws RouterError `invalid_request` if it is absent, no text, empty or longer. */
export function textOf(
  json: Readonly<Record<string, unknown>>,
  name: string,
  charsMax: number,
): string {
  const value = json[name];
  if (typeof value !== "string" || value === "" || value.length > charsMax)
    throw new RouterError(
      "invalid_request",
      `${name} must be a text of 1 to ${charsMax} characters.`,
      {
        details: { param: name },
      },
    );
  return value;
}
