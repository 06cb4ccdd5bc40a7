import { expect, test } from "vitest";
import { AdaptivePolicy } from "../../src/control/adaptive.ts";
import { POLICIES } from "../../src/control/policies/all.ts";
import { guestLossMs, isWithin, lastPrediction, type Score, score } from "../../src/control/simulation/compare.ts";
import { simulate } from "../../src/control/simulation/engine.ts";
import { NoisySamples, withUsualParts } from "../../src/control/simulation/noise.ts";
import { standardSet } from "../../src/control/simulation/standard-set.ts";

const median = (values: readonly number[]) => [...values].sort((a, b) => a - b)[Math.floor(values.length / 2)]!;

test("over the standard set the adaptive policy always ends, and is never worse than the best of those that others ship", () => {
  const set = standardSet();
  const scores = new Map<string, Score[]>();
  const startMs = process.cpuUsage().user / 1000;
  for (const [policy, create] of Object.entries(POLICIES)) {
    scores.set(
      policy,
      set.map(({ name, scenarios }) => score(name, policy, create, scenarios)),
    );
  }
  const cpuMs = process.cpuUsage().user / 1000 - startMs;
  const runs = [...scores.values()].flat().reduce((sum, { of }) => sum + of, 0);
  const ours = scores.get("adaptive")!;
  const others = [...scores].filter(([policy]) => policy !== "adaptive");

  expect(ours.filter(({ ended, of }) => ended < of)).toEqual([]);
  const worse = ours.flatMap((own, i) => {
    const best = Math.min(...others.map(([, theirs]) => guestLossMs(theirs[i]!)));
    return guestLossMs(own) > best * 1.05 ? [{ ...own, bestMs: best }] : [];
  });
  expect(worse).toEqual([]);
  for (const [policy, theirs] of others) {
    const share = median(ours.map((own, i) => guestLossMs(own) / guestLossMs(theirs[i]!)));
    expect([policy, share <= 0.7]).toEqual([policy, true]);
  }
  // A thousand migrations in ten seconds.
  expect(runs).toBeGreaterThan(3000);
  expect((cpuMs * 1000) / runs).toBeLessThan(10_000);
}, 120_000);

test.each([false, true])(
  "the last prediction of the downtime is right, nine times of ten; noisy samples: %s",
  (isNoisy) => {
    const scenarios = standardSet().flatMap((one) => one.scenarios);
    const results = scenarios.map((exact, seed) => {
      const scenario = withUsualParts(exact, seed);
      const policy = new AdaptivePolicy();
      const run = simulate(scenario, isNoisy ? new NoisySamples(policy, seed) : policy);
      const predicted = lastPrediction(run)!;
      const offMs = Math.abs(predicted.expected - run.downtimeMs!);
      return { isGood: offMs <= Math.max(50, 0.12 * run.downtimeMs!), isIn: isWithin(run.downtimeMs!, predicted) };
    });
    expect(results.filter(({ isGood }) => isGood).length / results.length).toBeGreaterThanOrEqual(0.9);
    expect(results.filter(({ isIn }) => isIn).length / results.length).toBeGreaterThanOrEqual(0.9);
  },
  60_000,
);
