import { INDEX_BUCKET_BYTES, indexBucketsFor, type PageKernels } from "./page-kernels.ts";

/** Hashes that are looked up at once, at most. */
export const MAX_LOOKUPS = 256;
const HASH_BYTES = 8;
const WORD_BYTES = 4;
/** Hashes that are put in at once. */
const SCRATCH_HASHES = MAX_LOOKUPS;

/**
 * Which pages were seen where: the hash of each to a number of 32 bits. It lives in kernels' memory, 12.8 bytes an entry.
 *
 * What it says is a guess. Hashes are XXH3-64 under a secret; two contents may have the same one, and what was seen may have
 * changed since.
 */
export class PageIndex {
  /** The secret of its hashes. */
  readonly secret: Uint8Array;
  readonly #kernels: PageKernels;
  readonly #bytes: Uint8Array;
  readonly #words: DataView;
  readonly #capacity: number;
  readonly #hashes: number;
  readonly #values: number;
  readonly #table: number;
  readonly #buckets: number;
  #entries = 0;

  /** The memory that an index of so many entries takes. */
  static memoryBytes(entries: number): number {
    return indexBucketsFor(entries) * INDEX_BUCKET_BYTES + SCRATCH_HASHES * (HASH_BYTES + WORD_BYTES);
  }

  /** @param base where in `bytes`, the kernels' memory, `memoryBytes(entries)` are to be used; 64-byte aligned */
  constructor(kernels: PageKernels, bytes: Uint8Array, base: number, entries: number, secret: Uint8Array) {
    this.#kernels = kernels;
    this.#bytes = bytes;
    this.#words = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    this.#capacity = entries;
    this.#buckets = indexBucketsFor(entries);
    this.#table = base;
    const end = base + this.#buckets * INDEX_BUCKET_BYTES;
    bytes.fill(0xff, base, end);
    this.#hashes = end;
    this.#values = end + SCRATCH_HASHES * HASH_BYTES;
    this.secret = secret;
  }

  get entries(): number {
    return this.#entries;
  }

  /** Whether it holds what it was made for. What is put in all the same may be dropped. */
  get isFull(): boolean {
    return this.#entries >= this.#capacity;
  }

  /** Puts hashes (u64 each) in, under the numbers from `value` on; one that is 0 stands for no page. */
  addHashes(hashes: Uint8Array, value: number): void {
    const from = new DataView(hashes.buffer, hashes.byteOffset, hashes.length);
    let count = 0;
    for (let at = 0; at < hashes.length; at += HASH_BYTES, value++) {
      const low = from.getUint32(at, true);
      const high = from.getUint32(at + WORD_BYTES, true);
      if (low === 0 && high === 0) continue;
      this.#words.setUint32(this.#hashes + count * HASH_BYTES, low, true);
      this.#words.setUint32(this.#hashes + count * HASH_BYTES + WORD_BYTES, high, true);
      this.#words.setUint32(this.#values + count * WORD_BYTES, value, true);
      if (++count === SCRATCH_HASHES) count = this.#insert(count);
    }
    this.#insert(count);
  }

  /** Puts the first `count` hashes of the scratch memory in. Returns 0. */
  #insert(count: number): number {
    this.#entries += this.#kernels.insertPages(this.#table, this.#buckets, this.#hashes, this.#values, count);
    return 0;
  }

  /** Looks at most MAX_LOOKUPS hashes (u64 each) up; `out` gets their numbers, NOT_FOUND where there is none. */
  lookup(hashes: Uint8Array, out: Uint32Array): void {
    const count = hashes.length / HASH_BYTES;
    this.#bytes.set(hashes, this.#hashes);
    this.#kernels.lookupPages(this.#table, this.#buckets, this.#hashes, count, this.#values);
    for (let i = 0; i < count; i++) out[i] = this.#words.getUint32(this.#values + i * WORD_BYTES, true);
  }
}
