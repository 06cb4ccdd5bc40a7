/** What tagPages works in; tagRuns in so much more for each page. */
export const TAG_SCRATCH_BYTES = 1200;
export const TAG_SCRATCH_PAGE_BYTES = 32;
export const TAG_BYTES = 16;
export const TAG_KEY_BYTES = 32;
/** What compressLz4 works in. */
export const LZ4_TABLE_BYTES = 16384;
/** A page index's bucket holds eight entries. */
export const INDEX_BUCKET_BYTES = 64;
/** What lookupPages says of a hash that the index does not hold. */
export const NOT_FOUND = 0xffffffff;
/** The longest difference between two pages: the bitmap and all words. */
export const MAX_DELTA_BYTES = 64 + 4096;

/** What decompressLz4 returns instead of a length. */
export const LZ4_ERROR = { cutOff: -1, tooLong: -2, badOffset: -3 } as const;

/**
 * The kernels of memory compaction, as assembly/ exports and describes them; reference/ holds their plain siblings, and
 * one suite runs over both. Whatever they work on stands in their memory, at any alignment; an area ends below 4 GiB.
 * `addresses`, `olds` and `news` are where the addresses of pages stand (u32 each). Numbers in memory are little-endian.
 */
export interface PageKernels {
  /** Lists which of `count` pages, `stride` bytes from each to the next, are not all zero; returns how many. */
  listNonZero(first: number, stride: number, count: number, addresses: number): number;
  /** XXH3-64 (u64 each) of pages; `secret` is where `xxh3Secret()` stands. */
  hashPages(secret: number, addresses: number, count: number, out: number): void;
  /** Keyed BLAKE3-128 (16 bytes each) of pages. Fastest for multiples of four. */
  tagPages(key: number, scratch: number, addresses: number, count: number, out: number): void;
  /**
   * Keyed BLAKE3-128 (16 bytes each) of runs of pages: the address of the first and how many (u32 each), `stride` bytes from
   * each to the next.
   */
  tagRuns(key: number, scratch: number, runs: number, count: number, stride: number, out: number): void;
  /** Values (u32 each) of hashes (u64 each) in the index at `table`, NOT_FOUND where there is none. */
  lookupPages(table: number, buckets: number, hashes: number, count: number, out: number): void;
  /** Puts hashes with their values in the index at `table`, the first of a hash wins; returns how many were put in. */
  insertPages(table: number, buckets: number, hashes: number, values: number, count: number): number;
  /** Differences between pages and their lengths (u32 each, 0: more than `limit`); returns the bytes written. */
  encodeDeltas(olds: number, news: number, count: number, limit: number, out: number, lengths: number): number;
  /** How many of the differences are well formed, up to the first that is not. */
  checkDeltas(count: number, from: number, end: number, lengths: number): number;
  /** Newer versions out of older ones; returns how many, less than `count` where a difference is malformed. */
  applyDeltas(olds: number, news: number, count: number, from: number, end: number, lengths: number): number;
  /** Copies pages; the strides are from each to the next. */
  copyPages(from: number, fromStride: number, to: number, toStride: number, count: number): void;
  /** LZ4 block; returns its bytes, 0 if they are more than `capacity`. */
  compressLz4(from: number, bytes: number, to: number, capacity: number, table: number): number;
  /** The bytes of an LZ4 block; returns how many, or an LZ4_ERROR. */
  decompressLz4(from: number, bytes: number, to: number, capacity: number): number;
}

/** The buckets of an index for `entries` entries: 12.8 bytes an entry. It is empty when all its bytes are 0xff. */
export function indexBucketsFor(entries: number): number {
  return Math.max(1, Math.ceil(entries / 5));
}
