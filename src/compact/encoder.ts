import type { StreamEvent, StreamHandler } from "../stream/events.ts";
import { KIND, type Kind, PAGE_RECORD_BYTES, recordBytesOf } from "../stream/format.ts";
import { type CacheForms, type FormRun, MAX_FORM_RECORDS } from "./cache-forms.ts";
import { BATCH_PAYLOAD_BYTES, BATCH_RAW_BYTES, DELTA, DISK, KEPT, RAW, SAME } from "./limits.ts";
import { TokenWriter } from "./token-writer.ts";
import type { PlaceKind } from "./tokens.ts";

/** Pages and bytes by form, as they went into tokens. Pages that travel as raw bytes are counted apart. */
export interface FormCounts {
  zeroPages: number;
  /** References to disks, and to checkpoints. */
  diskPages: number;
  checkpointPages: number;
  /** Pages that equal one in the page cache. */
  samePages: number;
  /** Pages that were sent as what has changed in them, and the bytes of that. */
  deltaPages: number;
  deltaBytes: number;
  /** Those that were put into the page cache included. */
  literalPages: number;
  blankPages: number;
  /** Pages inside raw bytes: they name their ramblock or have a form that is not ours (XBZRLE, compressed). */
  rawPages: number;
  /** Raw bytes that are no records of canonical pages. */
  rawBytes: number;
}

/** One closed batch: tokens and the pieces of the stream that make its payload. Valid during the call that hands it out. */
export interface Batch {
  rawOffset: number;
  rawBytes: number;
  tokens: Uint8Array;
  payloadBytes: number;
  /** Pieces of the payload, in order: pairs of addresses from, to in the memory that the parser was given. */
  pieces: Uint32Array;
  /** Some pieces are differences between pages, which stand there during the call only; what the stream was read into stays. */
  hasDifferences: boolean;
}

/** Consecutive page records whose contents stand in consecutive blocks of a disk, or pages of a checkpoint. */
export interface PlaceFound {
  /** Its first record, counted from the first one that was looked at. */
  readonly record: number;
  readonly count: number;
  readonly kind: PlaceKind;
  /** Its place in WELCOME's list of disks, or of checkpoints. */
  readonly source: number;
  readonly block: number;
  readonly tag: Uint8Array;
}

/** A run of pages that the receiver may ask for again: a PlaceFound, or pages that are said to equal those in the page cache. */
export interface ReferredRun {
  readonly kind: PlaceKind | typeof SAME;
  readonly source: number;
  readonly count: number;
}

/** Finds pages that stand elsewhere. */
export interface References {
  /** The runs among `records` literal page records that stand from address `from` on, in order. */
  match(from: number, records: number): readonly PlaceFound[];
  /** `run` goes into a token; what this regenerates begins at `rawOffset`. */
  referred(rawOffset: number, run: ReferredRun): void;
}

/**
 * Turns what the parser finds into batches of tokens and payload (docs/page-format.md).
 *
 * It moves no page: a payload is a list of pieces of the memory that the stream was read into, and that of `cache`. Memory: one
 * buffer of tokens.
 */
export class BatchEncoder implements StreamHandler {
  readonly counts: FormCounts = {
    zeroPages: 0,
    diskPages: 0,
    checkpointPages: 0,
    samePages: 0,
    deltaPages: 0,
    deltaBytes: 0,
    literalPages: 0,
    blankPages: 0,
    rawPages: 0,
    rawBytes: 0,
  };
  readonly #onBatch: (batch: Batch) => void;
  readonly #onEvent: ((event: StreamEvent) => void) | undefined;
  readonly #references: References | undefined;
  readonly #cache: Pick<CacheForms, "match"> | undefined;
  readonly #tokens = new TokenWriter();
  /** At most one piece a token. */
  readonly #pieces = new Uint32Array(2 * TokenWriter.maxTokens);
  #pieceWords = 0;
  #hasDifferences = false;
  #payloadBytes = 0;
  #rawOffset = 0;
  #rawBytes = 0;
  /** The run that may still grow: `count` is bytes for RAW, records for the others. */
  #kind: GrowingKind = RAW;
  #count = 0;
  #firstPage = 0;
  /** Of a run of kept pages. */
  #firstSlot = 0;
  /** Bytes that went out ahead of the parser (see `ahead`) and that it has yet to hand on. */
  #aheadBytes = 0;

  /**
   * @param cache the page cache, in the memory that the parser is given
   */
  constructor(
    onBatch: (batch: Batch) => void,
    onEvent?: (event: StreamEvent) => void,
    references?: References,
    cache?: Pick<CacheForms, "match">,
  ) {
    this.#onBatch = onBatch;
    this.#onEvent = onEvent;
    this.#references = references;
    this.#cache = cache;
  }

  /** Raw offset up to which bytes are in batches, closed or open. */
  get offset(): number {
    return this.#rawOffset + this.#rawBytes;
  }

  /** Bytes in the open batch. */
  get pendingBytes(): number {
    return this.#rawBytes;
  }

  event(event: StreamEvent): void {
    if (event.type === "page") this.counts.rawPages++;
    this.#onEvent?.(event);
  }

  raw(from: number, to: number): void {
    from += this.#takeAhead(to - from);
    this.counts.rawBytes += to - from;
    this.#addRaw(from, to);
  }

  pages(kind: Kind, from: number, to: number, firstPage: number, records: number, block: string): void {
    const recordBytes = recordBytesOf(kind);
    const aheadBytes = this.#takeAhead(to - from);
    if (aheadBytes > 0) {
      // Records that went out ahead, in part or whole, went as raw bytes; the rest of the last one does too.
      const gone = Math.ceil(aheadBytes / recordBytes);
      this.counts.rawPages += gone;
      this.#addRaw(from + aheadBytes, from + gone * recordBytes);
      from += gone * recordBytes;
      firstPage += gone;
      records -= gone;
    }
    if (kind === KIND.literal) this.#addContents(block, from, firstPage, records);
    else this.#addRecords(kind, from, firstPage, records);
    this.#closeIfFull();
  }

  /** Those that stand elsewhere become references. */
  #addContents(block: string, from: number, firstPage: number, records: number): void {
    let done = 0;
    for (const run of this.#references?.match(from, records) ?? []) {
      this.#addVersions(block, from + done * PAGE_RECORD_BYTES, firstPage + done, run.record - done);
      this.#addPlace(run, firstPage + run.record);
      done = run.record + run.count;
    }
    this.#addVersions(block, from + done * PAGE_RECORD_BYTES, firstPage + done, records - done);
  }

  /** Those of which the page cache has something go out in fewer bytes. */
  #addVersions(block: string, from: number, firstPage: number, records: number): void {
    if (this.#cache === undefined) return this.#addRecords(KIND.literal, from, firstPage, records);
    while (records > 0) {
      const looked = Math.min(records, MAX_FORM_RECORDS);
      let page = firstPage;
      for (const run of this.#cache.match(block, firstPage, from, looked)) {
        if (run.kind === SAME) this.#addSame(run, page);
        else if (run.kind === DELTA) this.#addDeltas(run, page);
        else this.#addRecords(run.kind, from + (page - firstPage) * PAGE_RECORD_BYTES, page, run.count, run.slot);
        page += run.count;
      }
      from += looked * PAGE_RECORD_BYTES;
      firstPage += looked;
      records -= looked;
    }
  }

  #addRecords(kind: Kind | typeof KEPT, from: number, firstPage: number, records: number, slot = 0): void {
    const recordBytes = kind === KIND.zero ? recordBytesOf(kind) : PAGE_RECORD_BYTES;
    if (kind === KIND.zero) this.counts.zeroPages += records;
    else if (kind === KIND.blank) this.counts.blankPages += records;
    else this.counts.literalPages += records;
    while (records > 0) {
      const fitting = this.#openRun(kind, firstPage, slot, recordBytes);
      const taken = Math.min(records, fitting);
      const bytes = taken * recordBytes;
      this.#count += taken;
      this.#rawBytes += bytes;
      if (hasPayload(kind)) this.#addPiece(from, from + bytes);
      from += bytes;
      firstPage += taken;
      slot += taken;
      records -= taken;
    }
  }

  #addPlace(run: PlaceFound, firstPage: number): void {
    const { count, kind, source, block, tag } = run;
    this.#beginWhole(count, 0);
    this.#references?.referred(this.offset, run);
    this.#tokens.place(kind, firstPage, count, source, block, tag);
    this.#rawBytes += count * PAGE_RECORD_BYTES;
    if (kind === DISK) this.counts.diskPages += count;
    else this.counts.checkpointPages += count;
  }

  #addSame({ count, slot, tag }: FormRun, firstPage: number): void {
    this.#beginWhole(count, 0);
    this.#references?.referred(this.offset, { kind: SAME, source: 0, count });
    this.#tokens.same(firstPage, count, slot, tag);
    this.#rawBytes += count * PAGE_RECORD_BYTES;
    this.counts.samePages += count;
  }

  #addDeltas({ count, slot, from, lengths }: FormRun, firstPage: number): void {
    let bytes = 0;
    for (const length of lengths) bytes += length;
    this.#beginWhole(count, bytes);
    this.#tokens.deltas(firstPage, slot, lengths);
    this.#addPiece(from, from + bytes);
    this.#hasDifferences = true;
    this.#rawBytes += count * PAGE_RECORD_BYTES;
    this.counts.deltaPages += count;
    this.counts.deltaBytes += bytes;
  }

  /** Makes room in the open batch for a token that can't be split, of `count` pages. */
  #beginWhole(count: number, payloadBytes: number): void {
    this.#closeRun();
    const rawBytes = this.#rawBytes + count * PAGE_RECORD_BYTES;
    const isFull = rawBytes > BATCH_RAW_BYTES || this.#payloadBytes + payloadBytes > BATCH_PAYLOAD_BYTES;
    if (isFull || !this.#tokens.hasRoom) this.flush();
  }

  /**
   * Lets bytes [from, to), which the parser holds back until it has seen more, go out now, as raw bytes.
   * They follow all that the parser has handed on, and whatever of them went out ahead before.
   */
  ahead(from: number, to: number): void {
    this.#aheadBytes += to - from;
    this.counts.rawBytes += to - from;
    this.#addRaw(from, to);
  }

  get aheadBytes(): number {
    return this.#aheadBytes;
  }

  /** Closes the open batch, if it holds anything. */
  flush(): void {
    if (this.#rawBytes === 0) return;
    this.#closeRun();
    this.#onBatch({
      rawOffset: this.#rawOffset,
      rawBytes: this.#rawBytes,
      tokens: this.#tokens.bytes,
      payloadBytes: this.#payloadBytes,
      pieces: this.#pieces.subarray(0, this.#pieceWords),
      hasDifferences: this.#hasDifferences,
    });
    this.#rawOffset += this.#rawBytes;
    this.#rawBytes = 0;
    this.#tokens.reset();
    this.#pieceWords = 0;
    this.#payloadBytes = 0;
    this.#hasDifferences = false;
  }

  #takeAhead(bytes: number): number {
    const taken = Math.min(bytes, this.#aheadBytes);
    this.#aheadBytes -= taken;
    return taken;
  }

  #addRaw(from: number, to: number): void {
    while (from < to) {
      if (this.#kind !== RAW || this.#count === 0) {
        this.#closeRun();
        this.#kind = RAW;
      }
      const taken = Math.min(to - from, BATCH_PAYLOAD_BYTES - this.#payloadBytes, BATCH_RAW_BYTES - this.#rawBytes);
      this.#count += taken;
      this.#rawBytes += taken;
      this.#addPiece(from, from + taken);
      from += taken;
      this.#closeIfFull();
    }
  }

  /** Makes a run open to which a record of `kind` for `firstPage` can be added; returns how many records fit. */
  #openRun(kind: Kind | typeof KEPT, firstPage: number, slot: number, recordBytes: number): number {
    let fitting = this.#fittingRecords(kind, recordBytes);
    if (fitting < 1) {
      this.flush();
      fitting = this.#fittingRecords(kind, recordBytes);
    }
    const isContinued =
      this.#count > 0 &&
      this.#kind === kind &&
      firstPage === this.#firstPage + this.#count &&
      (kind !== KEPT || slot === this.#firstSlot + this.#count);
    if (!isContinued) {
      this.#closeRun();
      this.#kind = kind;
      this.#firstPage = firstPage;
      this.#firstSlot = slot;
    }
    return fitting;
  }

  #fittingRecords(kind: Kind | typeof KEPT, recordBytes: number): number {
    if (!this.#tokens.hasRoom) return 0;
    const rawBytes = BATCH_RAW_BYTES - this.#rawBytes;
    const bytes = hasPayload(kind) ? Math.min(rawBytes, BATCH_PAYLOAD_BYTES - this.#payloadBytes) : rawBytes;
    return Math.floor(bytes / recordBytes);
  }

  #closeIfFull(): void {
    const isFull =
      this.#payloadBytes >= BATCH_PAYLOAD_BYTES || this.#rawBytes >= BATCH_RAW_BYTES || !this.#tokens.hasRoom;
    if (isFull) this.flush();
  }

  #closeRun(): void {
    if (this.#count === 0) return;
    if (this.#kind === RAW) this.#tokens.raw(this.#count);
    else if (this.#kind === KEPT) this.#tokens.kept(this.#firstPage, this.#count, this.#firstSlot);
    else this.#tokens.pages(this.#kind, this.#firstPage, this.#count);
    this.#count = 0;
  }

  #addPiece(from: number, to: number): void {
    if (this.#pieceWords > 0 && this.#pieces[this.#pieceWords - 1] === from) {
      this.#pieces[this.#pieceWords - 1] = to;
    } else {
      this.#pieces[this.#pieceWords++] = from;
      this.#pieces[this.#pieceWords++] = to;
    }
    this.#payloadBytes += to - from;
  }
}

/** Runs that grow until something else comes. */
type GrowingKind = Kind | typeof RAW | typeof KEPT;

function hasPayload(kind: GrowingKind): boolean {
  return kind === KIND.literal || kind === KEPT;
}
