import type { StreamEvent, StreamHandler } from "../stream/events.ts";
import { KIND, type Kind, PAGE_RECORD_BYTES, recordBytesOf } from "../stream/format.ts";
import { type Batch, BatchWriter, type PlaceFound, type RecordKind } from "./batch-writer.ts";
import { type CacheForms, type FormRun, MAX_FORM_RECORDS } from "./cache-forms.ts";
import { DELTA, DISK, SAME } from "./limits.ts";
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
  /** `run` went into a token; what this regenerates begins at `rawOffset`. */
  referred(rawOffset: number, run: ReferredRun): void;
}

/** Turns what the parser finds into batches, each page in the cheapest form that is at hand. */
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
  readonly #writer: BatchWriter;
  readonly #onEvent: ((event: StreamEvent) => void) | undefined;
  readonly #references: References | undefined;
  readonly #cache: Pick<CacheForms, "match"> | undefined;
  /** Bytes that went out ahead of the parser (see `ahead`) and that it has yet to hand on. */
  #aheadBytes = 0;

  /** @param cache the page cache, in the memory that the parser is given */
  constructor(
    onBatch: (batch: Batch) => void,
    onEvent?: (event: StreamEvent) => void,
    references?: References,
    cache?: Pick<CacheForms, "match">,
  ) {
    this.#writer = new BatchWriter(onBatch);
    this.#onEvent = onEvent;
    this.#references = references;
    this.#cache = cache;
  }

  /** Raw offset up to which bytes are in batches, closed or open. */
  get offset(): number {
    return this.#writer.offset;
  }

  /** Bytes in the open batch. */
  get pendingBytes(): number {
    return this.#writer.pendingBytes;
  }

  event(event: StreamEvent): void {
    if (event.type === "page") this.counts.rawPages++;
    this.#onEvent?.(event);
  }

  raw(from: number, to: number): void {
    from += this.#takeAhead(to - from);
    this.counts.rawBytes += to - from;
    this.#writer.raw(from, to);
  }

  pages(kind: Kind, from: number, to: number, firstPage: number, records: number, block: string): void {
    const recordBytes = recordBytesOf(kind);
    const aheadBytes = this.#takeAhead(to - from);
    if (aheadBytes > 0) {
      // Records that went out ahead, in part or whole, went as raw bytes; the rest of the last one does too.
      const gone = Math.ceil(aheadBytes / recordBytes);
      this.counts.rawPages += gone;
      this.#writer.raw(from + aheadBytes, from + gone * recordBytes);
      from += gone * recordBytes;
      firstPage += gone;
      records -= gone;
    }
    if (kind === KIND.literal) this.#addContents(block, from, firstPage, records);
    else this.#addRecords(kind, from, firstPage, records);
    this.#writer.closeIfFull();
  }

  /** Those that stand elsewhere become references. */
  #addContents(block: string, from: number, firstPage: number, records: number): void {
    let done = 0;
    for (const run of this.#references?.match(from, records) ?? []) {
      this.#addVersions(block, from + done * PAGE_RECORD_BYTES, firstPage + done, run.record - done);
      this.#references!.referred(this.#writer.place(run, firstPage + run.record), run);
      if (run.kind === DISK) this.counts.diskPages += run.count;
      else this.counts.checkpointPages += run.count;
      done = run.record + run.count;
    }
    this.#addVersions(block, from + done * PAGE_RECORD_BYTES, firstPage + done, records - done);
  }

  /** Those of which the page cache has something go out in fewer bytes. */
  #addVersions(block: string, from: number, firstPage: number, records: number): void {
    if (this.#cache === undefined) return this.#addRecords(KIND.literal, from, firstPage, records);
    while (records > 0) {
      const looked = Math.min(records, MAX_FORM_RECORDS);
      for (const run of this.#cache.match(block, firstPage, from, looked)) {
        this.#addForm(run, from, firstPage);
        from += run.count * PAGE_RECORD_BYTES;
        firstPage += run.count;
      }
      records -= looked;
    }
  }

  #addForm(run: FormRun, from: number, firstPage: number): void {
    const { kind, count } = run;
    if (kind === SAME) {
      const offset = this.#writer.same(run, firstPage);
      this.#references?.referred(offset, { kind, source: 0, count });
      this.counts.samePages += count;
    } else if (kind === DELTA) {
      let bytes = 0;
      for (const length of run.lengths) bytes += length;
      this.#writer.deltas(run, firstPage, bytes);
      this.counts.deltaPages += count;
      this.counts.deltaBytes += bytes;
    } else this.#addRecords(kind, from, firstPage, count, run.slot);
  }

  #addRecords(kind: RecordKind, from: number, firstPage: number, records: number, slot?: number): void {
    if (kind === KIND.zero) this.counts.zeroPages += records;
    else if (kind === KIND.blank) this.counts.blankPages += records;
    else this.counts.literalPages += records;
    this.#writer.records(kind, from, firstPage, records, slot);
  }

  /**
   * Lets bytes [from, to), which the parser holds back until it has seen more, go out now, as raw bytes.
   * They follow all that the parser has handed on, and whatever of them went out ahead before.
   */
  ahead(from: number, to: number): void {
    this.#aheadBytes += to - from;
    this.counts.rawBytes += to - from;
    this.#writer.raw(from, to);
  }

  get aheadBytes(): number {
    return this.#aheadBytes;
  }

  /** Closes the open batch, if it holds anything. */
  flush(): void {
    this.#writer.flush();
  }

  #takeAhead(bytes: number): number {
    const taken = Math.min(bytes, this.#aheadBytes);
    this.#aheadBytes -= taken;
    return taken;
  }
}
