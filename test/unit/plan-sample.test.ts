import { expect, test } from "vitest";
import { xxh3 } from "../../src/compact/reference/xxh3.ts";
import { xxh3Secret } from "../../src/compact/xxh3-secret.ts";
import { SampleAnalysis } from "../../src/migration/plan/sample-analysis.ts";
import { CLUSTER_BYTES, CLUSTER_PAGES, choosePages } from "../../src/migration/plan/sampled-memory.ts";

const SEED = 7n;
const PAGE = 4096;

/** Reads clusters into both targets, as a guest's memory stood at either time. */
function analyse(first: readonly Uint8Array[], second: readonly Uint8Array[]): SampleAnalysis {
  const analysis = new SampleAnalysis(SEED);
  for (const [i, content] of first.entries()) {
    analysis.first.place(i).set(content);
    analysis.first.taken(i, 0);
  }
  for (const [i, content] of second.entries()) {
    analysis.second.place(i).set(content);
    analysis.second.taken(i, 1000);
  }
  analysis.hash();
  return analysis;
}

/** Pages that do not pack: page i of words that follow from `seed` and i. */
function noise(seed: number): Uint8Array {
  const words = new Uint32Array(CLUSTER_BYTES / 4);
  let state = seed;
  for (let i = 0; i < words.length; i++) {
    state = (Math.imul(state, 1664525) + 1013904223) | 0;
    words[i] = Math.imul(state ^ (state >>> 15), 0x2c1b3c6d);
  }
  return new Uint8Array(words.buffer);
}

function hashOf(page: Uint8Array): Uint8Array {
  const hash = new Uint8Array(8);
  new DataView(hash.buffer).setBigUint64(0, xxh3(page, xxh3Secret(SEED)), true);
  return hash;
}

test("a guest that has written nothing: zero pages, and others that pack or not", () => {
  const text = new Uint8Array(CLUSTER_BYTES).fill(97);
  const clusters = [new Uint8Array(CLUSTER_BYTES), text, noise(1)];
  const { clusters: seen, changed } = analyse(clusters, clusters).result();
  expect(seen.map(({ zeroPages }) => zeroPages)).toEqual([CLUSTER_PAGES, 0, 0]);
  expect(seen.map(({ changedPages }) => changedPages)).toEqual([0, 0, 0]);
  expect(changed).toEqual({ pages: 0, bytes: { none: 0, lz4: 0, zstd: 0 } });
  expect(seen[0]!.restBytes).toEqual({ none: 0, lz4: 0, zstd: 0 });
  expect(seen[1]!.restBytes.zstd).toBeLessThan(1000);
  expect(seen[2]!.restBytes).toEqual({ none: CLUSTER_BYTES, lz4: CLUSTER_BYTES, zstd: CLUSTER_BYTES });
});

test("pages that have changed cost their differences, or themselves where that is more than half of them", () => {
  const before = noise(2);
  const after = before.slice();
  after[5 * PAGE]! ^= 1; // a word of page 5: its bitmap of 64 bytes and 8 bytes
  after.set(noise(3).subarray(0, PAGE), 9 * PAGE); // all of page 9
  const { clusters, changed } = analyse([before], [after]).result();
  expect(clusters[0]).toMatchObject({ changedPages: 2, againMs: 1000, pages: CLUSTER_PAGES });
  expect(changed.pages).toBe(2);
  expect(changed.bytes.none).toBe((72 + PAGE) / 2);
});

test("what stands on a disk is what was read last, in runs, and equal pages all do", () => {
  const before = noise(4);
  const after = noise(5);
  after.copyWithin(10 * PAGE, 0, PAGE); // page 10 equals page 0
  const analysis = analyse([before], [after]);
  const pages = [0, 1, 20].map((i) => hashOf(after.subarray(i * PAGE, (i + 1) * PAGE)));
  const old = hashOf(before.subarray(0, PAGE));
  analysis.foundOnDisk(Buffer.concat([new Uint8Array(8), pages[0]!, old, pages[1]!, pages[2]!]));
  const { clusters } = analysis.result();
  expect(clusters[0]).toMatchObject({ diskPages: 4, diskRuns: 3, zeroPages: 0 });
  expect(clusters[0]!.restBytes.none).toBe((CLUSTER_PAGES - 4) * PAGE);
});

test("pages that equal one of another cluster are told, those that are there twice apart", () => {
  const clusters = [noise(6), noise(7), noise(8)];
  clusters[1]!.set(clusters[0]!.subarray(3 * PAGE, 5 * PAGE), 10 * PAGE); // pages 3 and 4 once more
  for (const i of [1, 2]) clusters[i]!.set(clusters[0]!.subarray(7 * PAGE, 8 * PAGE), 20 * PAGE); // page 7 in all three
  clusters[2]!.copyWithin(30 * PAGE, 29 * PAGE, 30 * PAGE); // within a cluster: packing sees that
  const { clusters: seen } = analyse(clusters, clusters).result();
  expect(seen.map(({ copies }) => copies)).toEqual([
    { ofPairs: 0, ofMore: 0 },
    { ofPairs: 2, ofMore: 1 },
    { ofPairs: 0, ofMore: 1 },
  ]);
});

test("more changes than are kept are still counted", () => {
  const count = 40;
  const before = Array.from({ length: count }, (_, i) => noise(i + 100));
  const after = Array.from({ length: count }, (_, i) => noise(i + 200));
  const { clusters, changed } = analyse(before, after).result();
  expect(clusters.every(({ changedPages }) => changedPages === CLUSTER_PAGES)).toBe(true);
  expect(changed.pages).toBe((4 * 1024 * 1024) / PAGE);
  expect(changed.bytes.none).toBe(PAGE);
});

test("places are chosen once each, whole clusters only, over all ranges", () => {
  const ranges = [
    { firstPage: 0, pages: 0xa0 },
    { firstPage: 0xca, pages: 3 },
    { firstPage: 0x100, pages: 70 },
  ];
  const inOrder = (pages: readonly number[]) => [...pages].sort((a, b) => a - b);
  expect(inOrder(choosePages(ranges, 100, () => 0))).toEqual([0, 32, 64, 96, 128, 0x100, 0x120]);
  // Three parts of the seven: 0 and 1, 2 and 3, 4 to 6. Of each the last.
  expect(choosePages(ranges, 3, (limit) => limit - 1)).toEqual([32, 0x120, 96]);
  const half = inOrder(choosePages([{ firstPage: 0, pages: 128 * 320 }], 128, () => 0).slice(0, 64));
  // The first half is spread over all: no gap of more than three parts of 320 pages.
  for (const [i, page] of half.entries()) expect(page - (half[i - 1] ?? 0)).toBeLessThanOrEqual(3 * 320);
});
