import { GodwitError } from "../../../src/errors.ts";
import type { Connection } from "../../../src/wire/connection.ts";

/** When a connection breaks: after so many bytes, or messages, of one end's have arrived. What is on its way then is lost. */
export interface Cut {
  readonly from: "sender" | "receiver";
  readonly bytes?: number;
  readonly messages?: number;
}

/** One end of a connection in memory. Each piece arrives in a turn of its own. */
class MemoryConnection implements Connection {
  readonly remoteAddress: string;
  readonly closed: Promise<GodwitError | undefined>;
  bytesRead = 0;
  bytesWritten = 0;
  pendingBytes = 0;
  other!: MemoryConnection;
  /** Of what this end writes: what may still arrive. */
  bytesLeft = Number.POSITIVE_INFINITY;
  messagesLeft = Number.POSITIVE_INFINITY;
  readonly #arrived: { bytes: Uint8Array; done: (() => void) | undefined }[] = [];
  readonly #close: (reason: GodwitError | undefined) => void;
  #handler: ((chunk: Uint8Array) => void) | undefined;
  #isPaused = false;
  #isClosed = false;

  constructor(remoteAddress: string) {
    this.remoteAddress = remoteAddress;
    const { promise, resolve } = Promise.withResolvers<GodwitError | undefined>();
    this.closed = promise;
    this.#close = resolve;
  }

  receive(handler: (chunk: Uint8Array) => void): void {
    this.#handler = handler;
    this.#flow();
  }

  pause(): void {
    this.#isPaused = true;
  }

  resume(): void {
    this.#isPaused = false;
    setImmediate(() => this.#flow());
  }

  write(pieces: readonly Uint8Array[], done?: (error?: Error | null) => void): void {
    const bytes = new Uint8Array(Buffer.concat(pieces));
    this.bytesWritten += bytes.length;
    this.other.#arrived.push({ bytes, done: () => done?.() });
    setImmediate(() => this.other.#flow());
  }

  end(): void {
    setImmediate(() => this.cut(undefined));
  }

  destroy(reason?: GodwitError): void {
    this.#end(reason);
    setImmediate(() => this.other.#end(new GodwitError("WIRE_CLOSED", "the other end has gone")));
  }

  /** Both ends see it close. */
  cut(reason: GodwitError | undefined): void {
    this.#end(reason);
    this.other.#end(reason);
  }

  #end(reason: GodwitError | undefined): void {
    this.#isClosed = true;
    this.#close(reason);
  }

  #flow(): void {
    while (this.#handler !== undefined && !this.#isPaused && !this.#isClosed) {
      const message = this.#arrived.shift();
      if (message === undefined) return;
      const whole = message.bytes;
      const bytes = whole.subarray(0, this.other.bytesLeft);
      this.other.bytesLeft -= bytes.length;
      this.bytesRead += bytes.length;
      message.done?.();
      if (bytes.length > 0) this.#handOut(bytes);
      if (--this.other.messagesLeft === 0 || this.other.bytesLeft === 0)
        this.cut(new GodwitError("WIRE_CLOSED", "it was cut"));
    }
  }

  #handOut(bytes: Uint8Array): void {
    try {
      this.#handler?.(bytes);
    } catch (error) {
      this.destroy(error as GodwitError);
    }
  }
}

/** A connection in memory: the sender's end, and the receiver's. */
export function memoryConnection(cut?: Cut): [sender: MemoryConnection, receiver: MemoryConnection] {
  const [sender, receiver] = [new MemoryConnection("receiver:1"), new MemoryConnection("sender:1")];
  sender.other = receiver;
  receiver.other = sender;
  const end = cut?.from === "receiver" ? receiver : sender;
  end.bytesLeft = cut?.bytes ?? Number.POSITIVE_INFINITY;
  end.messagesLeft = cut?.messages ?? Number.POSITIVE_INFINITY;
  return [sender, receiver];
}
