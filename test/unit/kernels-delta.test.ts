import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { MAX_DELTA_BYTES } from "../../src/compact/page-kernels.ts";
import { encodeDelta } from "../../src/compact/reference/delta.ts";
import { pageSiblings, withKernels } from "./support/page-siblings.ts";
import { changedPage, noise, PAGE_BYTES, page } from "./support/pages.ts";

const pairs = fc.array(fc.oneof(changedPage, fc.tuple(page, page)), { maxLength: 5 });
/** Short to compare, where thousands of bytes are not. */
const hex = (bytes: Uint8Array | undefined): string | undefined => bytes && Buffer.from(bytes).toString("hex");
const limits = fc.oneof(fc.constant(MAX_DELTA_BYTES), fc.integer({ min: 64, max: MAX_DELTA_BYTES }));

describe.each(pageSiblings)("deltas of the $name", ({ name, sibling }) => {
  test("make the newer pages, and are as long as the words that differ", () => {
    fc.assert(
      fc.property(pairs, limits, (given, limit) => {
        const deltas = sibling.encodeDeltas(given, limit);
        const expected = given.map(([older, newer]) => encodeDelta(older, newer, limit));
        expect(deltas.map(hex)).toEqual(expected.map(hex));
        const kept = given.filter((_, index) => deltas[index] !== undefined);
        const made = sibling.applyDeltas(
          kept.map(([older]) => older),
          deltas.filter((delta) => delta !== undefined),
        );
        expect(made.map(hex)).toEqual(kept.map(([, newer]) => hex(newer)));
      }),
      { numRuns: 100 },
    );
  });

  test("are a bitmap and the words", () => {
    const older = noise(1, PAGE_BYTES);
    const newer = Uint8Array.from(older);
    newer[8 * 9]! ^= 1;
    newer[4095]! ^= 1;
    const [delta] = sibling.encodeDeltas([[older, newer]], 80);
    const bitmap = new Uint8Array(64);
    bitmap[1] = 2;
    bitmap[63] = 0x80;
    expect(delta).toEqual(Uint8Array.from([...bitmap, ...newer.subarray(72, 80), ...newer.subarray(4088)]));
    expect(sibling.encodeDeltas([[older, newer]], 79)).toEqual([undefined]);
  });

  test("are refused when malformed, and those before them are not", () => {
    const older = noise(2, PAGE_BYTES);
    const newer = Uint8Array.from(older).fill(7, 0, 800);
    const good = encodeDelta(older, newer, MAX_DELTA_BYTES)!;
    const bitmapOfMore = Uint8Array.from(good);
    bitmapOfMore[40]! |= 1;
    for (const bad of [good.subarray(0, -1), good.subarray(0, 63), good.subarray(0, 0), bitmapOfMore, noise(3, 4160)]) {
      expect(sibling.applyDeltas([older, older, older], [good, bad, good]), name).toEqual([newer]);
    }
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 200 }), fc.nat(63), fc.nat(255), (bytes, at, bits) => {
        const delta = new Uint8Array(Math.max(64, bytes.length));
        delta.set(bytes.subarray(64), 64);
        delta[at] = bits;
        const words = [...bits.toString(2)].filter((bit) => bit === "1").length;
        expect(sibling.applyDeltas([older], [delta]).length).toBe(delta.length === 64 + words * 8 ? 1 : 0);
      }),
    );
  });
});

test("a difference that ends after what was given, or has a length from elsewhere, is refused before a byte is written", () => {
  withKernels(({ applyDeltas }, arena) => {
    const older = noise(4, PAGE_BYTES);
    const delta = encodeDelta(older, Uint8Array.from(older).fill(9), MAX_DELTA_BYTES)!;
    const from = arena.place(delta);
    const olds = arena.placeWords([arena.place(older)]);
    const newer = arena.place(noise(5, PAGE_BYTES));
    const news = arena.placeWords([newer]);
    for (const [end, length] of [
      [from + delta.length - 1, delta.length],
      [from + delta.length, delta.length + 1],
      [from + delta.length, 0xffffffff],
      [from + delta.length, 0],
      [from, delta.length],
    ] as const) {
      expect(applyDeltas(olds, news, 1, from, end, arena.placeWords([length]))).toBe(0);
    }
    expect(arena.take(newer, PAGE_BYTES)).toEqual(noise(5, PAGE_BYTES));
  });
});

test("what can be applied is told beforehand", () => {
  const older = noise(2, PAGE_BYTES);
  const good = encodeDelta(older, Uint8Array.from(older).fill(7, 0, 800), MAX_DELTA_BYTES)!;
  const delta = fc.oneof(fc.constant(good), fc.constant(good.subarray(8)), fc.uint8Array({ maxLength: 80 }));
  fc.assert(
    fc.property(fc.array(delta, { maxLength: 4 }), fc.nat(900), (deltas, cut) => {
      withKernels(({ applyDeltas, checkDeltas }, arena) => {
        const all = Buffer.concat(deltas).subarray(0, cut);
        const [from, lengths] = [arena.place(all), arena.placeWords(deltas.map(({ length }) => length))];
        const pages = arena.placeWords(deltas.map(() => arena.place(older)));
        const sound = checkDeltas(deltas.length, from, from + all.length, lengths);
        expect(applyDeltas(pages, pages, deltas.length, from, from + all.length, lengths)).toBe(sound);
      });
    }),
  );
});

test("pages are copied from one stride to another", () => {
  withKernels(({ copyPages }, arena) => {
    const pages = [1, 3, 5].map((seed) => noise(seed, PAGE_BYTES));
    const records = Buffer.concat(pages.flatMap((page) => [noise(9, 8), page]));
    const to = arena.room(3 * PAGE_BYTES);
    copyPages(arena.place(records) + 8, PAGE_BYTES + 8, to, PAGE_BYTES, 3);
    expect(Buffer.compare(arena.take(to, 3 * PAGE_BYTES), Buffer.concat(pages))).toBe(0);
  });
});

test("a page can be patched in place", () => {
  withKernels(({ applyDeltas }, arena) => {
    const older = noise(6, PAGE_BYTES);
    const newer = Uint8Array.from(older).fill(1, 1000, 1100);
    const delta = encodeDelta(older, newer, MAX_DELTA_BYTES)!;
    const at = arena.place(older);
    const addresses = arena.placeWords([at]);
    const from = arena.place(delta);
    expect(applyDeltas(addresses, addresses, 1, from, from + delta.length, arena.placeWords([delta.length]))).toBe(1);
    expect(arena.take(at, PAGE_BYTES)).toEqual(newer);
  });
});
