// Disk and checkpoint tokens at the receiver: what is refused, what is planned, and the tags of runs.
import { randomBytes } from "node:crypto";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { BodyDecoder } from "../../src/compact/decoder.ts";
import { ReferenceWriter } from "../../src/compact/expand.ts";
import { CHECKPOINT, DISK } from "../../src/compact/limits.ts";
import { RUN_TAGS_BYTES, RunTags } from "../../src/compact/run-tags.ts";
import { GodwitError } from "../../src/errors.ts";
import { createKernels } from "../../src/migration/kernels.ts";
import { PAGE_BYTES, PAGE_RECORD_BYTES } from "../../src/stream/format.ts";
import { blocksOf, bodyOf, type Piece, Pieces, runTag, TAG_KEY, varints } from "./support/disk-bodies.ts";
import { noise } from "./support/pages.ts";

const tag = noise(99, 16);
const RECORD = PAGE_RECORD_BYTES;

/** Two disks and a checkpoint. */
function newDecoder(): BodyDecoder {
  const decoder = new BodyDecoder(new ReferenceWriter());
  decoder.diskBlocks = [1000, 10];
  decoder.checkpointPages = [20];
  return decoder;
}

describe("a hostile reference is refused before anything is written", () => {
  // Head, position, source, block, tag.
  const disk = (...values: number[]) => Buffer.concat([varints(...values), tag]);
  const run = (count: number) => count * 16 + 4;
  const cases: [string, Uint8Array, number][] = [
    ["count 0", disk(4, 0, 0, 0), 0],
    ["more pages than a run has", disk(run(257), 0, 0, 0), 257 * RECORD],
    ["a disk that was not agreed on", disk(run(1), 0, 2, 0), RECORD],
    ["a disk of another world", disk(run(1), 0, 2 ** 52, 0), RECORD],
    ["a block beyond the disk", disk(run(1), 0, 1, 20), RECORD],
    ["a run beyond the disk", disk(run(2), 0, 1, 18), 2 * RECORD],
    ["a block far beyond the disk", disk(run(1), 0, 0, 2 ** 53 - 2), RECORD],
    ["a block before the disk", disk(run(1), 0, 0, 1), RECORD],
    [
      "a block before the disk, from a run on another disk",
      Buffer.concat([disk(run(9), 0, 0, 0), disk(run(1), 0, 1, 3)]),
      10 * RECORD,
    ],
    ["a page that is none", disk(run(1), 1, 0, 0), RECORD],
    ["no tag", varints(run(1), 0, 0, 0), RECORD],
    ["a tag cut off", disk(run(1), 0, 0, 0).subarray(0, -1), RECORD],
    ["no block", varints(run(1), 0, 0), RECORD],
    ["no disk", varints(run(1), 0), RECORD],
    ["another length than announced", disk(run(2), 0, 0, 0), RECORD],
    ["a checkpoint that was not agreed on", disk(run(1) + 1, 0, 1, 0), RECORD],
    ["a run beyond the checkpoint", disk(run(2) + 1, 0, 0, 38), 2 * RECORD],
    [
      "a page before the checkpoint, from a run on a disk",
      Buffer.concat([disk(run(9), 0, 0, 0), disk(run(1) + 1, 0, 0, 3)]),
      10 * RECORD,
    ],
    ["a kind of a later version", disk(run(1) + 5, 0, 0, 0), RECORD],
  ];
  test.each(cases)("%s", (_name, body, rawBytes) => {
    const output = new Uint8Array(rawBytes).fill(0xaa);
    const decoder = newDecoder();
    let error: unknown;
    try {
      decoder.decode(body, body.length, rawBytes, output, 0);
    } catch (thrown) {
      error = thrown;
    }
    expect(error).toMatchObject({ code: "FORM_TOKENS" });
    expect(output.every((byte) => byte === 0xaa)).toBe(true);
    expect(Object.values(decoder.counts).every((count) => count === 0)).toBe(true);
  });

  test("any bytes: an error of ours, or runs within their sources and the output", () => {
    const token = fc
      .tuple(fc.nat(300), fc.nat(1), fc.nat(40), fc.nat(3), fc.nat(2100))
      .map(([count, kind, position, index, block]) => disk(run(count) + kind, position, index, block));
    const tokens = fc.array(fc.oneof(token, fc.uint8Array({ maxLength: 30 })), { maxLength: 4 });
    fc.assert(
      fc.property(tokens, fc.nat(40), (parts, pages) => {
        const body = Buffer.concat(parts);
        const rawBytes = pages * RECORD;
        try {
          const output = new Uint8Array(rawBytes);
          const { bytes, placeRuns } = newDecoder().decode(body, body.length, rawBytes, output, 0);
          expect(bytes.length).toBe(rawBytes);
          for (const { kind, source, block, count, address, tag } of placeRuns) {
            expect(block).toBeGreaterThanOrEqual(0);
            expect(block + count).toBeLessThanOrEqual((kind === DISK ? [1000, 10] : [20])[source]!);
            expect(address + count * RECORD).toBeLessThanOrEqual(rawBytes);
            expect(tag.length).toBe(16);
          }
        } catch (error) {
          expect(error).toBeInstanceOf(GodwitError);
        }
      }),
      { numRuns: 3000 },
    );
  });
});

test("a body of several forms: what is planned, and what is there already", () => {
  const pieces = new Pieces();
  const literal = blocksOf(7, 0, 2);
  const parts: Piece[] = [
    pieces.raw(noise(1, 5)),
    pieces.disk(100, 1, 3, blocksOf(1, 3, 4), tag),
    pieces.disk(104, 1, 7, blocksOf(1, 7, 1), tag),
    pieces.literal(2 ** 49 + 5, literal),
    pieces.disk(2 ** 50 - 256, 0, 744, blocksOf(0, 744, 256), tag),
    pieces.disk(0, 1, 0, blocksOf(1, 0, 1), tag),
    pieces.checkpoint(1, 0, 18, blocksOf(5, 18, 2), tag),
    pieces.disk(3, 1, 1, blocksOf(1, 1, 1), tag),
  ];
  const { body, tokenBytes, raw } = bodyOf(parts);
  const decoder = newDecoder();
  const output = new Uint8Array(raw.length + 8);
  const { bytes, placeRuns } = decoder.decode(body, tokenBytes, raw.length, output, 8);
  expect(decoder.counts).toMatchObject({ literalPages: 2, diskPages: 263, checkpointPages: 2 });
  const runs = placeRuns.map(({ kind, source, block, count, address }) => [kind, source, block, count, address]);
  expect(runs).toEqual([
    [DISK, 1, 3, 4, 13],
    [DISK, 1, 7, 1, 13 + 4 * RECORD],
    [DISK, 0, 744, 256, 13 + 7 * RECORD],
    [DISK, 1, 0, 1, 13 + 263 * RECORD],
    [CHECKPOINT, 0, 18, 2, 13 + 264 * RECORD],
    [DISK, 1, 1, 1, 13 + 266 * RECORD],
  ]);
  for (const { kind, source, block, count, address, tag: given } of placeRuns) {
    expect(Buffer.compare(given, tag)).toBe(0);
    blocksOf(kind === CHECKPOINT ? 5 : source, block, count).forEach((page, index) => {
      output.set(page, address + index * RECORD + 8);
    });
  }
  expect(Buffer.compare(bytes, raw)).toBe(0);
});

test("tags of runs are those of the document, whatever stands beside them", () => {
  const kernels = createKernels(8 << 20);
  const memory = kernels.base + RUN_TAGS_BYTES;
  const tags = new RunTags(kernels.pages, kernels.bytes, kernels.base);
  const counts = fc.array(fc.oneof(fc.integer({ min: 1, max: 5 }), fc.constantFrom(255, 256)), { maxLength: 6 });
  fc.assert(
    fc.property(counts, fc.integer(), fc.constantFrom(PAGE_BYTES, RECORD), (counts, seed, stride) => {
      const key = randomBytes(32);
      tags.setKey(key);
      let at = memory + 8;
      const runs = counts.map((count, index) => {
        const pages = Array.from({ length: count }, (_, page) => noise(seed + index * 1000 + page, PAGE_BYTES));
        const run = { address: at, count, pages };
        for (const page of pages) {
          kernels.bytes.set(page, at);
          at += stride;
        }
        return run;
      });
      const expected = Buffer.concat(runs.map(({ pages }) => runTag(key, pages)));
      expect(Buffer.compare(tags.tag(runs, stride), expected)).toBe(0);
    }),
    { numRuns: 30 },
  );
  expect(() => tags.setKey(TAG_KEY.subarray(1))).toThrow(TypeError);
});
