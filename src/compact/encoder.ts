import type { StreamEvent, StreamHandler } from "../stream/events.ts";
import { KIND, type Kind, recordBytesOf } from "../stream/format.ts";
import { BATCH_PAYLOAD_BYTES, BATCH_RAW_BYTES, BATCH_TOKEN_BYTES, RAW } from "./limits.ts";
import { MAX_VARINT_BYTES, writeVarint, zigzag } from "./varint.ts";

/** Pages and bytes by form, as they went into tokens. Pages that travel as raw bytes are counted apart. */
export interface FormCounts {
  zeroPages: number;
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

/** Tokens of this many bytes always fit behind BATCH_TOKEN_BYTES. */
const MAX_TOKEN_BYTES = 2 * MAX_VARINT_BYTES;

/**
 * Turns what the parser finds into batches of tokens and payload (docs/page-format.md).
 *
 * It moves no page: a payload is a list of pieces of the memory that the stream was read into. Memory: one buffer of tokens.
 */
export class BatchEncoder implements StreamHandler {
  readonly counts: FormCounts = { zeroPages: 0, literalPages: 0, blankPages: 0, rawPages: 0, rawBytes: 0 };
  readonly #onBatch: (batch: Batch) => void;
  readonly #onEvent: ((event: StreamEvent) => void) | undefined;
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
  /** Bytes that went out ahead of the parser (see `ahead`) and that it has yet to hand on. */
  #aheadBytes = 0;

  constructor(onBatch: (batch: Batch) => void, onEvent?: (event: StreamEvent) => void) {
    this.#onBatch = onBatch;
    this.#onEvent = onEvent;
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
    this.#closeIfFull();
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
    if (this.#tokenBytes > BATCH_TOKEN_BYTES - MAX_TOKEN_BYTES) return 0;
    const rawBytes = BATCH_RAW_BYTES - this.#rawBytes;
    const bytes = kind === KIND.literal ? Math.min(rawBytes, BATCH_PAYLOAD_BYTES - this.#payloadBytes) : rawBytes;
    return Math.floor(bytes / recordBytes);
  }

  #closeIfFull(): void {
    const isFull =
      this.#payloadBytes >= BATCH_PAYLOAD_BYTES ||
      this.#rawBytes >= BATCH_RAW_BYTES ||
      this.#tokenBytes >= BATCH_TOKEN_BYTES - MAX_TOKEN_BYTES;
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
