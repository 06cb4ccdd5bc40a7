import { PAGE_BYTES } from "./page";

// The difference between two versions of a page: a bitmap of its 512 words of 8 bytes (bit i of byte j, lowest first,
// is word 8 j + i), then the words that differ, as the newer version has them. src/compact/reference/delta.ts is its
// plain sibling.

const BITMAP_BYTES: usize = 64;
/** The bytes of a page that eight words, a byte of the bitmap, stand for. */
const STRETCH_BYTES: usize = 64;

/** Which of four words are equal: all ones in their i32 lanes. */
// @ts-ignore: decorator
@inline function equal4(older: usize, newer: usize): v128 {
  const first = i64x2.eq(v128.load(older), v128.load(newer));
  const second = i64x2.eq(v128.load(older, 16), v128.load(newer, 16));
  return v128.shuffle<u32>(first, second, 0, 2, 4, 6);
}

// @ts-ignore: decorator
@inline function equal8(older: usize, newer: usize): v128 {
  return i16x8.narrow_i32x4_s(equal4(older, newer), equal4(older + 32, newer + 32));
}

/** Writes the bitmap to `to`; returns the number of words that differ. */
function compare(older: usize, newer: usize, to: usize): usize {
  let words: usize = 0;
  const end = to + BITMAP_BYTES;
  do {
    const same = i8x16.bitmask(i8x16.narrow_i16x8_s(equal8(older, newer), equal8(older + 64, newer + 64)));
    const differing = ~same & 0xffff;
    store<u16>(to, differing);
    words += popcnt(differing);
    older += 2 * STRETCH_BYTES;
    newer += 2 * STRETCH_BYTES;
    to += 2;
  } while (to != end);
  return words;
}

/**
 * Encodes the differences of `count` pairs of pages, one after another, to `out`. `olds` and `news` are where the
 * addresses of their versions stand (u32 each). Writes the bytes of each difference to `lengths` (u32 each): 64 if the
 * pages are equal, 0 if they would be more than `limit` (at least 64). `out` has room for `limit` bytes a pair. Returns
 * the bytes written.
 */
export function encodeDeltas(olds: usize, news: usize, count: u32, limit: u32, out: usize, lengths: usize): u32 {
  const start = out;
  for (let i: u32 = 0; i < count; i++) {
    const newer: usize = load<u32>(news + (i << 2));
    const bytes = BITMAP_BYTES + (compare(load<u32>(olds + (i << 2)), newer, out) << 3);
    if (bytes > limit) {
      store<u32>(lengths + (i << 2), 0);
      continue;
    }
    store<u32>(lengths + (i << 2), bytes);
    let to = out + BITMAP_BYTES;
    for (let at: usize = 0; at < BITMAP_BYTES; at += 8) {
      const stretch = newer + at * STRETCH_BYTES;
      for (let bits = load<u64>(out + at); bits != 0; bits &= bits - 1) {
        store<u64>(to, load<u64>(stretch + (<usize>ctz(bits) << 3)));
        to += 8;
      }
    }
    out = to;
  }
  return <u32>(out - start);
}

/** Whether a difference of `bytes` bytes stands at `from`, before `end`: as long as its bitmap says. */
// @ts-ignore: decorator
@inline function isDelta(from: usize, end: usize, bytes: usize): bool {
  if (bytes < BITMAP_BYTES || bytes > end - from) return false;
  let words: usize = 0;
  for (let at: usize = 0; at < BITMAP_BYTES; at += 8) words += <usize>popcnt(load<u64>(from + at));
  return bytes == BITMAP_BYTES + (words << 3);
}

/**
 * Returns how many of `count` differences, which follow each other from `from` to `end`, as long as `lengths` says (u32
 * each), are well formed, up to the first that is not: what applyDeltas would make.
 */
export function checkDeltas(count: u32, from: usize, end: usize, lengths: usize): u32 {
  for (let i: u32 = 0; i < count; i++) {
    const bytes: usize = load<u32>(lengths + (i << 2));
    if (!isDelta(from, end, bytes)) return i;
    from += bytes;
  }
  return count;
}

/**
 * Makes `count` newer versions out of older ones and their differences, which follow each other from `from` to `end`,
 * as long as `lengths` says (u32 each). `olds` and `news` are where the addresses of the versions stand (u32 each); a
 * page may be both. Nothing is taken on trust: returns how many were made, which is less than `count` if a difference
 * is malformed or cut off by `end`; its page is left as it was.
 */
export function applyDeltas(olds: usize, news: usize, count: u32, from: usize, end: usize, lengths: usize): u32 {
  for (let i: u32 = 0; i < count; i++) {
    if (!isDelta(from, end, load<u32>(lengths + (i << 2)))) return i;
    const older: usize = load<u32>(olds + (i << 2));
    const newer: usize = load<u32>(news + (i << 2));
    if (older != newer) memory.copy(newer, older, PAGE_BYTES);
    let word = from + BITMAP_BYTES;
    for (let at: usize = 0; at < BITMAP_BYTES; at += 8) {
      const stretch = newer + at * STRETCH_BYTES;
      for (let bits = load<u64>(from + at); bits != 0; bits &= bits - 1) {
        store<u64>(stretch + (<usize>ctz(bits) << 3), load<u64>(word));
        word += 8;
      }
    }
    from = word;
  }
  return count;
}
