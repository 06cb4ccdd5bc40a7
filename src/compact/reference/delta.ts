// The difference between two versions of a page, as assembly/delta.ts describes it: its plain sibling.

const WORD_BYTES = 8;
const BITMAP_BYTES = 64;

/** The difference that makes `newer` out of `older`, pages of 4096 bytes; undefined if it is more than `limit` bytes. */
export function encodeDelta(older: Uint8Array, newer: Uint8Array, limit: number): Uint8Array | undefined {
  const bitmap = new Uint8Array(BITMAP_BYTES);
  const words: Uint8Array[] = [];
  for (let word = 0; word < BITMAP_BYTES * 8; word++) {
    const bytes = newer.subarray(word * WORD_BYTES, (word + 1) * WORD_BYTES);
    if (bytes.every((byte, index) => byte === older[word * WORD_BYTES + index])) continue;
    bitmap[word >> 3]! |= 1 << (word & 7);
    words.push(bytes);
  }
  const delta = Uint8Array.from(Buffer.concat([bitmap, ...words]));
  return delta.length > limit ? undefined : delta;
}

/** The newer version of the page `older` by its difference; undefined if that is malformed. */
export function applyDelta(older: Uint8Array, delta: Uint8Array): Uint8Array | undefined {
  if (delta.length < BITMAP_BYTES) return undefined;
  const newer = Uint8Array.from(older);
  let at = BITMAP_BYTES;
  for (let word = 0; word < BITMAP_BYTES * 8; word++) {
    if ((delta[word >> 3]! & (1 << (word & 7))) === 0) continue;
    if (at + WORD_BYTES > delta.length) return undefined;
    newer.set(delta.subarray(at, at + WORD_BYTES), word * WORD_BYTES);
    at += WORD_BYTES;
  }
  return at === delta.length ? newer : undefined;
}
