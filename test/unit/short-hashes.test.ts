import { randomBytes } from "node:crypto";
import { describe, expect, test } from "vitest";
import { CheckpointIndex } from "../../src/compact/checkpoint-index.ts";
import { PageIndex } from "../../src/compact/page-index.ts";
import { NOT_FOUND } from "../../src/compact/page-kernels.ts";
import { HASH_BYTES, hashBytesFor, shortHashes, writeKeys } from "../../src/compact/short-hashes.ts";
import { xxh3Secret } from "../../src/compact/xxh3-secret.ts";
import { createKernels } from "../../src/migration/kernels.ts";

const PAGES = 100_000;
const { pages, bytes, base } = createKernels(PageIndex.memoryBytes(PAGES));
const WIDTHS = [5, 6, 7];

function lookup(index: Pick<PageIndex, "lookup">, hashes: Uint8Array): number[] {
  const found: number[] = [];
  const out = new Uint32Array(256);
  for (let at = 0; at < hashes.length; at += 256 * HASH_BYTES) {
    const part = hashes.slice(at, at + 256 * HASH_BYTES);
    index.lookup(part, out);
    found.push(...out.subarray(0, part.length / HASH_BYTES));
  }
  return found;
}

test("as many bytes as tell a page of a checkpoint from one that is not", () => {
  expect([1, 2 ** 18, 2 ** 18 + 1, 2 ** 26, 2 ** 26 + 1, 2 ** 40].map(hashBytesFor)).toEqual([5, 5, 6, 6, 7, 7]);
});

test.each(WIDTHS)("keys of short hashes are those of the full ones, also in their place: %i bytes", (hashBytes) => {
  const hashes = Uint8Array.from(randomBytes(1000 * HASH_BYTES));
  const keys = new Uint8Array(hashes.length);
  writeKeys(shortHashes(hashes, hashBytes), hashBytes, hashBytes, 1000, keys);
  writeKeys(hashes, HASH_BYTES, hashBytes, 1000, hashes);
  expect(Buffer.compare(keys, hashes)).toBe(0);
});

describe.each(WIDTHS)("an index of hashes of %i bytes", (hashBytes) => {
  test("finds all its pages, and next to no other", () => {
    const index = new CheckpointIndex(pages, bytes, base, PAGES, xxh3Secret(1n), hashBytes);
    const hashes = Uint8Array.from(randomBytes(PAGES * HASH_BYTES));
    const short = shortHashes(hashes, hashBytes);
    const cut = 12_345 * hashBytes;
    index.add(short.subarray(0, cut));
    index.add(short.subarray(cut));
    expect(index.pages).toBe(PAGES);
    const found = lookup(index, hashes);
    expect(found.filter((number, page) => number !== page).length).toBeLessThan(3); // two pages may have the same
    const others = lookup(index, Uint8Array.from(randomBytes(PAGES * HASH_BYTES)));
    expect(others.filter((number) => number !== NOT_FOUND).length).toBeLessThan(4); // 0.1 are to be expected
  });
});

test("an index takes hashes as they are, and none for those that are zero", () => {
  const index = new PageIndex(pages, bytes, base, PAGES, xxh3Secret(1n));
  const hashes = Uint8Array.from(randomBytes(1000 * HASH_BYTES));
  for (let i = 0; i < 1000; i += 3) hashes.fill(0, i * HASH_BYTES, (i + 1) * HASH_BYTES);
  index.addHashes(hashes, 70_000);
  expect(index.entries).toBe(666);
  const expected = Array.from({ length: 1000 }, (_, i) => (i % 3 === 0 ? NOT_FOUND : 70_000 + i));
  expect(lookup(index, hashes)).toEqual(expected);
});
