import { PAGE_BYTES } from "./page";

// Keyed BLAKE3 of pages, cut to 128 bits (the BLAKE3 paper, section 2). Four pages at a time, one a lane: each v128
// holds the same word of all four. The chaining values of two chunks are then their parent's block as they stand.
// src/compact/reference/blake3.ts is its plain sibling.

/** The scratch area: a block, the key, the chaining values of the chunks (all of four lanes), the message schedule, a mask. */
const BLOCK: usize = 0;
const KEY: usize = 256;
const CHUNKS: usize = 384;
const SCHEDULE: usize = 896;
const MASK: usize = 1008;
/** Eight words of four lanes. */
const CHAIN_BYTES: usize = 128;

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

/** Compresses a block into the chaining value at `from`; writes the new one to `to`. Each has four lanes. */
function compress(scratch: usize, from: usize, block: usize, chunk: u32, flags: u32, to: usize): void {
  let s0 = v128.load(from), s1 = v128.load(from, 16), s2 = v128.load(from, 32), s3 = v128.load(from, 48);
  let s4 = v128.load(from, 64), s5 = v128.load(from, 80), s6 = v128.load(from, 96), s7 = v128.load(from, 112);
  let s8 = i32x4.splat(0x6a09e667), s9 = i32x4.splat(0xbb67ae85);
  let s10 = i32x4.splat(0x3c6ef372), s11 = i32x4.splat(0xa54ff53a);
  let s12 = i32x4.splat(chunk), s13 = i32x4.splat(0), s14 = i32x4.splat(<u32>BLOCK_BYTES), s15 = i32x4.splat(flags);
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

/** Writes the four words of each of four pages so that those of the same place stand together: rows become columns. */
// @ts-ignore: decorator
@inline function transpose(a: v128, b: v128, c: v128, d: v128, to0: usize, to1: usize, to2: usize, to3: usize): void {
  const ab01 = v128.shuffle<u32>(a, b, 0, 4, 1, 5), ab23 = v128.shuffle<u32>(a, b, 2, 6, 3, 7);
  const cd01 = v128.shuffle<u32>(c, d, 0, 4, 1, 5), cd23 = v128.shuffle<u32>(c, d, 2, 6, 3, 7);
  v128.store(to0, v128.shuffle<u64>(ab01, cd01, 0, 2));
  v128.store(to1, v128.shuffle<u64>(ab01, cd01, 1, 3));
  v128.store(to2, v128.shuffle<u64>(ab23, cd23, 0, 2));
  v128.store(to3, v128.shuffle<u64>(ab23, cd23, 1, 3));
}

/** Hashes four pages; their roots stand at CHUNKS then. */
function tagFour(scratch: usize, p0: usize, p1: usize, p2: usize, p3: usize): void {
  const message = scratch + BLOCK;
  for (let chunk: u32 = 0; chunk < PAGE_CHUNKS; chunk++) {
    const chain = scratch + CHUNKS + <usize>chunk * CHAIN_BYTES;
    for (let offset: usize = 0; offset < CHUNK_BYTES; offset += BLOCK_BYTES) {
      for (let quarter: usize = 0; quarter < BLOCK_BYTES; quarter += 16) {
        const to = message + quarter * 4;
        transpose(
          v128.load(p0 + quarter), v128.load(p1 + quarter), v128.load(p2 + quarter), v128.load(p3 + quarter),
          to, to + 16, to + 32, to + 48,
        );
      }
      p0 += BLOCK_BYTES;
      p1 += BLOCK_BYTES;
      p2 += BLOCK_BYTES;
      p3 += BLOCK_BYTES;
      const flags = offset == 0 ? CHUNK_START : offset == CHUNK_BYTES - BLOCK_BYTES ? CHUNK_END : 0;
      compress(scratch, offset == 0 ? scratch + KEY : chain, message, chunk, KEYED_HASH | flags, chain);
    }
  }
  const chains = scratch + CHUNKS, key = scratch + KEY;
  compress(scratch, key, chains, 0, KEYED_HASH | PARENT, message);
  compress(scratch, key, chains + 2 * CHAIN_BYTES, 0, KEYED_HASH | PARENT, message + CHAIN_BYTES);
  compress(scratch, key, message, 0, KEYED_HASH | PARENT | ROOT, chains);
}

/**
 * Writes the keyed BLAKE3 of `count` pages, cut to 128 bits, to `out` (16 bytes each). `addresses` is where their
 * addresses stand (u32 each), `key` where the 32 bytes of the key do, `scratch` 1 KiB to work in.
 */
export function tagPages(key: usize, scratch: usize, addresses: usize, count: u32, out: usize): void {
  writeSchedule(scratch + SCHEDULE);
  v128.store(scratch, i8x16(1, 2, 3, 0, 5, 6, 7, 4, 9, 10, 11, 8, 13, 14, 15, 12), MASK);
  for (let word: usize = 0; word < 8; word++) {
    v128.store(scratch + KEY + word * 16, i32x4.splat(load<u32>(key + word * 4)));
  }
  const last = addresses + (count - 1) * 4;
  for (let i: u32 = 0; i < count; i += LANES) {
    // Lanes past the end do the last page's work over again, and write its tag where it stands already.
    const at = addresses + i * 4;
    const at1 = min(at + 4, last), at2 = min(at + 8, last), at3 = min(at + 12, last);
    tagFour(scratch, load<u32>(at), load<u32>(at1), load<u32>(at2), load<u32>(at3));
    const root = scratch + CHUNKS;
    transpose(
      v128.load(root), v128.load(root, 16), v128.load(root, 32), v128.load(root, 48),
      out + (at - addresses) * 4, out + (at1 - addresses) * 4, out + (at2 - addresses) * 4, out + (at3 - addresses) * 4,
    );
  }
}
