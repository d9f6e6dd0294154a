import { once } from "node:events";
import type { IncomingMessage } from "node:http";
import { type AddressInfo } from "node:net";
import { WebSocket, WebSocketServer } from "ws";

/** What to do with the frames between a client and a node. */
export interface NodeProxyRules {
  /** Sees each request after it was passed on. `drop` cuts all connections. */
  readonly onRequest?: (request: string, drop: () => void) => void;
  /** Changes each answer; undefined swallows it. Connections count from 1. */
  readonly onAnswer?: (answer: string, connection: number) => string | undefined;
  /** Answers a request in the node's place; undefined passes it on. */
  readonly answer?: (request: string) => string | undefined;
  /** Refuses the handshake with this HTTP status; undefined lets it through. */
  readonly refuse?: () => { status: number; headers: Record<string, string> } | undefined;
}

export interface NodeProxy {
  readonly url: string;
  /** Handshakes that were asked for, refused ones included. */
  attempts(): number;
  /** Connections that are open now, frozen ones included. */
  open(): number;
  /** Cuts all connections. */
  drop(): void;
  /** From now on the open connections carry nothing, and their peers' closing handshakes stay unanswered. */
  freeze(): void;
  /** As `freeze`, and ends the sending direction, as a peer does that has half closed. */
  halfClose(): void;
  close(): Promise<void>;
}

/** A proxy in front of a node that can lose, change and swallow frames, refuse handshakes, freeze and half close. */
export async function openNodeProxy(target: string, rules: NodeProxyRules): Promise<NodeProxy> {
  let attempts = 0;
  const server = new WebSocketServer({
    port: 0,
    host: "127.0.0.1",
    verifyClient(_info, accept) {
      attempts += 1;
      const refusal = rules.refuse?.();
      if (refusal === undefined) accept(true);
      else accept(false, refusal.status, "refused", refusal.headers);
    },
  });
  await once(server, "listening");
  const frozen = new WeakSet<WebSocket>();
  const sockets = new Map<WebSocket, IncomingMessage["socket"]>();
  const drop = (): void => {
    for (const client of server.clients) client.terminate();
  };
  const freeze = (): void => {
    for (const [client, socket] of sockets) {
      frozen.add(client);
      // What arrives is still read, so that the end of the connection is seen, but ws gets none of it.
      socket.removeAllListeners("data");
      socket.resume();
    }
  };
  let connections = 0;
  server.on("connection", (client, request) => {
    const connection = ++connections;
    sockets.set(client, request.socket);
    const node = new WebSocket(target);
    const early: string[] = [];
    client.on("message", (data: Buffer) => {
      const request = data.toString();
      const answer = rules.answer?.(request);
      if (answer !== undefined) client.send(answer);
      else if (node.readyState === WebSocket.OPEN) node.send(request);
      else early.push(request);
      rules.onRequest?.(request, drop);
    });
    node.on("open", () => {
      for (const request of early.splice(0)) node.send(request);
    });
    node.on("message", (data: Buffer) => {
      if (frozen.has(client)) return;
      const answer = (rules.onAnswer ?? ((same) => same))(data.toString(), connection);
      if (answer !== undefined) client.send(answer);
    });
    node.on("error", () => client.terminate());
    node.on("close", () => client.close());
    client.on("close", () => {
      sockets.delete(client);
      node.close();
    });
  });
  return {
    url: `ws://127.0.0.1:${(server.address() as AddressInfo).port}`,
    attempts: () => attempts,
    open: () => sockets.size,
    drop,
    freeze,
    halfClose() {
      freeze();
      for (const socket of sockets.values()) socket.end();
    },
    async close() {
      drop();
      server.close();
      await once(server, "close");
    },
  };
}
