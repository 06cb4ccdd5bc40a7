/**
 * Hashes of a checkpoint's pages as they are told to a peer: their low bytes, as many as it takes to tell its pages from others.
 *
 * An index tells entries apart by bits 0 to 31 and the topmost of bits 24 to 55 (assembly/page-index.ts). The key of a short hash
 * puts its bytes where they count: its low 24 bits stay, its topmost 32 become bits 24 to 55; those that count twice do no harm.
 */

/** What a hash takes as a key, or in full. */
export const HASH_BYTES = 8;
const MIN_BYTES = 5;
const MAX_BYTES = 7;
/** A page that is in no checkpoint is taken for one that is, once in 2 to this. */
const SAFETY_BITS = 22;

/** How many bytes of each hash are told of a checkpoint of so many pages. */
export function hashBytesFor(pages: number): number {
  const bytes = Math.ceil((Math.log2(pages) + SAFETY_BITS) / 8);
  return Math.min(Math.max(bytes, MIN_BYTES), MAX_BYTES);
}

/** The short hashes of full ones (u64 each), one after the other. */
export function shortHashes(hashes: Uint8Array, hashBytes: number): Uint8Array {
  const count = hashes.length / HASH_BYTES;
  const short = new Uint8Array(count * hashBytes);
  for (let i = 0; i < count; i++) {
    for (let byte = 0; byte < hashBytes; byte++) short[i * hashBytes + byte] = hashes[i * HASH_BYTES + byte]!;
  }
  return short;
}

/**
 * Writes the keys (u64 each) of `count` hashes to `to`, which may be where full ones stand.
 *
 * @param strideBytes from each hash to the next: `hashBytes` for short ones, HASH_BYTES for full ones
 */
export function writeKeys(
  hashes: Uint8Array,
  strideBytes: number,
  hashBytes: number,
  count: number,
  to: Uint8Array,
): void {
  for (let i = 0; i < count; i++) {
    const at = i * strideBytes;
    const key = i * HASH_BYTES;
    // From the last byte on, so that none is overwritten before it was read.
    to[key + 7] = 0;
    for (let byte = 3; byte >= 0; byte--) to[key + 3 + byte] = hashes[at + hashBytes - 4 + byte]!;
    for (let byte = 2; byte >= 0; byte--) to[key + byte] = hashes[at + byte]!;
  }
}
