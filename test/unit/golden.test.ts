import { statSync } from "node:fs";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { sumOf } from "../../src/stream/inspection.ts";
import { type GoldenStream, goldenPath, goldenStreams, inspectBytes } from "./support/golden.ts";
import { roundtrip } from "./support/roundtrip.ts";

const streams = goldenStreams();
const smallest = streams[0]!;
const siblings = [
  { name: "kernels", kernels: true },
  { name: "reference", kernels: false },
];

test("there are ten, and they are small", () => {
  expect(streams.length).toBe(10);
  for (const { name } of streams) expect(statSync(goldenPath(name, "stream.zst")).size).toBeLessThan(60 * 1024);
});

describe.each(streams)("$name", ({ name, bytes, qemu, inspection }) => {
  test("is understood whole, and as it was", async () => {
    const found = await inspectBytes(bytes);
    expect(found).toEqual(inspection);
    expect(found).toMatchObject({ isStream: true, isComplete: true, trailingBytes: 0, lost: [] });
    expect(found.description).toMatchObject({ state: "read", notFound: [], notDescribed: [] });
    expect(Object.values(found.byteCounts).reduce((sum, count) => sum + count)).toBe(bytes.length);
  });

  test("is understood the same in small chunks", async () => {
    const inChunks = await inspectBytes(bytes, 1500);
    // Tokens of references and differences are no longer than what is at hand, so there are more of them.
    const { tokenBytes } = inChunks.pageFormat;
    expect(tokenBytes).toBeGreaterThanOrEqual(inspection.pageFormat.tokenBytes);
    const pageFormat = { ...inspection.pageFormat, tokenBytes };
    expect(inChunks).toEqual({ ...inspection, pageFormat });
  });

  test("has the pages that QEMU counted", () => {
    const { pages, rounds } = inspection;
    const zeros = pages.zero + pages.namedZero;
    expect(pages.literal + pages.blank + pages.namedPage).toBe(qemu.normal);
    // QEMU counts a page that XBZRLE finds unchanged and does not send (migration/ram.c, save_xbzrle_page).
    expect(pages.xbzrle).toBeLessThanOrEqual(qemu.xbzrlePages);
    if (name.startsWith("compress")) {
      // QEMU 7.2 counts the last page of each of its threads again whenever it waits for them (flush_compressed_data).
      expect(zeros).toBeLessThanOrEqual(qemu.duplicate);
      expect(pages.compressed).toBeLessThanOrEqual(qemu.compressedPages);
    } else {
      expect(zeros).toBe(qemu.duplicate);
      expect(pages.compressed).toBe(0);
    }
    expect(rounds.length).toBeLessThanOrEqual(qemu.dirtySyncCount);
    expect(rounds.reduce((sum, round) => sum + sumOf(round.pages), 0)).toBe(sumOf(pages));
  });
});

test("between them they have every form of page that QEMU writes", () => {
  for (const form of ["zero", "literal", "blank", "namedZero", "namedPage", "xbzrle", "compressed"] as const)
    expect(streams.some(({ inspection }) => inspection.pages[form] > 0)).toBe(true);
});

describe.each(siblings)("decode(encode(x)) = x with the $name", ({ kernels }) => {
  test.each(streams)("for $name, cut anywhere", (stream) => {
    const cuts = fc.array(fc.integer({ min: 1, max: 50_000 }), { minLength: 1, maxLength: 8 });
    fc.assert(
      fc.property(cuts, fc.nat(3), (cuts, aheadEvery) => {
        expect(roundtrip(stream.bytes, { cuts, kernels, aheadEvery }).decoded.equals(stream.bytes)).toBe(true);
      }),
      { numRuns: 8 },
    );
  });

  test.each(streams)("for $name, cut in its structure", (stream) => {
    fc.assert(
      fc.property(structuralOffsets(stream), (offset) => {
        const cuts = [Math.max(1, offset), stream.bytes.length];
        expect(roundtrip(stream.bytes, { cuts, kernels }).decoded.equals(stream.bytes)).toBe(true);
      }),
      { numRuns: 8 },
    );
  });

  test.each(streams)("for $name, mutated", (stream) => {
    fc.assert(
      fc.property(mutations(stream), fc.integer({ min: 1, max: 100_000 }), (bytes, cut) => {
        expect(roundtrip(bytes, { cuts: [cut], kernels }).decoded.equals(bytes)).toBe(true);
      }),
      { numRuns: 12 },
    );
  });

  test(`for ${smallest.name}, cut in two everywhere`, () => {
    const { bytes } = smallest;
    const whole = roundtrip(bytes, { kernels });
    for (let cut = 1; cut < bytes.length; cut++) {
      const result = roundtrip(bytes, { cuts: [cut, bytes.length], kernels });
      expect(result.decoded.equals(bytes)).toBe(true);
      expect(result.events).toEqual(whole.events);
      expect(result.counts).toEqual(whole.counts);
    }
  });

  test.each(streams.filter(({ bytes }) => bytes.length < 200_000))("for $name, a byte at a time", ({ bytes }) => {
    const result = roundtrip(bytes, { cuts: [1], kernels });
    expect(result.decoded.equals(bytes)).toBe(true);
    expect(result.events).toEqual(roundtrip(bytes, { kernels }).events);
  });
});

test("kernels and reference make the same of mutated streams", () => {
  for (const stream of streams) {
    fc.assert(
      fc.property(mutations(stream), (bytes) => {
        const kernel = roundtrip(bytes, { kernels: true });
        const reference = roundtrip(bytes, { kernels: false });
        expect(kernel.events).toEqual(reference.events);
        expect(kernel.bodies.length).toBe(reference.bodies.length);
        expect(kernel.bodies.every((body, i) => body.equals(reference.bodies[i]!))).toBe(true);
      }),
      { numRuns: 8 },
    );
  }
});

/** Offsets at and around the places where something begins. */
function structuralOffsets({ bytes }: GoldenStream): fc.Arbitrary<number> {
  const places = roundtrip(bytes, { kernels: true }).events.map(({ offset }) => offset);
  return fc
    .tuple(fc.constantFrom(...places), fc.integer({ min: -12, max: 40 }))
    .map(([place, by]) => Math.min(bytes.length, Math.max(0, place + by)));
}

/** The stream with some of its structure overwritten, taken out or put in, and perhaps cut off. */
function mutations(stream: GoldenStream): fc.Arbitrary<Buffer> {
  const change = fc.tuple(structuralOffsets(stream), fc.nat(12), fc.uint8Array({ maxLength: 12 }));
  return fc
    .tuple(fc.array(change, { minLength: 1, maxLength: 6 }), fc.option(structuralOffsets(stream)))
    .map(([changes, end]) => {
      let bytes = stream.bytes;
      for (const [at, removedBytes, put] of changes) {
        bytes = Buffer.concat([bytes.subarray(0, at), put, bytes.subarray(at + removedBytes)]);
      }
      return end === null ? bytes : bytes.subarray(0, end);
    });
}
