import { FaultyRelay } from "../../../lab/faulty-relay.ts";
import type { Connection } from "../../../src/wire/connection.ts";
import { generatePsk } from "../../../src/wire/psk.ts";
import { connect, listen, type Security } from "../../../src/wire/transport.ts";
import type { SessionOptions } from "./session.ts";

/** Connections with TLS between the two ends of a session, through a relay that does to them what a bad link does. */
export async function connectionsOverTls(): Promise<
  { readonly relay: FaultyRelay; readonly connect: SessionOptions["connect"] } & AsyncDisposable
> {
  const relay = new FaultyRelay();
  const security: Security = { kind: "psk", psk: generatePsk() };
  let accept: (connection: Connection) => void = () => {};
  const listener = await listen({
    ...{ host: "127.0.0.1", port: 0, security, onRejected: () => {} },
    onConnection: (connection) => accept(connection),
  });
  relay.leadTo(listener.address);
  const address = await relay.listen();
  return {
    relay,
    connect: (given) => {
      accept = given;
      return connect({ ...address, security });
    },
    [Symbol.asyncDispose]: async () => {
      listener.close();
      await relay.close();
    },
  };
}
