import { once } from "node:events";
import net from "node:net";
import { expect, onTestFinished, test } from "vitest";
import { Peer } from "../../src/migration/peer.ts";
import { type Message, SHAPES } from "../../src/wire/messages.ts";
import { listen } from "../../src/wire/transport.ts";
import { collector, encode, exchange } from "./wire-fixtures.ts";

/** A receiver that listens, and a raw connection to it. */
async function connected({ allowHalfOpen = false } = {}) {
  const accepted = Promise.withResolvers<Peer>();
  const listener = await listen({
    host: "127.0.0.1",
    port: 0,
    security: { kind: "none" },
    onRejected: accepted.reject,
    onConnection: (connection) => accepted.resolve(new Peer(connection, "receiver", { onMessage: () => {} })),
  });
  const socket = net.connect({ port: listener.address.port, host: "127.0.0.1", allowHalfOpen });
  onTestFinished(() => {
    socket.destroy();
    listener.close();
  });
  const { messages, reader } = collector();
  socket.on("data", (chunk) => reader.push(chunk));
  return { peer: await accepted.promise, socket, messages };
}

test("a sender of an older version is told which end to update", async () => {
  const { peer, socket, messages } = await connected();
  const hello = Buffer.from("________GDWT\x01\0\x01\0{}", "latin1");
  hello.fill(0, 0, 8).writeUInt8(SHAPES.HELLO.code, 0);
  hello.writeUInt32LE(hello.length - 8, 4);
  const ended = once(socket, "close");
  socket.write(hello);
  await ended;
  const code = "WIRE_VERSION";
  const message = "the source speaks version 1.1 of the protocol, the destination 1.3: update godwit at the source";
  expect(messages).toEqual([{ type: "REFUSE", code, message }]);
  await expect(peer.closed).rejects.toMatchObject({ code, message });
});

test("nothing is said after the goodbye: who is asked meanwhile would break the connection, and what was not read yet be lost", async () => {
  const { peer, socket, messages } = await connected({ allowHalfOpen: true });
  const [hello, welcome] = exchange;
  const ping = encode({ type: "PING", opaque: 1n });
  socket.write(encode(hello!));
  await expect.poll(() => peer.receivedBytes).toBeGreaterThan(0);
  peer.send(welcome as Message);
  peer.send({ type: "ABORT", code: "MIGRATION_CANCELLED", message: "enough" });
  peer.end();
  await once(socket, "end");
  const receivedBytes = peer.receivedBytes;
  socket.write(ping);
  await expect.poll(() => peer.receivedBytes).toBe(receivedBytes + ping.length);
  socket.end(ping);
  await peer.closed;
  expect(messages.map(({ type }) => type)).toEqual(["WELCOME", "ABORT"]);
});
