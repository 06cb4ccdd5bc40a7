import { PAGE_BYTES } from "../stream/format.ts";
import { MAX_TAGGED_PAGES } from "./limits.ts";
import { type PageKernels, TAG_BYTES, TAG_KEY_BYTES, TAG_SCRATCH_BYTES } from "./page-kernels.ts";

/** Consecutive pages that stand in memory at a stride. */
export interface PageRun {
  /** Of the first page's content. */
  readonly address: number;
  readonly count: number;
}

/** tagPages takes pages in groups of four, and a smaller group costs as much: so do runs here. */
const GROUP_RUNS = 4;
const ADDRESS_BYTES = 4;
const GROUP_PAGES = GROUP_RUNS * MAX_TAGGED_PAGES;

/** Kernel memory that a RunTags works in. */
export const RUN_TAGS_BYTES =
  TAG_SCRATCH_BYTES + TAG_KEY_BYTES + GROUP_PAGES * (ADDRESS_BYTES + TAG_BYTES) + GROUP_RUNS * PAGE_BYTES;

/** Tags of runs of pages, which both ends compute alike (docs/page-format.md). */
export class RunTags {
  readonly #kernels: PageKernels;
  readonly #bytes: Uint8Array;
  readonly #view: DataView;
  readonly #scratch: number;
  readonly #key: number;
  /** Addresses of what is being hashed. */
  readonly #addresses: number;
  /** Tags of what was hashed. */
  readonly #tags: number;
  /** A page a run: the tags of its pages, then zeros. */
  readonly #lists: number;

  /** @param base where in `bytes`, the kernels' memory, RUN_TAGS_BYTES are to be used; 16-byte aligned */
  constructor(kernels: PageKernels, bytes: Uint8Array, base: number) {
    this.#kernels = kernels;
    this.#bytes = bytes;
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    this.#scratch = base;
    this.#key = this.#scratch + TAG_SCRATCH_BYTES;
    this.#addresses = this.#key + TAG_KEY_BYTES;
    this.#tags = this.#addresses + GROUP_PAGES * ADDRESS_BYTES;
    this.#lists = this.#tags + GROUP_PAGES * TAG_BYTES;
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
    for (let first = 0; first < runs.length; first += GROUP_RUNS) {
      const group = runs.slice(first, first + GROUP_RUNS);
      this.#tagGroup(group, strideBytes);
      tags.set(this.#bytes.subarray(this.#tags, this.#tags + group.length * TAG_BYTES), first * TAG_BYTES);
    }
    return tags;
  }

  #tagGroup(runs: readonly PageRun[], strideBytes: number): void {
    let pages = 0;
    for (const { address, count } of runs) {
      for (let i = 0; i < count; i++) this.#setAddress(pages++, address + i * strideBytes);
    }
    this.#tagListed(pages);
    let from = this.#tags;
    runs.forEach(({ count }, index) => {
      const list = this.#lists + index * PAGE_BYTES;
      const end = from + count * TAG_BYTES;
      this.#bytes.copyWithin(list, from, end).fill(0, list + (end - from), list + PAGE_BYTES);
      this.#setAddress(index, list);
      from = end;
    });
    this.#tagListed(runs.length);
  }

  #setAddress(index: number, address: number): void {
    this.#view.setUint32(this.#addresses + index * ADDRESS_BYTES, address, true);
  }

  #tagListed(count: number): void {
    this.#kernels.tagPages(this.#key, this.#scratch, this.#addresses, count, this.#tags);
  }
}
