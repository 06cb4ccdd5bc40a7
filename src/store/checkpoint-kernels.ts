/** What the checkpoint store needs of the kernels; src/migration/open-checkpoints.ts passes them in. */

export const PAGE_BYTES = 4096;
export const TAG_BYTES = 16;
export const TAG_KEY_BYTES = 32;
export const HASH_BYTES = 8;
/** What lookupPages says of a hash that the index does not hold. */
export const NOT_FOUND = 0xffffffff;

/** Kernels over a memory of their own. Addresses are indexes into `bytes`, from `base` on. */
export interface StoreKernels {
  readonly bytes: Uint8Array;
  readonly base: number;
  /** As src/compact/page-kernels.ts describes them. */
  readonly pages: {
    listNonZero(first: number, stride: number, count: number, addresses: number): number;
    hashPages(secret: number, addresses: number, count: number, out: number): void;
    tagPages(key: number, scratch: number, addresses: number, count: number, out: number): void;
    lookupPages(table: number, buckets: number, hashes: number, count: number, out: number): void;
    insertPages(table: number, buckets: number, hashes: number, values: number, count: number): number;
    compressLz4(from: number, bytes: number, to: number, capacity: number, table: number): number;
    decompressLz4(from: number, bytes: number, to: number, capacity: number): number;
  };
}

export interface KernelSource {
  /** Kernels with so many bytes of memory for the caller. */
  create(sizeBytes: number): StoreKernels;
  /** The secret that XXH3 works with for a seed. */
  xxh3Secret(seed: bigint): Uint8Array;
  readonly tagScratchBytes: number;
  readonly lz4TableBytes: number;
  readonly indexBucketBytes: number;
  indexBucketsFor(entries: number): number;
}

/** Hands out parts of kernels' memory, one behind the other, on 64-byte boundaries. */
export class Arena {
  #end: number;
  readonly #limit: number;

  constructor({ base }: StoreKernels, sizeBytes: number) {
    this.#end = base;
    this.#limit = base + sizeBytes;
  }

  /** The address of `bytes` bytes. */
  take(bytes: number): number {
    const at = this.#end;
    this.#end = Math.ceil((at + bytes) / 64) * 64;
    if (this.#end > this.#limit) throw new RangeError("the kernels' memory is too small");
    return at;
  }
}
