/** Policies side by side on the same scenarios. */
import type { Estimate } from "../downtime.ts";
import type { Policy } from "../policy.ts";
import { type BestMoment, type SimulatedRun, simulate } from "./engine.ts";
import { bestMoment } from "./hindsight.ts";
import type { Scenario } from "./scenario.ts";

/** What a policy came to on one workload, the mean over its scenarios. */
export interface Score {
  workload: string;
  policy: string;
  /** Of how many scenarios, how many were switched over. */
  ended: number;
  of: number;
  totalMs: number;
  wireBytes: number;
  /** Null unless all ended. */
  downtimeMs: number | null;
  /** CPU time that a throttle took from the guest: a cost like downtime, spread over the migration. */
  throttledMs: number;
  /** Downtime above that of the best moment in hindsight. */
  regretMs: number | null;
  /** What the downtime was last predicted to be; null where a policy predicts nothing, or not all ended. */
  predictedMs: number | null;
  /** How many of the downtimes were within their predicted interval. */
  asPredicted: number | null;
}

/** Scenarios of one workload that differ in the moment of their start only. */
export interface Case {
  name: string;
  scenarios: readonly Scenario[];
}

export function compare({ name, scenarios }: Case, policies: Readonly<Record<string, () => Policy>>): Score[] {
  const best = scenarios.map((scenario) => bestMoment(scenario));
  return Object.entries(policies).map(([policy, create]) => score(name, policy, create, scenarios, best));
}

export function score(
  workload: string,
  policy: string,
  create: () => Policy,
  scenarios: readonly Scenario[],
  best: readonly BestMoment[] = [],
): Score {
  const runs = scenarios.map((scenario) => simulate(scenario, create()));
  const mean = (values: readonly number[]) => values.reduce((sum, value) => sum + value, 0) / values.length;
  const ended = runs.filter((run) => run.ending === "switched").length;
  const downtimeMs = ended === runs.length ? mean(runs.map((run) => run.downtimeMs!)) : null;
  const regretMs =
    downtimeMs === null || best.length === 0 ? null : downtimeMs - mean(best.map((moment) => moment.downtimeMs));
  const predicted = runs.map((run) => lastPrediction(run));
  const isPredicted = downtimeMs !== null && predicted.every((one) => one !== undefined);
  return {
    workload,
    policy,
    ended,
    of: runs.length,
    totalMs: mean(runs.map((run) => run.totalMs)),
    wireBytes: mean(runs.map((run) => run.wireBytes)),
    downtimeMs,
    throttledMs: mean(runs.map((run) => run.throttledMs)),
    regretMs,
    predictedMs: isPredicted ? mean(predicted.map((one) => one!.expected)) : null,
    asPredicted: isPredicted ? predicted.filter((one, i) => isWithin(runs[i]!.downtimeMs!, one!)).length : null,
  };
}

/** The downtime that was predicted last before the guest was stopped. */
export function lastPrediction({ decisions }: SimulatedRun): Estimate | undefined {
  const last = decisions.findLast((decision) => "predictedMs" in decision && decision.predictedMs !== undefined);
  return last !== undefined && "predictedMs" in last ? last.predictedMs : undefined;
}

export function isWithin(value: number, { low, high }: Estimate): boolean {
  return low <= value && value <= high;
}

/** What a policy costs the guest: downtime and throttled time; Infinity where it does not end. */
export function guestLossMs({ downtimeMs, throttledMs }: Score): number {
  return downtimeMs === null ? Number.POSITIVE_INFINITY : downtimeMs + throttledMs;
}
