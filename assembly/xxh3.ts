import { PAGE_BYTES } from "./page";

// XXH3-64 of inputs of one page, as in xxHash 0.8 (xxhash.h: XXH3_hashLong_64b_internal and what it calls). It finds
// candidates and is trusted with nothing. src/compact/reference/xxh3.ts is its plain sibling.

/** XXH_STRIPE_LEN, and the bytes by which the secret moves from stripe to stripe (XXH_SECRET_CONSUME_RATE). */
const STRIPE_BYTES: usize = 64;
const SECRET_STEP: usize = 8;
/** Stripes until the secret (XXH_SECRET_DEFAULT_SIZE, 192 bytes) is used up; then the accumulators are scrambled. */
const BLOCK_STRIPES: u32 = 16;
const PAGE_STRIPES: u32 = 64;
/** Where the secret is read for the scramble, the last stripe (192 - 64 - XXH_SECRET_LASTACC_START) and the merge. */
const SCRAMBLE_SECRET: usize = 128;
const LAST_SECRET: usize = 121;
const MERGE_SECRET: usize = 11;

const PRIME32_1: u64 = 0x9e3779b1;
const PRIME32_2: u64 = 0x85ebca77;
const PRIME32_3: u64 = 0xc2b2ae3d;
const PRIME64_1: u64 = 0x9e3779b185ebca87;
const PRIME64_2: u64 = 0xc2b2ae3d27d4eb4f;
const PRIME64_3: u64 = 0x165667b19e3779f9;
const PRIME64_4: u64 = 0x85ebca77c2b2ae63;
const PRIME64_5: u64 = 0x27d4eb2f165667c5;
/** PRIME_MX1 */
const AVALANCHE: u64 = 0x165667919e3779f9;

// @ts-ignore: decorator
@inline function pair(low: u64, high: u64): v128 {
  return i64x2.replace_lane(i64x2.splat(low), 1, high);
}

// @ts-ignore: decorator
@inline function lows(a: v128, b: v128): v128 {
  return v128.shuffle<u32>(a, b, 0, 2, 4, 6);
}

// @ts-ignore: decorator
@inline function highs(a: v128, b: v128): v128 {
  return v128.shuffle<u32>(a, b, 1, 3, 5, 7);
}

/** The accumulator plus the stripe's data with neighbours swapped. */
// @ts-ignore: decorator
@inline function addSwapped(sum: v128, data: v128): v128 {
  return i64x2.add(sum, v128.shuffle<u64>(data, data, 1, 0));
}

// @ts-ignore: decorator
@inline function scramble(sum: v128, secret: usize): v128 {
  const mixed = v128.xor(v128.xor(sum, i64x2.shr_u(sum, 47)), v128.load(secret));
  return i64x2.mul(mixed, i64x2.splat(PRIME32_1));
}

/** XXH3_mul128_fold64: both halves of the 128-bit product, xored. */
function foldedProduct(a: u64, b: u64): u64 {
  const aLow = a & 0xffffffff, aHigh = a >> 32;
  const bLow = b & 0xffffffff, bHigh = b >> 32;
  const low = aLow * bLow;
  const middle = aHigh * bLow + (low >> 32);
  const cross = aLow * bHigh + (middle & 0xffffffff);
  return (a * b) ^ (aHigh * bHigh + (middle >> 32) + (cross >> 32));
}

// @ts-ignore: decorator
@inline function merge(sum: v128, secret: usize): u64 {
  return foldedProduct(
    i64x2.extract_lane(sum, 0) ^ load<u64>(secret),
    i64x2.extract_lane(sum, 1) ^ load<u64>(secret, 8),
  );
}

function hashPage(page: usize, secret: usize): u64 {
  let sum0 = pair(PRIME32_3, PRIME64_1);
  let sum1 = pair(PRIME64_2, PRIME64_3);
  let sum2 = pair(PRIME64_4, PRIME32_2);
  let sum3 = pair(PRIME64_5, PRIME32_1);
  let key = secret;
  for (let stripe: u32 = 1; ; stripe++) {
    const data0 = v128.load(page);
    const data1 = v128.load(page, 16);
    const data2 = v128.load(page, 32);
    const data3 = v128.load(page, 48);
    const mixed0 = v128.xor(data0, v128.load(key));
    const mixed1 = v128.xor(data1, v128.load(key, 16));
    const mixed2 = v128.xor(data2, v128.load(key, 32));
    const mixed3 = v128.xor(data3, v128.load(key, 48));
    // Of each mixed 64-bit word the low half times the high half; two vectors share the shuffles.
    const low01 = lows(mixed0, mixed1), high01 = highs(mixed0, mixed1);
    const low23 = lows(mixed2, mixed3), high23 = highs(mixed2, mixed3);
    sum0 = i64x2.add(addSwapped(sum0, data0), i64x2.extmul_low_i32x4_u(low01, high01));
    sum1 = i64x2.add(addSwapped(sum1, data1), i64x2.extmul_high_i32x4_u(low01, high01));
    sum2 = i64x2.add(addSwapped(sum2, data2), i64x2.extmul_low_i32x4_u(low23, high23));
    sum3 = i64x2.add(addSwapped(sum3, data3), i64x2.extmul_high_i32x4_u(low23, high23));
    if (stripe == PAGE_STRIPES) break;
    page += STRIPE_BYTES;
    key += SECRET_STEP;
    if (stripe % BLOCK_STRIPES == 0) {
      sum0 = scramble(sum0, secret + SCRAMBLE_SECRET);
      sum1 = scramble(sum1, secret + SCRAMBLE_SECRET + 16);
      sum2 = scramble(sum2, secret + SCRAMBLE_SECRET + 32);
      sum3 = scramble(sum3, secret + SCRAMBLE_SECRET + 48);
      key = secret;
    } else if (stripe == PAGE_STRIPES - 1) {
      key = secret + LAST_SECRET;
    }
  }
  let hash = <u64>PAGE_BYTES * PRIME64_1;
  hash += merge(sum0, secret + MERGE_SECRET);
  hash += merge(sum1, secret + MERGE_SECRET + 16);
  hash += merge(sum2, secret + MERGE_SECRET + 32);
  hash += merge(sum3, secret + MERGE_SECRET + 48);
  hash = (hash ^ (hash >> 37)) * AVALANCHE;
  return hash ^ (hash >> 32);
}

/**
 * Writes the XXH3-64 of `count` pages to `out` (u64 each). `addresses` is where their addresses stand (u32 each),
 * `secret` where 192 bytes do: XXH3's default secret, or what it derives from a seed.
 */
export function hashPages(secret: usize, addresses: usize, count: u32, out: usize): void {
  for (let i: u32 = 0; i < count; i++) {
    store<u64>(out, hashPage(load<u32>(addresses), secret));
    addresses += 4;
    out += 8;
  }
}
