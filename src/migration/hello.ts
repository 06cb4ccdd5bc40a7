import { GodwitError } from "../errors.ts";
import type { Connection } from "../wire/connection.ts";
import type { Hello } from "../wire/messages.ts";
import { closedBy } from "./link.ts";
import { withTimeout } from "./outcome.ts";
import { Peer } from "./peer.ts";

/** How long a peer may take to say HELLO once it is authenticated. */
const HELLO_TIMEOUT_MS = 10_000;

/**
 * Waits for what a sender says first on its connection.
 *
 * @returns the peer, which says nothing more until it is answered; its handler is for whoever answers
 * @throws GodwitError MIGRATION_TIMEOUT, PEER_REFUSED where it does not accept us, WIRE_*; the connection is gone then
 */
export async function readHello(connection: Connection): Promise<{ peer: Peer; hello: Hello }> {
  const said = Promise.withResolvers<Hello>();
  const peer = new Peer(connection, "receiver", {
    onMessage: (message) => {
      if (message.type === "HELLO") return said.resolve(message);
      const words = message.type === "REFUSE" ? message.message : `it begins with ${message.type}`;
      said.reject(new GodwitError("PEER_REFUSED", `${connection.remoteAddress} refuses: ${words}`));
    },
  });
  peer.closed.then(() => said.reject(closedBy(peer)), said.reject);
  try {
    const what = `${connection.remoteAddress} connected, but sent no HELLO`;
    return { peer, hello: await withTimeout(said.promise, HELLO_TIMEOUT_MS, what) };
  } catch (error) {
    if (!(error instanceof GodwitError && error.code === "WIRE_VERSION")) peer.destroy();
    throw error;
  }
}

/** Answers a HELLO with a refusal. */
export function refuse(peer: Peer, code: string, message: string): void {
  peer.send({ type: "REFUSE", code, message });
  peer.end();
}
