import { HEADER_BYTES, PAGE_RECORD_BYTES } from "../stream/format.ts";
import type { PlaceFound } from "./encoder.ts";
import { DISK } from "./limits.ts";
import { MAX_LOOKUPS, type PageIndex } from "./page-index.ts";
import { NOT_FOUND, type PageKernels, TAG_BYTES } from "./page-kernels.ts";
import { RUN_TAGS_BYTES, RunTags } from "./run-tags.ts";
import { XXH3_SECRET_BYTES } from "./xxh3-secret.ts";

/**
 * Pages of a run at most. A block that has changed costs all of its run, and a longer one saves next to nothing more: a token is
 * 1/6000 of 32 pages.
 */
const RUN_PAGES = 32;
const HASH_BYTES = 8;
const ADDRESS_BYTES = 4;

/** Kernel memory that a DiskMatcher works in. */
export const DISK_MATCHER_BYTES = RUN_TAGS_BYTES + XXH3_SECRET_BYTES + MAX_LOOKUPS * (HASH_BYTES + ADDRESS_BYTES);

/** Finds literal pages on disks. The numbers in its index are those of the blocks of all disks, counted through. */
export class DiskMatcher {
  readonly #kernels: PageKernels;
  readonly #bytes: Uint8Array;
  readonly #words: DataView;
  readonly #index: Pick<PageIndex, "lookup">;
  readonly #tags: RunTags;
  /** For each disk the number of its first block; one more for the end. */
  readonly #firstBlocks: readonly number[];
  readonly #isOff: boolean[];
  readonly #secretAt: number;
  readonly #hashes: number;
  readonly #addresses: number;
  readonly #found = new Uint32Array(MAX_LOOKUPS);

  /**
   * @param base where in `bytes`, the kernels' memory, DISK_MATCHER_BYTES are to be used; 16-byte aligned
   * @param firstBlocks for each disk the index's number of its first block, and the number after the last one's last block
   */
  constructor(
    kernels: PageKernels,
    bytes: Uint8Array,
    base: number,
    index: Pick<PageIndex, "lookup" | "secret">,
    firstBlocks: readonly number[],
    tagKey: Uint8Array,
  ) {
    this.#kernels = kernels;
    this.#bytes = bytes;
    this.#words = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    this.#index = index;
    this.#tags = new RunTags(kernels, bytes, base);
    this.#tags.setKey(tagKey);
    this.#firstBlocks = firstBlocks;
    this.#isOff = new Array(firstBlocks.length).fill(false);
    this.#hashes = base + RUN_TAGS_BYTES;
    this.#addresses = this.#hashes + MAX_LOOKUPS * HASH_BYTES;
    this.#secretAt = this.#addresses + MAX_LOOKUPS * ADDRESS_BYTES;
    bytes.set(index.secret, this.#secretAt);
  }

  /** No page is found on this disk any more. Returns false if that was so already. */
  switchOff(disk: number): boolean {
    const wasOn = this.#isOff[disk] === false;
    this.#isOff[disk] = true;
    return wasOn;
  }

  /** The runs among `records` literal page records that stand from address `from` on, in order. */
  match(from: number, records: number): PlaceFound[] {
    const runs: PlaceFound[] = [];
    for (let at = 0; at < records; at += MAX_LOOKUPS) {
      const count = Math.min(records - at, MAX_LOOKUPS);
      const content = from + at * PAGE_RECORD_BYTES + HEADER_BYTES;
      this.#lookUp(content, count);
      const found = this.#runs(count);
      const pages = found.map((run) => ({ address: content + run.record * PAGE_RECORD_BYTES, count: run.count }));
      const tags = this.#tags.tag(pages, PAGE_RECORD_BYTES);
      found.forEach((run, i) => {
        runs.push({ ...run, record: at + run.record, tag: tags.subarray(i * TAG_BYTES, (i + 1) * TAG_BYTES) });
      });
    }
    return runs;
  }

  #lookUp(content: number, count: number): void {
    for (let i = 0; i < count; i++) {
      this.#words.setUint32(this.#addresses + i * ADDRESS_BYTES, content + i * PAGE_RECORD_BYTES, true);
    }
    this.#kernels.hashPages(this.#secretAt, this.#addresses, count, this.#hashes);
    this.#index.lookup(this.#bytes.subarray(this.#hashes, this.#hashes + count * HASH_BYTES), this.#found);
  }

  /** What was found, consecutive blocks of a disk put together. */
  #runs(count: number): Omit<PlaceFound, "tag">[] {
    const runs: Omit<PlaceFound, "tag">[] = [];
    for (let record = 0; record < count; ) {
      const number = this.#found[record]!;
      const disk = number === NOT_FOUND ? -1 : this.#diskOf(number);
      if (disk < 0 || this.#isOff[disk]) {
        record++;
        continue;
      }
      const end = this.#firstBlocks[disk + 1]!;
      const maxPages = Math.min(count - record, end - number, RUN_PAGES);
      let pages = 1;
      while (pages < maxPages && this.#found[record + pages] === number + pages) pages++;
      runs.push({ record, count: pages, kind: DISK, source: disk, block: number - this.#firstBlocks[disk]! });
      record += pages;
    }
    return runs;
  }

  /** At most 64 disks, and mostly one: no search is faster. */
  #diskOf(number: number): number {
    return this.#firstBlocks.findLastIndex(
      (first, disk) => first <= number && number < (this.#firstBlocks[disk + 1] ?? 0),
    );
  }
}
