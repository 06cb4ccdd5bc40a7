import { GodwitError } from "../../../src/errors.ts";
import type { Connection } from "../../../src/wire/connection.ts";
import { type MessageType, messageTypeOf } from "../../../src/wire/messages.ts";

/** When a connection breaks, by what one end has sent. What is on its way then is lost. */
export interface Cut {
  readonly from: "sender" | "receiver";
  /** After so many bytes. */
  readonly bytes?: number;
  /** At the first message of this type: that has arrived still, or not. */
  readonly at?: MessageType;
  readonly hasArrived?: boolean;
}

/** One end of a connection in memory. Each piece arrives in a turn of its own. */
class MemoryConnection implements Connection {
  readonly remoteAddress: string;
  readonly closed: Promise<GodwitError | undefined>;
  bytesRead = 0;
  bytesWritten = 0;
  pendingBytes = 0;
  other!: MemoryConnection;
  /** Of what this end writes: when it breaks. */
  breaks: Cut | undefined;
  /** Nothing that this end writes arrives any more, and nobody is told. */
  isBlackHole = false;
  #sentBytes = 0;
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
    if (this.isBlackHole) return;
    this.other.#arrived.push({ bytes, done: () => done?.() });
    setImmediate(() => this.other.#flow());
  }

  end(): void {
    setImmediate(() => this.cut(undefined));
  }

  destroy(reason?: GodwitError): void {
    this.#end(reason);
    if (this.isBlackHole) return;
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
      const arriving = this.other.#arriving(message.bytes);
      const bytes = message.bytes.subarray(0, arriving);
      this.bytesRead += bytes.length;
      message.done?.();
      if (bytes.length > 0) this.#handOut(bytes);
      if (arriving !== undefined) this.cut(new GodwitError("WIRE_CLOSED", "it was cut"));
    }
  }

  /** How many bytes of the message arrive before it breaks; undefined: all, and it does not. */
  #arriving(message: Uint8Array): number | undefined {
    const before = this.#sentBytes;
    this.#sentBytes += message.length;
    const { bytes, at, hasArrived } = this.breaks ?? {};
    if (bytes !== undefined && this.#sentBytes >= bytes) return bytes - before;
    if (at !== undefined && messageTypeOf(message[0]!) === at) return hasArrived ? message.length : 0;
    return undefined;
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
  if (cut !== undefined) (cut.from === "sender" ? sender : receiver).breaks = cut;
  return [sender, receiver];
}
