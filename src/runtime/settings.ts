/** A setting of a service: one environment variable and one command-line option, declared once. */
export interface Setting<T> {
  readonly env: string;
  /** What it does, with its unit. One line; it is the `--help` text and the row in docs/CONFIG.md. */
  readonly help: string;
  /** Text form of the default; absent means required unless `optional`. */
  readonly default?: string;
  readonly optional?: boolean;
  /** The value is a secret: never printed. */
  readonly secret?: boolean;
  /** @throws Error with a message that completes "must be …". */
  parse(text: string): T;
}

type SettingTable = Readonly<Record<string, Setting<unknown>>>;
type Parsed<S> =
  S extends Setting<infer T> ? (S extends { readonly optional: true } ? T | undefined : T) : never;

/** The configuration object that a table of settings yields. */
export type SettingsOf<Table> = { readonly [Name in keyof Table]: Parsed<Table[Name]> };

/** Something is wrong with what the operator configured. The message says what to do and is shown as it is. */
export class ConfigError extends Error {
  override readonly name = "ConfigError";
}

/** `--max-body-bytes` for `maxBodyBytes`. */
export function flagOf(name: string): string {
  return `--${name.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`)}`;
}

/**
 * Reads every setting of `table`: a command-line value, else the environment, else the default.
 *
 * @throws ConfigError that lists every problem at once.
 */
export function loadSettings<Table extends SettingTable>(
  table: Table,
  env: Readonly<Record<string, string | undefined>>,
  flags: Readonly<Record<string, string | undefined>> = {},
): SettingsOf<Table> {
  const values: Record<string, unknown> = {};
  const problems: string[] = [];
  for (const [name, setting] of Object.entries(table)) {
    const fromEnv = env[setting.env];
    const text = flags[name] ?? (fromEnv === "" ? undefined : fromEnv) ?? setting.default;
    if (text === undefined) {
      if (setting.optional !== true)
        problems.push(`${setting.env} (or ${flagOf(name)}) is required: ${setting.help}`);
      continue;
    }
    try {
      values[name] = setting.parse(text);
    } catch (error) {
      const shown = setting.secret === true ? "[secret]" : JSON.stringify(text);
      problems.push(
        `${setting.env} (or ${flagOf(name)}) is ${shown}, but must be ${(error as Error).message}`,
      );
    }
  }
  if (problems.length > 0) throw new ConfigError(problems.join("\n"));
  return values as SettingsOf<Table>;
}

/** An integer setting in `min…max`. */
export function integer(min: number, max: number): (text: string) => number {
  return (text) => {
    const n = Number(text);
    if (!/^-?\d{1,15}$/.test(text) || n < min || n > max)
      throw new Error(`an integer from ${min} to ${max}`);
    return n;
  };
}

/** Any text without line breaks. */
export function text(value: string): string {
  if (/[\r\n]/.test(value)) throw new Error("a single line");
  return value;
}

/** One of a fixed list. */
export function oneOf<const T extends string>(...choices: readonly T[]): (text: string) => T {
  return (value) => {
    const choice = choices.find((candidate) => candidate === value);
    if (choice === undefined) throw new Error(`one of ${choices.join(", ")}`);
    return choice;
  };
}

/** An absolute URL with one of the given protocols, without a trailing slash. */
export function url(...protocols: readonly string[]): (text: string) => string {
  return (value) => {
    if (!URL.canParse(value) || !protocols.includes(new URL(value).protocol)) {
      throw new Error(`a URL that starts with ${protocols.map((p) => `${p}//`).join(" or ")}`);
    }
    return value.replace(/\/+$/, "");
  };
}

/** URLs in one list. */
const URLS_MAX = 8;

/** As `url`, but 1 to 8 of them, separated by commas. */
export function urls(...protocols: readonly string[]): (text: string) => readonly string[] {
  const one = url(...protocols);
  return (value) => {
    const list = value.split(",").map((part) => part.trim());
    if (list.length > URLS_MAX) throw new Error(`at most ${URLS_MAX} URLs`);
    if (new Set(list).size < list.length) throw new Error("a list without repetition");
    return list.map(one);
  };
}

/** `true` or `false`. */
export function flag(value: string): boolean {
  if (value !== "true" && value !== "false") throw new Error("true or false");
  return value === "true";
}
