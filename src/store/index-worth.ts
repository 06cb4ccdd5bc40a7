/** When it pays to read a disk beside a migration. Pure. */

import { BLOCK_BYTES } from "./index-format.ts";

/** So much is read, or for so long, before what it brings is judged. */
const SAMPLE_BYTES = 2 ** 30;
const SAMPLE_MS = 2000;
/** So much of the guest's memory must have been sent to say how many pages stand on its disks. */
const SAMPLE_SHARE = 0.05;
/** Reading that saves less than this part of what the link carries meanwhile only takes time from the migration. */
const LEAST_GAIN = 0.05;

/** What is known of a reading, and of the migration beside which it goes on. */
export interface ReadingState {
  readonly readBytes: number;
  readonly readMs: number;
  /** Blocks that were not known before. */
  readonly newBlocks: number;
  /** Blocks in the index. */
  readonly indexedBlocks: number;
  /** Pages that were sent as references to them. */
  readonly foundPages: number;
  /** Of the guest's memory, what is still to be sent: 1 before the first page. */
  readonly unsentShare: number;
  /** 0: not known. */
  readonly linkBytesPerSecond: number;
}

/**
 * Whether to read on. It compares what the link carries with the bytes that it will not have to carry for what is read in the
 * same time: the blocks that reading finds in a second, times the pages that stand on a block, as far as one can tell from those
 * that were sent, times the share of them that is still to be sent.
 */
export function readingPays(state: ReadingState): boolean {
  const { readBytes, readMs, newBlocks, indexedBlocks, foundPages, unsentShare, linkBytesPerSecond } = state;
  if (readBytes < SAMPLE_BYTES && readMs < SAMPLE_MS) return true;
  const sentShare = 1 - unsentShare;
  if (sentShare < SAMPLE_SHARE || indexedBlocks === 0) return true;
  const blocksPerSecond = (newBlocks * 1000) / readMs;
  const pagesPerBlock = foundPages / indexedBlocks / sentShare;
  const savedBytesPerSecond = blocksPerSecond * pagesPerBlock * unsentShare * BLOCK_BYTES;
  return savedBytesPerSecond >= linkBytesPerSecond * LEAST_GAIN;
}
