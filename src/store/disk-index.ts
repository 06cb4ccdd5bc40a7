/** Reads disks through, once, so that an index knows what stands where. */

import type { DiskReader, Extent } from "./disk-reader.ts";

export const BLOCK_BYTES = 4096;

/** What the blocks of disks are put into. */
export interface BlockSink {
  /** Memory that blocks are read into, one chunk after the other in turn; all of the same length. */
  readonly chunks: readonly Uint8Array[];
  /** Takes the first `blocks` blocks of `chunks[chunk]`, under the numbers from `number` on. */
  add(chunk: number, blocks: number, number: number): void;
  /** It takes no more. */
  readonly isFull: boolean;
}

/** The blocks of disks, counted through: the number of each disk's first block, and the one after the last disk's last block. */
export function firstBlocksOf(disks: readonly { readonly sizeBytes: number }[]): number[] {
  const numbers = [0];
  for (const { sizeBytes } of disks) numbers.push(numbers.at(-1)! + Math.floor(sizeBytes / BLOCK_BYTES));
  return numbers;
}

/**
 * Puts the blocks of a disk into `sink`, holes left out, until they all are, the sink is full or `signal` is aborted.
 *
 * A chunk is read while the one before is put in: that takes a fraction of a millisecond, so the thread may have other work.
 *
 * @param firstNumber the number of its block 0
 * @throws what reading throws; what was put in stays.
 */
export async function indexDisk(
  disk: DiskReader,
  firstNumber: number,
  sink: BlockSink,
  signal: AbortSignal,
): Promise<void> {
  const reading: Promise<void>[] = sink.chunks.map(() => Promise.resolve());
  try {
    let turn = 0;
    for await (const extent of disk.allocatedExtents()) {
      for (const { block, blocks } of stretches(extent, disk.sizeBytes, sink.chunks[0]!.length / BLOCK_BYTES)) {
        const chunk = turn++ % sink.chunks.length;
        await reading[chunk];
        if (signal.aborted || sink.isFull) return;
        const target = sink.chunks[chunk]!.subarray(0, blocks * BLOCK_BYTES);
        reading[chunk] = disk
          .read(block * BLOCK_BYTES, target)
          .then(() => sink.add(chunk, blocks, firstNumber + block));
        reading[chunk].catch(() => {}); // it is awaited when its turn has come
      }
    }
    await Promise.all(reading);
  } finally {
    // The memory is left alone only then.
    await Promise.allSettled(reading);
  }
}

/** The whole blocks that an extent touches, at most `maxBlocks` at a time. */
function* stretches(
  { offsetBytes, lengthBytes }: Extent,
  sizeBytes: number,
  maxBlocks: number,
): Generator<{ block: number; blocks: number }> {
  const end = Math.min(Math.ceil((offsetBytes + lengthBytes) / BLOCK_BYTES), Math.floor(sizeBytes / BLOCK_BYTES));
  for (let block = Math.floor(offsetBytes / BLOCK_BYTES); block < end; block += maxBlocks) {
    yield { block, blocks: Math.min(maxBlocks, end - block) };
  }
}
