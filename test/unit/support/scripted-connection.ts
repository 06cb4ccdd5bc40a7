import type { GodwitError } from "../../../src/errors.ts";
import type { Connection } from "../../../src/wire/connection.ts";

/** A connection in memory, on which the test is the peer. */
export class ScriptedConnection implements Connection {
  readonly remoteAddress = "192.0.2.1:7747";
  readonly bytesRead = 0;
  bytesWritten = 0;
  readonly pendingBytes = 0;
  readonly #closed = Promise.withResolvers<GodwitError | undefined>();
  readonly closed = this.#closed.promise;
  readonly #onWrite: (message: Buffer) => void;
  readonly #chunks: Uint8Array[] = [];
  #handler: ((chunk: Uint8Array) => void) | undefined;
  #isPaused: boolean;
  #isClosed = false;

  /**
   * @param onWrite is told of each message that the other end writes
   * @param isPaused until `resume`
   */
  constructor(onWrite: (message: Buffer) => void, isPaused = true) {
    this.#onWrite = onWrite;
    this.#isPaused = isPaused;
  }

  receive(handler: (chunk: Uint8Array) => void): void {
    this.#handler = handler;
    this.#deliver();
  }

  pause(): void {
    this.#isPaused = true;
  }

  resume(): void {
    this.#isPaused = false;
    this.#deliver();
  }

  /** The test says something. */
  say(chunk: Uint8Array): void {
    if (this.#isClosed) return;
    this.#chunks.push(chunk);
    this.#deliver();
  }

  /** Chunks that were said and not taken. */
  get waitingChunks(): number {
    return this.#chunks.length;
  }

  get isClosed(): boolean {
    return this.#isClosed;
  }

  #deliver(): void {
    while (!this.#isPaused && this.#handler !== undefined && this.#chunks.length > 0) {
      try {
        this.#handler(this.#chunks.shift()!);
      } catch (error) {
        this.destroy(error as GodwitError);
      }
    }
  }

  write(pieces: readonly Uint8Array[], done?: (error?: Error | null) => void): void {
    const message = Buffer.concat(pieces);
    this.bytesWritten += message.length;
    if (!this.#isClosed) this.#onWrite(message);
    done?.();
  }

  end(): void {
    this.destroy();
  }

  destroy(reason?: GodwitError): void {
    this.#isClosed = true;
    this.#chunks.length = 0;
    this.#closed.resolve(reason);
  }
}
