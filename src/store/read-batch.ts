/** Many small reads of a disk at once: pages of one file mostly stand near each other, in memory as on the disk. */

import type { GodwitError } from "../errors.ts";
import { bytesOf, type DiskReader } from "./disk-reader.ts";

/** One read of a batch, into its targets one after the other. No targets may overlap; ranges of the disk may. */
export interface BatchRead {
  readonly offsetBytes: number;
  readonly targets: readonly Uint8Array[];
}

/** A request costs as much as reading this much more (measured with 4 KiB pages through qemu-nbd: 14 µs). */
const MAX_GAP_BYTES = 32 * 1024;
/** No more is joined to one read: 64 blocks of 4 KiB, gaps among them. */
const MAX_SPAN_BYTES = 256 * 1024;
/** Where the bytes between two reads go, of all batches: nobody looks at them. */
const GAP = new Uint8Array(MAX_GAP_BYTES);

interface Span {
  readonly offsetBytes: number;
  endBytes: number;
  readonly targets: Uint8Array[];
  readonly members: number[];
}

/**
 * Does all reads of a batch, those that are near each other as one. Never rejects.
 *
 * @returns for each read undefined, or why it failed
 */
export async function readBatch(reader: DiskReader, reads: readonly BatchRead[]): Promise<(GodwitError | undefined)[]> {
  const failures = new Array<GodwitError | undefined>(reads.length).fill(undefined);
  const readOne = async (index: number) => {
    const { offsetBytes, targets } = reads[index]!;
    await reader.readScattered(offsetBytes, targets).catch((error: GodwitError) => {
      failures[index] = error;
    });
  };
  const readSpan = async ({ offsetBytes, targets, members }: Span) => {
    if (members.length === 1) return readOne(members[0]!);
    try {
      await reader.readScattered(offsetBytes, targets);
    } catch {
      // A bad block must cost no more than itself.
      await Promise.all(members.map(readOne));
    }
  };
  await Promise.all(spansOf(reads).map(readSpan));
  return failures;
}

function spansOf(reads: readonly BatchRead[]): Span[] {
  const order = reads.map((_, index) => index).sort((a, b) => reads[a]!.offsetBytes - reads[b]!.offsetBytes);
  const spans: Span[] = [];
  let last: Span | undefined;
  for (const index of order) {
    const { offsetBytes, targets } = reads[index]!;
    const endBytes = offsetBytes + bytesOf(targets);
    const gapBytes = last ? offsetBytes - last.endBytes : -1;
    if (last && gapBytes >= 0 && gapBytes <= MAX_GAP_BYTES && endBytes - last.offsetBytes <= MAX_SPAN_BYTES) {
      if (gapBytes > 0) last.targets.push(GAP.subarray(0, gapBytes));
      last.endBytes = endBytes;
      last.targets.push(...targets);
      last.members.push(index);
    } else {
      last = { offsetBytes, endBytes, targets: [...targets], members: [index] };
      spans.push(last);
    }
  }
  return spans;
}
