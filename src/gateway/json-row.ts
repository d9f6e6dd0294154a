/** A row as JSON carries it: snake_case names, money as decimal strings, null for what is absent. */
export function jsonRow(row: object): Record<string, unknown> {
  return Object.fromEntries(
    Object.entries(row).map(([key, value]: [string, unknown]) => [
      key.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`),
      typeof value === "bigint" ? value.toString() : (value ?? null),
    ]),
  );
}
