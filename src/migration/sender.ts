import type net from "node:net";
import type { Batch, PlaceFound } from "../compact/batch-writer.ts";
import type { CacheForms } from "../compact/cache-forms.ts";
import { CodecChoice, type Packing } from "../compact/codec.ts";
import { BatchEncoder, type FormCounts } from "../compact/encoder.ts";
import { BATCH_PAYLOAD_BYTES } from "../compact/limits.ts";
import { GodwitError } from "../errors.ts";
import type { StreamEvent } from "../stream/events.ts";
import { StreamParser } from "../stream/parser.ts";
import { noting, type SentPages } from "../stream/sent-pages.ts";
import type { Backlog } from "../wire/backlog.ts";
import { writeRepairHeader } from "../wire/encoding.ts";
import { type Codec, type Message, REPAIR_HEADER_BYTES, type RepairHeader } from "../wire/messages.ts";
import { type SavedBytes, savedBytes } from "./costs.ts";
import { type Intake, openIntake } from "./intake.ts";
import { type CodecCounts, Outgoing } from "./outgoing.ts";
import { PlaceReferences } from "./references.ts";
import { Replay } from "./replay.ts";
import { SendRoom } from "./send-room.ts";
import { createSenderKernels, type Referable } from "./sender-kernels.ts";
import { RawWindow } from "./window.ts";
import { defaultThreads } from "./workers/threads.ts";
import { Workbench } from "./workers/workbench.ts";

/** How long bytes wait for more before they are sent as a batch that is not full. */
const FLUSH_MS = 1;
/** How long bytes that the parser holds back wait for the rest of their record before they go out as they are. */
const AHEAD_MS = 20;
/** And for how long they may wait while what went before them has not left: fewer and larger batches pack better. */
const PATIENT_FLUSH_MS = 8;
/** Return path that the source QEMU has not read. It takes what comes at once, and in all a few bytes a second come. */
const MAX_RETURN_BYTES_WAITING = 1 << 20;
/** Bodies that are packed or wait for it, so that no thread is ever idle; those that one read of the stream makes come on top. */
const BODIES_A_THREAD = 2;
const BODIES_A_READ = 4;

type Acknowledgement = Omit<Extract<Message, { type: "ACK" }>, "type">;
type Return = Omit<Extract<Message, { type: "RETURN" }>, "type">;

/** What the sender writes to. */
export interface Outlet {
  /** What is in flight, all messages counted. */
  readonly backlog: Backlog;
  /** Queues an encoded message, in order. Its chunks are not changed until the peer has acknowledged them. */
  writeAs(type: "DATA" | "END" | "REPAIR", chunks: readonly Uint8Array[]): void;
}

export interface SenderOptions {
  /** The largest unacknowledged raw range that the peer takes. */
  windowBytes?: number;
  /** Wire bytes per second at most, while the guest runs. */
  maxBytesPerSecond?: number | undefined;
  /** How bodies are packed; "auto", the default: by what is the bottleneck. */
  packing?: "auto" | Packing;
  /** Threads that pack, beside this one; default: defaultThreads(). */
  threads?: number;
  /** The choice of packing has changed. */
  onPacking?: (packing: Packing, reason: string) => void;
  referable?: Referable;
  /** Slots of the page cache; it needs `referable`, whose key is that of its tags too. */
  cachePages?: number;
  /** Something costs more bytes than it might. */
  onWarning?: (message: string) => void;
  onEvent?: (event: StreamEvent) => void;
  /** Notes the pages that are sent. */
  sentPages?: SentPages;
  onError: (error: GodwitError) => void;
  /** For tests: time in milliseconds. */
  now?: () => number;
}

/**
 * Source QEMU's stream → parse → encode → frames, with back-pressure on the source QEMU.
 *
 * Bounded: the raw window (64 MiB), a few bodies for each thread, and in flight and at the destination no more than `Backlog` allows.
 */
export class StreamSender {
  readonly #outlet: Outlet;
  readonly #options: SenderOptions;
  readonly #now: () => number;
  readonly #window: RawWindow;
  readonly #parser: StreamParser;
  readonly #encoder: BatchEncoder;
  readonly #references: PlaceReferences | undefined;
  readonly #cache: CacheForms | undefined;
  readonly #workbench: Workbench;
  readonly #choice: CodecChoice;
  readonly #outgoing: Outgoing;
  readonly #room: SendRoom;
  #intake: Intake | undefined;
  /** Between two connections, and until what the lost one took with it was sent again: what is encoded goes out by `Replay`. */
  #isDetached = false;
  #replay: Replay | undefined;
  #isPaused = false;
  #isUrgent = false;
  #hasEnded = false;
  #isStopped = false;
  #flushTimer: NodeJS.Timeout | undefined;
  #aheadTimer: NodeJS.Timeout | undefined;
  #ackedRawBytes = 0;
  #returnBytes = 0;
  #lastReadMs = 0;
  #encodeMs = 0;

  constructor(outlet: Outlet, options: SenderOptions) {
    this.#outlet = outlet;
    this.#options = options;
    this.#now = options.now ?? (() => performance.now());
    const { referable, cachePages = 0, packing = "auto", threads = defaultThreads(), onWarning = () => {} } = options;
    const { kernels, matcher, cache } = createSenderKernels(referable, cachePages, onWarning);
    this.#window = new RawWindow(kernels, options.windowBytes);
    if (referable !== undefined) this.#references = new PlaceReferences(matcher, (place) => this.#onSwitchedOff(place));
    this.#cache = cache;
    this.#encoder = new BatchEncoder((batch) => this.#sendBatch(batch), options.onEvent, this.#references, cache);
    const { sentPages } = options;
    const handler = sentPages === undefined ? this.#encoder : noting(this.#encoder, sentPages);
    this.#parser = new StreamParser(kernels.scanner, handler);
    const maxPacking = Math.max(1, threads) * BODIES_A_THREAD;
    this.#workbench = new Workbench(maxPacking + BODIES_A_READ, threads, onWarning);
    this.#choice = new CodecChoice(threads, packing === "auto" ? undefined : packing, options.onPacking);
    this.#outgoing = new Outgoing({
      bytes: kernels.bytes,
      workbench: this.#workbench,
      write: (type, chunks) => this.#write(type, chunks),
      onPacked: (packing, bodyBytes, packedBytes, ms) => {
        this.#choice.packed(packing, bodyBytes, packedBytes, ms);
        this.#resumeIfPossible();
      },
    });
    this.#room = new SendRoom({
      backlog: () => this.#outlet.backlog,
      packing: () => ({ bodies: this.#outgoing.packing, wireBytes: this.#outgoing.packingBytes * this.#choice.ratio }),
      maxPacking,
      maxBytesPerSecond: options.maxBytesPerSecond,
      onRoom: () => this.#resumeIfPossible(),
      now: this.#now,
    });
  }

  /** Bytes read from the source QEMU. */
  get rawBytes(): number {
    return this.#window.readOffset;
  }
  /** Bytes that the destination has written into its QEMU. */
  get ackedRawBytes(): number {
    return this.#ackedRawBytes;
  }
  get counts(): Readonly<FormCounts> {
    return this.#encoder.counts;
  }
  /** Of the references in `counts` the pages that the destination had to ask for. */
  get nackedPages(): number {
    return this.#references?.nackedPages ?? 0;
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
  get savedBytes(): SavedBytes {
    return savedBytes(this.counts, this.nackedPages, Object.values(this.bodies));
  }
  /** How long parsing, looking pages up and encoding have taken, and the CPU time that packing has. */
  get work(): { encodeMs: number; packMs: number } {
    return { encodeMs: this.#encodeMs, packMs: this.#workbench.cpuMs };
  }
  /** How fast the destination restores the stream, and for how long in all it was waited for. */
  get restoring(): { bytesPerSecond: number; heldMs: number } {
    return this.#room.restoring;
  }
  /** Whether the source QEMU has closed its end. */
  get hasEnded(): boolean {
    return this.#hasEnded;
  }
  /** When the last byte was read from the source QEMU, on the clock of `now`. */
  get lastReadMs(): number {
    return this.#lastReadMs;
  }

  /** Starts to read the accepted (and paused) socket that the source QEMU writes to. */
  start(accepted: net.Socket): void {
    this.#workbench.start();
    this.#intake = openIntake(accepted, this.#window, {
      onBytes: (_bytes, isDrained) => this.#onBytes(isDrained),
      onEnd: () => this.#onEnd(),
      onError: (cause) =>
        this.#fail(
          new GodwitError("MIGRATION_SOURCE_SOCKET", `the source QEMU's stream broke: ${cause.message}`, {}, { cause }),
        ),
    });
  }

  /** Bytes of the return path that the source QEMU was given. */
  get returnBytes(): number {
    return this.#returnBytes;
  }

  /** Bytes of the return path, for the source QEMU. @throws GodwitError PEER_BAD_OFFSET when they do not follow what came before, PEER_WINDOW */
  writeReturn({ returnOffset, bytes }: Return): void {
    if (returnOffset !== this.#returnBytes) {
      const details = { returnOffset, expected: this.#returnBytes };
      throw new GodwitError("PEER_BAD_OFFSET", "the peer sent the return path out of order", details);
    }
    this.#returnBytes += bytes.length;
    const socket = this.#intake?.socket;
    if (socket === undefined) return;
    if (socket.writableLength > MAX_RETURN_BYTES_WAITING) {
      throw new GodwitError("PEER_WINDOW", "the peer sends more of the return path than the source QEMU takes");
    }
    socket.write(bytes);
  }

  /** The destination QEMU has closed its return path. */
  endReturn(): void {
    this.#intake?.socket.end();
  }

  /** The guest is stopped: from here on every millisecond is downtime, so nothing waits for company and the rate limit is off. */
  hurry(): void {
    this.#isUrgent = true;
    this.#room.isUnlimited = true;
    if (this.#cache !== undefined) this.#cache.isLastRound = true;
    if (!this.#isPaused) this.#flush();
    this.#resumeIfPossible();
  }

  /** Takes `hurry` back: the guest was not stopped for the switch-over. */
  calmDown(): void {
    this.#isUrgent = false;
    this.#room.isUnlimited = false;
    if (this.#cache !== undefined) this.#cache.isLastRound = false;
  }

  /** See ACK in docs/wire-protocol.md. @throws GodwitError PEER_BAD_ACK */
  acknowledge({ rawOffset, wireBytes, receivedBytes }: Acknowledgement): void {
    if (rawOffset > this.#encoder.offset) {
      throw new GodwitError("PEER_BAD_ACK", "the peer acknowledged bytes that were not sent", { rawOffset });
    }
    this.#release(rawOffset);
    this.#room.acknowledged(rawOffset, wireBytes, receivedBytes);
    this.#resumeIfPossible();
  }

  /** The connection is gone: nothing is written, and the source QEMU is held back, until `resume`. */
  detach(): void {
    this.#isDetached = true;
    this.#replay = undefined;
    this.#outgoing.drop();
    this.#room.detach();
  }

  /**
   * There is a new connection: what the destination has not got is sent again, then what follows.
   *
   * @param rawOffset up to which the destination QEMU was fed
   * @throws GodwitError PEER_BAD_OFFSET when that is not in what is kept
   */
  resume(rawOffset: number): void {
    if (rawOffset < this.#ackedRawBytes || rawOffset > this.#encoder.offset) {
      const details = { rawOffset, ackedRawBytes: this.#ackedRawBytes, sentRawBytes: this.#encoder.offset };
      throw new GodwitError("PEER_BAD_OFFSET", "the peer wants to go on where it can't be", details);
    }
    this.#release(rawOffset);
    this.#references?.drop();
    this.#room.resume(rawOffset);
    this.#replay = new Replay(this.#window, rawOffset, (batch) => this.#send(batch));
    this.#isPaused = true;
    this.#resumeIfPossible();
  }

  /** Sends again while there is room. True once all is, so that what comes now is sent as ever. */
  #catchUp(replay: Replay): boolean {
    while (this.#replay === replay && this.#room.isThere) {
      if (replay.sendNext(this.#encoder.offset)) continue;
      this.#encoder.flush(); // is dropped, and counted in: it refers to what the destination may not have
      if (replay.sendNext(this.#encoder.offset)) continue;
      this.#references?.drop();
      this.#cache?.clear();
      this.#replay = undefined;
      this.#isDetached = false;
      if (this.#hasEnded) this.#outgoing.end(this.rawBytes);
    }
    return !this.#isDetached;
  }

  #release(rawOffset: number): void {
    this.#ackedRawBytes = Math.max(this.#ackedRawBytes, rawOffset);
    this.#window.release(this.#ackedRawBytes);
    this.#references?.acknowledged(this.#ackedRawBytes);
  }

  /**
   * The peer could not regenerate this range from a disk or a checkpoint. It is sent as it is, whatever waits: the destination QEMU waits for it.
   *
   * @throws GodwitError PEER_BAD_NACK when no reference stood for it
   */
  repair(range: RepairHeader): void {
    if (this.#references === undefined) {
      throw new GodwitError("PEER_BAD_NACK", "the peer asked for bytes that no reference stood for", { ...range });
    }
    this.#references.nacked(range);
    if (this.#isStopped) return;
    const head = Buffer.allocUnsafe(REPAIR_HEADER_BYTES);
    writeRepairHeader(head, 0, range);
    this.#room.sentWire(head.length + range.rawBytes);
    this.#outlet.writeAs("REPAIR", [head, ...this.#window.slices(range.rawOffset, range.rawBytes)]);
  }

  #onSwitchedOff(source: Pick<PlaceFound, "kind" | "source">): void {
    const referable = this.#options.referable!;
    const name = referable.nameOf(source);
    referable.onSwitchedOff?.(source);
    this.#options.onWarning?.(`references to ${name} are switched off: most of it is not the same at the destination`);
  }

  /** Ends everything; the source QEMU sees its socket closed. */
  stop(): void {
    this.#isStopped = true;
    for (const timer of [this.#flushTimer, this.#aheadTimer]) clearTimeout(timer);
    this.#room.stop();
    this.#workbench.stop();
    this.#intake?.socket.destroy();
  }

  #onBytes(isDrained: boolean): boolean {
    if (this.#isStopped) return false;
    this.#lastReadMs = this.#now();
    clearTimeout(this.#aheadTimer);
    this.#aheadTimer = undefined;
    this.#parse();
    if (isDrained) {
      if (this.#isUrgent) this.#flush();
      else this.#flushSoon();
    }
    this.#isPaused = this.#isDetached || !this.#room.mayRead(this.#window.hasRoom);
    return !this.#isPaused;
  }

  #parse(): void {
    const window = this.#window;
    const startMs = this.#now();
    window.parsed(this.#parser.push(window.bytes, window.parseAt, window.writeAt));
    this.#encodeMs += this.#now() - startMs;
  }

  #resumeIfPossible(): void {
    if (!this.#isPaused || this.#isStopped) return;
    if (this.#isDetached && (this.#replay === undefined || !this.#catchUp(this.#replay))) return;
    if (!this.#room.mayRead(this.#window.hasRoom)) return;
    this.#isPaused = false;
    this.#intake?.resume();
  }

  #flushSoon(): void {
    this.#flushTimer ??= setTimeout(() => this.#flushOpen(this.#now()), FLUSH_MS);
    if (this.#heldBytes() > 0) this.#aheadTimer ??= setTimeout(() => this.#flush(), AHEAD_MS);
  }

  /** Nobody waits for an open batch while what went before it has not left. */
  #flushOpen(sinceMs: number): void {
    const isWaiting = this.#outgoing.packing > 0 || this.#outlet.backlog.inFlightBytes > BATCH_PAYLOAD_BYTES / 4;
    if (isWaiting && this.#now() - sinceMs < PATIENT_FLUSH_MS) {
      this.#flushTimer = setTimeout(() => this.#flushOpen(sinceMs), FLUSH_MS);
      return;
    }
    this.#flushTimer = undefined;
    this.#encoder.flush();
  }

  /** Bytes that were read and are in no batch: the parser waits for the rest of their record. */
  #heldBytes(): number {
    return this.#window.writeAt - this.#window.parseAt - this.#encoder.aheadBytes;
  }

  /** Sends all that was read, also what the parser holds back. */
  #flush(): void {
    const heldBytes = this.#heldBytes();
    if (heldBytes > 0) this.#encoder.ahead(this.#window.writeAt - heldBytes, this.#window.writeAt);
    this.#encoder.flush();
  }

  #onEnd(): void {
    if (this.#isStopped) return;
    this.#hasEnded = true;
    this.#flush();
    if (!this.#isDetached) this.#outgoing.end(this.rawBytes);
  }

  #sendBatch(batch: Batch): void {
    if (this.#isDetached) return;
    const startMs = this.#now();
    this.#send(batch);
    this.#encodeMs -= this.#now() - startMs; // it is called by the encoder
  }

  #send(batch: Batch): void {
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

  #write(type: "DATA" | "END", chunks: readonly Uint8Array[]): void {
    if (this.#isStopped) return;
    let bytes = 0;
    for (const chunk of chunks) bytes += chunk.length;
    this.#room.sentWire(bytes);
    this.#outlet.writeAs(type, chunks);
  }

  #fail(error: GodwitError): void {
    if (this.#isStopped) return;
    this.stop();
    this.#options.onError(error);
  }
}
