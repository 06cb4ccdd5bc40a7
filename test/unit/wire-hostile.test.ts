/** Strangers at the port of a listener to which a transfer is going on. */
import { once } from "node:events";
import * as net from "node:net";
import { afterEach, expect, test, vi } from "vitest";
import type { GodwitError } from "../../src/errors.ts";
import type { Connection } from "../../src/wire/connection.ts";
import { generatePsk } from "../../src/wire/psk.ts";
import { connect, type ListenOptions, listen, type Security } from "../../src/wire/transport.ts";

const host = "127.0.0.1";
const security: Security = { kind: "psk", psk: generatePsk() };
const undo: (() => unknown)[] = [];

afterEach(async () => {
  for (const action of undo.splice(0).reverse()) await action();
});

/** A listener that a connection transfers to all the time. */
async function startBusy(options: Partial<ListenOptions> = {}) {
  const rejected: GodwitError[] = [];
  const accepted: Connection[] = [];
  let received = 0;
  const listener = await listen({
    host,
    port: 0,
    security,
    onConnection: (connection) => {
      accepted.push(connection);
      connection.receive((chunk) => {
        received += chunk.length;
      });
    },
    onRejected: (error) => void rejected.push(error),
    ...options,
  });
  const { port } = listener.address;
  const sender = await connect({ host, port, security });
  undo.push(() => {
    sender.destroy();
    listener.close();
    for (const connection of accepted) connection.destroy();
  });
  const piece = new Uint8Array(1 << 16);
  let isOver = false;
  undo.push(() => {
    isOver = true;
  });
  const send = () => {
    if (!isOver) sender.write([piece], (error) => error || setTimeout(send, 1));
  };
  send();
  /** The transfer goes on. */
  const isUndisturbed = async () => {
    const before = received;
    await vi.waitFor(() => expect(received).toBeGreaterThan(before + (1 << 20)), { timeout: 10_000 });
    expect(accepted[0]).toBeDefined();
  };
  await isUndisturbed();
  return { port, rejected, accepted, isUndisturbed };
}

/** A connection of a stranger; `closed` resolves once the listener has dropped it. */
function knock(port: number): { socket: net.Socket; closed: Promise<void> } {
  const socket = net.connect({ host, port });
  undo.push(() => socket.destroy());
  socket.on("error", () => {});
  socket.resume();
  return { socket, closed: new Promise((resolve) => socket.once("close", () => resolve())) };
}

test("1,000 idle connections: few are held, a sender gets in, the transfer goes on, the log has few lines", async () => {
  const lab = await startBusy();
  const idle = Array.from({ length: 1000 }, () => knock(lab.port));
  let open = idle.length;
  for (const { closed } of idle) void closed.then(() => open--);
  await vi.waitFor(() => expect(open).toBeLessThanOrEqual(8), { timeout: 10_000 });
  await lab.isUndisturbed();
  const sender = await vi.waitFor(() => connect({ host, port: lab.port, security }), { timeout: 5_000, interval: 300 });
  undo.push(() => sender.destroy());
  await vi.waitFor(() => expect(lab.accepted).toHaveLength(2));
  expect(lab.rejected).toHaveLength(1);
  expect(lab.rejected[0]).toMatchObject({ code: "WIRE_BUSY", message: expect.stringMatching(/was turned away/) });
});

test("a handshake that comes a byte at a time is dropped when its time is up", async () => {
  const lab = await startBusy({ handshakeTimeoutMs: 300 });
  const { socket, closed } = knock(lab.port);
  await once(socket, "connect");
  // The beginning of a TLS record of 16 KiB, of which there is always more to come.
  const drip = setInterval(() => socket.write("\u0016"), 20);
  undo.push(() => clearInterval(drip));
  socket.write(Buffer.from([0x16, 3, 1, 0x40, 0, 1, 0, 0x3f, 0xfc]));
  await closed;
  expect(lab.rejected).toEqual([
    expect.objectContaining({ code: "WIRE_NOT_TLS", message: expect.stringMatching(/did not finish .* within 0.3 s/) }),
  ]);
  await lab.isUndisturbed();
});

test("a handshake without end takes no memory", async () => {
  const lab = await startBusy();
  const { socket, closed } = knock(lab.port);
  // A ClientHello of 16 MiB, as its header says, in records of 16 KiB.
  const record = Buffer.concat([Buffer.from([0x16, 3, 1, 0x40, 0]), Buffer.alloc(16384)]);
  const first = Buffer.from(record);
  first.set([1, 0xff, 0xff, 0xff], 5);
  socket.write(first);
  let sent = 0;
  const pour = () => {
    while (!socket.destroyed && sent < 64 << 20 && socket.write(record)) sent += record.length;
  };
  socket.on("drain", pour);
  pour();
  await closed;
  expect(sent).toBeLessThan(16 << 20);
  await vi.waitFor(() => expect(lab.rejected).toEqual([expect.objectContaining({ code: "WIRE_NOT_TLS" })]));
  await lab.isUndisturbed();
});

test("a flood of wrong keys is one line, then one more with their number", async () => {
  const lab = await startBusy({ quietMs: 400 });
  const wrong: Security = { kind: "psk", psk: generatePsk() };
  const tries = Array.from({ length: 20 }, () => connect({ host, port: lab.port, security: wrong }));
  const outcomes = await Promise.allSettled(tries);
  expect(outcomes.every(({ status }) => status === "rejected")).toBe(true);
  await vi.waitFor(() =>
    expect(lab.rejected.reduce((sum, { details }) => sum + Number(details.count ?? 1), 0)).toBe(20),
  );
  const keys = lab.rejected.filter(({ code }) => code === "WIRE_WRONG_KEY");
  expect(keys.length).toBeLessThanOrEqual(3);
  expect(keys.at(-1)?.message).toMatch(
    /more connections? w\w+ refused within 0.4 s, the last: 127\.0\.0\.1:\d+ has another/,
  );
  await lab.isUndisturbed();
});

test("a peer with the key that opens connection after connection is held to so many", async () => {
  const lab = await startBusy();
  const opened: Connection[] = [];
  for (let i = 0; i < 70; i++) {
    const connection = await vi.waitFor(() => connect({ host, port: lab.port, security }), {
      timeout: 5_000,
      interval: 200,
    });
    undo.push(() => connection.destroy());
    opened.push(connection);
  }
  await vi.waitFor(() => expect(lab.accepted).toHaveLength(64));
  await Promise.race(opened.map(({ closed }, i) => closed.then(() => expect(i).toBeGreaterThan(60))));
  expect(lab.rejected.at(-1)?.code).toBe("WIRE_BUSY");
  await lab.isUndisturbed();
}, 30_000);
