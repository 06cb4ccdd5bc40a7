import {
  INDEX_BUCKET_BYTES,
  indexBucketsFor,
  LZ4_TABLE_BYTES,
  NOT_FOUND,
  type PageKernels,
  TAG_BYTES,
  TAG_SCRATCH_BYTES,
  TAG_SCRATCH_PAGE_BYTES,
} from "../../../src/compact/page-kernels.ts";
import { keyedBlake3 } from "../../../src/compact/reference/blake3.ts";
import { applyDelta, encodeDelta } from "../../../src/compact/reference/delta.ts";
import { compressLz4, decompressLz4 } from "../../../src/compact/reference/lz4.ts";
import { ReferencePageIndex } from "../../../src/compact/reference/page-index.ts";
import { xxh3 } from "../../../src/compact/reference/xxh3.ts";
import { createPageKernels } from "../../../src/migration/kernel-module.ts";
import { Arena } from "./arena.ts";

type Index = Pick<ReferencePageIndex, "insert" | "lookup">;
type Pair = readonly [older: Uint8Array, newer: Uint8Array];

/** What the kernels and their references both do; one suite runs over both. */
export interface PageSibling {
  hash(pages: readonly Uint8Array[], secret: Uint8Array): bigint[];
  tag(key: Uint8Array, pages: readonly Uint8Array[]): Uint8Array[];
  tagRuns(key: Uint8Array, runs: readonly (readonly Uint8Array[])[]): Uint8Array[];
  createIndex(entries: number): Index;
  encodeDeltas(pairs: readonly Pair[], limit: number): (Uint8Array | undefined)[];
  /** The newer versions up to the first malformed difference. */
  applyDeltas(olds: readonly Uint8Array[], deltas: readonly Uint8Array[]): Uint8Array[];
  compress(bytes: Uint8Array, capacity: number): Uint8Array | undefined;
  /** The bytes, or what LZ4_ERROR says. */
  decompress(block: Uint8Array, capacity: number): Uint8Array | number;
}

const referenceSibling: PageSibling = {
  hash: (pages, secret) => pages.map((page) => xxh3(page, secret)),
  tag: (key, pages) => pages.map((page) => keyedBlake3(key, page)),
  tagRuns: (key, runs) => runs.map((pages) => keyedBlake3(key, Buffer.concat(pages))),
  createIndex: () => new ReferencePageIndex(),
  encodeDeltas: (pairs, limit) => pairs.map(([older, newer]) => encodeDelta(older, newer, limit)),
  applyDeltas(olds, deltas) {
    const news = olds.map((older, index) => applyDelta(older, deltas[index]!));
    const bad = news.indexOf(undefined);
    return news.slice(0, bad < 0 ? news.length : bad) as Uint8Array[];
  },
  compress(bytes, capacity) {
    const block = compressLz4(bytes);
    return block.length > capacity ? undefined : block;
  },
  decompress: decompressLz4,
};

const PAGE_BYTES = 4096;
const STRIDE_BYTES = PAGE_BYTES + 8;
const memory = new WebAssembly.Memory({ initial: 96, maximum: 96, shared: true });
const bytes = new Uint8Array(memory.buffer);
const kernels = createPageKernels(memory);

/** Runs `work` over the kernels and an arena; each thing that it places is guarded. */
export function withKernels<T>(work: (kernels: PageKernels, arena: Arena) => T): T {
  const arena = new Arena(bytes);
  const result = work(kernels, arena);
  arena.check();
  return result;
}

const placeAll = (arena: Arena, pages: readonly Uint8Array[]): number[] => pages.map((page) => arena.place(page));

/** Places pages at a stride; what stands between them is not looked at. Returns the address of the first. */
function placeRun(arena: Arena, pages: readonly Uint8Array[]): number {
  const bytes = new Uint8Array((pages.length - 1) * STRIDE_BYTES + PAGE_BYTES).fill(0xff);
  pages.forEach((page, index) => {
    bytes.set(page, index * STRIDE_BYTES);
  });
  return arena.place(bytes);
}

const kernelSibling: PageSibling = {
  hash: (pages, secret) =>
    withKernels(({ hashPages }, arena) => {
      const addresses = arena.placeWords(placeAll(arena, pages));
      const out = arena.room(pages.length * 8);
      hashPages(arena.place(secret), addresses, pages.length, out);
      return arena.takeHashes(out, pages.length);
    }),

  tag: (key, pages) =>
    withKernels(({ tagPages }, arena) => {
      const addresses = arena.placeWords(placeAll(arena, pages));
      const out = arena.room(pages.length * TAG_BYTES);
      tagPages(arena.place(key), arena.room(TAG_SCRATCH_BYTES), addresses, pages.length, out);
      return pages.map((_, index) => arena.take(out + index * TAG_BYTES, TAG_BYTES));
    }),

  tagRuns: (key, runs) =>
    withKernels(({ tagRuns }, arena) => {
      const table = runs.flatMap((pages) => [placeRun(arena, pages), pages.length]);
      const out = arena.room(runs.length * TAG_BYTES);
      const scratch = arena.room(TAG_SCRATCH_BYTES + runs.flat().length * TAG_SCRATCH_PAGE_BYTES);
      tagRuns(arena.place(key), scratch, arena.placeWords(table), runs.length, STRIDE_BYTES, out);
      return runs.map((_, index) => arena.take(out + index * TAG_BYTES, TAG_BYTES));
    }),

  createIndex(entries) {
    const buckets = indexBucketsFor(entries);
    let content: Uint8Array = new Uint8Array(buckets * INDEX_BUCKET_BYTES).fill(0xff);
    return {
      insert: (hashes, values) =>
        withKernels(({ insertPages }, arena) => {
          const table = arena.place(content);
          const from = arena.place(new Uint8Array(BigUint64Array.from(hashes).buffer));
          const inserted = insertPages(table, buckets, from, arena.placeWords(values), hashes.length);
          content = arena.take(table, content.length);
          return inserted;
        }),
      lookup: (hashes) =>
        withKernels(({ lookupPages }, arena) => {
          const table = arena.place(content);
          const from = arena.place(new Uint8Array(BigUint64Array.from(hashes).buffer));
          const out = arena.room(hashes.length * 4);
          lookupPages(table, buckets, from, hashes.length, out);
          return arena.takeWords(out, hashes.length).map((value) => (value === NOT_FOUND ? undefined : value));
        }),
    };
  },

  encodeDeltas: (pairs, limit) =>
    withKernels(({ encodeDeltas }, arena) => {
      const out = arena.room(pairs.length * limit);
      const olds = arena.placeWords(pairs.map(([older]) => arena.place(older)));
      const news = arena.placeWords(pairs.map(([, newer]) => arena.place(newer)));
      const lengths = arena.room(pairs.length * 4);
      const written = encodeDeltas(olds, news, pairs.length, limit, out, lengths);
      let at = out;
      const deltas = arena.takeWords(lengths, pairs.length).map((length) => {
        at += length;
        return length === 0 ? undefined : arena.take(at - length, length);
      });
      if (at - out !== written) throw new Error(`${written} bytes written, lengths of ${at - out}`);
      return deltas;
    }),

  applyDeltas: (olds, deltas) =>
    withKernels(({ applyDeltas }, arena) => {
      const all = Buffer.concat(deltas);
      const from = arena.place(all);
      const news = olds.map(() => arena.room(PAGE_BYTES));
      const applied = applyDeltas(
        arena.placeWords(placeAll(arena, olds)),
        arena.placeWords(news),
        olds.length,
        from,
        from + all.length,
        arena.placeWords(deltas.map((delta) => delta.length)),
      );
      return news.slice(0, applied).map((page) => arena.take(page, PAGE_BYTES));
    }),

  compress: (content, capacity) =>
    withKernels(({ compressLz4 }, arena) => {
      const from = arena.place(content);
      const to = arena.room(capacity);
      const written = compressLz4(from, content.length, to, capacity, arena.room(LZ4_TABLE_BYTES));
      return written === 0 ? undefined : arena.take(to, written);
    }),

  decompress: (block, capacity) =>
    withKernels(({ decompressLz4 }, arena) => {
      // Each of the two ends where the memory does for half of the blocks.
      const outputFirst = capacity % 2 === 0;
      const first = outputFirst ? arena.room(capacity) : arena.place(block);
      const second = outputFirst ? arena.place(block) : arena.room(capacity);
      const [from, to] = outputFirst ? [second, first] : [first, second];
      const written = decompressLz4(from, block.length, to, capacity);
      return written < 0 ? written : arena.take(to, written);
    }),
};

export const pageSiblings = [
  { name: "kernels", sibling: kernelSibling },
  { name: "reference", sibling: referenceSibling },
];
