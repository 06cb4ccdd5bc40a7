import type { KernelSource, StoreKernels } from "./checkpoint-kernels.ts";
import { BLOCK_BYTES } from "./checkpoint-pack.ts";

/** Packs blocks of contents in kernels' memory. */
export class BlockPacker {
  /** Where a block to be packed stands. */
  readonly block: Uint8Array;
  readonly #kernels: StoreKernels;
  readonly #at: number;

  static memoryBytes(source: KernelSource): number {
    return 2 * BLOCK_BYTES + source.lz4TableBytes;
  }

  /** @param at where in the kernels' memory `memoryBytes()` are to be used; 64-byte aligned */
  constructor(kernels: StoreKernels, at: number) {
    this.#kernels = kernels;
    this.#at = at;
    this.block = kernels.bytes.subarray(at, at + BLOCK_BYTES);
  }

  /** What of the block is to be stored: LZ4 where that is less. It is valid until the next call. */
  pack(): Uint8Array {
    const out = this.#at + BLOCK_BYTES;
    const bytes = this.#kernels.pages.compressLz4(this.#at, BLOCK_BYTES, out, BLOCK_BYTES - 1, out + BLOCK_BYTES);
    return bytes === 0 ? this.block : this.#kernels.bytes.subarray(out, out + bytes);
  }
}

/** Unpacks a block within kernels' memory; returns whether it is one. */
export function unpackBlock(kernels: StoreKernels, from: number, storedBytes: number, to: number): boolean {
  if (storedBytes === BLOCK_BYTES) {
    kernels.bytes.copyWithin(to, from, from + BLOCK_BYTES);
    return true;
  }
  return kernels.pages.decompressLz4(from, storedBytes, to, BLOCK_BYTES) === BLOCK_BYTES;
}
