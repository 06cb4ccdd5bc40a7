import {
  FLAGS_PAGE,
  FLAGS_ZERO,
  HEADER_BYTES,
  KIND_BLANK,
  KIND_LITERAL,
  KIND_ZERO,
  PAGE_BYTES,
  PAGE_RECORD_BYTES,
  ZERO_RECORD_BYTES,
} from "./page";
import { isZero } from "./zero";

/** A run in the table: u32 kind, u32 records, f64 first page, and the next one 16 bytes on. */
const RUN_BYTES: usize = 16;
/** Page numbers from here on (RAM of 4 EiB) are not taken for pages, so that they stay exact as JavaScript numbers. */
const MAX_PAGE: u64 = 1 << 50;

/**
 * Reads page records from `at` up to `end` and writes them as runs to `table`, at most `maxRuns` of them.
 *
 * Stops in front of whatever it does not know: another kind of record, a page with its block's name, a zero page whose
 * fill byte is not zero, a record cut off by `end`. Writes the address of the first byte not taken to `result` (u32).
 * Returns the number of runs.
 */
export function scanPages(at: usize, end: usize, table: usize, maxRuns: u32, result: usize): u32 {
  let runs: u32 = 0;
  let kind: u32 = 0;
  let records: u32 = 0;
  let first: u64 = 0;
  while (at + ZERO_RECORD_BYTES <= end) {
    const header = bswap<u64>(load<u64>(at));
    const flags = header & 0xfff;
    const page = header >> 12;
    let found: u32 = 0;
    let bytes: usize = 0;
    if (flags == FLAGS_PAGE) {
      bytes = PAGE_RECORD_BYTES;
      if (at + bytes > end) break;
      found = isZero(at + HEADER_BYTES, PAGE_BYTES) ? KIND_BLANK : KIND_LITERAL;
    } else if (flags == FLAGS_ZERO && load<u8>(at, HEADER_BYTES) == 0) {
      bytes = ZERO_RECORD_BYTES;
      found = KIND_ZERO;
    } else break;
    if (page >= MAX_PAGE) break;
    if (found == kind && page == first + records) {
      records++;
    } else {
      if (kind != 0) {
        store<u32>(table, kind);
        store<u32>(table, records, 4);
        store<f64>(table, <f64>first, 8);
        table += RUN_BYTES;
        kind = 0;
        if (++runs == maxRuns) break;
      }
      kind = found;
      first = page;
      records = 1;
    }
    at += bytes;
  }
  if (kind != 0) {
    store<u32>(table, kind);
    store<u32>(table, records, 4);
    store<f64>(table, <f64>first, 8);
    runs++;
  }
  store<u32>(result, <u32>at);
  return runs;
}
