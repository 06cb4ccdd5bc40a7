import { expect, test } from "vitest";
import { checkLines } from "../../src/cli/replay-check.ts";
import { AdaptivePolicy } from "../../src/control/adaptive.ts";
import { checkAgainst } from "../../src/control/simulation/check.ts";
import { scenarioOfTrace } from "../../src/control/simulation/from-trace.ts";
import { bestMoment } from "../../src/control/simulation/hindsight.ts";
import { recordTrace } from "../../src/control/simulation/record.ts";
import { standardSet } from "../../src/control/simulation/standard-set.ts";
import { constant, sequence } from "../../src/control/simulation/steps.ts";
import { type Trace, TraceReader } from "../../src/control/trace.ts";
import { aScenario, randomPages } from "./support/scenarios.ts";

type Round = Trace["rounds"][number];

function traceOf(text: string): Trace {
  const reader = new TraceReader();
  for (const line of text.trimEnd().split("\n")) reader.push(line);
  return reader.finish();
}

const CALM = aScenario({ pages: 20_000, classes: [randomPages(4000, 300)] });

test("a trace that the simulation recorded itself comes out as it was", () => {
  const checks = standardSet([{ gib: 1, gbit: 0.5 }])
    .filter(({ load, link }) => link === "steady" && !load.includes("phases") && load !== "hot-cold")
    .map(({ name, scenarios }) => checkAgainst(name, traceOf(recordTrace(scenarios[0]!, new AdaptivePolicy()))));
  expect(checks).toHaveLength(10);
  const isNear = ({ error }: { error: number }) => Math.abs(error) < 0.1;
  expect(checks.filter(({ totalMs, wireBytes }) => !isNear(totalMs) || !isNear(wireBytes))).toEqual([]);
  expect(checks.filter(({ downtimeMs }) => downtimeMs === null || Math.abs(downtimeMs.error) > 0.2)).toEqual([]);
});

test("a link that stands still in the trace does so in the simulation", () => {
  const [fast, none] = [constant(4096e3), constant(0)];
  const link = sequence(fast, 8000, sequence(none, 5000, fast));
  const { totalMs } = checkAgainst("still", traceOf(recordTrace({ ...CALM, link }, new AdaptivePolicy())));
  expect(totalMs.measured).toBeGreaterThan(25_000);
  expect(Math.abs(totalMs.error)).toBeLessThan(0.05);
});

test("a promise that was kept is kept again", () => {
  const busy = aScenario({ pages: 20_000, classes: [randomPages(4000, 2000)] });
  const promises = { deadlineMs: 30_000, onStall: "switch" } as const;
  const check = checkAgainst("due", traceOf(recordTrace(busy, new AdaptivePolicy(promises), promises)));
  expect(check.totalMs.simulated).toBeLessThanOrEqual(30_000);
  expect(Math.abs(check.totalMs.error)).toBeLessThan(0.05);
});

test("traces without an end, or by an unknown policy, are refused", () => {
  const trace = traceOf(recordTrace(CALM, new AdaptivePolicy()));
  const code = "CONTROL_TRACE_NOT_COMPLETED";
  expect(() => checkAgainst("cut", { ...trace, outcome: null })).toThrow(expect.objectContaining({ code }));
  const other = { ...trace, header: { ...trace.header, policy: "toString" } };
  expect(() => checkAgainst("other", other)).toThrow(expect.objectContaining({ code }));
});

test("as a table, with the errors over all", () => {
  const checked = (measured: number, simulated: number) => ({ measured, simulated, error: simulated / measured - 1 });
  const one = {
    trace: "a.trace",
    policy: "adaptive",
    ending: "switched" as const,
    totalMs: checked(10_000, 11_000),
    wireBytes: checked(2 ** 30, 2 ** 30),
    downtimeMs: checked(100, 80),
    rounds: { measured: 5, simulated: 6 },
  };
  const lines = checkLines([one, { ...one, trace: "b", downtimeMs: null, ending: "endless" }]);
  expect(lines).toEqual([
    "trace     total  simulated    error      sent  simulated   error  downtime  simulated    error  rounds",
    "a.trace  10.0 s     11.0 s  +10.0 %  1.00 GiB   1.00 GiB  +0.0 %    100 ms      80 ms  -20.0 %    5, 6",
    "b        10.0 s     11.0 s  +10.0 %  1.00 GiB   1.00 GiB  +0.0 %         -          -  endless    5, 6",
    "",
    "total time: off by 10.0 % in the median, 10.0 % at the 90th percentile, +10.0 % on average, of 2",
    "bytes: off by 0.0 % in the median, 0.0 % at the 90th percentile, +0.0 % on average, of 2",
    "downtime: off by 20.0 % in the median, 20.0 % at the 90th percentile, -20.0 % on average, of 1",
  ]);
});

test.each<[string, (round: Round) => Partial<Round>]>([
  [
    "pages that cost more than a link carries in a lifetime",
    () => ({ wireBytes: 1e100, wireBytesByForm: { literal: 1e100 } }),
  ],
  ["more dirtied pages than there are atoms", () => ({ dirtiedPages: 1e100, remainingBytes: 1e100 })],
  ["rounds of no length", ({ round }) => (round > 0 ? { durationMs: 1e-300 } : {})],
  ["rounds of ages", () => ({ durationMs: 1e300 })],
])("absurd numbers are simulated in no more time: %s", (_, change) => {
  const trace = traceOf(recordTrace(CALM, new AdaptivePolicy()));
  const absurd = { ...trace, rounds: trace.rounds.map((round) => ({ ...round, ...change(round) })) };
  const startUs = process.cpuUsage().user;
  expect(checkAgainst("absurd", absurd).totalMs.simulated).toBeGreaterThan(0);
  bestMoment(scenarioOfTrace("absurd", absurd));
  expect(process.cpuUsage().user - startUs).toBeLessThan(20e6);
});

test("a link that stood still when the trace ended says nothing of the devices", () => {
  const trace = traceOf(recordTrace(CALM, new AdaptivePolicy()));
  const ticks = trace.ticks.map((tick) => ({ ...tick, wireBytes: 1e9 }));
  const outcome = { ...trace.outcome!, residualBytes: 40_960 };
  const { deviceMs, deviceBytes } = scenarioOfTrace("still", { ...trace, ticks, outcome });
  expect(deviceMs).toBeGreaterThan(0);
  expect(deviceBytes).toBeGreaterThanOrEqual(0);
});
