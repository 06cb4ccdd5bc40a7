import { once } from "node:events";
import { chmod } from "node:fs/promises";
import net from "node:net";

/** A unix socket that one QEMU is to connect to. */
export interface SocketServer extends AsyncDisposable {
  path: string;
  /** The first connection, paused. */
  accepted: Promise<net.Socket>;
}

/**
 * Listens at `path` for one connection. Whoever can enter the folder may connect: QEMU mostly runs as another user than we do, and to
 * connect takes leave to write to the socket (unix(7)).
 */
export async function listenOnce(path: string): Promise<SocketServer> {
  const server = net.createServer({ pauseOnConnect: true, allowHalfOpen: true });
  server.listen(path);
  await once(server, "listening");
  await chmod(path, 0o666);
  const accepted = once(server, "connection").then(([socket]) => {
    server.close();
    return socket as net.Socket;
  });
  accepted.catch(() => {});
  return { path, accepted, [Symbol.asyncDispose]: async () => void server.close() };
}
