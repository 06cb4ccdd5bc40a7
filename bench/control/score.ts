/** How good a migration was: beside the best moment there was, and beside what had been predicted. */
import type { Estimate } from "../../src/control/downtime.ts";
import { PAGE_BYTES } from "../../src/control/samples.ts";
import { type Check, checkAgainst } from "../../src/control/simulation/check.ts";
import { scenarioOfTrace } from "../../src/control/simulation/from-trace.ts";
import { bestMoment } from "../../src/control/simulation/hindsight.ts";
import type { Scenario } from "../../src/control/simulation/scenario.ts";
import type { Trace } from "../../src/control/trace.ts";
import { GodwitError } from "../../src/errors.ts";
import type { SourceSummary } from "../../src/migration/events.ts";
import { median } from "../support.ts";
import type { Run } from "./run.ts";

/** Beside what was measured. */
export interface Prediction extends Estimate {
  readonly measured: number;
}

export interface Score {
  readonly downtime: Prediction | null;
  /** Made once two rounds were through. */
  readonly total: Prediction | null;
  /** The least downtime in reach by the trace's end, in the simulation of it; null where that knows too little of the load. */
  readonly bestMs: number | null;
  /** The same, had the migration gone on for two minutes or more. */
  readonly bestLaterMs: number | null;
  /** The least downtime at any of the trace's own syncs. */
  readonly bestSeenMs: number | null;
  /** The same migration in the simulation. */
  readonly check: Check | null;
}

/** A round that is shorter says little about the pace. */
const PACE_ROUND_MS = 200;
const PACE_ROUNDS = 4;
/** The bounds: a prediction is right within this share, or for a downtime within so many ms. */
const RIGHT_SHARE = 0.12;
const RIGHT_MS = 50;
/** Of downtimes that are longer 12 % are more than 50 ms. */
export const RIGHT_FROM_MS = RIGHT_MS / RIGHT_SHARE;
const UNKNOWN: readonly string[] = ["CONTROL_TRACE_TOO_SHORT", "CONTROL_TRACE_NOT_COMPLETED"];

export function scoreOf({ summary, totalMs, downtimeMs }: Run, trace: Trace | null): Score {
  const { predictedDowntimeMs, predictedTotalMs } = summary ?? {};
  const scenario = trace && unlessUnknown(() => scenarioOfTrace("trace", trace));
  return {
    downtime: predictedDowntimeMs && downtimeMs !== null ? { ...predictedDowntimeMs, measured: downtimeMs } : null,
    total: predictedTotalMs ? { ...predictedTotalMs, measured: totalMs } : null,
    bestMs: scenario && bestWithin({ ...scenario, hindsightMs: totalMs }),
    bestLaterMs: scenario && bestWithin(scenario),
    bestSeenMs: trace && summary && bestSeenMs(trace, summary),
    check: trace && unlessUnknown(() => checkAgainst("trace", trace)),
  };
}

/** Null where no sync comes within the time. */
function bestWithin(scenario: Scenario): number | null {
  const { downtimeMs } = bestMoment(scenario);
  return Number.isFinite(downtimeMs) ? downtimeMs : null;
}

/** Of a predicted value, its error as a share of what was measured. */
export function errorShare({ expected, measured }: Prediction): number {
  return Math.abs(expected - measured) / measured;
}

export function errorMs({ expected, measured }: Prediction): number {
  return Math.abs(expected - measured);
}

export function isInside({ low, high, measured }: Prediction): boolean {
  return measured >= low && measured <= high;
}

export function isDowntimeRight(prediction: Prediction): boolean {
  return errorShare(prediction) <= RIGHT_SHARE || errorMs(prediction) <= RIGHT_MS;
}

export function isTotalRight(prediction: Prediction): boolean {
  return errorShare(prediction) <= RIGHT_SHARE;
}

/** A migration of less than two rounds says nothing about the load, nor does one whose guest was stopped already. */
function unlessUnknown<T>(use: () => T): T | null {
  try {
    return use();
  } catch (error) {
    if (error instanceof GodwitError && UNKNOWN.includes(error.code)) return null;
    throw error;
  }
}

/**
 * What the downtime would have been at the best of the trace's syncs: the measured one, but for the time that the remaining
 * memory takes at the pace of the last rounds.
 */
export function bestSeenMs(
  { rounds }: Pick<Trace, "rounds">,
  { downtimeMs, downtimeParts, residualBytes }: Pick<SourceSummary, "downtimeMs" | "downtimeParts" | "residualBytes">,
): number | null {
  if (downtimeMs === null || downtimeParts === null || residualBytes === null) return downtimeMs;
  const paced = rounds.filter(({ round, durationMs }) => round > 0 && durationMs >= PACE_ROUND_MS).slice(-PACE_ROUNDS);
  if (paced.length === 0) return downtimeMs;
  const bytesPerMs = median(paced.map(({ pages, durationMs }) => (pages * PAGE_BYTES) / durationMs));
  const othersMs = downtimeMs - downtimeParts.residualMs;
  const seen = rounds.map(({ remainingBytes }) =>
    Math.max(othersMs, downtimeMs + (remainingBytes - residualBytes) / bytesPerMs),
  );
  return Math.min(downtimeMs, ...seen);
}
