import type { StreamEvent, StreamHandler } from "../stream/events.ts";
import { KIND, type Kind, PAGE_RECORD_BYTES, recordBytesOf } from "../stream/format.ts";
import { BATCH_PAYLOAD_BYTES, BATCH_RAW_BYTES, BATCH_TOKEN_BYTES, type CHECKPOINT, DISK, RAW } from "./limits.ts";
import { TAG_BYTES } from "./page-kernels.ts";
import { MAX_VARINT_BYTES, writeVarint, zigzag } from "./varint.ts";

/** Pages and bytes by form, as they went into tokens. Pages that travel as raw bytes are counted apart. */
export interface FormCounts {
  zeroPages: number;
  /** References to disks, and to checkpoints. */
  diskPages: number;
  checkpointPages: number;
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
}

/** Consecutive page records whose contents stand in consecutive blocks of a disk, or pages of a checkpoint. */
export interface PlaceFound {
  /** Its first record, counted from the first one that was looked at. */
  readonly record: number;
  readonly count: number;
  readonly kind: typeof DISK | typeof CHECKPOINT;
  /** Its place in WELCOME's list of disks, or of checkpoints. */
  readonly source: number;
  readonly block: number;
  readonly tag: Uint8Array;
}

/** Finds pages that stand elsewhere. */
export interface References {
  /** The runs among `records` literal page records that stand from address `from` on, in order. */
  match(from: number, records: number): readonly PlaceFound[];
  /** `run` goes into a token; what this regenerates begins at `rawOffset`. */
  referred(rawOffset: number, run: PlaceFound): void;
}

/** Tokens of this many bytes always fit behind BATCH_TOKEN_BYTES. */
const MAX_TOKEN_BYTES = 4 * MAX_VARINT_BYTES + TAG_BYTES;

/**
 * Turns what the parser finds into batches of tokens and payload (docs/page-format.md).
 *
 * It moves no page: a payload is a list of pieces of the memory that the stream was read into. Memory: one buffer of tokens.
 */
export class BatchEncoder implements StreamHandler {
  readonly counts: FormCounts = {
    zeroPages: 0,
    diskPages: 0,
    checkpointPages: 0,
    literalPages: 0,
    blankPages: 0,
    rawPages: 0,
    rawBytes: 0,
  };
  readonly #onBatch: (batch: Batch) => void;
  readonly #onEvent: ((event: StreamEvent) => void) | undefined;
  readonly #references: References | undefined;
  readonly #tokens = new Uint8Array(BATCH_TOKEN_BYTES + MAX_TOKEN_BYTES);
  #tokenBytes = 0;
  /** At most one piece a token, and a token is at least one byte. */
  readonly #pieces = new Uint32Array(2 * (BATCH_TOKEN_BYTES + MAX_TOKEN_BYTES));
  #pieceWords = 0;
  #payloadBytes = 0;
  #rawOffset = 0;
  #rawBytes = 0;
  /** The run that may still grow: `count` is bytes for RAW, records for the others. */
  #kind: Kind | typeof RAW = RAW;
  #count = 0;
  #firstPage = 0;
  #expectedPage = 0;
  /** Of the last reference in the open batch. */
  #placeKind: PlaceFound["kind"] = DISK;
  #source = 0;
  #expectedBlock = 0;
  /** Bytes that went out ahead of the parser (see `ahead`) and that it has yet to hand on. */
  #aheadBytes = 0;

  constructor(onBatch: (batch: Batch) => void, onEvent?: (event: StreamEvent) => void, references?: References) {
    this.#onBatch = onBatch;
    this.#onEvent = onEvent;
    this.#references = references;
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

  pages(kind: Kind, from: number, to: number, firstPage: number, records: number): void {
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
    if (kind === KIND.literal) this.#addLiterals(from, firstPage, records);
    else this.#addRecords(kind, from, firstPage, records);
    this.#closeIfFull();
  }

  /** Those that stand elsewhere become references. */
  #addLiterals(from: number, firstPage: number, records: number): void {
    let done = 0;
    for (const run of this.#references?.match(from, records) ?? []) {
      this.#addRecords(KIND.literal, from + done * PAGE_RECORD_BYTES, firstPage + done, run.record - done);
      this.#addPlace(run, firstPage + run.record);
      done = run.record + run.count;
    }
    this.#addRecords(KIND.literal, from + done * PAGE_RECORD_BYTES, firstPage + done, records - done);
  }

  #addRecords(kind: Kind, from: number, firstPage: number, records: number): void {
    const recordBytes = recordBytesOf(kind);
    if (kind === KIND.zero) this.counts.zeroPages += records;
    else if (kind === KIND.literal) this.counts.literalPages += records;
    else this.counts.blankPages += records;
    while (records > 0) {
      const fitting = this.#openRun(kind, firstPage, recordBytes);
      const taken = Math.min(records, fitting);
      const bytes = taken * recordBytes;
      this.#count += taken;
      this.#rawBytes += bytes;
      if (kind === KIND.literal) this.#addPiece(from, from + bytes);
      from += bytes;
      firstPage += taken;
      records -= taken;
    }
  }

  /** A token of its own, in one batch: its tag is of the whole run. */
  #addPlace(run: PlaceFound, firstPage: number): void {
    const { count, kind, source, block, tag } = run;
    const rawBytes = count * PAGE_RECORD_BYTES;
    this.#closeRun();
    if (!this.#hasTokenRoom || this.#rawBytes + rawBytes > BATCH_RAW_BYTES) this.flush();
    this.#references?.referred(this.offset, run);
    let at = writeVarint(this.#tokens, this.#tokenBytes, count * 16 + kind);
    at = writeVarint(this.#tokens, at, zigzag(firstPage - this.#expectedPage));
    at = writeVarint(this.#tokens, at, source);
    const isSameSource = kind === this.#placeKind && source === this.#source;
    at = writeVarint(this.#tokens, at, zigzag(block - (isSameSource ? this.#expectedBlock : 0)));
    this.#tokens.set(tag, at);
    this.#tokenBytes = at + TAG_BYTES;
    this.#expectedPage = firstPage + count;
    this.#placeKind = kind;
    this.#source = source;
    this.#expectedBlock = block + count;
    this.#rawBytes += rawBytes;
    if (kind === DISK) this.counts.diskPages += count;
    else this.counts.checkpointPages += count;
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
      tokens: this.#tokens.subarray(0, this.#tokenBytes),
      payloadBytes: this.#payloadBytes,
      pieces: this.#pieces.subarray(0, this.#pieceWords),
    });
    this.#rawOffset += this.#rawBytes;
    this.#rawBytes = 0;
    this.#tokenBytes = 0;
    this.#pieceWords = 0;
    this.#payloadBytes = 0;
    this.#expectedPage = 0;
    this.#expectedBlock = 0;
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
  #openRun(kind: Kind, firstPage: number, recordBytes: number): number {
    let fitting = this.#fittingRecords(kind, recordBytes);
    if (fitting < 1) {
      this.flush();
      fitting = this.#fittingRecords(kind, recordBytes);
    }
    const isContinued = this.#count > 0 && this.#kind === kind && firstPage === this.#firstPage + this.#count;
    if (!isContinued) {
      this.#closeRun();
      this.#kind = kind;
      this.#firstPage = firstPage;
    }
    return fitting;
  }

  #fittingRecords(kind: Kind, recordBytes: number): number {
    if (!this.#hasTokenRoom) return 0;
    const rawBytes = BATCH_RAW_BYTES - this.#rawBytes;
    const bytes = kind === KIND.literal ? Math.min(rawBytes, BATCH_PAYLOAD_BYTES - this.#payloadBytes) : rawBytes;
    return Math.floor(bytes / recordBytes);
  }

  get #hasTokenRoom(): boolean {
    return this.#tokenBytes < BATCH_TOKEN_BYTES - MAX_TOKEN_BYTES;
  }

  #closeIfFull(): void {
    const isFull =
      this.#payloadBytes >= BATCH_PAYLOAD_BYTES || this.#rawBytes >= BATCH_RAW_BYTES || !this.#hasTokenRoom;
    if (isFull) this.flush();
  }

  #closeRun(): void {
    if (this.#count === 0) return;
    let at = writeVarint(this.#tokens, this.#tokenBytes, this.#count * 16 + this.#kind);
    if (this.#kind !== RAW) {
      at = writeVarint(this.#tokens, at, zigzag(this.#firstPage - this.#expectedPage));
      this.#expectedPage = this.#firstPage + this.#count;
    }
    this.#tokenBytes = at;
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
