/** The policies over the standard set of simulated migrations, and how fast those are simulated. */
import { overviewLines } from "../src/cli/replay-table.ts";
import { AdaptivePolicy } from "../src/control/adaptive.ts";
import { POLICIES } from "../src/control/policies/all.ts";
import { guestLossMs, isWithin, lastPrediction, type Score, score } from "../src/control/simulation/compare.ts";
import { simulate } from "../src/control/simulation/engine.ts";
import { bestMoment } from "../src/control/simulation/hindsight.ts";
import { NoisySamples, withUsualParts } from "../src/control/simulation/noise.ts";
import { LINKS, LOADS, type StandardCase, standardCase, standardSet } from "../src/control/simulation/standard-set.ts";
import { randomOf } from "../src/control/simulation/steps.ts";
import { median } from "./support.ts";

const DRAWN_SEEDS = [1, 2];

/** Other VMs and links than those that the rule's constants were chosen with. */
const OTHER_SIZES = [
  { gib: 2, gbit: 0.7 },
  { gib: 12, gbit: 1.7 },
  { gib: 48, gbit: 6 },
  { gib: 128, gbit: 8 },
];

/** Workloads that nobody has looked at while the rule was made: VMs, links and how these change, drawn by a seed. */
function drawnSet(seed: number): StandardCase[] {
  const random = randomOf(seed);
  const between = (low: number, high: number) => Number((low * (high / low) ** random()).toPrecision(2));
  return LOADS.flatMap((load) =>
    Object.keys(LINKS).flatMap((link) =>
      [0, 1].map(() => {
        const gbit = between(0.1, 50);
        return standardCase(load, { gib: Math.ceil(gbit * between(1, 20)), gbit }, link);
      }),
    ),
  );
}

export function bench(): string {
  const set = standardSet();
  const best = set.map(({ scenarios }) => scenarios.map((scenario) => bestMoment(scenario)));
  const startMs = process.cpuUsage().user / 1000;
  const scores = scoresOf(set);
  const seconds = (process.cpuUsage().user / 1000 - startMs) / 1000;
  const runs = scores.flat().reduce((sum, { of }) => sum + of, 0);
  // Not measured with the policies: it is the same for all.
  const withRegret = scores.map((row, i) => row.map((one) => ({ ...one, regretMs: regretOf(one, best[i]!) })));
  const hindsight = scores.map(([, ...others], i) => meanOf(best[i]!) / Math.min(...others.map(guestLossMs)));
  return [
    ...overviewLines(withRegret.flat()),
    "",
    againstBest("the standard set", scores),
    `the standard set: the best moment in hindsight / the best of the others: median ${median(hindsight).toFixed(2)}`,
    againstBest("other sizes", scoresOf(standardSet(OTHER_SIZES, { gib: 24, gbit: 3 }))),
    ...DRAWN_SEEDS.map((seed) => againstBest(`drawn, seed ${seed}`, scoresOf(drawnSet(seed)))),
    ...predictionLines(set),
    `${runs.toLocaleString("en")} migrations simulated in ${seconds.toFixed(1)} s of CPU time`,
  ].join("\n");
}

function scoresOf(set: readonly StandardCase[]): Score[][] {
  return set.map(({ name, scenarios }) =>
    Object.entries(POLICIES).map(([policy, create]) => score(name, policy, create, scenarios)),
  );
}

function regretOf({ downtimeMs }: Score, best: readonly { downtimeMs: number }[]): number | null {
  return downtimeMs === null ? null : downtimeMs - meanOf(best);
}

function meanOf(best: readonly { downtimeMs: number }[]): number {
  return best.reduce((sum, moment) => sum + moment.downtimeMs, 0) / best.length;
}

/** The adaptive policy against whichever of the others was best on each workload. */
function againstBest(name: string, scores: readonly (readonly Score[])[]): string {
  const shares = scores.map(([ours, ...others]) => guestLossMs(ours!) / Math.min(...others.map(guestLossMs)));
  const worse = shares.filter((share) => share > 1.05).length;
  const rivals = Object.keys(POLICIES).slice(1);
  const single = rivals.map((_, i) => median(scores.map((row) => guestLossMs(row[0]!) / guestLossMs(row[i + 1]!))));
  const [middle, most] = [median(shares).toFixed(2), Math.max(...shares).toFixed(2)];
  return `${name}: adaptive / the best of the others on each workload: median ${middle}, at worst ${most}; above 1.05 on ${worse} of ${shares.length}; against ${rivals[single.indexOf(Math.max(...single))]}, the best of them all in all: median ${Math.max(...single).toFixed(2)}`;
}

/** Predicted beside simulated downtimes, of samples as they are in reality: late, and measured with errors. */
function predictionLines(set: readonly StandardCase[]): string[] {
  const scenarios = set.flatMap((one) => one.scenarios).map((scenario, seed) => withUsualParts(scenario, seed));
  return [false, true].map((isNoisy) => {
    const results = scenarios.map((scenario, seed) => {
      const policy = new AdaptivePolicy();
      const run = simulate(scenario, isNoisy ? new NoisySamples(policy, seed) : policy);
      const [predicted, downtimeMs] = [lastPrediction(run)!, run.downtimeMs!];
      const offMs = Math.abs(predicted.expected - downtimeMs);
      return {
        isIn: isWithin(downtimeMs, predicted),
        share: offMs / downtimeMs,
        isGood: offMs <= Math.max(50, 0.12 * downtimeMs),
      };
    });
    const percent = (count: number) => `${((100 * count) / results.length).toFixed(0)} %`;
    const [inside, good] = [results.filter(({ isIn }) => isIn), results.filter(({ isGood }) => isGood)];
    const what = isNoisy ? "noisy samples" : "exact samples";
    return `predicted downtimes, ${what}: ${percent(good.length)} within 12 % or 50 ms, ${percent(inside.length)} within their interval, of ${results.length}`;
  });
}

if (import.meta.main) console.log(bench());
