import { PAGE_BYTES } from "./page";

// Keyed BLAKE3 of pages and of runs of pages, cut to 128 bits (the BLAKE3 paper, section 2). Four pages at a time, whatever runs they are
// of, one a lane: each v128 holds the same word of all four. A page is four chunks, a whole tree by itself; the trees of a
// run's pages are then joined. src/compact/reference/blake3.ts is its plain sibling.

/**
 * The scratch area: a block, the key, the chaining values of a page's chunks (all of four lanes), the message schedule, a mask,
 * what is in the lanes (addresses, numbers of their pages' first chunks, flags of their roots), and the chaining values of pages.
 */
const BLOCK: usize = 0;
const KEY: usize = 256;
const CHUNKS: usize = 384;
const SCHEDULE: usize = 896;
const MASK: usize = 1008;
const ADDRESSES: usize = 1024;
const COUNTERS: usize = 1040;
const ROOTS: usize = 1056;
const PAGES: usize = 1072;
/** Eight words of four lanes, and of one. */
const CHAINS_BYTES: usize = 128;
const CHAIN_BYTES: usize = 32;

const BLOCK_BYTES: usize = 64;
const CHUNK_BYTES: usize = 1024;
const PAGE_CHUNKS: u32 = 4;
const ROUNDS: usize = 7;
const LANES: u32 = 4;

const CHUNK_START: u32 = 1;
const CHUNK_END: u32 = 2;
const PARENT: u32 = 4;
const ROOT: u32 = 8;
const KEYED_HASH: u32 = 16;

/** The message permutation (table 2), a nibble a word, the first word lowest. */
const PERMUTATION: u64 = 0x8fe95cb1d407a362;

// @ts-ignore: decorator
@inline function rotate(x: v128, bits: i32): v128 {
  return v128.or(i32x4.shr_u(x, bits), i32x4.shl(x, 32 - bits));
}

/**
 * Rotates words by whole bytes. The mask has to come from memory: V8 builds a constant one anew each time, in four
 * instructions. All of its indices are below 16, where relaxed and plain swizzle are the same, but for the plain one's check.
 */
// @ts-ignore: decorator
@inline function rotateBytes(x: v128, mask: v128): v128 {
  return i8x16.relaxed_swizzle(x, mask);
}

// @ts-ignore: decorator
@inline function sum(a: v128, b: v128, word: v128): v128 {
  return i32x4.add(i32x4.add(a, b), word);
}

/** Writes where each word of a block stands in each of the rounds, in bytes. */
function writeSchedule(to: usize): void {
  for (let word: usize = 0; word < 16; word++) {
    let source = word;
    for (let round: usize = 0; round < ROUNDS; round++) {
      store<u8>(to + round * 16 + word, source << 4);
      source = <usize>(PERMUTATION >> (source << 2)) & 15;
    }
  }
}

/** Compresses a block into the chaining value at `from`; writes the new one to `to`. All have four lanes. */
function compress(scratch: usize, from: usize, block: usize, counters: v128, flags: v128, to: usize): void {
  let s0 = v128.load(from), s1 = v128.load(from, 16), s2 = v128.load(from, 32), s3 = v128.load(from, 48);
  let s4 = v128.load(from, 64), s5 = v128.load(from, 80), s6 = v128.load(from, 96), s7 = v128.load(from, 112);
  let s8 = i32x4.splat(0x6a09e667), s9 = i32x4.splat(0xbb67ae85);
  let s10 = i32x4.splat(0x3c6ef372), s11 = i32x4.splat(0xa54ff53a);
  let s12 = counters, s13 = i32x4.splat(0), s14 = i32x4.splat(<u32>BLOCK_BYTES), s15 = flags;
  const mask8 = v128.load(scratch, MASK), mask16 = rotateBytes(mask8, mask8);
  let at = scratch + SCHEDULE;
  const end = at + ROUNDS * 16;
  do {
    // The columns, one after the other: a processor looks ahead far enough, and V8 has to spill less.
    s0 = sum(s0, s4, v128.load(block + load<u8>(at)));
    s12 = rotateBytes(v128.xor(s12, s0), mask16);
    s8 = i32x4.add(s8, s12);
    s4 = rotate(v128.xor(s4, s8), 12);
    s0 = sum(s0, s4, v128.load(block + load<u8>(at, 1)));
    s12 = rotateBytes(v128.xor(s12, s0), mask8);
    s8 = i32x4.add(s8, s12);
    s4 = rotate(v128.xor(s4, s8), 7);
    s1 = sum(s1, s5, v128.load(block + load<u8>(at, 2)));
    s13 = rotateBytes(v128.xor(s13, s1), mask16);
    s9 = i32x4.add(s9, s13);
    s5 = rotate(v128.xor(s5, s9), 12);
    s1 = sum(s1, s5, v128.load(block + load<u8>(at, 3)));
    s13 = rotateBytes(v128.xor(s13, s1), mask8);
    s9 = i32x4.add(s9, s13);
    s5 = rotate(v128.xor(s5, s9), 7);
    s2 = sum(s2, s6, v128.load(block + load<u8>(at, 4)));
    s14 = rotateBytes(v128.xor(s14, s2), mask16);
    s10 = i32x4.add(s10, s14);
    s6 = rotate(v128.xor(s6, s10), 12);
    s2 = sum(s2, s6, v128.load(block + load<u8>(at, 5)));
    s14 = rotateBytes(v128.xor(s14, s2), mask8);
    s10 = i32x4.add(s10, s14);
    s6 = rotate(v128.xor(s6, s10), 7);
    s3 = sum(s3, s7, v128.load(block + load<u8>(at, 6)));
    s15 = rotateBytes(v128.xor(s15, s3), mask16);
    s11 = i32x4.add(s11, s15);
    s7 = rotate(v128.xor(s7, s11), 12);
    s3 = sum(s3, s7, v128.load(block + load<u8>(at, 7)));
    s15 = rotateBytes(v128.xor(s15, s3), mask8);
    s11 = i32x4.add(s11, s15);
    s7 = rotate(v128.xor(s7, s11), 7);
    // The diagonals.
    s0 = sum(s0, s5, v128.load(block + load<u8>(at, 8)));
    s15 = rotateBytes(v128.xor(s15, s0), mask16);
    s10 = i32x4.add(s10, s15);
    s5 = rotate(v128.xor(s5, s10), 12);
    s0 = sum(s0, s5, v128.load(block + load<u8>(at, 9)));
    s15 = rotateBytes(v128.xor(s15, s0), mask8);
    s10 = i32x4.add(s10, s15);
    s5 = rotate(v128.xor(s5, s10), 7);
    s1 = sum(s1, s6, v128.load(block + load<u8>(at, 10)));
    s12 = rotateBytes(v128.xor(s12, s1), mask16);
    s11 = i32x4.add(s11, s12);
    s6 = rotate(v128.xor(s6, s11), 12);
    s1 = sum(s1, s6, v128.load(block + load<u8>(at, 11)));
    s12 = rotateBytes(v128.xor(s12, s1), mask8);
    s11 = i32x4.add(s11, s12);
    s6 = rotate(v128.xor(s6, s11), 7);
    s2 = sum(s2, s7, v128.load(block + load<u8>(at, 12)));
    s13 = rotateBytes(v128.xor(s13, s2), mask16);
    s8 = i32x4.add(s8, s13);
    s7 = rotate(v128.xor(s7, s8), 12);
    s2 = sum(s2, s7, v128.load(block + load<u8>(at, 13)));
    s13 = rotateBytes(v128.xor(s13, s2), mask8);
    s8 = i32x4.add(s8, s13);
    s7 = rotate(v128.xor(s7, s8), 7);
    s3 = sum(s3, s4, v128.load(block + load<u8>(at, 14)));
    s14 = rotateBytes(v128.xor(s14, s3), mask16);
    s9 = i32x4.add(s9, s14);
    s4 = rotate(v128.xor(s4, s9), 12);
    s3 = sum(s3, s4, v128.load(block + load<u8>(at, 15)));
    s14 = rotateBytes(v128.xor(s14, s3), mask8);
    s9 = i32x4.add(s9, s14);
    s4 = rotate(v128.xor(s4, s9), 7);
    at += 16;
  } while (at != end);
  v128.store(to, v128.xor(s0, s8));
  v128.store(to, v128.xor(s1, s9), 16);
  v128.store(to, v128.xor(s2, s10), 32);
  v128.store(to, v128.xor(s3, s11), 48);
  v128.store(to, v128.xor(s4, s12), 64);
  v128.store(to, v128.xor(s5, s13), 80);
  v128.store(to, v128.xor(s6, s14), 96);
  v128.store(to, v128.xor(s7, s15), 112);
}

/** Writes the four words of each of four rows so that those of the same place stand together: rows become columns. */
// @ts-ignore: decorator
@inline function transpose(a: v128, b: v128, c: v128, d: v128, to0: usize, to1: usize, to2: usize, to3: usize): void {
  const ab01 = v128.shuffle<u32>(a, b, 0, 4, 1, 5), ab23 = v128.shuffle<u32>(a, b, 2, 6, 3, 7);
  const cd01 = v128.shuffle<u32>(c, d, 0, 4, 1, 5), cd23 = v128.shuffle<u32>(c, d, 2, 6, 3, 7);
  v128.store(to0, v128.shuffle<u64>(ab01, cd01, 0, 2));
  v128.store(to1, v128.shuffle<u64>(ab01, cd01, 1, 3));
  v128.store(to2, v128.shuffle<u64>(ab23, cd23, 0, 2));
  v128.store(to3, v128.shuffle<u64>(ab23, cd23, 1, 3));
}

/** Puts the blocks at four addresses into the lanes of the block at `to`. */
// @ts-ignore: decorator
@inline function gather(p0: usize, p1: usize, p2: usize, p3: usize, to: usize): void {
  for (let quarter: usize = 0; quarter < BLOCK_BYTES; quarter += 16) {
    transpose(
      v128.load(p0 + quarter), v128.load(p1 + quarter), v128.load(p2 + quarter), v128.load(p3 + quarter),
      to, to + 16, to + 32, to + 48,
    );
    to += 64;
  }
}

/** Writes the chaining values in four lanes at `from` to the place that each belongs to. */
function scatter(from: usize, to0: usize, to1: usize, to2: usize, to3: usize): void {
  for (let half: usize = 0; half < CHAIN_BYTES; half += 16) {
    transpose(
      v128.load(from), v128.load(from, 16), v128.load(from, 32), v128.load(from, 48),
      to0 + half, to1 + half, to2 + half, to3 + half,
    );
    from += 64;
  }
}

/** Hashes the pages in the lanes; their chaining values stand at CHUNKS then. */
function hashLanes(scratch: usize): void {
  let p0: usize = load<u32>(scratch, ADDRESSES), p1: usize = load<u32>(scratch, ADDRESSES + 4);
  let p2: usize = load<u32>(scratch, ADDRESSES + 8), p3: usize = load<u32>(scratch, ADDRESSES + 12);
  const block = scratch + BLOCK, key = scratch + KEY, chains = scratch + CHUNKS;
  let counters = v128.load(scratch, COUNTERS);
  for (let chunk: u32 = 0; chunk < PAGE_CHUNKS; chunk++) {
    const chain = chains + <usize>chunk * CHAINS_BYTES;
    for (let offset: usize = 0; offset < CHUNK_BYTES; offset += BLOCK_BYTES) {
      gather(p0, p1, p2, p3, block);
      p0 += BLOCK_BYTES;
      p1 += BLOCK_BYTES;
      p2 += BLOCK_BYTES;
      p3 += BLOCK_BYTES;
      const flags = offset == 0 ? CHUNK_START : offset == CHUNK_BYTES - BLOCK_BYTES ? CHUNK_END : 0;
      compress(scratch, offset == 0 ? key : chain, block, counters, i32x4.splat(KEYED_HASH | flags), chain);
    }
    counters = i32x4.add(counters, i32x4.splat(1));
  }
  // The chaining values of two chunks are their parent's block as they stand.
  const zero = i32x4.splat(0), parent = i32x4.splat(KEYED_HASH | PARENT);
  compress(scratch, key, chains, zero, parent, block);
  compress(scratch, key, chains + 2 * CHAINS_BYTES, zero, parent, block + CHAINS_BYTES);
  compress(scratch, key, block, zero, v128.or(parent, v128.load(scratch, ROOTS)), chains);
}

/** Joins the trees of `pages` pages, whose chaining values stand at `chains`, into the one that stands there then. */
function join(scratch: usize, chains: usize, pages: u32): void {
  const block = scratch + BLOCK, joined = scratch + CHUNKS;
  while (pages > 1) {
    const pairs = pages >> 1;
    const flags = KEYED_HASH | PARENT | (pages == 2 ? ROOT : 0);
    for (let i: u32 = 0; i < pairs; i += LANES) {
      // Lanes past the end do the last pair's work over again, and write what stands there already.
      const i1 = min(i + 1, pairs - 1), i2 = min(i + 2, pairs - 1), i3 = min(i + 3, pairs - 1);
      gather(chains + (i << 6), chains + (i1 << 6), chains + (i2 << 6), chains + (i3 << 6), block);
      compress(scratch, scratch + KEY, block, i32x4.splat(0), i32x4.splat(flags), joined);
      scatter(joined, chains + (i << 5), chains + (i1 << 5), chains + (i2 << 5), chains + (i3 << 5));
    }
    // One without a neighbour waits for the next level: so the left tree is always the largest that is full.
    if (pages & 1) memory.copy(chains + (pairs << 5), chains + (pairs << 6), CHAIN_BYTES);
    pages = pairs + (pages & 1);
  }
}

/** Writes what all pages are hashed with. */
function begin(key: usize, scratch: usize): void {
  writeSchedule(scratch + SCHEDULE);
  v128.store(scratch, i8x16(1, 2, 3, 0, 5, 6, 7, 4, 9, 10, 11, 8, 13, 14, 15, 12), MASK);
  for (let word: usize = 0; word < 8; word++) {
    v128.store(scratch + KEY + word * 16, i32x4.splat(load<u32>(key + word * 4)));
  }
}

/**
 * Writes the keyed BLAKE3 of each of `count` pages, cut to 128 bits, to `out` (16 bytes each). `addresses` is where their
 * addresses stand (u32 each), `key` where the 32 bytes of the key do, `scratch` 1,200 bytes to work in.
 */
export function tagPages(key: usize, scratch: usize, addresses: usize, count: u32, out: usize): void {
  begin(key, scratch);
  v128.store(scratch, i32x4.splat(0), COUNTERS);
  v128.store(scratch, i32x4.splat(ROOT), ROOTS);
  for (let i: u32 = 0; i < count; i += LANES) {
    // Lanes past the end do the last page's work over again, and write its tag where it stands already.
    const i1 = min(i + 1, count - 1), i2 = min(i + 2, count - 1), i3 = min(i + 3, count - 1);
    store<u32>(scratch, load<u32>(addresses + (i << 2)), ADDRESSES);
    store<u32>(scratch, load<u32>(addresses + (i1 << 2)), ADDRESSES + 4);
    store<u32>(scratch, load<u32>(addresses + (i2 << 2)), ADDRESSES + 8);
    store<u32>(scratch, load<u32>(addresses + (i3 << 2)), ADDRESSES + 12);
    hashLanes(scratch);
    const root = scratch + CHUNKS;
    transpose(
      v128.load(root), v128.load(root, 16), v128.load(root, 32), v128.load(root, 48),
      out + (i << 4), out + (i1 << 4), out + (i2 << 4), out + (i3 << 4),
    );
  }
}

/**
 * Writes the keyed BLAKE3 of each of `count` runs of pages, cut to 128 bits, to `out` (16 bytes each). `runs` is where they
 * stand (u32 address of the first page and u32 pages each, at least one), `stride` bytes from each page to the next; `key` where the
 * 32 bytes of the key do, `scratch` 1,200 bytes to work in and 32 more for each page of all runs.
 */
export function tagRuns(key: usize, scratch: usize, runs: usize, count: u32, stride: usize, out: usize): void {
  if (!count) return;
  begin(key, scratch);
  // Lanes that get no page at the end read something all the same.
  v128.store(scratch, i32x4.splat(load<u32>(runs)), ADDRESSES);
  let lane: usize = 0;
  let chains = scratch + PAGES;
  const end = runs + (<usize>count << 3);
  for (let run = runs; run != end; run += 8) {
    const pages = load<u32>(run, 4);
    let address = load<u32>(run);
    for (let page: u32 = 0; page < pages; page++) {
      store<u32>(scratch + lane, address, ADDRESSES);
      store<u32>(scratch + lane, page * PAGE_CHUNKS, COUNTERS);
      store<u32>(scratch + lane, pages == 1 ? ROOT : 0, ROOTS);
      address += <u32>stride;
      lane = (lane + 4) & 15;
      if (lane) continue;
      hashLanes(scratch);
      scatter(scratch + CHUNKS, chains, chains + 32, chains + 64, chains + 96);
      chains += CHAINS_BYTES;
    }
  }
  if (lane) {
    // What stands in the other lanes is hashed too, and not looked at.
    hashLanes(scratch);
    scatter(scratch + CHUNKS, chains, chains + 32, chains + 64, chains + 96);
  }
  chains = scratch + PAGES;
  for (let run = runs; run != end; run += 8) {
    const pages = load<u32>(run, 4);
    join(scratch, chains, pages);
    v128.store(out, v128.load(chains));
    chains += <usize>pages * CHAIN_BYTES;
    out += 16;
  }
}
