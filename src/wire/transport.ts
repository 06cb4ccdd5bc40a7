/**
 * TCP between the two ends: TLS 1.3 with a pre-shared key, or plain for benchmarks.
 *
 * Strangers can hold at most 16 sockets for the time of a handshake; what they do wrong is reported and disturbs nobody.
 */
import { once } from "node:events";
import * as net from "node:net";
import * as tls from "node:tls";
import { GodwitError, messageOf } from "../errors.ts";
import { type Address, formatAddress } from "./address.ts";
import { type Connection, SocketConnection } from "./connection.ts";
import type { Psk } from "./psk.ts";
import { connectError, handshakeError, listenError } from "./transport-errors.ts";

/** How the two ends know each other. "none" encrypts nothing and lets anyone in. */
export type Security = { readonly kind: "psk"; readonly psk: Psk } | { readonly kind: "none" };

export interface ConnectOptions extends Address {
  readonly security: Security;
  /** For the TCP connection and for the TLS handshake, each; 10 s unless given. */
  readonly timeoutMs?: number;
  readonly signal?: AbortSignal;
}

export interface ListenOptions extends Address {
  readonly security: Security;
  /** Called with each authenticated connection; it is dropped when this rejects. Calls may overlap. */
  readonly onConnection: (connection: Connection) => void | Promise<void>;
  /** Called with each failed handshake and each rejection of `onConnection`; the listener goes on. */
  readonly onRejected: (error: GodwitError) => void;
  /** 10 s unless given. */
  readonly handshakeTimeoutMs?: number;
}

export interface Listener {
  /** Where it listens; the port is the real one when 0 was asked for. */
  readonly address: Address;
  /** Accepts no more and drops handshakes; established connections live on. */
  close(): void;
}

const HANDSHAKE_TIMEOUT_MS = 10_000;
const MAX_UNAUTHENTICATED = 16;
const SOCKET_OPTIONS = { noDelay: true, keepAlive: true, keepAliveInitialDelay: 10_000 };
const TLS_OPTIONS = { minVersion: "TLSv1.3", maxVersion: "TLSv1.3", ciphers: "TLS_AES_128_GCM_SHA256" } as const;

/**
 * Connects to a listener and authenticates both ends.
 *
 * @throws WIRE_UNREACHABLE, WIRE_WRONG_KEY, WIRE_NOT_TLS, WIRE_CLOSED, WIRE_CANCELLED
 */
export async function connect(options: ConnectOptions): Promise<Connection> {
  const { host, port, security, timeoutMs = HANDSHAKE_TIMEOUT_MS, signal } = options;
  const peer = formatAddress(options);
  const raw = net.connect({ host, port, ...SOCKET_OPTIONS });
  raw.on("error", () => {}); // reported by the stream on top, or by happened()
  const wait = { timeoutMs, ...(signal && { signal }) };
  let stream: net.Socket = raw;
  try {
    await happened(raw, "connect", wait).catch((error: unknown) => {
      throw connectError(error, peer, timeoutMs);
    });
    if (security.kind === "psk") {
      stream = startClientTls(raw, security.psk);
      await happened(stream, "secureConnect", wait).catch((error: unknown) => {
        throw handshakeError(error, peer, timeoutMs);
      });
    }
    return new SocketConnection(stream, raw, peer);
  } catch (error) {
    stream.on("error", () => {});
    stream.destroy();
    raw.destroy();
    if (signal?.aborted) throw new GodwitError("WIRE_CANCELLED", `connecting to ${peer} was cancelled`, { peer });
    throw error;
  }
}

/** Waits for an event; fails with the socket's error, with ETIMEDOUT, or when the signal is raised. */
async function happened(
  socket: net.Socket,
  event: string,
  { timeoutMs, signal }: { readonly timeoutMs: number; readonly signal?: AbortSignal },
): Promise<void> {
  const timeout = AbortSignal.timeout(timeoutMs);
  try {
    await once(socket, event, { signal: signal ? AbortSignal.any([signal, timeout]) : timeout });
  } catch (error) {
    throw timeout.aborted ? Object.assign(new Error("timed out", { cause: error }), { code: "ETIMEDOUT" }) : error;
  }
}

/** Nothing but the key is accepted: no certificate authority is trusted, and a certificate is a mistake by itself. */
function startClientTls(raw: net.Socket, { identity, key }: Psk): tls.TLSSocket {
  return tls.connect({
    ...TLS_OPTIONS,
    socket: raw,
    ca: [],
    pskCallback: () => ({ identity, psk: key }),
    checkServerIdentity: () => new Error("the receiver shows a certificate"),
  });
}

/**
 * Listens for connections; resolves once it does.
 *
 * @throws WIRE_PORT_TAKEN, WIRE_BAD_ADDRESS
 */
export async function listen(options: ListenOptions): Promise<Listener> {
  const { host, port, onRejected } = options;
  const unauthenticated = new Set<net.Socket>();
  const isPlain = options.security.kind === "none";
  const server = net.createServer({ ...SOCKET_OPTIONS, pauseOnConnect: isPlain }, (raw) => {
    void accept(raw, unauthenticated, options).catch((error: unknown) => onRejected(asGodwitError(error)));
  });
  server.listen({ host, port });
  try {
    await once(server, "listening");
  } catch (error) {
    throw listenError(error, formatAddress(options));
  }
  server.on("error", (error) => onRejected(asGodwitError(error)));
  return {
    address: { host, port: (server.address() as net.AddressInfo).port },
    close: () => {
      server.close();
      for (const raw of unauthenticated) raw.destroy();
    },
  };
}

async function accept(raw: net.Socket, unauthenticated: Set<net.Socket>, options: ListenOptions): Promise<void> {
  raw.on("error", () => {}); // reported by the stream on top
  const peer = formatAddress({ host: raw.remoteAddress ?? "unknown", port: raw.remotePort ?? 0 });
  const connection =
    options.security.kind === "none"
      ? SocketConnection.acceptPlain(raw, peer)
      : new SocketConnection(await authenticate(raw, peer, unauthenticated, options), raw, peer);
  try {
    await options.onConnection(connection);
  } catch (error) {
    const reason = asGodwitError(error);
    connection.destroy(reason);
    throw reason;
  }
}

async function authenticate(
  raw: net.Socket,
  peer: string,
  unauthenticated: Set<net.Socket>,
  { security, handshakeTimeoutMs = HANDSHAKE_TIMEOUT_MS }: ListenOptions,
): Promise<tls.TLSSocket> {
  if (unauthenticated.size >= MAX_UNAUTHENTICATED) {
    raw.destroy();
    const message = `${peer} was turned away: ${MAX_UNAUTHENTICATED} others have not finished their TLS handshake`;
    throw new GodwitError("WIRE_BUSY", message, { peer });
  }
  unauthenticated.add(raw);
  try {
    return await startServerTls(raw, security, handshakeTimeoutMs);
  } catch (error) {
    raw.destroy();
    throw handshakeError(error, peer, handshakeTimeoutMs);
  } finally {
    unauthenticated.delete(raw);
  }
}

/** A tls.Server for each connection, never listening, so that a failed handshake is known to be this socket's. */
function startServerTls(raw: net.Socket, security: Security, handshakeTimeout: number): Promise<tls.TLSSocket> {
  return new Promise((resolve, reject) => {
    const pskCallback = (_: tls.TLSSocket, identity: string) =>
      security.kind === "psk" && identity === security.psk.identity ? security.psk.key : null;
    const server = tls.createServer({ ...TLS_OPTIONS, handshakeTimeout, pskCallback });
    server.on("secureConnection", resolve);
    server.on("tlsClientError", reject);
    server.emit("connection", raw);
  });
}

function asGodwitError(error: unknown): GodwitError {
  if (error instanceof GodwitError) return error;
  return new GodwitError("WIRE_CLOSED", `a connection failed: ${messageOf(error)}`, {}, { cause: error });
}
