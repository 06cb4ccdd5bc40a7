import { PAGE_BYTES } from "./checkpoint-kernels.ts";

/** Pages of a buffer that they are copied into. */
const BUFFER_PAGES = 256;
/** Buffers that are kept for being filled again. */
const MAX_SPARE = 16;

/** Pages that were added, up to a number that is looked at together. */
export interface StagedPages {
  readonly kind: "pages";
  readonly numbers: number[];
  readonly buffer: Uint8Array;
  /** Where in the buffer the first one stands, in pages. */
  readonly at: number;
}

/** Pages that are all zero. */
export interface StagedZeros {
  readonly kind: "zeros";
  readonly first: number;
  readonly count: number;
}

/** What was added to a checkpoint and is not worked on yet, in order. */
export class Staging {
  readonly #batchPages: number;
  readonly #queue: (StagedPages | StagedZeros)[] = [];
  readonly #spare: Uint8Array[] = [];
  #buffer: Uint8Array = new Uint8Array(BUFFER_PAGES * PAGE_BYTES);
  #filledPages = 0;

  /** @param batchPages how many pages come together at most; BUFFER_PAGES is a multiple of it */
  constructor(batchPages: number) {
    this.#batchPages = batchPages;
  }

  get isEmpty(): boolean {
    return this.#queue.length === 0;
  }

  /** Copies consecutive pages, the first of which has the number `first`. */
  add(first: number, pages: Uint8Array): void {
    for (let at = 0; at < pages.length; ) {
      const batch = this.#openBatch();
      const room = Math.min(this.#batchPages - batch.numbers.length, BUFFER_PAGES - this.#filledPages);
      const part = pages.subarray(at, at + room * PAGE_BYTES);
      this.#buffer.set(part, this.#filledPages * PAGE_BYTES);
      for (let page = 0; page < part.length / PAGE_BYTES; page++) batch.numbers.push(first + at / PAGE_BYTES + page);
      this.#filledPages += part.length / PAGE_BYTES;
      at += part.length;
    }
  }

  zero(first: number, count: number): void {
    this.#queue.push({ kind: "zeros", first, count });
  }

  /** What is next; it is to be given back to `done`. */
  next(): StagedPages | StagedZeros | undefined {
    return this.#queue.shift();
  }

  /** The pages of a batch. */
  pagesOf({ buffer, at, numbers }: StagedPages): Uint8Array {
    return buffer.subarray(at * PAGE_BYTES, (at + numbers.length) * PAGE_BYTES);
  }

  /** A buffer is done with when its last page is: they are filled and worked on in order. */
  done({ buffer, at, numbers }: StagedPages): void {
    if (at + numbers.length === BUFFER_PAGES && this.#spare.length < MAX_SPARE) this.#spare.push(buffer);
  }

  /** The batch that further pages go into. */
  #openBatch(): StagedPages {
    if (this.#filledPages === BUFFER_PAGES) {
      this.#buffer = this.#spare.pop() ?? new Uint8Array(BUFFER_PAGES * PAGE_BYTES);
      this.#filledPages = 0;
    }
    const last = this.#queue.at(-1);
    if (last?.kind === "pages" && last.buffer === this.#buffer && last.numbers.length < this.#batchPages) return last;
    const batch: StagedPages = { kind: "pages", numbers: [], buffer: this.#buffer, at: this.#filledPages };
    this.#queue.push(batch);
    return batch;
  }
}
