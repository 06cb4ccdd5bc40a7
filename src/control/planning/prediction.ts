/**
 * What a migration is expected to come to, before it is begun: the simulation, with the policy that would decide, over draws of what was
 * measured. docs/control-loop.md says what is drawn.
 */

import { AdaptivePolicy } from "../adaptive.ts";
import { DEVICE_BYTES, DowntimeModel, type Estimate } from "../downtime.ts";
import { POLICIES } from "../policies/all.ts";
import type { Policy } from "../policy.ts";
import type { Promises } from "../promises.ts";
import { type SimulatedRun, simulate } from "../simulation/engine.ts";
import { randomOf } from "../simulation/steps.ts";
import type { Findings } from "./findings.ts";
import { scenarioDrawer } from "./scenarios.ts";

/** What a setting would lead to. Intervals are to hold nine of ten. */
export interface Outcome {
  /** Shares of the draws: those that end with the VM at the destination; of which all promises are kept. */
  readonly endShare: number;
  readonly keepShare: number;
  readonly totalMs: Estimate;
  /** Null where too few end. */
  readonly downtimeMs: Estimate | null;
  readonly wireBytes: Estimate;
  /** Left when the guest is stopped. */
  readonly residualBytes: Estimate;
  readonly rounds: Estimate;
  /** Of the guest's CPU time, the most that it was throttled by. */
  readonly throttlePercent: Estimate;
}

export interface Prediction {
  /** With what was asked for. */
  readonly asked: Outcome;
  /** With no promise but to end: what the smallest downtime in reach is. */
  readonly free: Outcome;
  /** As asked, but the guest may be throttled; undefined where what is asked is in reach without. */
  readonly throttled: Outcome | undefined;
  /** QEMU alone with its 300 ms, over the same pipe. */
  readonly stock: Outcome;
}

/** Draws, enough for the 5th and the 95th percentile; and for what is only said beside it. */
const DRAWS = 80;
const FEWER_DRAWS = 20;
/** No promise but to end. */
const FREE: Promises = { onStall: "switch" };
/** Drawn the same way each time: what was measured decides, and not luck. */
const SEED = 20;
/** QEMU's rule does not change its mind: what has not ended in the time of so many bulk rounds never will. */
const STOCK_ROUNDS = 6;
const STOCK_LEAST_MS = 120_000;
/** QEMU's default max-bandwidth (MAX_THROTTLE, migration/options.h). */
const STOCK_BYTES_PER_MS = (128 * 2 ** 20) / 1000;
const TICKS_IN_BULK = 3000;
/** A percentile of less than so many would say nothing. */
const LEAST_ENDED = 0.5;

/**
 * Predicts, by up to 220 simulated migrations: a second or two.
 *
 * @param between is awaited before each of them, so that others have their turn; what it throws ends it
 */
export async function predict(
  findings: Findings,
  promises: Promises,
  between: () => Promise<void> = async () => {},
): Promise<Prediction> {
  const outcomeOf = (asked: Promises, policy: () => Policy, draws: number, horizonMs?: number) =>
    simulateDraws(findings, asked, policy, { draws, horizonMs, between });
  const adaptive = (asked: Promises) => () => new AdaptivePolicy(asked, findings.earlier);
  const hasPromise = [promises.maxDowntimeMs, promises.deadlineMs, promises.maxBytes].some((one) => one !== undefined);
  const free = await outcomeOf(FREE, adaptive(FREE), DRAWS);
  const asked = hasPromise ? await outcomeOf(promises, adaptive(promises), DRAWS) : free;
  const throttle: Promises = { ...promises, onStall: "throttle" };
  const isShort = promises.maxDowntimeMs !== undefined && asked.keepShare < 0.9 && promises.onStall !== "throttle";
  return {
    asked,
    free,
    throttled: isShort ? await outcomeOf(throttle, adaptive(throttle), FEWER_DRAWS) : undefined,
    stock: await outcomeOf(FREE, POLICIES.qemu!, FEWER_DRAWS, stockHorizonMs(findings)),
  };
}

interface Draws {
  readonly draws: number;
  readonly horizonMs: number | undefined;
  readonly between: () => Promise<void>;
}

async function simulateDraws(
  findings: Findings,
  promises: Promises,
  policy: () => Policy,
  { draws, horizonMs, between }: Draws,
): Promise<Outcome> {
  const random = randomOf(SEED);
  const draw = scenarioDrawer(findings, new DowntimeModel(findings.earlier), random);
  const runs: { run: SimulatedRun; startMs: number }[] = [];
  for (let i = 0; i < draws; i++) {
    await between();
    const { scenario, startMs, bulkMs } = draw();
    const until = { ...scenario, horizonMs: horizonMs ?? scenario.horizonMs };
    runs.push({ run: simulate(until, askedSeldom(policy(), bulkMs / TICKS_IN_BULK)), startMs });
  }
  const ended = runs.filter(({ run }) => run.ending === "switched");
  const kept = ended.filter((one) => isKept(one.run, one.startMs, promises));
  // What ends is asked about where it is the rule.
  const some = ended.length >= LEAST_ENDED * draws ? ended : runs;
  const of = (value: (one: (typeof runs)[number]) => number) => percentiles(some.map(value));
  return {
    endShare: ended.length / draws,
    keepShare: kept.length / draws,
    totalMs: of(({ run, startMs }) => run.totalMs + startMs),
    downtimeMs: some === ended ? of(({ run }) => run.downtimeMs!) : null,
    wireBytes: of(({ run }) => wireBytesOf(run)),
    residualBytes: of(({ run }) => run.residualBytes),
    rounds: of(({ run }) => run.rounds),
    throttlePercent: of(({ run }) =>
      run.decisions.reduce((most, one) => (one.kind === "throttle" ? Math.max(most, one.percent) : most), 0),
    ),
  };
}

/** A policy that is not asked ten times a second where a migration takes hours. */
function askedSeldom(policy: Policy, leastMs: number): Policy {
  return {
    name: policy.name,
    tickMs: Math.max(policy.tickMs, leastMs),
    start: (facts) => policy.start(facts),
    onRound: (round) => policy.onRound(round),
    onTick: (tick) => policy.onTick(tick),
  };
}

function stockHorizonMs({ memoryBytes, goodputBytesPerSecond }: Findings): number {
  const bytesPerMs = Math.min(STOCK_BYTES_PER_MS, goodputBytesPerSecond.expected / 1000);
  return Math.max(STOCK_LEAST_MS, (STOCK_ROUNDS * memoryBytes) / bytesPerMs);
}

function isKept(run: SimulatedRun, startMs: number, { maxDowntimeMs, deadlineMs, maxBytes }: Promises): boolean {
  const isWithin = (value: number, limit: number | undefined) => limit === undefined || value <= limit;
  return (
    isWithin(run.downtimeMs ?? 0, maxDowntimeMs) &&
    isWithin(run.totalMs + startMs, deadlineMs) &&
    isWithin(wireBytesOf(run), maxBytes)
  );
}

/** With the devices' state, whose time is in the parts of the downtime that do not depend on what is left. */
function wireBytesOf({ wireBytes }: SimulatedRun): number {
  return wireBytes + DEVICE_BYTES;
}

/** The middle of them, and between which nine of ten are. */
export function percentiles(values: readonly number[]): Estimate {
  const sorted = [...values].sort((a, b) => a - b);
  const at = (share: number) => sorted[Math.min(sorted.length - 1, Math.round(share * (sorted.length - 1)))] ?? 0;
  return { expected: at(0.5), low: at(0.05), high: at(0.95) };
}
