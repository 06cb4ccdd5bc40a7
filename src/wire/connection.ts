/** One authenticated connection: thin over the socket, the same for TLS and plain TCP. */
import type { Socket } from "node:net";
import { GodwitError, messageOf } from "../errors.ts";
import { reopenForReading } from "./reopen.ts";

export interface Connection {
  /** The other end, as `parseAddress` reads it. */
  readonly remoteAddress: string;
  /** TCP payload received and sent since the connection began, TLS and its handshake included. */
  readonly bytesRead: number;
  readonly bytesWritten: number;
  /** Given to `write` and not yet taken by the kernel. */
  readonly pendingBytes: number;
  /**
   * Resolves once the connection is gone: with undefined when both ends ended it, else with why (WIRE_CLOSED, or what
   * was given to `destroy` or thrown by the handler of `receive`). It never rejects. Where the handler has paused, this waits for
   * `resume`, or `destroy`: what the other end said last may stand in the rest of its chunk.
   */
  readonly closed: Promise<GodwitError | undefined>;
  /**
   * Starts to hand out what comes in. A chunk is borrowed: it is valid until the handler returns, or, if it has called
   * `pause`, until `resume`. To be called once.
   */
  receive(handler: (chunk: Uint8Array) => void): void;
  /** No more chunks after this until `resume`, so that the peer is held back. */
  pause(): void;
  resume(): void;
  /**
   * Sends the pieces, in order and in as few segments as they take. They must not change until `done` is called: when
   * the kernel has taken all of them, or with an error when that will never happen.
   */
  write(pieces: readonly Uint8Array[], done?: (error?: Error | null) => void): void;
  /** Sends what was written, then says that no more comes. */
  end(): void;
  /** Drops the connection and what wasn't sent yet. */
  destroy(reason?: GodwitError): void;
}

/** What a plain connection reads at once: enough that the system call costs little. */
const PLAIN_READ_BYTES = 256 * 1024;

/** A connection over a connected stream; `raw` is the TCP socket below it (the same when there is no TLS). */
export class SocketConnection implements Connection {
  readonly remoteAddress: string;
  readonly closed: Promise<GodwitError | undefined>;
  readonly #stream: Socket;
  readonly #raw: Socket;
  #handler: ((chunk: Uint8Array) => void) | undefined;
  #isPaused = false;
  /** Resolves `closed`, once the handler is through with its chunk. */
  #over: (() => void) | undefined;

  constructor(stream: Socket, raw: Socket, remoteAddress: string) {
    this.#stream = stream;
    this.#raw = raw;
    this.remoteAddress = remoteAddress;
    this.closed = new Promise((resolve) => {
      let reason: GodwitError | undefined;
      stream.on("error", (error) => {
        reason = error instanceof GodwitError ? error : closedError(remoteAddress, error);
      });
      stream.on("close", () => {
        raw.destroy();
        // Node says so at the end of what it has handed out, also to a stream that is paused.
        if (this.#isPaused) this.#over = () => resolve(reason);
        else resolve(reason);
      });
    });
  }

  /** Over a TCP socket without TLS that was accepted with `pauseOnConnect`. */
  static acceptPlain(accepted: Socket, remoteAddress: string): SocketConnection {
    const buffer = new Uint8Array(PLAIN_READ_BYTES);
    const into = {
      buffer: () => buffer,
      onBytes: (bytes: number) => {
        connection.#handOut(buffer.subarray(0, bytes));
        return true;
      },
    };
    const socket = reopenForReading(accepted, into, { allowHalfOpen: false }) ?? accepted;
    const connection = new SocketConnection(socket, socket, remoteAddress);
    return connection;
  }

  get bytesRead(): number {
    return this.#raw.bytesRead;
  }

  get bytesWritten(): number {
    return this.#raw.bytesWritten;
  }

  get pendingBytes(): number {
    return this.#stream.writableLength;
  }

  receive(handler: (chunk: Uint8Array) => void): void {
    this.#handler = handler;
    this.#stream.on("data", (chunk: Buffer) => this.#handOut(chunk));
    this.#stream.resume();
  }

  #handOut(chunk: Uint8Array): void {
    try {
      this.#handler?.(chunk);
    } catch (error) {
      this.#stream.destroy(error instanceof Error ? error : new Error(String(error)));
    }
  }

  pause(): void {
    this.#isPaused = true;
    this.#stream.pause();
  }

  resume(): void {
    this.#isPaused = false;
    this.#stream.resume();
    this.#over?.();
  }

  write(pieces: readonly Uint8Array[], done?: (error?: Error | null) => void): void {
    const last = pieces.length - 1;
    this.#stream.cork();
    pieces.forEach((piece, index) => {
      this.#stream.write(piece, index === last ? done : undefined);
    });
    this.#stream.uncork();
  }

  end(): void {
    this.#stream.end();
  }

  destroy(reason?: GodwitError): void {
    this.#isPaused = false;
    this.#stream.destroy(reason);
    this.#over?.();
  }
}

function closedError(peer: string, cause: Error): GodwitError {
  const code = (cause as NodeJS.ErrnoException).code;
  const what =
    code === "ECONNRESET" || code === "EPIPE"
      ? `${peer} closed the connection`
      : code === "ETIMEDOUT"
        ? `${peer} does not answer any more`
        : `the connection to ${peer} broke: ${messageOf(cause)}`;
  return new GodwitError("WIRE_CLOSED", what, { peer }, { cause });
}
