import { LZ4_ERROR } from "../page-kernels.ts";

// The LZ4 block format (lz4's doc/lz4_Block_format.md): the plain sibling of assembly/lz4.ts.

const MIN_MATCH = 4;
const MAX_OFFSET = 65535;
/** A block's last 5 bytes are literals, and its last match starts 12 bytes before the end or earlier. */
const LAST_LITERALS = 5;
const MATCH_START_LIMIT = 12;

export type Lz4Error = (typeof LZ4_ERROR)[keyof typeof LZ4_ERROR];

/** A length's bytes after a field that is 15. */
function goingOn(length: number): number[] {
  if (length < 15) return [];
  return [...Array<number>(Math.floor((length - 15) / 255)).fill(255), (length - 15) % 255];
}

/** An LZ4 block of `bytes`. Its matches are the last places where the next four bytes stood. */
export function compressLz4(bytes: Uint8Array): Uint8Array {
  const pieces: Uint8Array[] = [];
  const lastPlaces = new Map<number, number>();
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  let literals = 0;
  const writeLiterals = (end: number, matchField: number): void => {
    const count = end - literals;
    pieces.push(Uint8Array.of((Math.min(count, 15) << 4) | matchField, ...goingOn(count)));
    pieces.push(bytes.subarray(literals, end));
  };
  for (let at = 0; at <= bytes.length - MATCH_START_LIMIT; at++) {
    const word = view.getUint32(at, true);
    const match = lastPlaces.get(word);
    lastPlaces.set(word, at);
    if (match === undefined || at - match > MAX_OFFSET) continue;
    let end = at + MIN_MATCH;
    while (end < bytes.length - LAST_LITERALS && bytes[end] === bytes[end - at + match]) end++;
    const length = end - at - MIN_MATCH;
    writeLiterals(at, Math.min(length, 15));
    pieces.push(Uint8Array.of((at - match) & 0xff, (at - match) >> 8, ...goingOn(length)));
    literals = end;
    at = end - 1;
  }
  writeLiterals(bytes.length, 0);
  return Uint8Array.from(Buffer.concat(pieces));
}

/** The bytes of an LZ4 block, at most `capacity` of them; the kernel finds the same error, whatever the block. */
export function decompressLz4(block: Uint8Array, capacity: number): Uint8Array | Lz4Error {
  const bytes = new Uint8Array(capacity);
  let to = 0;
  let from = 0;
  /** The length in a field and in the bytes after it, or an error, which is below 0. */
  const lengthOf = (field: number): number => {
    if (field < 15) return field;
    let length = field;
    while (true) {
      const more = block[from++];
      if (more === undefined) return LZ4_ERROR.cutOff;
      length += more;
      if (length > capacity) return LZ4_ERROR.tooLong;
      if (more < 255) return length;
    }
  };
  while (true) {
    const token = block[from++];
    if (token === undefined) return LZ4_ERROR.cutOff;
    const count = lengthOf(token >> 4);
    if (count < 0) return count as Lz4Error;
    if (from + count > block.length) return LZ4_ERROR.cutOff;
    if (to + count > capacity) return LZ4_ERROR.tooLong;
    bytes.set(block.subarray(from, from + count), to);
    from += count;
    to += count;
    if (from === block.length) return bytes.subarray(0, to);

    if (from + 2 > block.length) return LZ4_ERROR.cutOff;
    const offset = block[from]! | (block[from + 1]! << 8);
    from += 2;
    if (offset === 0 || offset > to) return LZ4_ERROR.badOffset;
    const length = lengthOf(token & 15);
    if (length < 0) return length as Lz4Error;
    const end = to + length + MIN_MATCH;
    if (end > capacity) return LZ4_ERROR.tooLong;
    for (; to < end; to++) bytes[to] = bytes[to - offset]!;
  }
}
