// What the evaluation (bench/control.ts) makes of its runs.
import { expect, test } from "vitest";
import { quantile, report, type Scored } from "../../bench/control/report.ts";
import { bestSeenMs, errorShare, isDowntimeRight, isInside, isTotalRight } from "../../bench/control/score.ts";
import type { TraceRound } from "../../src/control/trace.ts";

test("a prediction is right within 12 %, a downtime also within 50 ms", () => {
  const of = (expected: number, measured: number) => ({
    expected,
    low: 0.9 * expected,
    high: 1.1 * expected,
    measured,
  });
  expect(errorShare(of(110, 100))).toBeCloseTo(0.1);
  expect([of(888, 1000), of(1121, 1000), of(1050, 1000)].map(isDowntimeRight)).toEqual([true, false, true]);
  expect([of(60, 100), of(151, 100)].map(isDowntimeRight)).toEqual([true, false]);
  expect([of(60, 100), of(112, 100)].map(isTotalRight)).toEqual([false, true]);
  expect([of(100, 110), of(100, 111)].map(isInside)).toEqual([true, false]);
});

test("the quantile is a value of the list", () => {
  const values = [5, 1, 4, 2, 3, 6, 10, 9, 8, 7];
  expect([0, 0.5, 0.9, 1].map((share) => quantile(values, share))).toEqual([1, 5, 9, 10]);
  expect(quantile([], 0.5)).toBeNaN();
});

/** Rounds at 10 pages a ms, which left so many pages. */
function roundsLeaving(...remainingPages: number[]): TraceRound[] {
  return remainingPages.map((pages, round) => {
    const remainingBytes = pages * 4096;
    return { round, durationMs: 500, pages: 5000, remainingBytes } as TraceRound;
  });
}

test("the best sync seen: the measured downtime, with what was left then", () => {
  const downtimeParts = { residualMs: 200, transferMs: 20, loadMs: 20, handoffMs: 5, resumeMs: 15 };
  const summary = { downtimeMs: 260, downtimeParts, residualBytes: 2000 * 4096 };
  expect(bestSeenMs({ rounds: roundsLeaving(9000, 3000, 2500) }, summary)).toBe(260);
  // 500 pages less are 50 ms less.
  expect(bestSeenMs({ rounds: roundsLeaving(9000, 1500, 2500) }, summary)).toBe(210);
  // Never less than the parts that do not depend on what was left.
  expect(bestSeenMs({ rounds: roundsLeaving(9000, 0, 2500) }, { ...summary, residualBytes: 3000 * 4096 })).toBe(60);
});

test("the report counts what ended, and where stock QEMU was sooner", () => {
  const run = { revision: "", blackoutMs: 90, wireBytes: 1e6, rounds: 4, guestError: null, error: null, summary: null };
  const predicted = { expected: 100, low: 80, high: 120, measured: 90 };
  const score = {
    downtime: predicted,
    total: { ...predicted, expected: 2100, measured: 2000 },
    bestMs: 75,
    bestLaterMs: 50,
    check: null,
    bestSeenMs: 90,
  };
  const ours = { ...run, mover: "godwit", hasEnded: true, downtimeMs: 90, score } as const;
  const stock = { ...run, mover: "stock", run: 0, score: null } as const;
  const runs: Scored[] = [
    { ...ours, case: "idle", run: 0, totalMs: 2000 },
    { ...stock, case: "idle", hasEnded: true, totalMs: 1500, downtimeMs: 20 },
    { ...ours, case: "redis", run: 0, totalMs: 2000 },
    { ...stock, case: "redis", hasEnded: false, totalMs: 40_000, downtimeMs: null, blackoutMs: null },
  ];
  const text = report(runs);
  expect(text).toContain("| migrations by godwit that ended | all | 2 of 2 |");
  expect(text).toContain("median 1.20, nine of ten ≤ 1.20; 0 of 2 within 1.15");
  expect(text).toContain("0 of 1 cases; not idle (2.00 s, 1.50 s)");
  expect(text).toContain("| predicted downtime within 12 % or 50 ms | nine of ten | 2 of 2 (100 %) |");
  expect(text).toContain("| ≤ 50 ms, ≤ 12 % | median 10 ms, 90th percentile 10 ms; - |");
  expect(text).toContain("| … error | ≤ 12 % | median 5 %, 90th percentile 5 % |");
  expect(text).toContain("| idle | 2.00 | 2.10 | 90 | 100 | 75 | 90 | 90 | 1 | 4 | 1.50 | 20 | 1 |");
  expect(text).toContain("| redis | 2.00 | 2.10 | 90 | 100 | 75 | 90 | 90 | 1 | 4 | not in 40 | - | 1 |");
});
