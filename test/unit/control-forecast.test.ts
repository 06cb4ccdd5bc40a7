import { describe, expect, test } from "vitest";
import { AdaptivePolicy } from "../../src/control/adaptive.ts";
import { totalOf } from "../../src/control/downtime.ts";
import type { Forecast } from "../../src/control/policy.ts";
import type { Promises } from "../../src/control/promises.ts";
import { type SimulatedRun, simulate } from "../../src/control/simulation/engine.ts";
import type { Scenario } from "../../src/control/simulation/scenario.ts";
import { aScenario, randomPages } from "./support/scenarios.ts";

/** The forecasts that are asked for at each tick, as `send` asks. */
function forecastsOf(
  scenario: Scenario,
  promises: Partial<Promises> = {},
): { run: SimulatedRun; forecasts: Forecast[]; before: number } {
  const policy = new AdaptivePolicy({ onStall: "switch", ...promises });
  const forecasts: Forecast[] = [];
  let before = 0;
  const run = simulate(scenario, policy, {
    onTick: ({ round }) => {
      const { forecast } = policy;
      if (forecast !== undefined) forecasts.push(forecast);
      else before = round;
    },
  });
  return { run, forecasts, before };
}

describe("once two rounds are through, the end is foreseen", () => {
  test.each([
    ["that shrinks", aScenario({ pages: 20_000, classes: [randomPages(4000, 500)] })],
    ["that does not", aScenario({ pages: 20_000, classes: [randomPages(4000, 2000)] })],
  ])("of a load %s", (_name, scenario) => {
    const { run, forecasts, before } = forecastsOf(scenario);
    expect(before).toBe(1); // while round 1 runs, only the bulk round is through
    const [first, last] = [forecasts.find(({ totalMs }) => totalMs !== null)!, forecasts.at(-1)!];
    expect(Math.abs(first.totalMs!.expected / run.totalMs - 1)).toBeLessThan(0.12);
    expect(first.totalMs!.low).toBeLessThan(run.totalMs);
    expect(first.totalMs!.high).toBeGreaterThan(run.totalMs);
    expect(Math.abs(last.downtimeMs.expected - run.downtimeMs!)).toBeLessThan(Math.max(50, 0.12 * run.downtimeMs!));
    expect(totalOf(last.downtimeParts)).toEqual(last.downtimeMs);
  });
});

test("the downtime is foreseen too: not the one of the lowest limit, where rounds will not get there", () => {
  const { run, forecasts } = forecastsOf(aScenario({ pages: 20_000, classes: [randomPages(4000, 2000)] }));
  const first = forecasts.find(({ totalMs }) => totalMs !== null)!;
  expect(Math.abs(first.downtimeMs.expected / run.downtimeMs! - 1)).toBeLessThan(0.25);
});

test("what a quieter moment would cost is not taken for what is expected", () => {
  const { forecasts } = forecastsOf(aScenario({ pages: 20_000, classes: [randomPages(4000, 2000)] }));
  const looking = forecasts.filter(({ isAtBest }) => isAtBest);
  expect(looking.length).toBeGreaterThan(0);
  const last = forecasts.at(-1)!;
  expect(last.isAtBest).toBe(false);
  for (const { downtimeMs } of looking) expect(downtimeMs.expected).toBeLessThan(last.downtimeMs.expected / 2);
});

test("a switch-over that is due is foreseen by what is left, not by what was accepted before", () => {
  const busy = aScenario({ pages: 20_000, classes: [randomPages(4000, 2000)] });
  const { run, forecasts } = forecastsOf(busy, { deadlineMs: 30_000 });
  const last = forecasts.at(-1)!;
  expect(last.isAtBest).toBe(false);
  expect(last.downtimeMs.expected / run.downtimeMs!).toBeGreaterThan(0.8);
  expect(last.downtimeMs.expected / run.downtimeMs!).toBeLessThan(1.5);
});
