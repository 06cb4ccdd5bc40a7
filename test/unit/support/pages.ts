import fc from "fast-check";

export const PAGE_BYTES = 4096;

/** `size` bytes that a seed decides (xorshift32). */
export function noise(seed: number, size: number): Uint8Array {
  const words = new Uint32Array(Math.ceil(size / 4));
  let state = seed | 1;
  for (let index = 0; index < words.length; index++) {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    words[index] = state;
  }
  return new Uint8Array(words.buffer, 0, size);
}

/** Pieces that LZ4 treats differently: noise, runs and patterns of any period, what stood before. */
const piece = fc.oneof(
  fc.record({ kind: fc.constant("noise"), seed: fc.integer(), size: fc.nat(600) }),
  fc.record({ kind: fc.constant("pattern"), seed: fc.integer({ min: 1, max: 40 }), size: fc.nat(600) }),
  fc.record({ kind: fc.constant("repeat"), seed: fc.nat(100_000), size: fc.nat(600) }),
);

/** Bytes with structure, `maxPieces` pieces of up to 600 bytes. */
export const structured = (maxPieces: number): fc.Arbitrary<Uint8Array> =>
  fc.array(piece, { maxLength: maxPieces }).map((pieces) => {
    const bytes: number[] = [];
    for (const { kind, seed, size } of pieces) {
      if (kind === "noise") {
        for (const byte of noise(seed, size)) bytes.push(byte);
      } else {
        const distance = kind === "pattern" ? seed : bytes.length - (seed % (bytes.length + 1));
        for (let i = 0; i < size; i++) bytes.push(bytes.at(-distance) ?? i % 256);
      }
    }
    return Uint8Array.from(bytes);
  });

/** Pages: noise, zeros but for some words, a pattern, structure. */
export const page: fc.Arbitrary<Uint8Array> = fc.oneof(
  fc.integer().map((seed) => noise(seed, PAGE_BYTES)),
  fc.array(fc.tuple(fc.nat(PAGE_BYTES - 1), fc.nat(255)), { maxLength: 20 }).map((changes) => {
    const bytes = new Uint8Array(PAGE_BYTES);
    for (const [at, byte] of changes) bytes[at] = byte;
    return bytes;
  }),
  fc.nat(255).map((byte) => new Uint8Array(PAGE_BYTES).fill(byte)),
  structured(12).map((bytes) => {
    const padded = new Uint8Array(PAGE_BYTES);
    padded.set(bytes.subarray(0, PAGE_BYTES));
    return padded;
  }),
);

/** A page with some of its bytes changed. */
export const changedPage: fc.Arbitrary<[older: Uint8Array, newer: Uint8Array]> = fc
  .tuple(page, fc.array(fc.tuple(fc.nat(PAGE_BYTES - 1), fc.nat(255)), { maxLength: 200 }))
  .map(([older, changes]) => {
    const newer = Uint8Array.from(older);
    for (const [at, byte] of changes) newer[at] = byte;
    return [older, newer];
  });
