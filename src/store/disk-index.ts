/** Reads of a disk what an index does not know yet, or not any more. */

import type { DiskReader, Extent } from "./disk-reader.ts";
import type { StoredIndex } from "./index-file.ts";
import { BLOCK_BYTES, blocksOfPart, countHashes, HASH_BYTES, PART_BLOCKS, PART_HASH_BYTES } from "./index-format.ts";

/** What blocks are hashed with. */
export interface BlockHasher {
  /** Memory that blocks are read into, one chunk after the other in turn; all of the same length. */
  readonly chunks: readonly Uint8Array[];
  /** Writes the hashes (u64 each) of the first `blocks` blocks of `chunks[chunk]` to `out`; 0 for those that are all zero. */
  hash(chunk: number, blocks: number, out: Uint8Array): void;
}

/** The blocks of disks, counted through: the number of each disk's first block, and the one after the last disk's last block. */
export function firstBlocksOf(disks: readonly { readonly sizeBytes: number }[]): number[] {
  const numbers = [0];
  for (const { sizeBytes } of disks) numbers.push(numbers.at(-1)! + Math.floor(sizeBytes / BLOCK_BYTES));
  return numbers;
}

/** A disk, as far as it is read here. */
export type IndexableDisk = Pick<DiskReader, "sizeBytes" | "read" | "allocatedExtents">;

/** What is known of a disk before it is read. */
export interface Known {
  /** Undefined: nothing. */
  readonly stored: StoredIndex | undefined;
  /** Where it was written to since; null: that may be anywhere. */
  readonly changes: readonly Extent[] | null;
}

/** What of each part of a disk is to be read. */
export class ReadingPlan {
  readonly parts: number;
  readonly #sizeBytes: number;
  readonly #known: Known;
  readonly #changes = new Map<number, Extent[]>();

  constructor(sizeBytes: number, known: Known) {
    this.parts = Math.ceil(Math.floor(sizeBytes / BLOCK_BYTES) / PART_BLOCKS);
    this.#sizeBytes = sizeBytes;
    this.#known = known;
    for (const { offsetBytes, lengthBytes } of known.changes ?? []) {
      const endBytes = offsetBytes + lengthBytes;
      for (let at = offsetBytes; at < endBytes; ) {
        const part = Math.floor(at / PART_BYTES);
        const end = Math.min(endBytes, (part + 1) * PART_BYTES);
        const changes = this.#changes.get(part) ?? [];
        if (changes.push({ offsetBytes: at, lengthBytes: end - at }) === 1) this.#changes.set(part, changes);
        at = end;
      }
    }
  }

  /** Ranges of the part that are to be read; "all" of it if its hashes are not known, or not where they changed. */
  of(part: number): "all" | readonly Extent[] {
    const { stored, changes } = this.#known;
    const isKnown = stored?.state(part) === "known" && stored.blocks(part) === blocksOfPart(this.#sizeBytes, part);
    return isKnown && changes !== null ? (this.#changes.get(part) ?? []) : "all";
  }

  /** Whether a part that is not read must be some other time. */
  isStale(part: number): boolean {
    return this.of(part).length > 0;
  }
}

const PART_BYTES = PART_BLOCKS * BLOCK_BYTES;

/** What reading has come to. */
export interface ReadCounts {
  /** Read from the disk. */
  readBytes: number;
  /** Blocks with a content that was not known to be there. */
  newBlocks: number;
  readMs: number;
}

export interface ReadOptions {
  readonly hasher: BlockHasher;
  /**
   * Is told of each part that was read, how many of its hashes are not 0, and whether all of them were read now: the others are as
   * they were known. They are valid until it has settled.
   */
  readonly onPart: (part: number, hashes: Uint8Array, count: number, isReadWhole: boolean) => Promise<void>;
  /** Asked before each part whether to go on. */
  readonly goesOn?: () => boolean;
  readonly signal: AbortSignal;
  /** Updated as it goes. */
  readonly counts: ReadCounts;
}

/**
 * Reads what the plan says, holes left out, part by part, until all is read or it is not to go on. A part counts when it was read
 * to its end.
 *
 * A chunk is read while the one before is hashed: that takes a fraction of a millisecond, so the thread may have other work.
 *
 * @returns whether all of the plan was read
 * @throws what reading and `onPart` throw; the parts before stay.
 */
export async function readDisk(
  disk: IndexableDisk,
  known: Known,
  plan: ReadingPlan,
  options: ReadOptions,
): Promise<boolean> {
  const { onPart, goesOn = () => true, signal, counts } = options;
  await using allocated = new Allocated(disk);
  const before = new Uint8Array(PART_HASH_BYTES);
  const hashes = new Uint8Array(PART_HASH_BYTES);
  for (let part = 0; part < plan.parts; part++) {
    let ranges = plan.of(part);
    if (ranges.length === 0) continue;
    if (signal.aborted || !goesOn()) return false;
    const blocks = blocksOfPart(disk.sizeBytes, part);
    const isKnown = known.stored?.blocks(part) === blocks && (await known.stored.readPart(part, before));
    if (!isKnown) {
      before.fill(0);
      ranges = "all"; // it is known to be damaged by now
    }
    const startMs = performance.now();
    hashes.fill(0);
    if (ranges !== "all") hashes.set(before);
    const wanted =
      ranges === "all" ? allocated.within(part * PART_BYTES, part * PART_BYTES + blocks * BLOCK_BYTES) : ranges;
    if (!(await readPart(disk, part, blocks, wanted, hashes, options))) return false;
    counts.readMs += performance.now() - startMs;
    const found = hashes.subarray(0, blocks * HASH_BYTES);
    counts.newBlocks += countNew(before, found);
    await onPart(part, found, countHashes(found), ranges === "all");
  }
  return true;
}

/** Hashes ranges of a part into `hashes`. Returns false if it was aborted. */
async function readPart(
  disk: IndexableDisk,
  part: number,
  blocksOfIt: number,
  ranges: AsyncIterable<Extent> | readonly Extent[],
  hashes: Uint8Array,
  { hasher, signal, counts }: ReadOptions,
): Promise<boolean> {
  const firstBlock = part * PART_BLOCKS;
  const reading: Promise<void>[] = hasher.chunks.map(() => Promise.resolve());
  try {
    let turn = 0;
    for await (const { offsetBytes, lengthBytes } of ranges) {
      const maxBlocks = hasher.chunks[0]!.length / BLOCK_BYTES;
      const end = Math.min(Math.ceil((offsetBytes + lengthBytes) / BLOCK_BYTES), firstBlock + blocksOfIt);
      for (let block = Math.floor(offsetBytes / BLOCK_BYTES); block < end; block += maxBlocks) {
        const blocks = Math.min(maxBlocks, end - block);
        const chunk = turn++ % reading.length;
        await reading[chunk];
        if (signal.aborted) return false;
        const out = hashes.subarray((block - firstBlock) * HASH_BYTES);
        reading[chunk] = disk
          .read(block * BLOCK_BYTES, hasher.chunks[chunk]!.subarray(0, blocks * BLOCK_BYTES))
          .then(() => hasher.hash(chunk, blocks, out));
        reading[chunk].catch(() => {}); // it is awaited when its turn has come
        counts.readBytes += blocks * BLOCK_BYTES;
      }
    }
    await Promise.all(reading);
    return true;
  } finally {
    // The memory is left alone only then.
    await Promise.allSettled(reading);
  }
}

/** How many hashes are not 0, and others than before. */
function countNew(before: Uint8Array, after: Uint8Array): number {
  const [old, now] = [before, after].map((bytes) => new DataView(bytes.buffer, bytes.byteOffset, bytes.length)) as [
    DataView,
    DataView,
  ];
  let count = 0;
  for (let at = 0; at < after.length; at += HASH_BYTES) {
    const [low, high] = [now.getUint32(at, true), now.getUint32(at + 4, true)];
    if ((low !== 0 || high !== 0) && (low !== old.getUint32(at, true) || high !== old.getUint32(at + 4, true))) count++;
  }
  return count;
}

/** The allocated extents of a disk, asked for in order, and only when the first is wanted. */
class Allocated implements AsyncDisposable {
  readonly #disk: IndexableDisk;
  #extents: AsyncIterator<Extent> | undefined;
  #current: Extent | undefined;

  constructor(disk: IndexableDisk) {
    this.#disk = disk;
  }

  /** What of them lies in [from, end); `from` must not go back. */
  async *within(from: number, end: number): AsyncGenerator<Extent> {
    this.#extents ??= this.#disk.allocatedExtents()[Symbol.asyncIterator]();
    for (;;) {
      while (this.#current === undefined || this.#current.offsetBytes + this.#current.lengthBytes <= from) {
        const { value, done } = await this.#extents.next();
        if (done) return;
        this.#current = value;
      }
      const { offsetBytes, lengthBytes } = this.#current;
      const [start, stop] = [Math.max(offsetBytes, from), Math.min(offsetBytes + lengthBytes, end)];
      if (start < stop) yield { offsetBytes: start, lengthBytes: stop - start };
      if (offsetBytes + lengthBytes > end || start >= end) return;
      from = stop;
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#extents?.return?.();
  }
}
