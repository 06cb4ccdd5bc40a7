/** Stands for the receiver: takes DATA, acknowledges it, and forgets it. argv: the transport (wire.ts). */
import { Peer } from "../src/migration/peer.ts";
import { MAX_BODY_BYTES } from "../src/wire/messages.ts";
import { listen } from "../src/wire/transport.ts";
import { greetAsReceiver, security } from "./wire.ts";

const body = new Uint8Array(MAX_BODY_BYTES);
const listener = await listen({
  host: "127.0.0.1",
  port: 0,
  security: security(process.argv[2]!),
  onRejected: (error) => console.error(error.message),
  onConnection: (connection) => {
    const acknowledge = (rawOffset: number) => {
      const { receivedBytes } = peer;
      peer.send({ type: "ACK", rawOffset, wireBytes: receivedBytes, receivedBytes });
    };
    const peer: Peer = new Peer(connection, "receiver", {
      onMessage: (message) => {
        if (message.type === "HELLO") greetAsReceiver(peer, message);
        if (message.type === "END") {
          acknowledge(message.rawBytes);
          listener.close();
        }
      },
      onData: (header) => body.subarray(0, header.encodedBytes),
      onDataComplete: (header) => acknowledge(header.rawOffset + header.rawBytes),
    });
    void peer.closed.catch(() => {}).then(() => process.exit());
  },
});
process.send!(listener.address.port);
