#!/usr/bin/env node
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { Command } from "commander";
import type { AccountAdmin } from "./gateway/account-admin.ts";
import type { OperatedLedger } from "./gateway/ledger-commands.ts";
import type { AuditLine } from "./gateway/running-gateway.ts";
import { processSettings } from "./runtime/logger.ts";
import {
  ConfigError,
  flag,
  flagOf,
  loadSettings,
  type Setting,
  type SettingsOf,
} from "./runtime/settings.ts";
import type { Closable } from "./runtime/shutdown.ts";
import { runUntilSignal } from "./runtime/shutdown.ts";

/** Time that streams have to end after a signal, in milliseconds, before the process is cut off. */
const SHUTDOWN_DEADLINE_MS = 30_000;

type SettingTable = Readonly<Record<string, Setting<unknown>>>;

const { version } = JSON.parse(
  readFileSync(new URL("../package.json", import.meta.url), "utf8"),
) as { version: string };
const program = new Command("daybreak")
  .description("A confidential inference router that runs as a Bittensor subnet.")
  .version(version)
  .showHelpAfterError("(daybreak --help lists the commands, daybreak COMMAND --help its options)");

type Options = Readonly<Record<string, string | true | undefined>>;

/** An option for each setting of a table. */
function addOptions(command: Command, settings: SettingTable): void {
  for (const [setting, row] of Object.entries(settings)) {
    const isSwitch = row.parse === flag && row.default === "false";
    const need = row.optional === true ? "optional" : "required";
    const note = row.default === undefined ? need : `default: ${row.default || "none"}`;
    command.option(
      isSwitch ? flagOf(setting) : `${flagOf(setting)} <value>`,
      `${row.help} (${row.env}${isSwitch ? "" : `; ${note}`})`,
    );
  }
}

function flagsOf(options: Options): Record<string, string | undefined> {
  return Object.fromEntries(
    Object.entries(options).map(([key, value]) => [key, value === true ? "true" : value]),
  );
}

/** A command whose options are a service's settings, and which runs that service until a signal. */
async function serviceCommand<Table extends SettingTable>(
  name: string,
  description: string,
  table: Table,
  open: (config: SettingsOf<Table> & SettingsOf<typeof processSettings>) => Promise<Closable>,
): Promise<void> {
  const settings = { ...table, ...processSettings };
  const command = program.command(name).description(description);
  addOptions(command, settings);
  command.action(async (options: Options) => {
    const service = await open(loadSettings(settings, process.env, flagsOf(options)));
    await runUntilSignal(service, SHUTDOWN_DEADLINE_MS);
  });
}

// A command's code is loaded only when the command is given: `--help` and a bad option need none of it.
const { localSettings } = await import("./local/config.ts");
await serviceCommand(
  "local",
  "run a whole network: chain, miners, gateway, validators",
  localSettings,
  async (config) => {
    const { runLocalNetwork } = await import("./local/main.ts");
    return await runLocalNetwork(config, process.stdout);
  },
);
const { gatewaySettings } = await import("./gateway/config.ts");
await serviceCommand(
  "gateway",
  "run a gateway: the API that app developers call",
  gatewaySettings,
  async (config) => {
    const [{ openGateway }, { openLogger }] = await Promise.all([
      import("./gateway/main.ts"),
      import("./runtime/logger.ts"),
    ]);
    return await openGateway(config, openLogger("gateway", config.logLevel));
  },
);
const { minerSettings } = await import("./miner/config.ts");
await serviceCommand(
  "miner",
  "run a relay in front of provider keys",
  minerSettings,
  async (config) => {
    const [{ openMiner }, { openLogger }] = await Promise.all([
      import("./miner/main.ts"),
      import("./runtime/logger.ts"),
    ]);
    return await openMiner(config, openLogger("miner", config.logLevel), process.env);
  },
);
const { validatorSettings } = await import("./validator/config.ts");
await serviceCommand(
  "validator",
  "run a validator: audit, probe, set weights",
  validatorSettings,
  async (config) => {
    const [{ openValidator }, { openLogger }] = await Promise.all([
      import("./validator/main.ts"),
      import("./runtime/logger.ts"),
    ]);
    return await openValidator(config, openLogger("validator", config.logLevel));
  },
);
const { devchainSettings } = await import("./devchain/config.ts");
await serviceCommand(
  "devchain",
  "run a local chain that speaks Subtensor's RPC",
  devchainSettings,
  async (config) => {
    const [{ openDevchainService }, { openLogger }] = await Promise.all([
      import("./devchain/main.ts"),
      import("./runtime/logger.ts"),
    ]);
    return await openDevchainService(config, openLogger("devchain", config.logLevel));
  },
);

const { registerSettings, sweepSettings } = await import("./chain/config.ts");
const register = program.command("register").description("register a hotkey in a subnet");
addOptions(register, registerSettings);
register.action(async (options: Options) => {
  const [{ registerNeuron }, { openLogger }] = await Promise.all([
    import("./chain/register-neuron.ts"),
    import("./runtime/logger.ts"),
  ]);
  const config = loadSettings(registerSettings, process.env, flagsOf(options));
  const lines = await registerNeuron(config, openLogger("register", "silent"));
  process.stdout.write(`${lines.join("\n")}\n`);
});

const sweep = program
  .command("treasury")
  .description("move what was paid in")
  .command("sweep")
  .description("empty the deposit addresses into the cold wallet; needs the treasury's secret");
addOptions(sweep, sweepSettings);
sweep.action(async (options: Options) => {
  const [{ sweepDeposits }, { openLogger }] = await Promise.all([
    import("./chain/sweep-deposits.ts"),
    import("./runtime/logger.ts"),
  ]);
  const config = loadSettings(sweepSettings, process.env, flagsOf(options));
  const lines = await sweepDeposits(config, openLogger("sweep", "silent"));
  process.stdout.write(`${lines.join("\n")}\n`);
});

program
  .command("ledger")
  .description("inspect the ledger")
  .command("audit")
  .description("print the ledger's invariants; exit code 1 when one is broken")
  .option("--data <dir>", "data folder of a local network or of a gateway")
  .option("--database-url <url>", "Postgres to audit instead")
  .action(async (options: { data?: string; databaseUrl?: string }) => {
    const [{ auditDatabase }, { openLogger }] = await Promise.all([
      import("./billing/audit.ts"),
      import("./runtime/logger.ts"),
    ]);
    const { data, databaseUrl } = options;
    if ((data === undefined) === (databaseUrl === undefined))
      throw new ConfigError("say what to audit: either --data DIR or --database-url URL");
    const running = data === undefined ? undefined : await auditRunning(data);
    const { ok, lines } =
      running ??
      (await auditDatabase({
        directory: data === undefined ? undefined : ledgerFolderIn(data),
        url: databaseUrl,
        log: openLogger("audit", "silent"),
      }));
    process.stdout.write(`${lines.join("\n")}\n`);
    if (!ok) process.exitCode = 1;
  });

const deposits = program.command("deposits").description("deposits that need the operator");
const ledgerOptions = (command: Command): Command =>
  command
    .option("--data <dir>", "data folder of a local network or of a gateway")
    .option("--database-url <url>", "Postgres that has the ledger instead");
ledgerOptions(deposits.command("list").description("print the deposits in one state, newest first"))
  .option("--state <state>", "suspense, below_minimum, finalized or credited", "suspense")
  .action(async (options: LedgerOptions & { state: string }) => {
    const { depositLines } = await import("./gateway/ledger-commands.ts");
    const lines = await depositLines(await operatedLedger(options), options.state);
    process.stdout.write(`${lines.join("\n")}\n`);
  });
ledgerOptions(
  deposits
    .command("assign <deposit> <account>")
    .description("give a deposit in suspense, or below the minimum, to an account"),
)
  .requiredOption("--note <text>", "why; it is kept with the decision")
  .action(async (deposit: string, account: string, options: LedgerOptions & { note: string }) => {
    const { assignDepositTo } = await import("./gateway/ledger-commands.ts");
    const ledger = await operatedLedger(options);
    const line = await assignDepositTo(ledger, deposit, account, options.note);
    process.stdout.write(`${line}\n`);
  });

const withdrawals = program.command("withdrawals").description("credit that customers take back");
ledgerOptions(
  withdrawals.command("list").description("print what is to be paid, oldest first"),
).action(async (options: LedgerOptions) => {
  const { withdrawalLines } = await import("./gateway/ledger-commands.ts");
  const lines = await withdrawalLines(await operatedLedger(options));
  process.stdout.write(`${lines.join("\n")}\n`);
});
ledgerOptions(
  withdrawals
    .command("reject <withdrawal>")
    .description("give the credit back; only for what was not and will not be paid"),
)
  .requiredOption("--note <text>", "why; the customer sees it")
  .action(async (id: string, options: LedgerOptions & { note: string }) => {
    const { rejectWithdrawalOf } = await import("./gateway/ledger-commands.ts");
    const line = await rejectWithdrawalOf(await operatedLedger(options), id, options.note);
    process.stdout.write(`${line}\n`);
  });

interface LedgerOptions {
  readonly data?: string;
  readonly databaseUrl?: string;
}

async function operatedLedger({ data, databaseUrl }: LedgerOptions): Promise<OperatedLedger> {
  const { openLogger } = await import("./runtime/logger.ts");
  const log = openLogger("deposits", "silent");
  if (data !== undefined && databaseUrl === undefined)
    return {
      gatewayFolders: [join(data, "gateway"), data],
      directory: ledgerFolderIn(data),
      log,
    };
  if (data === undefined && databaseUrl !== undefined)
    return { gatewayFolders: [], url: databaseUrl, log };
  throw new ConfigError("say where the ledger is: either --data DIR or --database-url URL");
}

/** Asks the gateway that runs on the data folder of a local network, or on its own. */
async function auditRunning(folder: string): Promise<{ ok: boolean; lines: string[] } | undefined> {
  const [{ askRunningGateway, runningIn }, { formatAudit }] = await Promise.all([
    import("./gateway/running-gateway.ts"),
    import("./billing/audit.ts"),
  ]);
  const running = runningIn(join(folder, "gateway")) ?? runningIn(folder);
  if (running === undefined) return undefined;
  const { data: rows } = await askRunningGateway<{ data: AuditLine[] }>(running, "/ledger/audit");
  return {
    ok: rows.every((row) => row.ok),
    lines: formatAudit(rows.map((row) => ({ ...row, value: BigInt(row.value) }))),
  };
}

const accounts = program.command("accounts").description("manage customers' accounts");

/** A command on the accounts of a running gateway, or of a stopped one's ledger. */
function accountCommand(
  usage: string,
  description: string,
  run: (accounts: AccountAdmin, args: readonly string[], options: Options) => Promise<string[]>,
): Command {
  const command = accounts
    .command(usage)
    .description(description)
    .option("--data <dir>", "data folder of a local network or of a gateway")
    .option("--database-url <url>", "Postgres of the gateway instead");
  return command.action(async () => {
    const { data, databaseUrl, ...options } = command.opts<Record<string, string | undefined>>();
    if ((data === undefined) === (databaseUrl === undefined))
      throw new ConfigError("say whose accounts: either --data DIR or --database-url URL");
    const [{ withAccounts }, { runningIn }, { openLogger }] = await Promise.all([
      import("./gateway/account-tools.ts"),
      import("./gateway/running-gateway.ts"),
      import("./runtime/logger.ts"),
    ]);
    const lines = await withAccounts(
      {
        running:
          data === undefined ? undefined : (runningIn(join(data, "gateway")) ?? runningIn(data)),
        directory: data === undefined ? undefined : ledgerFolderIn(data),
        url: databaseUrl,
        log: openLogger("accounts", "silent"),
      },
      async (admin) => await run(admin, command.args, options),
    );
    process.stdout.write(`${lines.join("\n")}\n`);
  });
}

accountCommand("list", "print all accounts with their credit", async (admin) => {
  const { accountLine } = await import("./gateway/account-tools.ts");
  const lines: string[] = [];
  for (;;) {
    const { data, has_more } = await admin.list(String(lines.length));
    lines.push(...data.map(accountLine));
    if (!has_more) return lines.length === 0 ? ["there are no accounts yet"] : lines;
  }
});
accountCommand("create <name>", "open an account; prints its keys, once", async (admin, [name]) =>
  Object.entries(await admin.create(name)).map(
    ([field, value]) => `${field}: ${value ?? "shown by POST /v1/deposits"}`,
  ),
);
accountCommand(
  "credit <account> <usd>",
  "grant promo credit, which earns miners nothing",
  async (admin, [account = "", usd], { id, expires }) => {
    const granted = await admin.credit(account, { usd, id, expires_at: expires });
    return [
      `${granted.is_new ? "granted" : "was granted before"}: ${granted.amount_usd} USD to ${granted.account_id}, ` +
        `until ${granted.expires_at}, as ${granted.grant_id}`,
    ];
  },
)
  .option("--id <id>", "names the grant: the same id is granted once (default: a new one)")
  .option("--expires <date>", "when what is left of it is taken back (default: in 90 days)");
for (const [name, disabled, description] of [
  ["disable", true, "refuse all keys of an account; its money stays"],
  ["enable", false, "take the keys of an account again"],
] as const)
  accountCommand(`${name} <account>`, description, async (admin, [account = ""]) => {
    const { accountLine } = await import("./gateway/account-tools.ts");
    return [accountLine(await admin.setDisabled(account, disabled))];
  });

/** The embedded ledger below the data folder of a local network, or of a gateway, or the folder itself. */
function ledgerFolderIn(folder: string): string {
  return [join(folder, "gateway", "ledger"), join(folder, "ledger")].find(existsSync) ?? folder;
}

try {
  await program.parseAsync();
} catch (error) {
  process.stderr.write(`daybreak: ${explain(error)}\n`);
  // Half-opened parts may hold the event loop; nothing is left to wait for.
  process.exit(1);
}

/** One line that says what to do. */
function explain(error: unknown): string {
  if (error instanceof ConfigError) return error.message;
  const { code, port, message } = error as NodeJS.ErrnoException & { port?: number };
  if (code === "EADDRINUSE")
    return `port ${port ?? ""} is in use: stop the program that has it, or choose another with --port`;
  if (code === "EACCES" && port !== undefined)
    return `port ${port} needs privileges: choose one above 1023 with --port`;
  if (code === "ENOSPC")
    return "the disk is full: free some space and start again, nothing that was acknowledged is lost";
  return message;
}
