import { GodwitError } from "../errors.ts";
import { Backlog } from "../wire/backlog.ts";
import type { Connection } from "../wire/connection.ts";
import { encodeMessage } from "../wire/encoding.ts";
import type { DataHeader, Message, MessageType, RepairHeader } from "../wire/messages.ts";
import { MessageReader } from "../wire/reader.ts";
import { MessageOrder, type Role } from "../wire/sequence.ts";

/** How often the peer is asked whether it is there; also the round trip is measured so. */
const PING_MS = 500;
/**
 * A peer that was silent for so long is gone; the connection is then made anew, so a mistake costs little. While the guest is stopped,
 * waiting costs more than that.
 */
const SILENCE_MS = 4000;
const STOPPED_SILENCE_MS = 1500;
/** The longest that a look at the clock counts as silence: after a longer time this process stood still, and heard nobody. */
const MAX_TICK_MS = 2 * PING_MS;
/** PONGs that wait to be sent, at most: a peer that asks on and on and does not read the answers is none. */
const MAX_PONGS = 1024;
/**
 * What may wait to be taken by the system. Of a peer that acknowledges only what it has it is less: the window, as raw or as up to twice
 * as much in tokens, and once more as REPAIR.
 */
const MAX_PENDING_BYTES = 256 * 1024 * 1024;
/** How long a silent peer gets to hear the last words, and to close its side. */
const GOODBYE_MS = 2_000;
/** And one that speaks, but has not come to them yet: its QEMU may be slow to take what stands before. */
const LONG_GOODBYE_MS = 10_000;

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
  readonly #isReceiver: boolean;
  /** PINGs that are not answered: when they were sent, what had been sent before, and who waits for the answer. */
  readonly #pings: {
    readonly opaque: bigint;
    readonly atMs: number;
    readonly sentBytes: number;
    readonly answered: (hasCome: boolean) => void;
  }[] = [];
  /** Who gets what the peer says. */
  handler: PeerHandler;
  /** Whether the guest is stopped, so that the peer's silence is noticed sooner. */
  isUrgent = false;
  #isClosed = false;
  #isEnded = false;
  #pulse: NodeJS.Timeout | undefined;
  #tickAtMs = 0;
  #silentMs = 0;
  #waitingPongs = 0;

  constructor(connection: Connection, role: Role, handler: PeerHandler) {
    this.#connection = connection;
    this.#order = new MessageOrder(role);
    this.#isReceiver = role === "receiver";
    this.handler = handler;
    this.#reader = new MessageReader({
      onMessage: (message) => this.#onMessage(message),
      onData: (header) => {
        this.#order.received("DATA");
        return this.handler.onData?.(header) ?? null;
      },
      onDataComplete: (header, body) => this.handler.onDataComplete?.(header, body),
      onRepair: (header) => {
        this.#order.received("REPAIR");
        return this.handler.onRepair!(header);
      },
      onRepairComplete: (header) => this.handler.onRepairComplete?.(header),
    });
    this.closed = connection.closed.then((error) => {
      clearInterval(this.#pulse);
      this.#isClosed = true;
      for (const { answered } of this.#pings) answered(false);
      if (error !== undefined) throw error;
    });
    this.closed.catch(() => {});
    connection.receive((chunk) => {
      this.#silentMs = 0;
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

  /** Starts to ask the peer now and then whether it is there. To be called once, when the greeting is over. @returns of the first `ping` */
  startPulse(): Promise<boolean> {
    this.#tickAtMs = performance.now();
    this.#pulse = setInterval(() => this.#tick(), PING_MS);
    return this.ping();
  }

  #tick(): void {
    const now = performance.now();
    this.#silentMs += Math.min(now - this.#tickAtMs, MAX_TICK_MS);
    this.#tickAtMs = now;
    if (this.#reader.waiting) this.#silentMs = 0; // it is we who do not listen
    if (this.#silentMs < (this.isUrgent ? STOPPED_SILENCE_MS : SILENCE_MS)) return void this.ping();
    const message = `${this.address} has been silent for ${(this.#silentMs / 1000).toFixed(1)} s`;
    this.destroy(new GodwitError("WIRE_CLOSED", message));
  }

  /** Asks the peer for a sign of life. Resolves when it has come, so all that was sent before has too; with false if it never will. */
  async ping(): Promise<boolean> {
    if (this.#isClosed || this.#isEnded) return false;
    const { promise, resolve } = Promise.withResolvers<boolean>();
    const atMs = performance.now();
    const opaque = BigInt(Math.round(atMs * 1000));
    this.#pings.push({ opaque, atMs, sentBytes: this.backlog.sentBytes, answered: resolve });
    this.send({ type: "PING", opaque });
    return promise;
  }

  send(message: Message): void {
    this.writeAs(message.type, [encodeMessage(message)]);
  }

  /**
   * Sends an encoded message of the given type. The chunks must not change until the peer has acknowledged them.
   *
   * @param done is called when the system has taken them, or never will
   */
  writeAs(type: MessageType, chunks: readonly Uint8Array[], done?: () => void): void {
    // To write after the end breaks the connection, and what the peer has not read yet with it.
    if (this.#isEnded) return done?.();
    this.#order.sent(type);
    let bytes = 0;
    for (const chunk of chunks) bytes += chunk.length;
    this.backlog.sent(bytes);
    this.#connection.write(chunks, done);
    if (this.#connection.pendingBytes <= MAX_PENDING_BYTES) return;
    this.destroy(new GodwitError("WIRE_BAD_MESSAGE", "the peer acknowledges what it has not read"));
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

  /** Sends what was written and says goodbye, after which nothing more is sent; a peer that does not answer that is dropped. */
  end(): void {
    if (this.#isEnded) return;
    this.#isEnded = true;
    this.#connection.end();
    clearInterval(this.#pulse);
    this.#silentMs = 0;
    let waitedMs = 0;
    this.#pulse = setInterval(() => {
      waitedMs += PING_MS;
      this.#silentMs += PING_MS;
      if (this.#silentMs >= GOODBYE_MS || waitedMs >= LONG_GOODBYE_MS) this.destroy();
    }, PING_MS).unref();
  }

  /** As `end`; resolves when the peer has closed its side too. */
  async goodbye(): Promise<void> {
    this.end();
    await this.closed.catch(() => {});
  }

  /** Drops the connection. @param reason what `closed` rejects with */
  destroy(reason?: GodwitError): void {
    clearInterval(this.#pulse);
    this.#connection.destroy(reason);
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
    if (message.type === "PING") this.#answer(message.opaque);
    else if (message.type === "PONG") this.#onPong(message.opaque);
    else this.handler.onMessage(message);
  }

  #answer(opaque: bigint): void {
    if (this.#waitingPongs === MAX_PONGS) {
      throw new GodwitError("WIRE_BAD_MESSAGE", `the peer asks ${MAX_PONGS} times without reading an answer`);
    }
    this.#waitingPongs++;
    this.writeAs("PONG", [encodeMessage({ type: "PONG", opaque })], () => this.#waitingPongs--);
  }

  #onPong(opaque: bigint): void {
    const ping = this.#pings.shift();
    if (ping === undefined) throw new GodwitError("WIRE_OUT_OF_ORDER", "the peer answers a PING that was not sent");
    if (ping.opaque !== opaque)
      throw new GodwitError("WIRE_BAD_MESSAGE", "the peer answers another PING than was sent");
    const nowMs = performance.now();
    this.backlog.roundTrip(nowMs - ping.atMs);
    // The sender's messages are acknowledged by ACKs.
    if (this.#isReceiver) this.backlog.acked(ping.sentBytes, ping.sentBytes, nowMs);
    ping.answered(true);
  }
}
