import type net from "node:net";
import type { Batch, PlaceFound } from "../compact/batch-writer.ts";
import type { CacheForms } from "../compact/cache-forms.ts";
import { BatchEncoder, type FormCounts } from "../compact/encoder.ts";
import { GodwitError } from "../errors.ts";
import type { StreamEvent } from "../stream/events.ts";
import { StreamParser } from "../stream/parser.ts";
import { noting, type SentPages } from "../stream/sent-pages.ts";
import type { FieldsOf, RepairHeader } from "../wire/messages.ts";
import { type SavedBytes, savedBytes } from "./costs.ts";
import { FlushTimer } from "./flush-timer.ts";
import { type Intake, openIntake } from "./intake.ts";
import { PlaceReferences } from "./references.ts";
import { Retransmission } from "./retransmission.ts";
import { ReturnFeed } from "./return-feed.ts";
import { createSenderKernels, type Referable } from "./sender-kernels.ts";
import { type Outlet, Transmitter, type TransmitterOptions } from "./transmitter.ts";
import { RawWindow } from "./window.ts";

export interface SenderOptions extends TransmitterOptions {
  /** The largest unacknowledged raw range that the peer takes. */
  windowBytes?: number;
  referable?: Referable;
  /** Slots of the page cache; it needs `referable`, whose key is that of its tags too. */
  cachePages?: number;
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
  readonly #options: SenderOptions;
  readonly #now: () => number;
  readonly #window: RawWindow;
  readonly #parser: StreamParser;
  readonly #encoder: BatchEncoder;
  readonly #references: PlaceReferences | undefined;
  readonly #cache: CacheForms | undefined;
  readonly #transmitter: Transmitter;
  readonly #retransmission: Retransmission;
  readonly #flushTimer: FlushTimer;
  readonly #returnFeed = new ReturnFeed();
  #intake: Intake | undefined;
  /** Between two connections, and until what the lost one took with it was sent again: what is encoded goes out by `#retransmission`. */
  #isDetached = false;
  #isPaused = false;
  #isUrgent = false;
  #hasEnded = false;
  #isStopped = false;
  #lastReadMs = 0;
  #encodeMs = 0;

  constructor(outlet: Outlet, options: SenderOptions) {
    this.#options = options;
    this.#now = options.now ?? (() => performance.now());
    const { referable, cachePages = 0, sentPages, onWarning = () => {} } = options;
    const { kernels, matcher, cache } = createSenderKernels(referable, cachePages, onWarning);
    this.#window = new RawWindow(kernels, options.windowBytes);
    if (referable !== undefined) this.#references = new PlaceReferences(matcher, (place) => this.#onSwitchedOff(place));
    this.#cache = cache;
    this.#encoder = new BatchEncoder((batch) => this.#sendBatch(batch), options.onEvent, this.#references, cache);
    const handler = sentPages === undefined ? this.#encoder : noting(this.#encoder, sentPages);
    this.#parser = new StreamParser(kernels.scanner, handler);
    const onRoom = () => this.#resumeIfPossible();
    const transmitter = new Transmitter(outlet, options, kernels.bytes, onRoom, this.#now);
    this.#transmitter = transmitter;
    this.#retransmission = new Retransmission(this.#window, this.#references, (batch) => transmitter.send(batch));
    this.#flushTimer = new FlushTimer({
      isWaiting: () => transmitter.isWaiting,
      flush: () => this.#encoder.flush(),
      flushAll: () => this.#flush(),
      now: this.#now,
    });
  }

  /** Bytes read from the source QEMU. */
  get rawBytes(): number {
    return this.#window.readOffset;
  }
  /** Bytes that the destination has written into its QEMU. */
  get ackedRawBytes(): number {
    return this.#retransmission.ackedBytes;
  }
  /** Bytes of the return path that the source QEMU was given. */
  get returnBytes(): number {
    return this.#returnFeed.bytes;
  }
  get counts(): Readonly<FormCounts> {
    return this.#encoder.counts;
  }
  /** Of the references in `counts` the pages that the destination had to ask for. */
  get nackedPages(): number {
    return this.#references?.nackedPages ?? 0;
  }
  /** See Transmitter. */
  get bodies(): Transmitter["bodies"] {
    return this.#transmitter.bodies;
  }
  get tokenBytes(): number {
    return this.#transmitter.tokenBytes;
  }
  get packing(): Transmitter["packing"] {
    return this.#transmitter.packing;
  }
  get restoring(): Transmitter["restoring"] {
    return this.#transmitter.restoring;
  }
  get savedBytes(): SavedBytes {
    return savedBytes(this.counts, this.nackedPages, Object.values(this.bodies));
  }
  /** How long parsing, looking pages up and encoding have taken, and the CPU time that packing has. */
  get work(): { encodeMs: number; packMs: number } {
    return { encodeMs: this.#encodeMs, packMs: this.#transmitter.packMs };
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
    this.#transmitter.start();
    this.#intake = openIntake(accepted, this.#window, {
      onBytes: (_bytes, isDrained) => this.#onBytes(isDrained),
      onEnd: () => this.#onEnd(),
      onError: (cause) =>
        this.#fail(
          new GodwitError("MIGRATION_SOURCE_SOCKET", `the source QEMU's stream broke: ${cause.message}`, {}, { cause }),
        ),
    });
    this.#returnFeed.attach(this.#intake.socket);
  }

  /** See ReturnFeed.write. */
  writeReturn(message: FieldsOf<"RETURN">): void {
    this.#returnFeed.write(message);
  }

  /** See ReturnFeed.end. */
  endReturn(message: FieldsOf<"RETURN_END">): void {
    this.#returnFeed.end(message);
  }

  /** The guest is stopped: from here on every millisecond is downtime, so nothing waits for company and the rate limit is off. */
  hurry(): void {
    this.#setUrgent(true);
    if (!this.#isPaused) this.#flush();
    this.#resumeIfPossible();
  }

  /** Takes `hurry` back: the guest was not stopped for the switch-over. */
  calmDown(): void {
    this.#setUrgent(false);
  }

  #setUrgent(isUrgent: boolean): void {
    this.#isUrgent = isUrgent;
    this.#transmitter.isUrgent = isUrgent;
    if (this.#cache !== undefined) this.#cache.isLastRound = isUrgent;
  }

  /** See ACK in docs/wire-protocol.md. @throws GodwitError PEER_BAD_ACK */
  acknowledge(message: FieldsOf<"ACK">): void {
    this.#transmitter.acknowledged(message);
    this.#retransmission.acknowledged(message.rawOffset);
    this.#resumeIfPossible();
  }

  /**
   * The peer could not regenerate this range from a disk or a checkpoint. It is sent as it is, whatever waits: the destination QEMU waits for it.
   *
   * @throws GodwitError PEER_BAD_NACK when no reference stood for it
   */
  repair(range: RepairHeader): void {
    this.#transmitter.repair(range, this.#retransmission.slices(range));
  }

  /** The connection is gone: nothing is written, and the source QEMU is held back, until `resume`. */
  detach(): void {
    this.#isDetached = true;
    this.#retransmission.detach();
    this.#transmitter.detach();
  }

  /**
   * There is a new connection: what the destination has not got is sent again, then what follows.
   *
   * @param rawOffset up to which the destination QEMU was fed
   * @throws GodwitError PEER_BAD_OFFSET when that is not in what is kept
   */
  resume(rawOffset: number): void {
    if (rawOffset < this.ackedRawBytes) {
      const details = { rawOffset, ackedRawBytes: this.ackedRawBytes };
      throw new GodwitError("PEER_BAD_OFFSET", "the peer wants to go on before what it acknowledged", details);
    }
    this.#transmitter.resume(rawOffset);
    this.#retransmission.begin(rawOffset);
    this.#isPaused = true;
    this.#resumeIfPossible();
  }

  /** Sends again while there is room. True once all is, so that what comes now is sent as ever. */
  #catchUp(): boolean {
    const retransmission = this.#retransmission;
    while (retransmission.isUnderWay && this.#transmitter.hasRoom) {
      if (retransmission.sendNext(this.#encoder.offset)) continue;
      this.#encoder.flush(); // is dropped, and counted in: it refers to what the destination may not have
      if (retransmission.sendNext(this.#encoder.offset)) continue;
      retransmission.finish();
      this.#cache?.clear();
      this.#isDetached = false;
      if (this.#hasEnded) this.#transmitter.end(this.rawBytes);
    }
    return !this.#isDetached;
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
    this.#flushTimer.stop();
    this.#transmitter.stop();
    this.#intake?.socket.destroy();
  }

  #onBytes(isDrained: boolean): boolean {
    if (this.#isStopped) return false;
    this.#lastReadMs = this.#now();
    this.#flushTimer.onRead();
    this.#parse();
    if (isDrained) {
      if (this.#isUrgent) this.#flush();
      else this.#flushTimer.onPause(this.#heldBytes() > 0);
    }
    this.#isPaused = this.#isDetached || !this.#transmitter.mayRead(this.#window.hasRoom);
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
    if (this.#isDetached && !this.#catchUp()) return;
    if (!this.#transmitter.mayRead(this.#window.hasRoom)) return;
    this.#isPaused = false;
    this.#intake?.resume();
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
    if (!this.#isDetached) this.#transmitter.end(this.rawBytes);
  }

  #sendBatch(batch: Batch): void {
    if (this.#isDetached) return;
    const startMs = this.#now();
    this.#transmitter.send(batch);
    this.#encodeMs -= this.#now() - startMs; // it is called by the encoder
  }

  #fail(error: GodwitError): void {
    if (this.#isStopped) return;
    this.stop();
    this.#options.onError(error);
  }
}
