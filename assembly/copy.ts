import { PAGE_BYTES } from "./page";

/** Copies `count` pages, `fromStride` bytes from each to the next, to `to`, where they are `toStride` bytes apart. */
export function copyPages(from: usize, fromStride: usize, to: usize, toStride: usize, count: u32): void {
  for (let i: u32 = 0; i < count; i++) {
    memory.copy(to, from, PAGE_BYTES);
    from += fromStride;
    to += toStride;
  }
}
