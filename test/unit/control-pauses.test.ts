// What two rounds tell of a load that pauses, and of the pages that it leaves unchanged.
import { describe, expect, test } from "vitest";
import { hasPaused, pauses, unchangedOf } from "../../src/control/pauses.ts";
import type { RoundSample } from "../../src/control/samples.ts";
import { sendingOf } from "../../src/control/sending.ts";

const sample = (given: Partial<RoundSample>) =>
  ({ round: 1, durationMs: 1000, pages: 1000, pagesByForm: {}, goodputBytesPerSecond: 1e6, ...given }) as RoundSample;

describe("pages that are found dirty and are as they were sent", () => {
  // All of 1000 pages sent in a second, in which each is written once on average: 632 are found.
  const before = sample({ round: 0, dirtiedPages: 1000 * (1 - Math.exp(-1)) });

  test("are those that were written before they were sent", () => {
    const early = (1 - 2 / Math.E) / (1 - 1 / Math.E);
    expect(unchangedOf(before, sample({ durationMs: 1e-9 }), 1000)).toBeCloseTo(early, 9);
    // Sent within a second, in which they are written again: the mean of e^−x.
    expect(unchangedOf(before, sample({}), 1000)).toBeCloseTo(early * (1 - 1 / Math.E), 9);
  });

  test("were sent in the round before: of a later one not all that is written to was", () => {
    const all = unchangedOf({ ...before, round: 1 }, sample({}), 1000);
    expect(unchangedOf({ ...before, round: 1, pages: 250 }, sample({}), 1000)).toBeCloseTo(all / 4, 9);
  });

  test("are many more where the load has paused", () => {
    const same = (pages: number) => hasPaused(before, sample({ pagesByForm: { same: pages } }), 1000);
    // An even pace leaves 26 %, of which four fifths are known: 79 % have changed, and nine tenths of that are 71 %.
    expect([0, 200, 280, 300, 900].map(same)).toEqual([false, false, false, true, true]);
  });

  test.each([
    [0, 1000],
    [2000, 1000],
    [10, 1e-6],
  ])("are a share, whatever %d dirtied pages of %d may mean", (dirtiedPages, workingPages) => {
    const share = unchangedOf(sample({ dirtiedPages }), sample({}), workingPages);
    expect(share).toBeGreaterThanOrEqual(0);
    expect(share).toBeLessThanOrEqual(1);
  });
});

test("a pause comes within as long as the load was seen, and lasts half as long", () => {
  const steps = pauses(4000, () => 0.25);
  expect([0, 999, 1001, 2999, 3001, 4999, 5001].map((ms) => steps(ms).value)).toEqual([1, 1, 0, 0, 1, 1, 0]);
});

describe("the pace of sending", () => {
  const seen = { pagesPerMs: 2, wireBytesPerPage: 400 };

  test("over a link that holds it up: bytes, and what a changed page costs", () => {
    const rounds = [sample({ pages: 1010, wireBytes: 900_000, pagesByForm: { same: 100, zero: 10 } })];
    expect(sendingOf(rounds, seen)).toEqual({ bytesPerMs: 900, wireBytesPerPage: 1000, isLinkBound: true });
  });

  test("where something else does: pages", () => {
    const rounds = [sample({ wireBytes: 740_000, pagesByForm: { same: 100 } })];
    expect(sendingOf(rounds, seen)).toEqual({ bytesPerMs: 800, wireBytesPerPage: 400, isLinkBound: false });
  });

  test("of a guest that writes what was there already", () => {
    const rounds = [sample({ wireBytes: 900_000, pagesByForm: { same: 950 } })];
    expect(sendingOf(rounds, seen).isLinkBound).toBe(false);
  });
});
