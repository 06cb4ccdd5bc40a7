import { FLAGS_PAGE, FLAGS_ZERO, HEADER_BYTES, PAGE_BYTES, PAGE_RECORD_BYTES, ZERO_RECORD_BYTES } from "./page";

/** Writes `records` zero page records from page `first` on to `to`; returns the address after them. */
export function expandZero(to: usize, first: f64, records: u32): usize {
  let header = ((<u64>first) << 12) | FLAGS_ZERO;
  for (let i: u32 = 0; i < records; i++) {
    store<u64>(to, bswap<u64>(header));
    store<u8>(to, 0, HEADER_BYTES);
    to += ZERO_RECORD_BYTES;
    header += <u64>PAGE_BYTES;
  }
  return to;
}

/** Writes `records` page records from page `first` on, all of zeros, to `to`; returns the address after them. */
export function expandBlank(to: usize, first: f64, records: u32): usize {
  let header = ((<u64>first) << 12) | FLAGS_PAGE;
  for (let i: u32 = 0; i < records; i++) {
    store<u64>(to, bswap<u64>(header));
    memory.fill(to + HEADER_BYTES, 0, PAGE_BYTES);
    to += PAGE_RECORD_BYTES;
    header += <u64>PAGE_BYTES;
  }
  return to;
}
