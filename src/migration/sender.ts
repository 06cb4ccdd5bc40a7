import { randomBytes } from "node:crypto";
import type net from "node:net";
import { availableParallelism } from "node:os";
import { CacheForms } from "../compact/cache-forms.ts";
import { CodecChoice } from "../compact/codec.ts";
import { type Batch, BatchEncoder, type FormCounts, type PlaceFound } from "../compact/encoder.ts";
import { type IndexedPlaces, PlaceMatcher, placeMatcherBytes } from "../compact/place-matcher.ts";
import { xxh3Secret } from "../compact/xxh3-secret.ts";
import { GodwitError } from "../errors.ts";
import type { StreamEvent } from "../stream/events.ts";
import { StreamParser } from "../stream/parser.ts";
import type { Backlog } from "../wire/backlog.ts";
import { encodeMessage, writeDataHeader, writeRepairHeader } from "../wire/encoding.ts";
import {
  type Codec,
  DATA_HEADER_BYTES,
  type DataHeader,
  REPAIR_HEADER_BYTES,
  type RepairHeader,
} from "../wire/messages.ts";
import { type Intake, openIntake } from "./intake.ts";
import { createKernels } from "./kernels.ts";
import { Pacer } from "./pacer.ts";
import { packBody } from "./packing.ts";
import { PlaceReferences } from "./references.ts";
import { RawWindow, WINDOW_MEMORY_BYTES } from "./window.ts";

/** How long bytes wait for more before they are sent as a batch that is not full. */
const FLUSH_MS = 1;
/** How long bytes that the parser holds back wait for the rest of their record before they go out as they are. */
const AHEAD_MS = 20;
/** More pieces than this are gathered into one before they are sent: each costs the socket more than moving 4 KiB. */
const MAX_PIECES = 8;
/** Bodies packed at the same time; Node's thread pool has four threads unless told otherwise. */
const MAX_PACKING = 4;

/** What the sender writes to. */
export interface Outlet {
  /** What is in flight, all messages counted. */
  readonly backlog: Backlog;
  /** Queues an encoded message, in order. Its chunks are not changed until the peer has acknowledged them. */
  writeAs(type: "DATA" | "END" | "REPAIR", chunks: readonly Uint8Array[]): void;
}

/** What pages may be sent as references to. */
export interface Referable {
  /** Looked in from the first to the last. */
  readonly places: readonly IndexedPlaces[];
  /** The key of their tags. */
  readonly tagKey: Uint8Array;
  /** What people call one of them. */
  nameOf(source: Pick<PlaceFound, "kind" | "source">): string;
}

export interface SenderOptions {
  /** The largest unacknowledged raw range that the peer takes. */
  windowBytes?: number;
  /** Wire bytes per second at most, while the guest runs. */
  maxBytesPerSecond?: number | undefined;
  /** "auto" packs where the link is the bottleneck. */
  codec?: "auto" | "none";
  referable?: Referable;
  /** Slots of the page cache; it needs `referable`, whose key is that of its tags too. */
  cachePages?: number;
  /** Something costs more bytes than it might. */
  onWarning?: (message: string) => void;
  onEvent?: (event: StreamEvent) => void;
  onError: (error: GodwitError) => void;
  /** For tests: time in milliseconds. */
  now?: () => number;
}

/** A batch on its way: in order, whatever the order in which packing ends. */
interface Frame {
  type: "DATA" | "END";
  chunks: Uint8Array[] | undefined;
}

/**
 * Source QEMU's stream → parse → encode → frames, with back-pressure on the source QEMU.
 *
 * Bounded: the raw window (64 MiB), at most MAX_PACKING bodies being packed, and in flight no more than `Backlog` allows.
 */
export class StreamSender {
  readonly #outlet: Outlet;
  readonly #options: SenderOptions;
  readonly #now: () => number;
  readonly #window: RawWindow;
  readonly #parser: StreamParser;
  readonly #encoder: BatchEncoder;
  readonly #references: PlaceReferences | undefined;
  readonly #codecChoice: CodecChoice;
  readonly #pacer: Pacer;
  readonly #frames: Frame[] = [];
  readonly #codecCounts: Record<Codec, number> = { none: 0, zstd: 0 };
  #packing = 0;
  #packingBytes = 0;
  #intake: Intake | undefined;
  #isPaused = false;
  #isUrgent = false;
  #hasEnded = false;
  #isStopped = false;
  #flushTimer: NodeJS.Timeout | undefined;
  #aheadTimer: NodeJS.Timeout | undefined;
  #paceTimer: NodeJS.Timeout | undefined;
  #ackedRawBytes = 0;
  #lastReadMs = 0;

  constructor(outlet: Outlet, options: SenderOptions) {
    this.#outlet = outlet;
    this.#options = options;
    this.#now = options.now ?? (() => performance.now());
    const { referable, cachePages = 0 } = options;
    const matcherBytes = placeMatcherBytes(referable?.places.length ?? 0);
    const kernels = createKernels(WINDOW_MEMORY_BYTES + CacheForms.memoryBytes(cachePages) + matcherBytes);
    const { pages, bytes, base } = kernels;
    this.#window = new RawWindow(kernels, options.windowBytes);
    const cacheAt = base + WINDOW_MEMORY_BYTES;
    const matcherAt = cacheAt + CacheForms.memoryBytes(cachePages);
    let cache: CacheForms | undefined;
    if (referable !== undefined) {
      const { places, tagKey } = referable;
      const matcher = places.length > 0 ? new PlaceMatcher(pages, bytes, matcherAt, places, tagKey) : undefined;
      this.#references = new PlaceReferences(matcher, (source) => this.#onSwitchedOff(source));
      if (cachePages > 0) cache = new CacheForms(pages, bytes, cacheAt, cachePages, tagKey, randomSecret());
    }
    this.#encoder = new BatchEncoder((batch) => this.#sendBatch(batch), options.onEvent, this.#references, cache);
    this.#parser = new StreamParser(kernels.scanner, this.#encoder);
    this.#codecChoice = new CodecChoice(Math.min(availableParallelism(), MAX_PACKING));
    this.#pacer = new Pacer(options.maxBytesPerSecond);
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
  /** Bodies sent by codec. */
  get codecCounts(): Readonly<Record<Codec, number>> {
    return this.#codecCounts;
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
    this.#intake = openIntake(accepted, this.#window, {
      onBytes: (_bytes, isDrained) => this.#onBytes(isDrained),
      onEnd: () => this.#onEnd(),
      onError: (cause) =>
        this.#fail(
          new GodwitError("MIGRATION_SOURCE_SOCKET", `the source QEMU's stream broke: ${cause.message}`, {}, { cause }),
        ),
    });
  }

  /** Bytes of the return path, for the source QEMU. */
  writeReturn(bytes: Uint8Array): void {
    this.#intake?.socket.write(bytes);
  }

  /** The destination QEMU has closed its return path. */
  endReturn(): void {
    this.#intake?.socket.end();
  }

  /** The guest is stopped: from here on every millisecond is downtime, so nothing waits for company and the rate limit is off. */
  hurry(): void {
    this.#isUrgent = true;
    this.#pacer.isLifted = true;
    if (!this.#isPaused) this.#flush();
    this.#resumeIfPossible();
  }

  /** Takes `hurry` back: the guest was not stopped for the switch-over. */
  calmDown(): void {
    this.#isUrgent = false;
    this.#pacer.isLifted = false;
  }

  /** The peer has received `wireBytes` of messages and written the stream up to `rawOffset` into its QEMU. */
  acknowledge(rawOffset: number, wireBytes: number): void {
    if (rawOffset > this.#encoder.offset) {
      throw new GodwitError("PEER_BAD_ACK", "the peer acknowledged bytes that were not sent", { rawOffset });
    }
    this.#ackedRawBytes = Math.max(this.#ackedRawBytes, rawOffset);
    this.#window.release(this.#ackedRawBytes);
    this.#references?.acknowledged(this.#ackedRawBytes);
    this.#outlet.backlog.acked(wireBytes, this.#now());
    this.#resumeIfPossible();
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
    this.#pacer.sent(head.length + range.rawBytes, this.#now());
    this.#outlet.writeAs("REPAIR", [head, ...this.#window.slices(range.rawOffset, range.rawBytes)]);
  }

  #onSwitchedOff(source: Pick<PlaceFound, "kind" | "source">): void {
    const name = this.#options.referable!.nameOf(source);
    this.#options.onWarning?.(`references to ${name} are switched off: most of it is not the same at the destination`);
  }

  /** Ends everything; the source QEMU sees its socket closed. */
  stop(): void {
    this.#isStopped = true;
    for (const timer of [this.#flushTimer, this.#aheadTimer, this.#paceTimer]) clearTimeout(timer);
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
    this.#isPaused = !this.#hasRoom();
    return !this.#isPaused;
  }

  #parse(): void {
    const window = this.#window;
    window.parsed(this.#parser.push(window.bytes, window.parseAt, window.writeAt));
  }

  #hasRoom(): boolean {
    const waitMs = this.#pacer.waitMs(this.#now());
    if (waitMs > 0 && this.#paceTimer === undefined) {
      this.#paceTimer = setTimeout(() => {
        this.#paceTimer = undefined;
        this.#resumeIfPossible();
      }, waitMs);
    }
    return (
      waitMs <= 0 &&
      this.#window.hasRoom &&
      this.#packing < MAX_PACKING &&
      this.#outlet.backlog.inFlightBytes + this.#packingBytes < this.#outlet.backlog.allowanceBytes
    );
  }

  #resumeIfPossible(): void {
    if (!this.#isPaused || this.#isStopped || !this.#hasRoom()) return;
    this.#isPaused = false;
    this.#intake?.resume();
  }

  #flushSoon(): void {
    this.#flushTimer ??= setTimeout(() => {
      this.#flushTimer = undefined;
      this.#encoder.flush();
    }, FLUSH_MS);
    if (this.#heldBytes() > 0) this.#aheadTimer ??= setTimeout(() => this.#flush(), AHEAD_MS);
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
    this.#enqueue({ type: "END", chunks: [encodeMessage({ type: "END", rawBytes: this.rawBytes })] });
  }

  #sendBatch(batch: Batch): void {
    const bodyBytes = batch.tokens.length + batch.payloadBytes;
    const header = { rawOffset: batch.rawOffset, rawBytes: batch.rawBytes, bodyBytes, tokenBytes: batch.tokens.length };
    const codec =
      this.#options.codec === "none"
        ? "none"
        : this.#codecChoice.choose(this.#limitingBytesPerSecond(), this.#isUrgent);
    if (codec === "zstd") this.#pack(header, this.#gather(batch));
    else this.#enqueue({ type: "DATA", chunks: this.#plainChunks(header, batch) });
  }

  /** The speed of the link, or the rate that a user allows it, where that is what holds the migration back. */
  #limitingBytesPerSecond(): number | undefined {
    const now = this.#now();
    const { backlog } = this.#outlet;
    const link = backlog.isLimiting(now) ? backlog.goodputBytesPerSecond : Number.POSITIVE_INFINITY;
    const limit = Math.min(link, this.#pacer.limitingBytesPerSecond(now));
    return Number.isFinite(limit) ? limit : undefined;
  }

  /** Header and tokens in one chunk, then the payload where it stands. */
  #plainChunks(header: Omit<DataHeader, "codec" | "encodedBytes">, batch: Batch): Uint8Array[] {
    this.#codecCounts.none++;
    const head = Buffer.allocUnsafe(DATA_HEADER_BYTES + batch.tokens.length);
    writeDataHeader(head, 0, { ...header, codec: "none", encodedBytes: header.bodyBytes });
    head.set(batch.tokens, DATA_HEADER_BYTES);
    if (batch.hasDifferences || batch.pieces.length > 2 * MAX_PIECES)
      return [head, this.#gather(batch).subarray(batch.tokens.length)];
    const chunks: Uint8Array[] = [head];
    for (let i = 0; i < batch.pieces.length; i += 2) {
      chunks.push(this.#window.bytes.subarray(batch.pieces[i], batch.pieces[i + 1]));
    }
    return chunks;
  }

  /** The whole body in one piece. */
  #gather(batch: Batch): Buffer {
    const body = Buffer.allocUnsafe(batch.tokens.length + batch.payloadBytes);
    body.set(batch.tokens);
    let at = batch.tokens.length;
    for (let i = 0; i < batch.pieces.length; i += 2) {
      const piece = this.#window.bytes.subarray(batch.pieces[i], batch.pieces[i + 1]);
      body.set(piece, at);
      at += piece.length;
    }
    return body;
  }

  #pack(header: Omit<DataHeader, "codec" | "encodedBytes">, body: Buffer): void {
    const frame: Frame = { type: "DATA", chunks: undefined };
    const startMs = this.#now();
    this.#packing++;
    this.#packingBytes += body.length;
    this.#enqueue(frame);
    packBody(body).then(
      (packed) => {
        this.#packing--;
        this.#packingBytes -= body.length;
        this.#codecChoice.packed(body.length, packed.length, this.#now() - startMs);
        const codec = packed.length < body.length ? "zstd" : "none";
        const encoded = codec === "zstd" ? packed : body;
        this.#codecCounts[codec]++;
        const head = Buffer.allocUnsafe(DATA_HEADER_BYTES);
        writeDataHeader(head, 0, { ...header, codec, encodedBytes: encoded.length });
        frame.chunks = [head, encoded];
        this.#writeReadyFrames();
        this.#resumeIfPossible();
      },
      (cause) => this.#fail(new GodwitError("MIGRATION_PACKING", "a body could not be packed", {}, { cause })),
    );
  }

  #enqueue(frame: Frame): void {
    this.#frames.push(frame);
    this.#writeReadyFrames();
  }

  #writeReadyFrames(): void {
    for (let frame = this.#frames[0]; frame?.chunks !== undefined; frame = this.#frames[0]) {
      this.#frames.shift();
      if (this.#isStopped) return;
      let bytes = 0;
      for (const chunk of frame.chunks) bytes += chunk.length;
      this.#pacer.sent(bytes, this.#now());
      this.#outlet.writeAs(frame.type, frame.chunks);
    }
  }

  #fail(error: GodwitError): void {
    if (this.#isStopped) return;
    this.stop();
    this.#options.onError(error);
  }
}

/** A guest that knew the secret could make pages that are taken for equal, and compared in vain. */
function randomSecret(): Uint8Array {
  return xxh3Secret(randomBytes(8).readBigUInt64LE());
}
