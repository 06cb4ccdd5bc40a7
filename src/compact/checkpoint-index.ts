import { PageIndex } from "./page-index.ts";
import type { PageKernels } from "./page-kernels.ts";
import { HASH_BYTES, writeKeys } from "./short-hashes.ts";

/** Keys that are put in at once. */
const CHUNK_HASHES = 1024;

/**
 * Which pages a checkpoint holds where, known by short hashes. Memory: 12.8 bytes a page for the index, which is kernels'
 * memory, and the short hashes themselves.
 */
export class CheckpointIndex {
  readonly secret: Uint8Array;
  readonly #index: PageIndex;
  readonly #hashBytes: number;
  readonly #hashes: Uint8Array;
  readonly #keys = new Uint8Array(CHUNK_HASHES * HASH_BYTES);
  #pages = 0;

  /** @param base where in `bytes`, the kernels' memory, PageIndex.memoryBytes(pages) are to be used; 64-byte aligned */
  constructor(
    kernels: PageKernels,
    bytes: Uint8Array,
    base: number,
    pages: number,
    secret: Uint8Array,
    hashBytes: number,
  ) {
    this.#index = new PageIndex(kernels, bytes, base, pages, secret);
    this.secret = secret;
    this.#hashBytes = hashBytes;
    this.#hashes = new Uint8Array(pages * hashBytes);
  }

  /** How many pages were put in, from the first one on. */
  get pages(): number {
    return this.#pages;
  }

  /** Puts the next pages in: their short hashes, one after the other. There must be room for them. */
  add(hashes: Uint8Array): void {
    const hashBytes = this.#hashBytes;
    this.#hashes.set(hashes, this.#pages * hashBytes);
    for (let at = 0; at < hashes.length; at += CHUNK_HASHES * hashBytes) {
      const part = hashes.subarray(at, at + CHUNK_HASHES * hashBytes);
      const count = part.length / hashBytes;
      writeKeys(part, hashBytes, hashBytes, count, this.#keys);
      this.#index.addHashes(this.#keys.subarray(0, count * HASH_BYTES), this.#pages);
      this.#pages += count;
    }
  }

  /**
   * Looks at most MAX_LOOKUPS hashes (u64 each) up, and leaves their keys in their place; `out` gets the numbers of pages,
   * NOT_FOUND where there is none.
   */
  lookup(hashes: Uint8Array, out: Uint32Array): void {
    writeKeys(hashes, HASH_BYTES, this.#hashBytes, hashes.length / HASH_BYTES, hashes);
    this.#index.lookup(hashes, out);
  }

  /** Whether this page has the key that stands at `at`: the index knows one page only of those that are alike. */
  has(page: number, keys: Uint8Array, at: number): boolean {
    if (page >= this.#pages) return false;
    const hash = page * this.#hashBytes;
    for (let byte = 0; byte < 3; byte++) if (keys[at + byte] !== this.#hashes[hash + byte]) return false;
    const top = hash + this.#hashBytes - 4;
    for (let byte = 0; byte < 4; byte++) if (keys[at + 3 + byte] !== this.#hashes[top + byte]) return false;
    return true;
  }
}
