import { XXH3_SECRET_BYTES, xxh3Secret } from "../xxh3-secret.ts";

// XXH3-64 of more than 240 bytes (xxhash.h: XXH3_hashLong_64b_internal): the plain sibling of assembly/xxh3.ts.

const STRIPE_BYTES = 64;
const BLOCK_STRIPES = (XXH3_SECRET_BYTES - STRIPE_BYTES) / 8;
const PRIME32_1 = 0x9e3779b1n;
const PRIME64_1 = 0x9e3779b185ebca87n;
/** XXH3_INIT_ACC: XXH_PRIME32_3, XXH_PRIME64_1 to 4, XXH_PRIME32_2, XXH_PRIME64_5, XXH_PRIME32_1. */
const INITIAL = [
  0xc2b2ae3dn,
  PRIME64_1,
  0xc2b2ae3d27d4eb4fn,
  0x165667b19e3779f9n,
  0x85ebca77c2b2ae63n,
  0x85ebca77n,
  0x27d4eb2f165667c5n,
  PRIME32_1,
];

const u64 = (value: bigint): bigint => BigInt.asUintN(64, value);
const u32 = (value: bigint): bigint => BigInt.asUintN(32, value);
const viewOf = (bytes: Uint8Array): DataView => new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);

/** XXH3-64 of `bytes`, more than 240 of them, with a secret of 192 bytes. */
export function xxh3(bytes: Uint8Array, secret: Uint8Array = xxh3Secret()): bigint {
  const data = viewOf(bytes);
  const keys = viewOf(secret);
  const sums = [...INITIAL];

  const accumulate = (at: number, key: number): void => {
    for (let lane = 0; lane < 8; lane++) {
      const word = data.getBigUint64(at + lane * 8, true);
      const mixed = word ^ keys.getBigUint64(key + lane * 8, true);
      sums[lane ^ 1] = u64(sums[lane ^ 1]! + word);
      sums[lane] = u64(sums[lane]! + u32(mixed) * (mixed >> 32n));
    }
  };
  const scramble = (): void => {
    for (let lane = 0; lane < 8; lane++) {
      const sum = sums[lane]! ^ (sums[lane]! >> 47n) ^ keys.getBigUint64(XXH3_SECRET_BYTES - 64 + lane * 8, true);
      sums[lane] = u64(sum * PRIME32_1);
    }
  };

  // All but the last byte in whole stripes, then the last 64 bytes.
  const stripes = Math.floor((bytes.length - 1) / STRIPE_BYTES);
  for (let stripe = 0; stripe < stripes; stripe++) {
    accumulate(stripe * STRIPE_BYTES, (stripe % BLOCK_STRIPES) * 8);
    if (stripe % BLOCK_STRIPES === BLOCK_STRIPES - 1) scramble();
  }
  accumulate(bytes.length - STRIPE_BYTES, XXH3_SECRET_BYTES - STRIPE_BYTES - 7);

  let hash = u64(BigInt(bytes.length) * PRIME64_1);
  for (let lane = 0; lane < 8; lane += 2) {
    const low = sums[lane]! ^ keys.getBigUint64(11 + lane * 8, true);
    const high = sums[lane + 1]! ^ keys.getBigUint64(19 + lane * 8, true);
    hash = u64(hash + (u64(low * high) ^ ((low * high) >> 64n)));
  }
  hash = u64((hash ^ (hash >> 37n)) * 0x165667919e3779f9n);
  return hash ^ (hash >> 32n);
}
