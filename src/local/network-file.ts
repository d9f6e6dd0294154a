import { chmodSync, existsSync, readFileSync, renameSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { makeFolder } from "../runtime/make-folder.ts";
import { ConfigError } from "../runtime/settings.ts";

/** Raised when the data folder's layout changes; an older program refuses a newer folder. */
const FORMAT = 1;

interface NeuronSecrets {
  readonly coldkey: string;
  readonly hotkey: string;
}

interface CustomerSecrets {
  readonly accountId: string;
  readonly apiKey: string;
  readonly depositAddress: string;
}

/** The secrets of a local network. They are worth nothing outside it. */
export interface NetworkSecrets {
  /** Owns the subnet, and hands out TAO on the local chain. */
  readonly owner: NeuronSecrets;
  /** Parent of every customer's deposit address. */
  readonly treasury: string;
  /** PKCS#8 PEM of the key that signs simulated TEE evidence. */
  readonly simulatedTeeKey: string;
  readonly adminKey: string;
  readonly miners: readonly NeuronSecrets[];
  readonly validators: readonly NeuronSecrets[];
  /** The first one is shown to the user; validators buy their probes with the others. */
  readonly customers: readonly CustomerSecrets[];
}

/** The file with a local network's secrets, readable by its owner only. */
export interface NetworkFile {
  secrets(): NetworkSecrets;
  /** Replaces the file atomically. */
  save(secrets: NetworkSecrets): void;
  /** Writes `secret` to a file of its own, for a service that reads its key from a file. @returns the path. */
  keyFile(name: string, secret: string): string;
}

/**
 * Opens or creates `network.json` in `directory`.
 *
 * @param create makes the secrets of a new network.
 * @throws ConfigError if the folder cannot be written, or holds something else, or comes from a newer version.
 */
export function openNetworkFile(directory: string, create: () => NetworkSecrets): NetworkFile {
  const path = join(directory, "network.json");
  const keys = join(directory, "keys");
  let secrets: NetworkSecrets;
  try {
    makeFolder(keys, 0o700);
    if (existsSync(path)) secrets = parse(readFileSync(path, "utf8"), directory);
    else if (existsSync(join(directory, "chain")))
      throw damaged(directory, "it has a chain but no network.json");
    else secrets = create();
    write(path, secrets);
  } catch (error) {
    if (error instanceof ConfigError) throw error;
    const reason = (error as NodeJS.ErrnoException).code ?? String(error);
    throw new ConfigError(
      `cannot write to the data folder ${directory} (${reason}): choose another with --data DIR`,
      { cause: error },
    );
  }
  return {
    secrets: () => secrets,
    save: (next) => {
      write(path, next);
      secrets = next;
    },
    keyFile: (name, secret) => {
      const file = join(keys, name);
      writeFileSync(file, `${secret}\n`, { mode: 0o600 });
      return file;
    },
  };
}

function write(path: string, secrets: NetworkSecrets): void {
  const temporary = `${path}.new`;
  writeFileSync(temporary, `${JSON.stringify({ format: FORMAT, ...secrets }, null, 2)}\n`, {
    mode: 0o600,
    flush: true,
  });
  chmodSync(temporary, 0o600);
  renameSync(temporary, path);
}

function parse(text: string, directory: string): NetworkSecrets {
  let json: { format?: unknown } & Partial<NetworkSecrets>;
  try {
    json = JSON.parse(text) as typeof json;
  } catch (cause) {
    throw damaged(directory, "network.json is not JSON", cause);
  }
  if (typeof json.format === "number" && json.format > FORMAT) {
    throw new ConfigError(
      `the data folder ${directory} was written by a newer version of Daybreak: update, or choose another with --data DIR`,
    );
  }
  const { owner, treasury, simulatedTeeKey, adminKey, miners, validators, customers } = json;
  const complete =
    json.format === FORMAT &&
    isNeuron(owner) &&
    [treasury, simulatedTeeKey, adminKey].every((secret) => typeof secret === "string") &&
    Array.isArray(miners) &&
    miners.every(isNeuron) &&
    Array.isArray(validators) &&
    validators.every(isNeuron) &&
    Array.isArray(customers);
  if (!complete) throw damaged(directory, "network.json lacks keys");
  return {
    owner,
    treasury,
    simulatedTeeKey,
    adminKey,
    miners,
    validators,
    customers,
  } as NetworkSecrets;
}

function damaged(directory: string, what: string, cause?: unknown): ConfigError {
  return new ConfigError(
    `the data folder ${directory} is damaged (${what}): move the folder away, or choose another with --data DIR`,
    { cause },
  );
}

function isNeuron(value: unknown): value is NeuronSecrets {
  const neuron = value as Partial<NeuronSecrets> | null | undefined;
  return typeof neuron?.coldkey === "string" && typeof neuron.hotkey === "string";
}
