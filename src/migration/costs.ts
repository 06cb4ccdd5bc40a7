import type { FormCounts } from "../compact/encoder.ts";
import { PAGE_BYTES } from "../stream/format.ts";
import type { CodecCounts } from "./outgoing.ts";

/** What was not sent because of what, in bytes of pages; what tokens take, some bytes a run, is not subtracted. */
export interface SavedBytes {
  /** Pages that stand on disks, in checkpoints, in the page cache. */
  disk: number;
  checkpoint: number;
  same: number;
  delta: number;
  /** Pages that are all zero, though QEMU sent them whole. */
  blank: number;
  compression: number;
  /** Of all these, what the destination did not find after all. */
  inVain: number;
}

export function savedBytes(
  counts: Readonly<FormCounts>,
  nackedPages: number,
  bodies: Iterable<Readonly<CodecCounts>>,
): SavedBytes {
  let compression = 0;
  for (const { bodyBytes, wireBytes } of bodies) compression += bodyBytes - wireBytes;
  return {
    disk: counts.diskPages * PAGE_BYTES,
    checkpoint: counts.checkpointPages * PAGE_BYTES,
    same: counts.samePages * PAGE_BYTES,
    delta: counts.deltaPages * PAGE_BYTES - counts.deltaBytes,
    blank: counts.blankPages * PAGE_BYTES,
    compression,
    inVain: nackedPages * PAGE_BYTES,
  };
}

/** Measures the CPU time of this process, all of its threads. */
export class CpuMeter {
  readonly #start = process.cpuUsage();
  #seconds: number | undefined;

  /** Until now, or until it was stopped. */
  get seconds(): number {
    if (this.#seconds !== undefined) return this.#seconds;
    const { user, system } = process.cpuUsage(this.#start);
    return (user + system) / 1e6;
  }

  /** What comes after does not count. */
  stop(): void {
    this.#seconds ??= this.seconds;
  }
}
