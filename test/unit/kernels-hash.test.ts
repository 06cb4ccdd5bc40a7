import fc from "fast-check";
import { blake3, xxhash3 } from "hash-wasm";
import { describe, expect, test } from "vitest";
import { keyedBlake3 } from "../../src/compact/reference/blake3.ts";
import { xxh3 } from "../../src/compact/reference/xxh3.ts";
import { xxh3Secret } from "../../src/compact/xxh3-secret.ts";
import { pageSiblings, withKernels } from "./support/page-siblings.ts";
import { noise, PAGE_BYTES, page } from "./support/pages.ts";

const pages = fc.array(page, { maxLength: 9 });
/** Runs whose trees are of all shapes. */
const runs = fc.array(fc.array(page, { minLength: 1, maxLength: 9 }), { maxLength: 5 });
const seeds = fc.bigInt({ min: 0n, max: 2n ** 64n - 1n });
const keys = fc.uint8Array({ minLength: 32, maxLength: 32 });

/** XXH3-64 by xxHash's own code, compiled to WebAssembly. */
async function officialXxh3(bytes: Uint8Array, seed: bigint): Promise<bigint> {
  return BigInt(`0x${await xxhash3(bytes, Number(seed & 0xffffffffn), Number(seed >> 32n))}`);
}

async function officialTag(key: Uint8Array, bytes: Uint8Array): Promise<Uint8Array> {
  return Uint8Array.from(Buffer.from(await blake3(bytes, 128, key), "hex"));
}

const officially = <T>(given: readonly Uint8Array[], of: (bytes: Uint8Array) => Promise<T>) =>
  Promise.all(given.map(of));

describe.each(pageSiblings)("the $name", ({ sibling }) => {
  test("hash pages as xxHash does, with any seed", async () => {
    await fc.assert(
      fc.asyncProperty(pages, seeds, async (given, seed) => {
        const expected = await officially(given, (bytes) => officialXxh3(bytes, seed));
        expect(sibling.hash(given, xxh3Secret(seed))).toEqual(expected);
      }),
      { numRuns: 40 },
    );
  });

  test("tag pages as BLAKE3 does, with any key", async () => {
    await fc.assert(
      fc.asyncProperty(pages, keys, async (given, key) => {
        expect(sibling.tag(key, given)).toEqual(await officially(given, (bytes) => officialTag(key, bytes)));
      }),
      { numRuns: 20 },
    );
  });

  test("tag runs of pages as BLAKE3 does, with any key", async () => {
    await fc.assert(
      fc.asyncProperty(runs, keys, async (given, key) => {
        const expected = await Promise.all(given.map((pages) => officialTag(key, Buffer.concat(pages))));
        expect(sibling.tagRuns(key, given)).toEqual(expected);
      }),
      { numRuns: 20 },
    );
  });
});

test("the references also hash what is no page", async () => {
  const key = noise(1, 32);
  for (const size of [241, 255, 256, 257, 1023, 1024, 1025, 1088, 2048, 2049, 4095, 4097, 5000, 9000]) {
    const bytes = noise(size, size);
    expect(xxh3(bytes), `${size}`).toBe(await officialXxh3(bytes, 0n));
    expect(keyedBlake3(key, bytes), `${size}`).toEqual(await officialTag(key, bytes));
  }
  for (const size of [0, 1, 63, 64, 65]) {
    expect(keyedBlake3(key, noise(2, size))).toEqual(await officialTag(key, noise(2, size)));
  }
});

test("pages that are not all zero are listed, wherever a byte stands", () => {
  withKernels(({ listNonZero }, arena) => {
    const stride = PAGE_BYTES + 8;
    const count = 130;
    // What stands between the pages is not looked at; the last two pages are zero.
    const bytes = new Uint8Array(count * stride).fill(0xff);
    for (let index = 0; index < count; index++) {
      bytes.fill(0, index * stride, index * stride + PAGE_BYTES);
      if (index < 128) bytes[index * stride + index * 32 + (index % 32)] = 1;
    }
    const first = arena.place(bytes);
    const addresses = arena.room(128 * 4);
    expect(listNonZero(first, stride, count, addresses)).toBe(128);
    expect(arena.takeWords(addresses, 128)).toEqual(Array.from({ length: 128 }, (_, index) => first + index * stride));
  });
});
