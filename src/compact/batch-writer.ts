import { KIND, type Kind, PAGE_RECORD_BYTES, ZERO_RECORD_BYTES } from "../stream/format.ts";
import type { FormRun } from "./cache-forms.ts";
import { BATCH_PAYLOAD_BYTES, BATCH_RAW_BYTES, KEPT, RAW } from "./limits.ts";
import { TokenWriter } from "./token-writer.ts";
import type { PlaceKind } from "./tokens.ts";

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

/** Records that a token can be opened for and grow by. */
export type RecordKind = Kind | typeof KEPT;

/**
 * Puts tokens and pieces of payload together into batches (docs/page-format.md), in the order of the stream.
 *
 * It moves no page: pieces are addresses. Memory: one buffer of tokens.
 */
export class BatchWriter {
  readonly #onBatch: (batch: Batch) => void;
  readonly #tokens = new TokenWriter();
  /** At most one piece a token. */
  readonly #pieces = new Uint32Array(2 * TokenWriter.maxTokens);
  #pieceWords = 0;
  #hasDifferences = false;
  #payloadBytes = 0;
  #rawOffset = 0;
  #rawBytes = 0;
  /** The run that may still grow: `count` is bytes for RAW, records for the others. */
  #kind: RecordKind | typeof RAW = RAW;
  #count = 0;
  #firstPage = 0;
  /** Of a run of kept pages. */
  #firstSlot = 0;

  constructor(onBatch: (batch: Batch) => void) {
    this.#onBatch = onBatch;
  }

  /** Raw offset up to which bytes are in batches, closed or open. */
  get offset(): number {
    return this.#rawOffset + this.#rawBytes;
  }

  /** Bytes in the open batch. */
  get pendingBytes(): number {
    return this.#rawBytes;
  }

  /** Bytes [from, to) as they are. */
  raw(from: number, to: number): void {
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
      this.closeIfFull();
    }
  }

  /** `records` records from address `from` on. @param slot of the first one, if they are kept */
  records(kind: RecordKind, from: number, firstPage: number, records: number, slot = 0): void {
    const recordBytes = kind === KIND.zero ? ZERO_RECORD_BYTES : PAGE_RECORD_BYTES;
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

  /** Returns the raw offset at which what the token regenerates begins. */
  place({ kind, count, source, block, tag }: PlaceFound, firstPage: number): number {
    const offset = this.#beginWhole(count, 0);
    this.#tokens.place(kind, firstPage, count, source, block, tag);
    return offset;
  }

  /** Returns the raw offset at which what the token regenerates begins. */
  same({ count, slot, tag }: FormRun, firstPage: number): number {
    const offset = this.#beginWhole(count, 0);
    this.#tokens.same(firstPage, count, slot, tag);
    return offset;
  }

  /** @param bytes of all differences */
  deltas({ count, slot, from, lengths }: FormRun, firstPage: number, bytes: number): void {
    this.#beginWhole(count, bytes);
    this.#tokens.deltas(firstPage, slot, lengths);
    this.#addPiece(from, from + bytes);
    this.#hasDifferences = true;
  }

  /** Closes the open batch if little more would fit. */
  closeIfFull(): void {
    const isFull =
      this.#payloadBytes >= BATCH_PAYLOAD_BYTES || this.#rawBytes >= BATCH_RAW_BYTES || !this.#tokens.hasRoom;
    if (isFull) this.flush();
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

  /** Makes room in the open batch for a token of `count` pages that can't be split, and counts them in; returns where they begin. */
  #beginWhole(count: number, payloadBytes: number): number {
    this.#closeRun();
    const rawBytes = count * PAGE_RECORD_BYTES;
    const isFull =
      this.#rawBytes + rawBytes > BATCH_RAW_BYTES || this.#payloadBytes + payloadBytes > BATCH_PAYLOAD_BYTES;
    if (isFull || !this.#tokens.hasRoom) this.flush();
    this.#rawBytes += rawBytes;
    return this.offset - rawBytes;
  }

  /** Makes a run open to which a record of `kind` for `firstPage` can be added; returns how many records fit. */
  #openRun(kind: RecordKind, firstPage: number, slot: number, recordBytes: number): number {
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

  #fittingRecords(kind: RecordKind, recordBytes: number): number {
    if (!this.#tokens.hasRoom) return 0;
    const rawBytes = BATCH_RAW_BYTES - this.#rawBytes;
    const bytes = hasPayload(kind) ? Math.min(rawBytes, BATCH_PAYLOAD_BYTES - this.#payloadBytes) : rawBytes;
    return Math.floor(bytes / recordBytes);
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

function hasPayload(kind: RecordKind): boolean {
  return kind === KIND.literal || kind === KEPT;
}
