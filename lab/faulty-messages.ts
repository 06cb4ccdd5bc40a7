import type { Address } from "../src/wire/address.ts";
import type { Connection } from "../src/wire/connection.ts";
import { HEADER_BYTES, type MessageType, messageTypeOf } from "../src/wire/messages.ts";
import { connect, type Listener, listen, type Security } from "../src/wire/transport.ts";

/** What a direction holds before its sender is made to wait. */
const MAX_WAITING_BYTES = 256 * 1024;

/** A moment of the hand-off. */
export interface MessageCut {
  readonly at: MessageType;
  /** The message arrives still, and nothing after it; else it is lost on its way. */
  readonly hasArrived: boolean;
}

/**
 * A relay that has the key, and so sees the messages that go through it: the connection breaks at exactly one of them. Nothing that
 * either end says later passes.
 */
export class FaultyMessages implements AsyncDisposable {
  readonly #security: Security;
  readonly #cut: MessageCut;
  /** Whether there is another connection after it. */
  readonly #comesBack: boolean;
  readonly #connections = new Set<Connection>();
  #listener: Listener | undefined;
  #target: Address | undefined;
  #hasCut = false;

  /** @param comesBack false: nobody can connect any more, once it was cut */
  constructor(security: Security, cut: MessageCut, comesBack: boolean) {
    this.#security = security;
    this.#cut = cut;
    this.#comesBack = comesBack;
  }

  /** Listens on a port of its own at 127.0.0.1, for connections that lead to `target`. */
  async listen(target: Address): Promise<Address> {
    this.#target = target;
    const place = { host: "127.0.0.1", port: 0, security: this.#security };
    const onConnection = (near: Connection) => this.#accept(near);
    this.#listener = await listen({ ...place, onConnection, onRejected: () => {} });
    return this.#listener.address;
  }

  /** Whether the moment has come. */
  get hasCut(): boolean {
    return this.#hasCut;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#listener?.close();
    for (const connection of this.#connections) connection.destroy();
  }

  async #accept(near: Connection): Promise<void> {
    const far = await connect({ ...this.#target!, security: this.#security });
    const ends = [near, far];
    for (const end of ends) {
      this.#connections.add(end);
      void end.closed.then(() => {
        this.#connections.delete(end);
        for (const other of ends) other.end();
      });
    }
    const there = new MessageCutter((bytes, isCut) => this.#pass(bytes, near, far, isCut), this.#cut);
    const back = new MessageCutter((bytes, isCut) => this.#pass(bytes, far, near, isCut), this.#cut);
    near.receive((chunk) => this.#isOpen(near) && there.push(chunk, this.#hasCut));
    far.receive((chunk) => this.#isOpen(far) && back.push(chunk, this.#hasCut));
  }

  #isOpen(end: Connection): boolean {
    return this.#connections.has(end);
  }

  #pass(bytes: Uint8Array, from: Connection, to: Connection, isCut: boolean): void {
    to.write([bytes], () => from.resume());
    if (to.pendingBytes > MAX_WAITING_BYTES) from.pause();
    if (!isCut) return;
    this.#hasCut = true;
    if (!this.#comesBack) this.#listener?.close();
    for (const end of [from, to]) this.#connections.delete(end);
    from.destroy();
    to.end(); // what was written arrives
    void to.closed.then(() => to.destroy());
  }
}

/** Follows the messages of one direction, cut anywhere into chunks. */
class MessageCutter {
  readonly #pass: (bytes: Uint8Array, isCut: boolean) => void;
  readonly #cut: MessageCut;
  #kept: Uint8Array = new Uint8Array(0);
  /** Of the message under way. */
  #bytesLeft = 0;

  constructor(pass: (bytes: Uint8Array, isCut: boolean) => void, cut: MessageCut) {
    this.#pass = pass;
    this.#cut = cut;
  }

  /** @param isOver it was cut before, on another connection: all passes */
  push(chunk: Uint8Array, isOver: boolean): void {
    const bytes = Buffer.concat([this.#kept, chunk]);
    let at = 0;
    for (;;) {
      const part = Math.min(this.#bytesLeft, bytes.length - at);
      at += part;
      this.#bytesLeft -= part;
      if (bytes.length - at < HEADER_BYTES || this.#bytesLeft > 0) break;
      const messageBytes = HEADER_BYTES + bytes.readUInt32LE(at + 4);
      if (!isOver && messageTypeOf(bytes[at]!) === this.#cut.at) {
        if (this.#cut.hasArrived && bytes.length - at < messageBytes) break;
        return this.#pass(bytes.subarray(0, this.#cut.hasArrived ? at + messageBytes : at), true);
      }
      this.#bytesLeft = messageBytes;
    }
    this.#kept = bytes.subarray(at);
    if (at > 0) this.#pass(bytes.subarray(0, at), false);
  }
}
