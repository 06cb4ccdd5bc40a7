import {
  FLAGS_PAGE,
  FLAGS_ZERO,
  HEADER_BYTES,
  KIND,
  type Kind,
  MAX_PAGE,
  PAGE_RECORD_BYTES,
  ZERO_RECORD_BYTES,
} from "./format.ts";

/** Consecutive page records of one kind whose pages follow each other. */
export interface Run {
  kind: Kind;
  records: number;
  /** Page number of the first record: its address within the ramblock / 4096. */
  firstPage: number;
}

/** What one scan found: `runs` is valid until the next scan; `end` is the address of the first byte not taken. */
export interface Scan {
  runs: number;
  end: number;
}

/**
 * Reads page records in bulk. Two siblings keep this contract, and one suite runs over both: the kernel
 * (assembly/scan.ts) and the reference below.
 */
export interface PageScanner {
  /**
   * Reads page records of `bytes` from address `at` up to `end`.
   *
   * Stops in front of whatever is not a whole, canonical record (docs/page-format.md lists those), or when its table of
   * runs is full; then `end` is short of the last record and the caller scans again.
   */
  scan(bytes: Uint8Array, at: number, end: number): Scan;
  /** The i-th run of the last scan, in an object that the next call overwrites. */
  run(index: number): Readonly<Run>;
}

/** The plain reference. It reads whole pages in TypeScript, so it is for tests and small files, not for the hot path. */
export class ReferenceScanner implements PageScanner {
  readonly #maxRuns: number;
  #runs: Run[] = [];

  constructor(maxRuns = 4096) {
    this.#maxRuns = maxRuns;
  }

  scan(bytes: Uint8Array, at: number, end: number): Scan {
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    this.#runs = [];
    while (at + ZERO_RECORD_BYTES <= end) {
      const low = view.getUint32(at + 4);
      const page = view.getUint32(at) * 2 ** 20 + (low >>> 12);
      const flags = low & 0xfff;
      if (page >= MAX_PAGE) break;
      let kind: Kind;
      let recordBytes: number;
      if (flags === FLAGS_PAGE) {
        recordBytes = PAGE_RECORD_BYTES;
        if (at + recordBytes > end) break;
        kind = bytes.subarray(at + HEADER_BYTES, at + recordBytes).every((byte) => byte === 0)
          ? KIND.blank
          : KIND.literal;
      } else if (flags === FLAGS_ZERO && bytes[at + HEADER_BYTES] === 0) {
        recordBytes = ZERO_RECORD_BYTES;
        kind = KIND.zero;
      } else break;
      const last = this.#runs.at(-1);
      if (last?.kind === kind && page === last.firstPage + last.records) {
        last.records++;
      } else {
        if (this.#runs.length === this.#maxRuns) break;
        this.#runs.push({ kind, records: 1, firstPage: page });
      }
      at += recordBytes;
    }
    return { runs: this.#runs.length, end: at };
  }

  run(index: number): Readonly<Run> {
    return this.#runs[index]!;
  }
}
