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

/**
 * How many times more the windows differ from the curve than their deviations let expect, 1 at least: a load that changes from one
 * window to the next.
 */
export function unsteadiness(windows: readonly DirtyWindow[], parts: readonly Part[]): number {
  const freedom = windows.length - 2;
  if (freedom < 1) return 1;
  const misses = windows.map(({ windowMs, pages, deviationPages }) => {
    return ((pages - dirtiedIn(parts, windowMs)) / Math.max(deviationPages, 1)) ** 2;
  });
  return Math.max(1, Math.sqrt(misses.reduce((sum, miss) => sum + miss, 0) / freedom));
}

/** The parts as the simulation writes them. */
export function classesOf(parts: readonly Part[], wireBytesPerPage: number): PageClass[] {
  return parts.map(({ ms, pages }) => ({
    pages,
    writesPerSecond: (pages * 1000) / ms,
    pattern: "random",
    form: "literal",
    wireBytesPerPage,
  }));
}
