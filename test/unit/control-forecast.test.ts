import { describe, expect, test } from "vitest";
import { AdaptivePolicy } from "../../src/control/adaptive.ts";
import { totalOf } from "../../src/control/downtime.ts";
import type { Forecast } from "../../src/control/policy.ts";
import { type SimulatedRun, simulate } from "../../src/control/simulation/engine.ts";
import type { Scenario } from "../../src/control/simulation/scenario.ts";
import { aScenario, randomPages } from "./support/scenarios.ts";

/** The forecasts that are asked for at each tick, as `send` asks. */
function forecastsOf(scenario: Scenario): { run: SimulatedRun; forecasts: Forecast[]; before: number } {
  const policy = new AdaptivePolicy();
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
