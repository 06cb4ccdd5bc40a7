import { open, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import { expect, test } from "vitest";
import { Entries, NO_PLACE } from "../../src/store/checkpoint-entries.ts";

interface Entry {
  page: number;
  place: number;
}

/** What comes out of entries that are spilled after every `runLength`. */
async function sorted(entries: readonly Entry[], runLength: number): Promise<(Entry & { hash: bigint })[]> {
  const path = join(tmpdir(), `godwit-entries-${process.pid}`);
  await using file = await open(path, "wx+");
  try {
    const under = new Entries(path, file, 0);
    for (const [index, { page, place }] of entries.entries()) {
      under.add(page, place ^ 1, page % 2 ** 32, place);
      if (under.isFull || index % runLength === runLength - 1) await under.spill();
    }
    const result: (Entry & { hash: bigint })[] = [];
    for await (const chunk of under.sorted()) {
      const hashes = Buffer.from(chunk.columns[1].buffer);
      for (let row = 0; row < chunk.rows; row++) {
        result.push({ page: chunk.numberAt(row), place: chunk.places[row]!, hash: hashes.readBigUInt64LE(row * 8) });
      }
    }
    return result;
  } finally {
    await rm(path);
  }
}

function expected(entries: readonly Entry[]): (Entry & { hash: bigint })[] {
  const last = new Map(entries.map(({ page, place }) => [page, place]));
  const kept = [...last].filter(([, place]) => place !== NO_PLACE).sort(([a], [b]) => a - b);
  const hashOf = (page: number, place: number) => (BigInt(page % 2 ** 32) << 32n) | BigInt((place ^ 1) >>> 0);
  return kept.map(([page, place]) => ({ page, place, hash: hashOf(page, place) }));
}

const PAGE = fc.oneof(fc.nat({ max: 20 }), fc.integer({ min: 2 ** 31, max: 2 ** 40 - 1 }));
const PLACE = fc.oneof(fc.nat({ max: 9 }), fc.constant(NO_PLACE), fc.nat({ max: NO_PLACE }));

test("the last entry of each page comes out, in order, however many runs there are", async () => {
  const entries = fc.array(fc.record({ page: PAGE, place: PLACE }), { maxLength: 60 });
  await fc.assert(
    fc.asyncProperty(entries, fc.integer({ min: 1, max: 70 }), async (list, runLength) => {
      expect(await sorted(list, runLength)).toEqual(expected(list));
    }),
    { numRuns: 150 },
  );
});

test("rounds over more pages than are sorted at once", async () => {
  const round = (first: number, count: number, step: number) =>
    Array.from({ length: count }, (_, index) => ({ page: first + index * step, place: first + index }));
  const entries = [...round(0, 40_000, 1), ...round(7, 9000, 3), ...round(39_000, 2000, 1)];
  expect(await sorted(entries, 20_000)).toEqual(expected(entries));
});
