/** D(T), the pages that a guest dirties in a time T, fitted to windows in which that was measured. docs/control-loop.md has the formulas. */

import type { PageClass } from "../simulation/scenario.ts";

/** What was dirtied in a window of time. */
export interface DirtyWindow {
  readonly windowMs: number;
  readonly pages: number;
  /** Standard deviation of it. */
  readonly deviationPages: number;
}

/** A part of the working set whose pages are written once in `ms` on average. */
interface Part {
  readonly ms: number;
  readonly pages: number;
}

/** Parts that a working set may have: √10 apart, which no measured curve tells from any between them. */
const SHORTEST_MS = 30;
const STEP = Math.sqrt(10);
/** Sweeps over the parts, each of which is set to its best in turn. */
const SWEEPS = 400;
/** A part is not believed to be there for less than what this makes better. */
const RIDGE = 1e-3;

/**
 * Fits parts N_k, written at random within τ_k each, so that D(T) = Σ N_k (1 − e^(−T/τ_k)) meets the windows: the least squares in
 * units of their deviations, with all N_k ≥ 0.
 *
 * @param longestMs the largest τ: how long after the last window more and more pages may still be met
 */
export function fitParts(windows: readonly DirtyWindow[], memoryPages: number, longestMs: number): readonly Part[] {
  const times: number[] = [];
  for (let ms = SHORTEST_MS; ms < longestMs * 0.99; ms *= STEP) times.push(ms);
  times.push(longestMs);
  const covered = times.map((ms) => windows.map(({ windowMs }) => -Math.expm1(-windowMs / ms)));
  const weights = windows.map(({ deviationPages }) => 1 / Math.max(deviationPages, 1) ** 2);
  const left = windows.map(({ pages }) => pages);
  const parts = times.map(() => 0);
  for (let sweep = 0; sweep < SWEEPS; sweep++) {
    for (const [k, shares] of covered.entries()) {
      let gradient = 0;
      let curvature = 0;
      for (const [i, share] of shares.entries()) {
        gradient += weights[i]! * share * left[i]!;
        curvature += weights[i]! * share * share;
      }
      const best = Math.max(0, parts[k]! + (gradient - RIDGE * curvature * parts[k]!) / (curvature * (1 + RIDGE)));
      const change = best - parts[k]!;
      parts[k] = best;
      for (const [i, share] of shares.entries()) left[i]! -= change * share;
    }
  }
  const sum = parts.reduce((sum, pages) => sum + pages, 0);
  const scale = sum > memoryPages ? memoryPages / sum : 1;
  return times.map((ms, k) => ({ ms, pages: parts[k]! * scale })).filter(({ pages }) => pages >= 1);
}

/** D(T) of such parts. */
export function dirtiedIn(parts: readonly Part[], ms: number): number {
  return parts.reduce((sum, part) => sum - part.pages * Math.expm1(-ms / part.ms), 0);
}

/** What windows tell of a load: the curve of its mean, and how it comes and goes. */
export interface DirtyCurve {
  readonly parts: readonly Part[];
  /** The windows, with how far they may be from that curve. */
  readonly windows: readonly DirtyWindow[];
  /** By how much short windows differ from the curve beyond what their samples do: the variance of a share of it. */
  readonly variance: number;
}

/** Windows up to this length show whether a load comes and goes; in longer ones that evens out. */
const SHORT_MS = 1000;
/** Windows that tell more of the load than of their own samples: so many deviations. So many of them are needed. */
const TELLING = 3;
const LEAST_TELLING = 3;
/** The curve and what differs from it depend on each other. */
const REFITS = 4;

/** Fits the mean of a load that may come and go: a window that it was quiet in counts no more than one in which it was not. */
export function curveOf(windows: readonly DirtyWindow[], memoryPages: number, longestMs: number): DirtyCurve {
  const sum = (of: (window: DirtyWindow) => number) => windows.reduce((sum, window) => sum + of(window), 0);
  const [allPages, allMs] = [sum(({ pages }) => pages), sum(({ windowMs }) => windowMs)];
  let mean = (ms: number) => Math.min(memoryPages, (allPages * ms) / Math.max(1, allMs));
  let curve: DirtyCurve = { parts: [], windows, variance: 1 };
  for (let refit = 0; refit < REFITS; refit++) {
    const doubted = windows.map((window) => {
      const changeable = Math.sqrt(curve.variance) * mean(window.windowMs);
      return { ...window, deviationPages: Math.hypot(window.deviationPages, changeable) };
    });
    const parts = fitParts(doubted, memoryPages, longestMs);
    mean = (ms) => dirtiedIn(parts, ms);
    curve = { parts, windows: doubted, variance: varianceOf(windows, mean) };
  }
  return curve;
}

function varianceOf(windows: readonly DirtyWindow[], mean: (ms: number) => number): number {
  const variances = windows.flatMap(({ windowMs, pages, deviationPages }) => {
    const expected = mean(windowMs);
    if (windowMs > SHORT_MS || expected < TELLING * deviationPages) return [];
    return [((pages - expected) ** 2 - deviationPages ** 2) / expected ** 2];
  });
  if (variances.length < LEAST_TELLING) return 0;
  return Math.max(0, variances.reduce((sum, one) => sum + one, 0) / variances.length);
}

/** The parts as the simulation writes them, by a load that is on for such a share of the time. */
export function classesOf(parts: readonly Part[], wireBytesPerPage: number, onShare: number): PageClass[] {
  return parts.map(({ ms, pages }) => ({
    pages,
    writesPerSecond: (pages * 1000) / ms / onShare,
    pattern: "random",
    form: "literal",
    wireBytesPerPage,
  }));
}
