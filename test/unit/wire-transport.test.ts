import { execFileSync } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import * as http from "node:http";
import * as net from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import * as tls from "node:tls";
import { afterEach, expect, test, vi } from "vitest";
import { GodwitError } from "../../src/errors.ts";
import type { Connection } from "../../src/wire/connection.ts";
import { generatePsk, type Psk } from "../../src/wire/psk.ts";
import { connect, type Listener, type ListenOptions, listen, type Security } from "../../src/wire/transport.ts";

const host = "127.0.0.1";
const psk = generatePsk();
const security: Security = { kind: "psk", psk };
const undo: (() => unknown)[] = [];

afterEach(async () => {
  for (const action of undo.splice(0).reverse()) await action();
});

interface Lab {
  readonly listener: Listener;
  readonly rejected: GodwitError[];
  readonly accepted: Connection[];
}

async function start(options: Partial<ListenOptions> = {}): Promise<Lab> {
  const rejected: GodwitError[] = [];
  const accepted: Connection[] = [];
  const listener = await listen({
    host,
    port: 0,
    security,
    onConnection: (connection) => void accepted.push(connection),
    onRejected: (error) => void rejected.push(error),
    ...options,
  });
  undo.push(() => {
    listener.close();
    for (const connection of accepted) connection.destroy();
  });
  return { listener, rejected, accepted };
}

/** Any server of another kind; its port. */
async function serve(server: net.Server): Promise<number> {
  const sockets = new Set<net.Socket>();
  server.on("connection", (socket: net.Socket) => {
    sockets.add(socket);
    socket.on("error", () => {});
  });
  server.listen(0, host);
  await once(server, "listening");
  undo.push(() => {
    server.close();
    for (const socket of sockets) socket.destroy();
  });
  return (server.address() as net.AddressInfo).port;
}

async function dial(lab: Lab, options: Partial<Parameters<typeof connect>[0]> = {}): Promise<Connection> {
  const connection = await connect({ ...lab.listener.address, security, ...options });
  undo.push(() => connection.destroy());
  return connection;
}

/** A raw client; resolves with what the listener answered once it hung up. */
async function stranger(lab: Lab, says?: string): Promise<number> {
  const socket = net.connect(lab.listener.address);
  undo.push(() => socket.destroy());
  let answered = 0;
  socket.on("data", (chunk) => {
    answered += chunk.length;
  });
  socket.on("error", () => {});
  if (says !== undefined) socket.write(says);
  await new Promise((resolve) => socket.once("close", resolve));
  return answered;
}

const coded = (code: string, message?: RegExp) =>
  expect.objectContaining({ code, ...(message && { message: expect.stringMatching(message) }) });

function collect(connection: Connection): Uint8Array[] {
  const chunks: Uint8Array[] = [];
  connection.receive((chunk) => chunks.push(Buffer.from(chunk)));
  return chunks;
}

test.each([
  ["TLS", security],
  ["plain TCP", { kind: "none" }],
] as const)("%s carries bytes both ways, counts them and ends cleanly", async (_, security) => {
  const lab = await start({ security });
  const client = await dial(lab, { security });
  await vi.waitFor(() => expect(lab.accepted).toHaveLength(1));
  const server = lab.accepted[0]!;
  const up = collect(server);
  const down = collect(client);
  const shared = new Uint8Array(new SharedArrayBuffer(300_000)).fill(7);
  await new Promise<void>((resolve, reject) => {
    client.write([Buffer.from("head"), shared, Buffer.from("tail")], (error) => (error ? reject(error) : resolve()));
  });
  expect(client.pendingBytes).toBe(0);
  server.write([Buffer.from("back")]);
  await vi.waitFor(() => expect(Buffer.concat(down).toString()).toBe("back"));
  client.end();
  expect(await Promise.all([client.closed, server.closed])).toEqual([undefined, undefined]);
  expect(Buffer.concat(up).equals(Buffer.concat([Buffer.from("head"), shared, Buffer.from("tail")]))).toBe(true);
  expect(server.bytesRead).toBe(client.bytesWritten);
  expect(client.bytesRead).toBe(server.bytesWritten);
  const overhead = client.bytesWritten - 300_008;
  if (security.kind === "none") expect(overhead).toBe(0);
  else expect(overhead).toBeGreaterThan(0);
  expect(lab.rejected).toEqual([]);
});

test("a paused connection holds the peer back", async () => {
  const lab = await start();
  const client = await dial(lab);
  await vi.waitFor(() => expect(lab.accepted).toHaveLength(1));
  const server = lab.accepted[0]!;
  let received = 0;
  let held = true;
  server.receive((chunk) => {
    received += chunk.length;
    if (held) server.pause();
  });
  const piece = new Uint8Array(32 << 20);
  client.write([piece]);
  await vi.waitFor(() => expect(received).toBeGreaterThan(0));
  expect(client.pendingBytes).toBe(piece.length);
  expect(received).toBeLessThan(1 << 20);
  held = false;
  server.resume();
  await vi.waitFor(() => expect(received).toBe(piece.length), { timeout: 20_000 });
});

test("a connection is not over while what came on it is still held", async () => {
  const lab = await start();
  const client = await dial(lab);
  client.receive(() => {});
  await vi.waitFor(() => expect(lab.accepted).toHaveLength(1));
  const server = lab.accepted[0]!;
  const held = new Promise((resolve) => {
    server.receive((chunk) => {
      server.pause();
      resolve(Buffer.from(chunk).toString());
    });
  });
  let isOver = false;
  const over = server.closed.then(() => {
    isOver = true;
  });
  client.write([Buffer.from("data that waits for room; goodbye")]);
  client.end();
  expect(await held).toBe("data that waits for room; goodbye");
  // Its socket is gone: nothing can be said any more.
  const answer = () => new Promise((resolve) => server.write([Buffer.from("x")], resolve));
  await vi.waitFor(async () => expect(await answer()).toBeInstanceOf(Error));
  expect(isOver).toBe(false);
  server.resume();
  await over;
});

test.each<[string, Psk, RegExp, RegExp]>([
  ["key", { identity: psk.identity, key: generatePsk().key }, /another pre-shared key/, /another pre-shared key/],
  ["identity", { identity: "other", key: psk.key }, /no pre-shared key of this identity/, /no pre-shared key of this/],
])("a wrong %s is told at both ends, and the listener goes on", async (_, wrong, atClient, atServer) => {
  const lab = await start();
  await expect(dial(lab, { security: { kind: "psk", psk: wrong } })).rejects.toEqual(coded("WIRE_WRONG_KEY", atClient));
  await vi.waitFor(() => expect(lab.rejected).toEqual([coded("WIRE_WRONG_KEY", atServer)]));
  expect(JSON.stringify(lab.rejected)).not.toContain(Buffer.from(wrong.key).toString("hex"));
  await dial(lab);
  await vi.waitFor(() => expect(lab.accepted).toHaveLength(1));
});

test("a client without a key is refused", async () => {
  const lab = await start();
  const socket = tls.connect({ ...lab.listener.address, rejectUnauthorized: false });
  undo.push(() => socket.destroy());
  socket.on("error", () => {});
  await new Promise((resolve) => socket.once("close", resolve));
  await vi.waitFor(() => expect(lab.rejected).toEqual([coded("WIRE_WRONG_KEY")]));
  expect(lab.accepted).toEqual([]);
});

test.each([
  ["HTTP", "GET / HTTP/1.1\r\nHost: x\r\n\r\n", /^127\.0\.0\.1:\d+ speaks HTTP/],
  ["SSH", "SSH-2.0-OpenSSH_9.2\r\n", /does not speak TLS/],
  ["godwit's without TLS", "\u0001\u0000\u0000\u0000\u0010\u0000\u0000\u0000GDWT", /does not speak TLS/],
])("another protocol on the port, %s, is named and disturbs nobody", async (_, says, message) => {
  const lab = await start();
  const running = await dial(lab);
  const received = collect(running);
  await stranger(lab, says);
  await vi.waitFor(() => expect(lab.rejected).toEqual([coded("WIRE_NOT_TLS", message)]));
  lab.accepted[0]?.write([Buffer.from("still here")]);
  await vi.waitFor(() => expect(Buffer.concat(received).toString()).toBe("still here"));
});

test("a silent stranger is dropped after the handshake timeout", async () => {
  const lab = await start({ handshakeTimeoutMs: 50 });
  expect(await stranger(lab)).toBe(0);
  expect(lab.rejected).toEqual([coded("WIRE_NOT_TLS", /did not finish the TLS handshake within 0.05 s/)]);
});

test("a stranger that hangs up is reported", async () => {
  const lab = await start();
  net.connect(lab.listener.address).end();
  await vi.waitFor(() => expect(lab.rejected).toEqual([coded("WIRE_CLOSED", /during the TLS handshake/)]));
});

test.each([
  ["an HTTP server", "WIRE_NOT_TLS", () => http.createServer()],
  ["an SSH server", "WIRE_NOT_TLS", () => net.createServer((socket) => void socket.write("SSH-2.0-x\r\n"))],
  ["one that hangs up", "WIRE_CLOSED", () => net.createServer((socket) => void socket.end())],
  [
    "one that resets",
    "WIRE_CLOSED",
    () => net.createServer((socket) => void socket.once("data", () => socket.resetAndDestroy())),
  ],
  ["one that is silent", "WIRE_NOT_TLS", () => net.createServer((socket) => void socket.resume())],
])("at the other end %s gives %s", async (_, code, server) => {
  const port = await serve(server());
  const timeoutMs = 200;
  await expect(connect({ host, port, security, timeoutMs })).rejects.toEqual(
    coded(code, new RegExp(`127.0.0.1:${port}`)),
  );
});

test("a certificate is not taken for the key, even one that would be trusted", async () => {
  const folder = mkdtempSync(join(tmpdir(), "godwit-cert-"));
  undo.push(() => rmSync(folder, { recursive: true }));
  const files = { key: join(folder, "key.pem"), cert: join(folder, "cert.pem") };
  execFileSync(
    "openssl",
    [
      "req",
      "-x509",
      "-newkey",
      "ec",
      "-pkeyopt",
      "ec_paramgen_curve:P-256",
      "-nodes",
      "-days",
      "1",
      "-subj",
      "/CN=127.0.0.1",
    ].concat(["-keyout", files.key, "-out", files.cert]),
    { stdio: "ignore" },
  );
  const cert = readFileSync(files.cert);
  const before = tls.getCACertificates("default");
  tls.setDefaultCACertificates([cert]);
  undo.push(() => tls.setDefaultCACertificates(before));
  const port = await serve(tls.createServer({ key: readFileSync(files.key), cert }));
  const trusting = tls.connect({ host, port, checkServerIdentity: () => undefined });
  undo.push(() => trusting.destroy());
  await once(trusting, "secureConnect");
  await expect(connect({ host, port, security })).rejects.toEqual(coded("WIRE_WRONG_KEY", /shows a certificate/));
});

test("nobody there, unknown host, cancelled", async () => {
  const port = await serve(net.createServer());
  await undo.pop()?.();
  await expect(connect({ host, port, security })).rejects.toEqual(coded("WIRE_UNREACHABLE", /nothing listens on/));
  await expect(connect({ host: "no-such-host.invalid", port, security })).rejects.toEqual(coded("WIRE_UNREACHABLE"));
  const silent = await serve(net.createServer());
  const cancel = new AbortController();
  const attempt = connect({ host, port: silent, security, signal: cancel.signal });
  cancel.abort();
  await expect(attempt).rejects.toEqual(coded("WIRE_CANCELLED"));
  await expect(connect({ host, port: silent, security, signal: cancel.signal })).rejects.toEqual(
    coded("WIRE_CANCELLED"),
  );
});

test("addresses that can't be listened on", async () => {
  const port = await serve(net.createServer());
  await expect(start({ port })).rejects.toEqual(coded("WIRE_PORT_TAKEN", new RegExp(`127.0.0.1:${port}`)));
  await expect(start({ host: "192.0.2.1" })).rejects.toEqual(coded("WIRE_BAD_ADDRESS"));
});

test("a closed listener frees its port at once and leaves connections alone", async () => {
  const lab = await start();
  const client = await dial(lab);
  await vi.waitFor(() => expect(lab.accepted).toHaveLength(1));
  const received = collect(client);
  lab.listener.close();
  await start({ port: lab.listener.address.port });
  lab.accepted[0]?.write([Buffer.from("on")]);
  await vi.waitFor(() => expect(Buffer.concat(received).toString()).toBe("on"));
});

test("the end of a connection has a reason", async () => {
  const lab = await start();
  const reason = new GodwitError("WIRE_BAD_MESSAGE", "no");
  const thrower = await dial(lab);
  thrower.receive(() => {
    throw reason;
  });
  const other = await dial(lab);
  await vi.waitFor(() => expect(lab.accepted).toHaveLength(2));
  lab.accepted[0]?.write([Buffer.from("x")]);
  expect(await thrower.closed).toBe(reason);
  other.destroy(reason);
  expect(await other.closed).toBe(reason);
  const failed = new Promise<Error | null | undefined>((resolve) => other.write([Buffer.from("late")], resolve));
  expect(await failed).toBeInstanceOf(Error);
});

test("a handler that fails loses its connection only", async () => {
  const lab = await start({ onConnection: () => Promise.reject(new GodwitError("WIRE_CLOSED", "not now")) });
  const client = await dial(lab);
  client.receive(() => {});
  await client.closed;
  expect(lab.rejected).toEqual([coded("WIRE_CLOSED", /not now/)]);
});
