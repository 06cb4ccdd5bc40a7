/**
 * TCP between the two ends: TLS 1.3 with certificates or a pre-shared key, or plain for benchmarks.
 *
 * Strangers can hold few sockets, for the time of a handshake (admission.ts); what they do wrong is reported, now and then, and
 * disturbs nobody.
 */
import { once } from "node:events";
import * as net from "node:net";
import type { TLSSocket } from "node:tls";
import { GodwitError, messageOf } from "../errors.ts";
import { type Address, formatAddress } from "./address.ts";
import { Admission } from "./admission.ts";
import { type Connection, SocketConnection } from "./connection.ts";
import { RejectionLog } from "./rejections.ts";
import { problemOf, refuse, startClientTls, startServerTls, type TlsSecurity } from "./tls.ts";
import { connectError, handshakeError, listenError } from "./transport-errors.ts";

/** How the two ends know each other. "none" encrypts nothing and lets anyone in. */
export type Security = TlsSecurity | { readonly kind: "none" };

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
  /** Called with failed handshakes and rejections of `onConnection`, those of one code folded; the listener goes on. */
  readonly onRejected: (error: GodwitError) => void;
  /** 10 s unless given. */
  readonly handshakeTimeoutMs?: number;
  /** For how long rejections of one code are folded into one; 10 s unless given. */
  readonly quietMs?: number;
}

export interface Listener {
  /** Where it listens; the port is the real one when 0 was asked for. */
  readonly address: Address;
  /** Accepts no more and drops handshakes; established connections live on. */
  close(): void;
}

const HANDSHAKE_TIMEOUT_MS = 10_000;
const QUIET_MS = 10_000;
/** Authenticated connections, of all peers together: a migration takes one, and another while it reconnects. */
const MAX_OPEN = 64;
const SOCKET_OPTIONS = { noDelay: true, keepAlive: true, keepAliveInitialDelay: 10_000 };

/**
 * Connects to a listener and authenticates both ends.
 *
 * @throws WIRE_UNREACHABLE, WIRE_WRONG_KEY, WIRE_CERTIFICATE, WIRE_PEER_NAME, WIRE_TLS_FILES, WIRE_TLS_PERMISSIONS, WIRE_NOT_TLS,
 * WIRE_CLOSED, WIRE_CANCELLED
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
    if (security.kind !== "none") {
      const socket = startClientTls(raw, security);
      stream = socket;
      await happened(socket, "secureConnect", wait).catch((error: unknown) => {
        throw handshakeError(error, peer, timeoutMs, security.kind);
      });
      await judge(socket, security, "destination", peer, host);
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

/** Lets go of a peer that is not the one it should be, and tells it why. */
async function judge(
  socket: TLSSocket,
  security: TlsSecurity,
  end: "source" | "destination",
  peer: string,
  host?: string,
): Promise<void> {
  const problem = problemOf(socket, security, end, host);
  if (problem === undefined) return;
  socket.on("error", () => {});
  await refuse(socket, problem);
  throw new GodwitError(problem.code, `${peer} was refused: ${problem.message}`, { ...problem.details, peer });
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
    throw timeout.aborted ? timedOut(error) : error;
  }
}

function timedOut(cause?: unknown): Error {
  return Object.assign(new Error("timed out", { cause }), { code: "ETIMEDOUT" });
}

/**
 * Listens for connections; resolves once it does.
 *
 * @throws WIRE_PORT_TAKEN, WIRE_BAD_ADDRESS
 */
export async function listen(options: ListenOptions): Promise<Listener> {
  const { host, port, security, quietMs = QUIET_MS } = options;
  const rejections = new RejectionLog(options.onRejected, quietMs);
  const door = new Door(options);
  const server = net.createServer({ ...SOCKET_OPTIONS, pauseOnConnect: security.kind === "none" }, (raw) => {
    void door.accept(raw).catch((error: unknown) => rejections.add(asGodwitError(error)));
  });
  server.listen({ host, port });
  try {
    await once(server, "listening");
  } catch (error) {
    throw listenError(error, formatAddress(options));
  }
  server.on("error", (error) => rejections.add(asGodwitError(error)));
  return {
    address: { host, port: (server.address() as net.AddressInfo).port },
    close: () => {
      server.close();
      door.close();
      rejections[Symbol.dispose]();
    },
  };
}

/** Those who knock at one listener. */
class Door {
  readonly #options: ListenOptions;
  readonly #admission = new Admission<net.Socket>();
  /** Those that had to make room for others. */
  readonly #late = new WeakSet<net.Socket>();
  #open = 0;

  constructor(options: ListenOptions) {
    this.#options = options;
  }

  async accept(raw: net.Socket): Promise<void> {
    raw.on("error", () => {}); // reported by the stream on top
    const host = raw.remoteAddress ?? "unknown";
    const peer = formatAddress({ host, port: raw.remotePort ?? 0 });
    const connection = await this.#authenticated(raw, host, peer);
    if (this.#open >= MAX_OPEN) {
      connection.destroy();
      throw turnedAway(peer, `${MAX_OPEN} connections are open already`);
    }
    this.#open++;
    void connection.closed.finally(() => this.#open--);
    try {
      await this.#options.onConnection(connection);
    } catch (error) {
      const reason = asGodwitError(error);
      connection.destroy(reason);
      throw reason;
    }
  }

  close(): void {
    for (const raw of this.#admission.unfinished) raw.destroy();
  }

  async #authenticated(raw: net.Socket, host: string, peer: string): Promise<Connection> {
    const { security, handshakeTimeoutMs = HANDSHAKE_TIMEOUT_MS } = this.#options;
    if (security.kind === "none") return SocketConnection.acceptPlain(raw, peer);
    const late = this.#admission.enter(raw, host, performance.now());
    if (late === null) {
      raw.destroy();
      throw turnedAway(peer, "too many others began a TLS handshake in the same second");
    }
    for (const other of late) {
      this.#late.add(other);
      other.destroy();
    }
    try {
      const socket = await within(handshakeTimeoutMs, startServerTls(raw, security));
      await judge(socket, security, "source", peer);
      this.#admission.welcome(host);
      return new SocketConnection(socket, raw, peer);
    } catch (error) {
      raw.destroy();
      if (this.#late.has(raw)) throw turnedAway(peer, "others came before it had finished its TLS handshake");
      throw error instanceof GodwitError ? error : handshakeError(error, peer, handshakeTimeoutMs, security.kind);
    } finally {
      this.#admission.leave(raw);
    }
  }
}

/** The time is that of the whole handshake: a peer that sends a byte now and then gets no more of it. */
async function within<T>(ms: number, handshake: Promise<T>): Promise<T> {
  const { promise, reject } = Promise.withResolvers<never>();
  const timer = setTimeout(() => reject(timedOut()), ms);
  try {
    return await Promise.race([handshake, promise]);
  } finally {
    clearTimeout(timer);
  }
}

function turnedAway(peer: string, why: string): GodwitError {
  return new GodwitError("WIRE_BUSY", `${peer} was turned away: ${why}`, { peer });
}

function asGodwitError(error: unknown): GodwitError {
  if (error instanceof GodwitError) return error;
  return new GodwitError("WIRE_CLOSED", `a connection failed: ${messageOf(error)}`, {}, { cause: error });
}
