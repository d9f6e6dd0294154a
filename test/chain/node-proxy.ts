import { once } from "node:events";
import { type AddressInfo } from "node:net";
import { WebSocket, WebSocketServer } from "ws";

/** What to do with the frames between a client and a node. */
export interface NodeProxyRules {
  /** Sees each request after it was passed on. `drop` cuts all connections. */
  readonly onRequest?: (request: string, drop: () => void) => void;
  /** Changes each answer; undefined swallows it. Connections count from 1. */
  readonly onAnswer?: (answer: string, connection: number) => string | undefined;
}

/** A proxy in front of a node that can lose, change and swallow frames. */
export async function openNodeProxy(
  target: string,
  rules: NodeProxyRules,
): Promise<{ url: string; drop(): void; close(): Promise<void> }> {
  const server = new WebSocketServer({ port: 0, host: "127.0.0.1" });
  await once(server, "listening");
  const drop = (): void => {
    for (const client of server.clients) client.terminate();
  };
  let connections = 0;
  server.on("connection", (client) => {
    const connection = ++connections;
    const node = new WebSocket(target);
    const early: string[] = [];
    client.on("message", (data: Buffer) => {
      const request = data.toString();
      if (node.readyState === WebSocket.OPEN) node.send(request);
      else early.push(request);
      rules.onRequest?.(request, drop);
    });
    node.on("open", () => {
      for (const request of early.splice(0)) node.send(request);
    });
    node.on("message", (data: Buffer) => {
      const answer = (rules.onAnswer ?? ((same) => same))(data.toString(), connection);
      if (answer !== undefined) client.send(answer);
    });
    node.on("error", () => client.terminate());
    node.on("close", () => client.close());
    client.on("close", () => node.close());
  });
  return {
    url: `ws://127.0.0.1:${(server.address() as AddressInfo).port}`,
    drop,
    async close() {
      drop();
      server.close();
      await once(server, "close");
    },
  };
}
