import { once } from "node:events";
import net from "node:net";

/** A unix socket that one QEMU is to connect to. */
export interface SocketServer extends AsyncDisposable {
  path: string;
  /** The first connection, paused. */
  accepted: Promise<net.Socket>;
}

/** Listens at `path` for one connection. */
export async function listenOnce(path: string): Promise<SocketServer> {
  const server = net.createServer({ pauseOnConnect: true, allowHalfOpen: true });
  server.listen(path);
  await once(server, "listening");
  const accepted = once(server, "connection").then(([socket]) => {
    server.close();
    return socket as net.Socket;
  });
  accepted.catch(() => {});
  return { path, accepted, [Symbol.asyncDispose]: async () => void server.close() };
}
