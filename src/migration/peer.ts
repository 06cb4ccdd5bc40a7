import { GodwitError } from "../errors.ts";
import { Backlog } from "../wire/backlog.ts";
import type { Connection } from "../wire/connection.ts";
import { encodeMessage } from "../wire/encoding.ts";
import type { DataHeader, Message, MessageType, RepairHeader } from "../wire/messages.ts";
import { MessageReader } from "../wire/reader.ts";
import { MessageOrder, type Role } from "../wire/sequence.ts";

/** How often the peer is asked whether it is there; also the round trip is measured so. */
const PING_MS = 500;
/** A peer that was silent for so long is gone. */
const SILENCE_MS = 15_000;
/** How long a peer gets to hear the last words, and to close its side. */
const GOODBYE_MS = 2_000;

export interface PeerHandler {
  /** Any message but DATA, REPAIR, PING and PONG. What it throws ends the connection. */
  onMessage(message: Message): void;
  /** See MessageHandler; only the receiver takes DATA and REPAIR. */
  onData?(header: DataHeader): Uint8Array | null;
  onDataComplete?(header: DataHeader, body: Uint8Array): void;
  onRepair?(header: RepairHeader): Uint8Array;
  onRepairComplete?(header: RepairHeader): void;
}

/** The other end: messages both ways over one connection, in allowed order, with a pulse, and what is in flight. */
export class Peer {
  /** Rejects with the reason when the connection is gone; resolves when it was ended by both sides. */
  readonly closed: Promise<void>;
  readonly backlog = new Backlog();
  readonly #connection: Connection;
  readonly #order: MessageOrder;
  readonly #reader: MessageReader;
  readonly #handler: PeerHandler;
  readonly #isReceiver: boolean;
  /** PINGs that are not answered: what had been sent before each, and who waits for the answer. */
  readonly #pings: { readonly sentBytes: number; readonly answered: (hasCome: boolean) => void }[] = [];
  #isClosed = false;
  #pulse: NodeJS.Timeout | undefined;
  #heardAtMs = performance.now();

  constructor(connection: Connection, role: Role, handler: PeerHandler) {
    this.#connection = connection;
    this.#order = new MessageOrder(role);
    this.#isReceiver = role === "receiver";
    this.#handler = handler;
    this.#reader = new MessageReader({
      onMessage: (message) => this.#onMessage(message),
      onData: (header) => {
        this.#order.received("DATA");
        return handler.onData?.(header) ?? null;
      },
      onDataComplete: (header, body) => handler.onDataComplete?.(header, body),
      onRepair: (header) => {
        this.#order.received("REPAIR");
        return handler.onRepair!(header);
      },
      onRepairComplete: (header) => handler.onRepairComplete?.(header),
    });
    this.closed = connection.closed.then((error) => {
      clearInterval(this.#pulse);
      this.#isClosed = true;
      for (const { answered } of this.#pings) answered(false);
      if (error !== undefined) throw error;
    });
    this.closed.catch(() => {});
    connection.receive((chunk) => {
      this.#heardAtMs = performance.now();
      try {
        if (!this.#reader.push(chunk)) connection.pause();
      } catch (error) {
        this.#drop(error as GodwitError);
      }
    });
  }

  get address(): string {
    return this.#connection.remoteAddress;
  }
  /** TCP payload both ways, TLS included. */
  get wireBytes(): number {
    return this.#connection.bytesRead + this.#connection.bytesWritten;
  }
  /** Bytes of messages received, for ACK. */
  get receivedBytes(): number {
    return this.#reader.wireBytes;
  }

  /** Starts to ask the peer now and then whether it is there. To be called once the greeting is over. */
  startPulse(): void {
    void this.ping();
    this.#pulse = setInterval(() => {
      if (performance.now() - this.#heardAtMs > SILENCE_MS && !this.#reader.waiting) {
        const message = `${this.address} has been silent for ${SILENCE_MS / 1000} s`;
        this.#connection.destroy(new GodwitError("WIRE_CLOSED", message));
      } else void this.ping();
    }, PING_MS);
  }

  /** Asks the peer for a sign of life. Resolves when it has come, so all that was sent before has too; with false if it never will. */
  async ping(): Promise<boolean> {
    if (this.#isClosed) return false;
    const { promise, resolve } = Promise.withResolvers<boolean>();
    this.#pings.push({ sentBytes: this.backlog.sentBytes, answered: resolve });
    this.send({ type: "PING", opaque: BigInt(Math.round(performance.now() * 1000)) });
    return promise;
  }

  send(message: Message): void {
    this.writeAs(message.type, [encodeMessage(message)]);
  }

  /** Sends an encoded message of the given type. The chunks must not change until the peer has acknowledged them. */
  writeAs(type: MessageType, chunks: readonly Uint8Array[]): void {
    this.#order.sent(type);
    let bytes = 0;
    for (const chunk of chunks) bytes += chunk.length;
    this.backlog.sent(bytes);
    this.#connection.write(chunks);
  }

  /** There is room for DATA again. */
  onRoom(): void {
    if (!this.#reader.waiting) return;
    try {
      if (this.#reader.resume()) this.#connection.resume();
    } catch (error) {
      this.#connection.destroy(error as GodwitError);
    }
  }

  /** Sends what was written and says goodbye; a peer that does not answer that is dropped. */
  end(): void {
    clearInterval(this.#pulse);
    this.#connection.end();
    setTimeout(() => this.#connection.destroy(), GOODBYE_MS).unref();
  }

  /** As `end`; resolves when the peer has closed its side too. */
  async goodbye(): Promise<void> {
    this.end();
    await this.closed.catch(() => {});
  }

  destroy(): void {
    clearInterval(this.#pulse);
    this.#connection.destroy();
  }

  /** What it sent is nothing to go on with. During the greeting it is told so: it may be of another version. */
  #drop(error: GodwitError): void {
    this.#connection.pause();
    try {
      this.#order.sent("REFUSE");
    } catch {
      return this.#connection.destroy(error);
    }
    const code = error instanceof GodwitError ? error.code : "WIRE_BAD_MESSAGE";
    const refusal = encodeMessage({ type: "REFUSE", code, message: error.message });
    this.#connection.write([refusal], () => this.#connection.destroy(error));
    setTimeout(() => this.#connection.destroy(error), GOODBYE_MS).unref();
  }

  #onMessage(message: Message): void {
    this.#order.received(message.type);
    if (message.type === "PING") this.send({ type: "PONG", opaque: message.opaque });
    else if (message.type === "PONG") this.#onPong(Number(message.opaque) / 1000);
    else this.#handler.onMessage(message);
  }

  #onPong(askedAtMs: number): void {
    const nowMs = performance.now();
    this.backlog.roundTrip(nowMs - askedAtMs);
    const ping = this.#pings.shift();
    if (ping === undefined) return;
    // The sender's messages are acknowledged by ACKs.
    if (this.#isReceiver) this.backlog.acked(ping.sentBytes, ping.sentBytes, nowMs);
    ping.answered(true);
  }
}
