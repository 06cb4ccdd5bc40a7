// Keyed BLAKE3 cut to 128 bits, after the BLAKE3 paper, section 2: the plain sibling of assembly/blake3.ts.

const BLOCK_BYTES = 64;
const CHUNK_BYTES = 1024;
const TAG_BYTES = 16;

const CHUNK_START = 1;
const CHUNK_END = 2;
const PARENT = 4;
const ROOT = 8;
const KEYED_HASH = 16;

const INITIAL = [0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a];
const PERMUTATION = [2, 6, 3, 10, 7, 0, 4, 13, 1, 11, 12, 5, 9, 14, 15, 8];
const COLUMNS_AND_DIAGONALS = [
  [0, 4, 8, 12],
  [1, 5, 9, 13],
  [2, 6, 10, 14],
  [3, 7, 11, 15],
  [0, 5, 10, 15],
  [1, 6, 11, 12],
  [2, 7, 8, 13],
  [3, 4, 9, 14],
] as const;

/** A node of the tree before its last compression: that of the root differs from the others in a flag. */
interface Node {
  chain: Uint32Array;
  block: Uint32Array;
  counter: number;
  blockBytes: number;
  flags: number;
}

function compress({ chain, block, counter, blockBytes, flags }: Node): Uint32Array {
  const state = Uint32Array.of(...chain, ...INITIAL, counter, counter / 2 ** 32, blockBytes, flags);
  const add = (to: number, value: number): void => {
    state[to]! += value;
  };
  const xorRotate = (to: number, from: number, bits: number): void => {
    const value = state[to]! ^ state[from]!;
    state[to] = (value >>> bits) | (value << (32 - bits));
  };
  let words = [...block];
  for (let round = 0; round < 7; round++) {
    COLUMNS_AND_DIAGONALS.forEach(([a, b, c, d], step) => {
      add(a, state[b]! + words[step * 2]!);
      xorRotate(d, a, 16);
      add(c, state[d]!);
      xorRotate(b, c, 12);
      add(a, state[b]! + words[step * 2 + 1]!);
      xorRotate(d, a, 8);
      add(c, state[d]!);
      xorRotate(b, c, 7);
    });
    words = PERMUTATION.map((word) => words[word]!);
  }
  return state.slice(0, 8).map((word, index) => word ^ state[index + 8]!);
}

function wordsOf(bytes: Uint8Array): Uint32Array {
  const padded = new Uint8Array(BLOCK_BYTES);
  padded.set(bytes);
  const view = new DataView(padded.buffer);
  return Uint32Array.from({ length: 16 }, (_, index) => view.getUint32(index * 4, true));
}

function chunkNode(key: Uint32Array, bytes: Uint8Array, counter: number): Node {
  let chain = key;
  let start = 0;
  for (; start + BLOCK_BYTES < bytes.length; start += BLOCK_BYTES) {
    const block = wordsOf(bytes.subarray(start, start + BLOCK_BYTES));
    const flags = KEYED_HASH | (start === 0 ? CHUNK_START : 0);
    chain = compress({ chain, block, counter, blockBytes: BLOCK_BYTES, flags });
  }
  const flags = KEYED_HASH | CHUNK_END | (start === 0 ? CHUNK_START : 0);
  return { chain, block: wordsOf(bytes.subarray(start)), counter, blockBytes: bytes.length - start, flags };
}

/** The node over `bytes`, whose first chunk is number `counter`: a chunk, or a parent with a full tree on its left. */
function nodeOf(key: Uint32Array, bytes: Uint8Array, counter: number): Node {
  if (bytes.length <= CHUNK_BYTES) return chunkNode(key, bytes, counter);
  const leftChunks = 2 ** Math.floor(Math.log2(Math.ceil(bytes.length / CHUNK_BYTES) - 1));
  const left = compress(nodeOf(key, bytes.subarray(0, leftChunks * CHUNK_BYTES), counter));
  const right = compress(nodeOf(key, bytes.subarray(leftChunks * CHUNK_BYTES), counter + leftChunks));
  const block = Uint32Array.of(...left, ...right);
  return { chain: key, block, counter: 0, blockBytes: BLOCK_BYTES, flags: KEYED_HASH | PARENT };
}

/** The first 16 bytes of the BLAKE3 of `bytes` with a key of 32. */
export function keyedBlake3(key: Uint8Array, bytes: Uint8Array): Uint8Array {
  const root = nodeOf(wordsOf(key).subarray(0, 8), bytes, 0);
  const hash = compress({ ...root, flags: root.flags | ROOT });
  const tag = new Uint8Array(TAG_BYTES);
  const view = new DataView(tag.buffer);
  for (let word = 0; word < TAG_BYTES / 4; word++) view.setUint32(word * 4, hash[word]!, true);
  return tag;
}
