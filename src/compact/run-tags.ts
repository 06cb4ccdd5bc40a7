import {
  type PageKernels,
  TAG_BYTES,
  TAG_KEY_BYTES,
  TAG_SCRATCH_BYTES,
  TAG_SCRATCH_PAGE_BYTES,
} from "./page-kernels.ts";

/** Consecutive pages that stand in memory at a stride. */
export interface PageRun {
  /** Of the first page's content. */
  readonly address: number;
  readonly count: number;
}

/** Pages that are hashed in one call, at most: more than the output of a body has. */
const GROUP_PAGES = 1024;
const RUN_BYTES = 8;

/** Kernel memory that a RunTags works in. */
export const RUN_TAGS_BYTES =
  TAG_SCRATCH_BYTES + TAG_KEY_BYTES + GROUP_PAGES * (TAG_SCRATCH_PAGE_BYTES + RUN_BYTES + TAG_BYTES);

/** Tags of runs of pages, which both ends compute alike (docs/page-format.md). */
export class RunTags {
  readonly #kernels: PageKernels;
  readonly #bytes: Uint8Array;
  readonly #view: DataView;
  readonly #key: number;
  /** The runs that are hashed. */
  readonly #runs: number;
  readonly #tags: number;
  readonly #scratch: number;

  /** @param base where in `bytes`, the kernels' memory, RUN_TAGS_BYTES are to be used; 16-byte aligned */
  constructor(kernels: PageKernels, bytes: Uint8Array, base: number) {
    this.#kernels = kernels;
    this.#bytes = bytes;
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    this.#key = base;
    this.#runs = this.#key + TAG_KEY_BYTES;
    this.#tags = this.#runs + GROUP_PAGES * RUN_BYTES;
    this.#scratch = this.#tags + GROUP_PAGES * TAG_BYTES;
  }

  /** Sets the session's key, TAG_KEY_BYTES long. */
  setKey(key: Uint8Array): void {
    if (key.length !== TAG_KEY_BYTES) throw new TypeError("a tag key of another length");
    this.#bytes.set(key, this.#key);
  }

  /**
   * The tags of `runs` (TAG_BYTES each), of MAX_TAGGED_PAGES at most, one after the other.
   *
   * @param strideBytes from each page to the next
   */
  tag(runs: readonly PageRun[], strideBytes: number): Uint8Array {
    const tags = new Uint8Array(runs.length * TAG_BYTES);
    for (let first = 0; first < runs.length; ) {
      const end = this.#writeRuns(runs, first);
      this.#kernels.tagRuns(this.#key, this.#scratch, this.#runs, end - first, strideBytes, this.#tags);
      tags.set(this.#bytes.subarray(this.#tags, this.#tags + (end - first) * TAG_BYTES), first * TAG_BYTES);
      first = end;
    }
    return tags;
  }

  /** Lists runs from `first` on, as many as fit; returns the one after the last. */
  #writeRuns(runs: readonly PageRun[], first: number): number {
    let at = this.#runs;
    let pages = 0;
    for (let index = first; index < runs.length; index++) {
      const { address, count } = runs[index]!;
      pages += count;
      if (pages > GROUP_PAGES) return index;
      this.#view.setUint32(at, address, true);
      this.#view.setUint32(at + 4, count, true);
      at += RUN_BYTES;
    }
    return runs.length;
  }
}
