import type { Batch } from "../compact/batch-writer.ts";
import { CodecChoice, type Packing } from "../compact/codec.ts";
import { BATCH_PAYLOAD_BYTES } from "../compact/limits.ts";
import { GodwitError } from "../errors.ts";
import type { Backlog } from "../wire/backlog.ts";
import { writeRepairHeader } from "../wire/bulk.ts";
import { type Codec, type FieldsOf, REPAIR_HEADER_BYTES, type RepairHeader } from "../wire/messages.ts";
import { type CodecCounts, Outgoing } from "./outgoing.ts";
import { SendRoom } from "./send-room.ts";
import { defaultThreads } from "./workers/threads.ts";
import { Workbench } from "./workers/workbench.ts";

/** Bodies that are packed or wait for it, so that no thread is ever idle; those that one read of the stream makes come on top. */
const BODIES_A_THREAD = 2;
const BODIES_A_READ = 4;

/** What the sender writes to. */
export interface Outlet {
  /** What is in flight, all messages counted. */
  readonly backlog: Backlog;
  /** Queues an encoded message, in order. Its chunks are not changed until the peer has acknowledged them. */
  writeAs(type: "DATA" | "END" | "REPAIR", chunks: readonly Uint8Array[]): void;
}

/** How batches go out; part of SenderOptions. */
export interface TransmitterOptions {
  /** Wire bytes per second at most, while the guest runs. */
  maxBytesPerSecond?: number | undefined;
  /** How bodies are packed; "auto", the default: by what is the bottleneck. */
  packing?: "auto" | Packing;
  /** Threads that pack, beside this one; default: defaultThreads(). */
  threads?: number;
  /** The choice of packing has changed. */
  onPacking?: (packing: Packing, reason: string) => void;
  /** Something costs more bytes than it might. */
  onWarning?: (message: string) => void;
}

/** Batches → the connection: chooses how each is packed, keeps them in order, and knows when there is room for more. */
export class Transmitter {
  readonly #outlet: Outlet;
  readonly #now: () => number;
  readonly #workbench: Workbench;
  readonly #choice: CodecChoice;
  readonly #outgoing: Outgoing;
  readonly #room: SendRoom;
  #isUrgent = false;
  #isStopped = false;

  /**
   * @param bytes the memory that batches' pieces stand in
   * @param onRoom there may be room again
   */
  constructor(outlet: Outlet, options: TransmitterOptions, bytes: Uint8Array, onRoom: () => void, now: () => number) {
    this.#outlet = outlet;
    this.#now = now;
    const { packing = "auto", threads = defaultThreads(), onPacking, onWarning = () => {} } = options;
    const maxPacking = Math.max(1, threads) * BODIES_A_THREAD;
    this.#workbench = new Workbench(maxPacking + BODIES_A_READ, threads, onWarning);
    this.#choice = new CodecChoice(threads, packing === "auto" ? undefined : packing, onPacking);
    this.#outgoing = new Outgoing({
      bytes,
      workbench: this.#workbench,
      write: (type, chunks) => this.#write(type, chunks),
      onPacked: (packing, bodyBytes, packedBytes, ms) => {
        this.#choice.packed(packing, bodyBytes, packedBytes, ms);
        onRoom();
      },
    });
    this.#room = new SendRoom({
      backlog: () => this.#outlet.backlog,
      packing: () => ({ bodies: this.#outgoing.packing, wireBytes: this.#outgoing.packingBytes * this.#choice.ratio }),
      maxPacking,
      maxBytesPerSecond: options.maxBytesPerSecond,
      onRoom,
      now,
    });
  }

  /** Bodies sent, by codec. */
  get bodies(): Readonly<Record<Codec, CodecCounts>> {
    return this.#outgoing.counts;
  }
  /** Of the bodies sent, what stands for the forms of pages. */
  get tokenBytes(): number {
    return this.#outgoing.tokenBytes;
  }
  /** How bodies are packed by now, and why. */
  get packing(): Packing & { reason: string } {
    const { codec, level } = this.#choice.current;
    return { codec, level, reason: this.#choice.reason };
  }
  /** CPU time that packing has taken. */
  get packMs(): number {
    return this.#workbench.cpuMs;
  }
  /** See SendRoom.restoring. */
  get restoring(): SendRoom["restoring"] {
    return this.#room.restoring;
  }

  start(): void {
    this.#workbench.start();
  }

  /** Whether the guest is stopped: then the rate limit is off, and the codec is one for now. */
  set isUrgent(isUrgent: boolean) {
    this.#isUrgent = isUrgent;
    this.#room.isUnlimited = isUrgent;
  }

  /** Whether more may be sent. */
  get hasRoom(): boolean {
    return this.#room.isThere;
  }

  /** See SendRoom.mayRead. */
  mayRead(hasPlace: boolean): boolean {
    return this.#room.mayRead(hasPlace);
  }

  /** Whether what went before has not left. */
  get isWaiting(): boolean {
    return this.#outgoing.packing > 0 || this.#outlet.backlog.inFlightBytes > BATCH_PAYLOAD_BYTES / 4;
  }

  send(batch: Batch): void {
    const now = this.#now();
    const { linkBytesPerSecond } = this.#room;
    if (this.#choice.isDue(now)) this.#choice.decide({ linkBytesPerSecond, ...this.#room.takeHolds() }, now);
    const bodyBytes = batch.tokens.length + batch.payloadBytes;
    const packing = this.#isUrgent
      ? this.#choice.nextUrgent(bodyBytes, linkBytesPerSecond)
      : this.#choice.next(bodyBytes);
    this.#room.sentRaw(batch.rawBytes);
    this.#outgoing.send(batch, packing);
  }

  /** The stream ends here. */
  end(rawBytes: number): void {
    this.#outgoing.end(rawBytes);
  }

  /** Sends a range as it is, whatever waits: the destination QEMU waits for it. */
  repair(range: RepairHeader, slices: readonly Uint8Array[]): void {
    const head = Buffer.allocUnsafe(REPAIR_HEADER_BYTES);
    writeRepairHeader(head, 0, range);
    this.#write("REPAIR", [head, ...slices]);
  }

  /** See ACK in docs/wire-protocol.md. @throws GodwitError PEER_BAD_ACK */
  acknowledged({ rawOffset, wireBytes, receivedBytes }: FieldsOf<"ACK">): void {
    const { sentOffset } = this.#outgoing;
    if (rawOffset > sentOffset) {
      const details = { rawOffset, sentOffset };
      throw new GodwitError("PEER_BAD_ACK", "the peer acknowledged bytes that were not sent", details);
    }
    this.#room.acknowledged(rawOffset, wireBytes, receivedBytes);
  }

  /** The connection is gone: what was not written went with it. */
  detach(): void {
    this.#outgoing.drop();
    this.#room.detach();
  }

  /** There is a new one. @param rawOffset up to which the destination has the stream @throws GodwitError PEER_BAD_OFFSET */
  resume(rawOffset: number): void {
    const { sentOffset } = this.#outgoing;
    if (rawOffset > sentOffset) {
      const details = { rawOffset, sentOffset };
      throw new GodwitError("PEER_BAD_OFFSET", "the peer wants to go on behind what was sent", details);
    }
    this.#outgoing.sentOffset = rawOffset;
    this.#room.resume(rawOffset);
  }

  stop(): void {
    this.#isStopped = true;
    this.#room.stop();
    this.#workbench.stop();
  }

  #write(type: "DATA" | "END" | "REPAIR", chunks: readonly Uint8Array[]): void {
    if (this.#isStopped) return;
    let bytes = 0;
    for (const chunk of chunks) bytes += chunk.length;
    this.#room.sentWire(bytes);
    this.#outlet.writeAs(type, chunks);
  }
}
