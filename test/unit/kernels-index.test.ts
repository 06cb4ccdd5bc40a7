import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { INDEX_BUCKET_BYTES, indexBucketsFor } from "../../src/compact/page-kernels.ts";
import { pageSiblings } from "./support/page-siblings.ts";

/** Uniform, as hashes are (the finaliser of splitmix64). */
function hashOf(number: number): bigint {
  let hash = BigInt.asUintN(64, (BigInt(number) + 1n) * 0x9e3779b97f4a7c15n);
  hash = BigInt.asUintN(64, (hash ^ (hash >> 30n)) * 0xbf58476d1ce4e5b9n);
  hash = BigInt.asUintN(64, (hash ^ (hash >> 27n)) * 0x94d049bb133111ebn);
  return hash ^ (hash >> 31n);
}

/** All in one bucket, whatever their number: bits 24 to 55 are the same. */
const crowdedHash = (number: number): bigint => 0x77_01234567_000000n | BigInt(number);

const numbersTo = (count: number): number[] => Array.from({ length: count }, (_, index) => index);

describe.each(pageSiblings)("an index of the $name", ({ sibling }) => {
  test("holds the first value of each hash, batch after batch", () => {
    const batch = fc.array(fc.tuple(fc.nat(300), fc.nat(0xfffffffe)), { maxLength: 100 });
    fc.assert(
      fc.property(fc.array(batch, { maxLength: 6 }), (batches) => {
        const index = sibling.createIndex(300);
        const held = new Map<number, number>();
        for (const entries of batches) {
          const before = held.size;
          for (const [number, value] of entries) if (!held.has(number)) held.set(number, value);
          const hashes = entries.map(([number]) => hashOf(number));
          const values = entries.map(([, value]) => value);
          expect(index.insert(hashes, values)).toBe(held.size - before);
        }
        const numbers = numbersTo(400);
        expect(index.lookup(numbers.map(hashOf))).toEqual(numbers.map((number) => held.get(number)));
      }),
      { numRuns: 50 },
    );
  });

  test("holds as many entries as it was made for", () => {
    const numbers = numbersTo(20_000);
    const index = sibling.createIndex(numbers.length);
    expect(index.insert(numbers.map(hashOf), numbers)).toBe(numbers.length);
    expect(index.lookup(numbers.map(hashOf))).toEqual(numbers);
    expect(index.lookup(numbers.map((number) => hashOf(number + 1e6))).every((value) => value === undefined)).toBe(
      true,
    );
  });

  test("holds hashes that are all ones and all zeros", () => {
    const index = sibling.createIndex(10);
    const hashes = [0n, 2n ** 64n - 1n, 0xffffffffn];
    expect(index.lookup(hashes)).toEqual([undefined, undefined, undefined]);
    index.insert(hashes.slice(1), [7, 0]);
    expect(index.lookup(hashes)).toEqual([undefined, 7, 0]);
  });

  test("goes on in the next buckets, past the last one too", () => {
    const numbers = numbersTo(100);
    const index = sibling.createIndex(200);
    const last = numbers.map((number) => 0xff_ffffffff_000000n | BigInt(number));
    index.insert([...last, ...numbers.map(crowdedHash)], [...numbers, ...numbers]);
    expect(index.lookup(last)).toEqual(numbers);
    expect(index.lookup(numbers.map(crowdedHash))).toEqual(numbers);
  });
});

test("hashes chosen to fall together, or too many of them, cost entries and nothing else", () => {
  const { sibling } = pageSiblings.find(({ name }) => name === "kernels")!;
  const crowd = numbersTo(1000);
  const index = sibling.createIndex(5000);
  expect(index.insert(crowd.map(crowdedHash), crowd)).toBe(32 * 8);
  expect(index.lookup(crowd.map(crowdedHash))).toEqual(crowd.map((number) => (number < 256 ? number : undefined)));

  const small = sibling.createIndex(5);
  expect(small.insert(crowd.map(hashOf), crowd)).toBe(8);
  expect(small.lookup(crowd.map(hashOf)).filter((value) => value !== undefined)).toEqual(numbersTo(8));
});

test("an entry takes at most 16 bytes", () => {
  for (const entries of [10, 1000, 1e8]) {
    expect((indexBucketsFor(entries) * INDEX_BUCKET_BYTES) / entries).toBeLessThanOrEqual(16);
  }
});
