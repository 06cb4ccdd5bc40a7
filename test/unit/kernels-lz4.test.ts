import fc from "fast-check";
import { compressSync, uncompressSync } from "lz4-napi";
import { describe, expect, test } from "vitest";
import { LZ4_ERROR } from "../../src/compact/page-kernels.ts";
import { compressLz4, decompressLz4 } from "../../src/compact/reference/lz4.ts";
import { pageSiblings } from "./support/page-siblings.ts";
import { noise, structured } from "./support/pages.ts";

/** lz4-napi puts the size of the output in front of a block. */
const SIZE_BYTES = 4;

function officialDecompress(block: Uint8Array, size: number): Uint8Array {
  const prefixed = Buffer.alloc(SIZE_BYTES + block.length);
  prefixed.writeUInt32LE(size);
  prefixed.set(block, SIZE_BYTES);
  return Uint8Array.from(uncompressSync(prefixed));
}

const officialCompress = (bytes: Uint8Array): Uint8Array => {
  return Uint8Array.from(compressSync(Buffer.from(bytes)).subarray(SIZE_BYTES));
};

/** The longest that a block can be (LZ4_COMPRESSBOUND). */
const boundOf = (size: number): number => size + Math.floor(size / 255) + 16;

const inputs = fc.oneof(
  fc.uint8Array({ maxLength: 300 }),
  fc.integer({ min: 0, max: 40 }).map((size) => new Uint8Array(size)),
  structured(20),
);

/** Blocks of any bytes, and blocks that were good before some bytes changed or went missing. */
const hostile = fc.oneof(
  fc.uint8Array({ maxLength: 200 }),
  fc
    .tuple(structured(8), fc.array(fc.tuple(fc.nat(), fc.nat(255)), { maxLength: 6 }), fc.nat(20))
    .map(([bytes, changes, cut]) => {
      const block = compressLz4(bytes);
      for (const [at, byte] of changes) block[at % block.length] = byte;
      return block.subarray(0, Math.max(1, block.length - cut));
    }),
);

describe.each(pageSiblings)("LZ4 of the $name", ({ sibling }) => {
  test("decompresses what it compressed, and so does lz4", () => {
    fc.assert(
      fc.property(inputs, (bytes) => {
        const block = sibling.compress(bytes, boundOf(bytes.length))!;
        expect(sibling.decompress(block, bytes.length)).toEqual(bytes);
        expect(sibling.decompress(block, bytes.length + 100)).toEqual(bytes);
        expect(officialDecompress(block, bytes.length)).toEqual(bytes);
      }),
      { numRuns: 300 },
    );
  });

  test("decompresses what lz4 compressed", () => {
    fc.assert(
      fc.property(inputs, (bytes) => {
        expect(sibling.decompress(officialCompress(bytes), bytes.length)).toEqual(bytes);
      }),
      { numRuns: 300 },
    );
  });

  test("fits in as many bytes as it takes, and in no fewer", () => {
    fc.assert(
      fc.property(inputs, fc.nat(40), (bytes, fewer) => {
        const block = sibling.compress(bytes, boundOf(bytes.length))!;
        expect(sibling.compress(bytes, block.length)).toEqual(block);
        expect(sibling.compress(bytes, Math.max(0, block.length - 1 - fewer))).toBeUndefined();
      }),
      { numRuns: 200 },
    );
  });

  test("finds matches up to 65535 bytes back and none farther", () => {
    for (const [distance, found] of [
      [65535, true],
      [65536, false],
    ] as const) {
      const bytes = new Uint8Array(distance + 1000);
      bytes.set(noise(1, 1000));
      bytes.set(noise(2, distance - 1000), 1000);
      bytes.set(noise(1, 1000), distance);
      const block = sibling.compress(bytes, boundOf(bytes.length))!;
      expect(block.length < bytes.length).toBe(found);
      expect(sibling.decompress(block, bytes.length)).toEqual(bytes);
    }
  });

  test("leaves the end of a block to literals", () => {
    // The last match starts 12 bytes before the end or earlier, and 5 literals follow it.
    const bytes = noise(3, 50);
    const ending = (size: number): Uint8Array => Uint8Array.from([...bytes, ...bytes.subarray(0, size)]);
    expect(sibling.compress(ending(11), 100)!.length).toBe(2 + 61);
    expect(sibling.compress(ending(12), 100)!.length).toBe(2 + 50 + 2 + 1 + 5);
    expect(sibling.compress(new Uint8Array(200), 100)!.subarray(-6)).toEqual(Uint8Array.of(0x50, 0, 0, 0, 0, 0));
  });

  test("says the same of a hostile block as the reference, whatever the room", () => {
    fc.assert(
      fc.property(hostile, fc.nat(2000), (block, capacity) => {
        expect(sibling.decompress(block, capacity)).toEqual(decompressLz4(block, capacity));
      }),
      { numRuns: 3000 },
    );
  });

  const long = Array<number>(20_000).fill(255);
  const refused: [string, number[], number, number][] = [
    ["nothing", [], 100, LZ4_ERROR.cutOff],
    ["literals cut off", [0x20, 1], 100, LZ4_ERROR.cutOff],
    ["a length cut off", [0xf0], 100, LZ4_ERROR.cutOff],
    ["a length that never ends", [0xf0, ...long], 4e6, LZ4_ERROR.tooLong],
    ["a match cut off", [0x10, 1, 1], 100, LZ4_ERROR.cutOff],
    ["a match at the end", [0x10, 1, 1, 0], 100, LZ4_ERROR.cutOff],
    ["a match before the output", [0x10, 1, 2, 0, 0x00], 100, LZ4_ERROR.badOffset],
    ["offset 0", [0x10, 1, 0, 0, 0x00], 100, LZ4_ERROR.badOffset],
    ["literals without room", [0x20, 1, 2], 1, LZ4_ERROR.tooLong],
    ["a match without room", [0x10, 1, 1, 0, 0x00], 4, LZ4_ERROR.tooLong],
    ["a long match without room", [0x1f, 1, 1, 0, ...long, 0, 0x00], 4e6, LZ4_ERROR.tooLong],
  ];
  test.each(refused)("refuses %s", (_name, block, capacity, error) => {
    expect(sibling.decompress(Uint8Array.from(block), capacity)).toBe(error);
  });
});
