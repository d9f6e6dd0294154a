import { once } from "node:events";
import { readFileSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { join } from "node:path";

/** Keeps the chain's address from one start to the next, so that miners and validators beside the network find it again. */
const FILE_NAME = "chain-port";

/** @returns the port that the chain had last, if nobody has it now; 0, any free one, otherwise. */
export async function lastChainPort(directory: string, host: string): Promise<number> {
  let port: number;
  try {
    port = Number(readFileSync(join(directory, FILE_NAME), "utf8"));
  } catch {
    return 0;
  }
  if (!Number.isInteger(port) || port < 1 || port > 65_535) return 0;
  const server = createServer();
  try {
    server.listen(port, host);
    await once(server, "listening");
    server.close();
    await once(server, "close");
    return port;
  } catch {
    return 0;
  }
}

export function rememberChainPort(directory: string, port: number): void {
  writeFileSync(join(directory, FILE_NAME), `${port}\n`);
}
