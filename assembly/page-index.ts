// A hash table from page hashes to the numbers of the blocks or pages that hold them. It is a cache: an entry may be
// missing or wrong. src/compact/reference/page-index.ts is its plain sibling.
//
// The table is an array of buckets, one a cache line: eight tags (u32, the hash's low half), then their eight values.
// Slots fill in order; a free one has the value NONE, so a table of 0xff bytes is empty. The bucket comes from bits 24
// to 55 of the hash: the top eight are left to choose among several tables, and a table of 2^24 buckets still tells
// hashes apart by 56 bits. A full bucket goes on in the next one; MAX_PROBES buckets are looked at.

// @ts-ignore: decorator
@inline const NONE: u32 = 0xffffffff;
const BUCKET_BYTES: usize = 64;
const VALUES: usize = 32;
const LAST_VALUE: usize = 60;
/** Far above what uniform hashes need; it bounds the work that hashes chosen by a guest can cause. */
const MAX_PROBES: u32 = 32;
/** Lookups whose cache misses overlap. */
const GROUP: u32 = 64;

// @ts-ignore: decorator
@inline function bucketOf(hash: u64, buckets: usize): usize {
  return <usize>((<u64>(<u32>(hash >> 24)) * buckets) >> 32);
}

/** Which of the eight words at `at`, tags or values, equal `wanted`: a bit each. */
// @ts-ignore: decorator
@inline function slotsWith(at: usize, wanted: v128): u32 {
  return i32x4.bitmask(i32x4.eq(v128.load(at), wanted)) | (i32x4.bitmask(i32x4.eq(v128.load(at, 16), wanted)) << 4);
}

/** Reads a word of each hash's first bucket: the cache misses overlap, and what follows finds them done. */
function touch(table: usize, buckets: usize, hashes: usize, count: u32): u32 {
  let words: u32 = 0;
  for (let i: u32 = 0; i < count; i++) {
    words ^= load<u32>(table + bucketOf(load<u64>(hashes), buckets) * BUCKET_BYTES);
    hashes += 8;
  }
  return words;
}

function find(table: usize, buckets: usize, hash: u64): u32 {
  const tag = i32x4.splat(<u32>hash);
  let number = bucketOf(hash, buckets);
  for (let probe: u32 = 0; probe < MAX_PROBES; probe++) {
    const bucket = table + number * BUCKET_BYTES;
    const found = slotsWith(bucket, tag);
    if (found != 0) return load<u32>(bucket + VALUES + (ctz(found) << 2));
    if (load<u32>(bucket, LAST_VALUE) == NONE) return NONE;
    if (++number == buckets) number = 0;
  }
  return NONE;
}

/** Returns whether the entry was put in: not if its hash is there already, nor if there is no room near its bucket. */
function put(table: usize, buckets: usize, hash: u64, value: u32): bool {
  const tag = i32x4.splat(<u32>hash);
  let number = bucketOf(hash, buckets);
  for (let probe: u32 = 0; probe < MAX_PROBES; probe++) {
    const bucket = table + number * BUCKET_BYTES;
    const free = slotsWith(bucket + VALUES, i32x4.splat(NONE));
    if ((slotsWith(bucket, tag) & ~free) != 0) return false;
    if (free != 0) {
      const slot = bucket + (ctz(free) << 2);
      store<u32>(slot, <u32>hash);
      store<u32>(slot, value, VALUES);
      return true;
    }
    if (++number == buckets) number = 0;
  }
  return false;
}

/**
 * Looks `count` hashes (u64 each) up in `table`, which has `buckets` buckets of 64 bytes; writes their values to `out`
 * (u32 each), 0xffffffff for those it does not hold.
 */
export function lookupPages(table: usize, buckets: usize, hashes: usize, count: u32, out: usize): void {
  while (count > 0) {
    const group = min(count, GROUP);
    touch(table, buckets, hashes, group);
    for (let i: u32 = 0; i < group; i++) {
      store<u32>(out, find(table, buckets, load<u64>(hashes)));
      hashes += 8;
      out += 4;
    }
    count -= group;
  }
}

/**
 * Puts `count` entries into `table`, which has `buckets` buckets of 64 bytes: `hashes` (u64 each) with `values` (u32
 * each, below 0xffffffff). The first value of a hash stays. Returns how many were put in.
 */
export function insertPages(table: usize, buckets: usize, hashes: usize, values: usize, count: u32): u32 {
  let inserted: u32 = 0;
  while (count > 0) {
    const group = min(count, GROUP);
    touch(table, buckets, hashes, group);
    for (let i: u32 = 0; i < group; i++) {
      inserted += <u32>put(table, buckets, load<u64>(hashes), load<u32>(values));
      hashes += 8;
      values += 4;
    }
    count -= group;
  }
  return inserted;
}
