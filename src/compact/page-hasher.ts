import { PAGE_BYTES } from "../stream/format.ts";
import type { PageKernels } from "./page-kernels.ts";
import { XXH3_SECRET_BYTES } from "./xxh3-secret.ts";

/** Pages that are hashed at once. */
const CHUNK_PAGES = 256;
/** Chunks that may be under way at the same time: one is read while another is hashed. */
const CHUNKS = 2;
const HASH_BYTES = 8;
const WORD_BYTES = 4;

/** What a PageHasher works in. */
export const PAGE_HASHER_BYTES =
  CHUNKS * CHUNK_PAGES * PAGE_BYTES + CHUNK_PAGES * (HASH_BYTES + WORD_BYTES) + XXH3_SECRET_BYTES;

/** Hashes pages that are read, XXH3-64 under a secret, as a PageIndex holds them. */
export class PageHasher {
  /** Where pages to be hashed are to stand. */
  readonly chunks: readonly Uint8Array[];
  readonly #kernels: PageKernels;
  readonly #bytes: Uint8Array;
  readonly #words: DataView;
  readonly #base: number;
  readonly #hashes: number;
  readonly #addresses: number;
  readonly #secret: number;

  /** @param base where in `bytes`, the kernels' memory, PAGE_HASHER_BYTES are to be used; 16-byte aligned */
  constructor(kernels: PageKernels, bytes: Uint8Array, base: number, secret: Uint8Array) {
    this.#kernels = kernels;
    this.#bytes = bytes;
    this.#words = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    this.#base = base;
    const chunkBytes = CHUNK_PAGES * PAGE_BYTES;
    this.chunks = Array.from({ length: CHUNKS }, (_, i) =>
      bytes.subarray(base + i * chunkBytes, base + (i + 1) * chunkBytes),
    );
    this.#hashes = base + CHUNKS * chunkBytes;
    this.#addresses = this.#hashes + CHUNK_PAGES * HASH_BYTES;
    this.#secret = this.#addresses + CHUNK_PAGES * WORD_BYTES;
    bytes.set(secret, this.#secret);
  }

  /** Writes the hashes (u64 each) of the first `pages` pages of `chunks[chunk]` to `out`; 0 for those that are all zero. */
  hash(chunk: number, pages: number, out: Uint8Array): void {
    const first = this.#base + chunk * CHUNK_PAGES * PAGE_BYTES;
    const count = this.#kernels.listNonZero(first, PAGE_BYTES, pages, this.#addresses);
    this.#kernels.hashPages(this.#secret, this.#addresses, count, this.#hashes);
    if (count === pages) return out.set(this.#bytes.subarray(this.#hashes, this.#hashes + count * HASH_BYTES));
    out.fill(0, 0, pages * HASH_BYTES);
    for (let i = 0; i < count; i++) {
      const page = (this.#words.getUint32(this.#addresses + i * WORD_BYTES, true) - first) / PAGE_BYTES;
      const hash = this.#hashes + i * HASH_BYTES;
      out.set(this.#bytes.subarray(hash, hash + HASH_BYTES), page * HASH_BYTES);
    }
  }
}
